"""`python -m alexnet_jax.convert`: weights of other frameworks in, and ours out. No bit of a weight changes."""
