"""`python -m alexnet_jax.prepare`: from a published data set, or folders of images, to a TFDS data set."""
