"""`python -m alexnet_jax.convert`: other frameworks' weights in and out. No bit of a weight is changed."""
