"""`python -m alexnet_jax.report`: the paper's figures for one run. Each figure has its module."""
