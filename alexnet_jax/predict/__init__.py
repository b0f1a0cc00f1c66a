"""`python -m alexnet_jax.predict`, and the same in Python (`api`): what trained nets say about images."""
