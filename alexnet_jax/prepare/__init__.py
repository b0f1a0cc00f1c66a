"""`python -m alexnet_jax.prepare`: turn a published data set, or folders of images, into a TFDS data set."""
