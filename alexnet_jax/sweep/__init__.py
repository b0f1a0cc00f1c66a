"""`python -m alexnet_jax.sweep`: many runs of one config, planned, executed and tabulated."""
