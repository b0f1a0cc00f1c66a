"""`python -m alexnet_jax.features`: a layer's outputs for images, and which images have similar ones."""
