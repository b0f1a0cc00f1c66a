"""Three learning rates with three seeds each: which trains best, and how much is chance?

    python -m alexnet_jax.sweep --config=configs/quickstart.py --sweep=configs/sweeps/learning_rate.py \
        --workdir=runs/learning_rate --parallel=2

Each run takes three minutes on two cores.
"""

from alexnet_jax.sweep.space import Overrides, grid


def get_sweep() -> list[Overrides]:
    """Return nine runs."""
    return grid({"optimizer.learning_rate": (0.02, 0.01, 0.005), "seed": (0, 1, 2)})
