"""The net, and the net without one of its components at a time; the paper measures each of these changes.

    python -m alexnet_jax.sweep --config=configs/imagenette.py --sweep=configs/sweeps/ablations.py \
        --workdir=runs/ablations

Sources: paper sections 3.1 (tanh), 3.3, 3.4, 4 and 7.
"""

from alexnet_jax.sweep.space import Overrides, crossed, grid


def get_sweep() -> list[Overrides]:
    """Return seven nets with two seeds each."""
    nets: list[Overrides] = [
        {},
        {"model.normalization": "none"},
        {"model.pooling": "non_overlapping"},
        {"model.activation": "tanh"},
        {"model.dropout": "none"},
        {"model.without": "conv4"},
        {"data.color_noise": "none"},
    ]
    return crossed(nets, grid({"seed": (0, 1)}))
