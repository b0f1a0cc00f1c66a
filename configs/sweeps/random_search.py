"""Twelve random combinations of learning rate, momentum and weight decay.

    python -m alexnet_jax.sweep --config=configs/quickstart.py --sweep=configs/sweeps/random_search.py \
        --workdir=runs/random_search --parallel=2

Each run takes three minutes on two cores.
"""

from alexnet_jax.sweep.space import Overrides, choice, log_uniform, sample


def get_sweep() -> list[Overrides]:
    """Return twelve runs, the same each time."""
    fields = {
        "optimizer.learning_rate": log_uniform(0.002, 0.05),
        "optimizer.momentum": choice(0.8, 0.9, 0.95),
        "optimizer.weight_decay": log_uniform(1e-5, 1e-2),
    }
    return sample(12, fields)
