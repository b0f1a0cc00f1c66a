"""`python -m alexnet_jax.features`: what a layer makes of images, and which images are near each other."""
