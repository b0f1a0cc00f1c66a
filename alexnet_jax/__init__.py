"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX: train it, split it over devices, check it."""

__version__ = "0.1.0"
