"""`python -m alexnet_jax.predict`, and the same for Python: what trained nets say of images."""
