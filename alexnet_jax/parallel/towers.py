"""Where the towers meet, and how parameters are laid out over devices.

In the paper each GPU holds half of the kernels, and "the GPUs communicate only in certain layers" (section 3.5).
Here a device of the mesh axis `tower` holds half of every kernel; the functions below are the only places where
channels cross from one tower to the other. They are called inside `jax.shard_map` (or `jax.vmap`) with that axis bound.
Fully connected layers that are split over `data` (`hybrid.py`) join and add up in the same way over that axis.
"""

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.model.layers import Classifier, Convolution, Dense, LocallyConnected, Net

DATA_AXIS = "data"
TOWER_AXIS = "tower"


def join(x: jax.Array, axis: str = TOWER_AXIS) -> jax.Array:
    """The channels of all towers, [..., C / devices] -> [..., C], tower after tower: an all-gather."""
    return lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True)


def add_up(x: jax.Array, axis: str = TOWER_AXIS) -> jax.Array:
    """The sum over the towers of what each contributes: an all-reduce."""
    return lax.psum(x, axis)


def neighbor_channels(x: jax.Array, before: int, after: int, devices: int) -> tuple[jax.Array, jax.Array]:
    """The last `before` channels of the tower on the left and the first `after` of the one on the right.

    Args:
      x: [..., C / devices], this device's channels.
      before: how many channels to fetch from the left neighbor.
      after: how many channels to fetch from the right neighbor.
      devices: size of the tower axis.

    Returns:
      ([..., before], [..., after]), or as many as a tower has; zeros where there is no neighbor.
    """
    to_right = [(i, i + 1) for i in range(devices - 1)]
    to_left = [(i + 1, i) for i in range(devices - 1)]
    first = max(0, x.shape[-1] - before)  # a tower may have fewer
    left = lax.ppermute(x[..., first:], TOWER_AXIS, to_right)
    right = lax.ppermute(x[..., :after], TOWER_AXIS, to_left)
    return left, right


def first_tower_here(towers_here: int) -> jax.Array:
    """The number of the first tower that lives on this device."""
    return lax.axis_index(TOWER_AXIS) * towers_here


def parameter_specs(net: Net, devices: int, workers: int = 1) -> dict[str, dict[str, P]]:
    """The `PartitionSpec` of every parameter: kernels and biases are split by output channel over the towers.

    The classifier is split by input instead: each tower contributes its part of every class score, so that the
    number of classes need not be even and the towers exchange B x classes numbers, not B x 4096.

    Args:
      net: the net.
      devices: size of the tower axis; with 1 nothing is split.
      workers: over how many devices of the data axis fully connected layers are split, in the same way.
    """
    tower = TOWER_AXIS if devices > 1 else None
    units = DATA_AXIS if workers > 1 else tower
    specs: dict[str, dict[str, P]] = {}
    for layer in net.layers:
        match layer:
            case Convolution():
                specs[layer.name] = {"kernel": P(None, None, None, tower), "bias": P(tower)}
            case LocallyConnected():
                specs[layer.name] = {"kernel": P(None, None, None, None), "bias": P()}
            case Dense():
                specs[layer.name] = {"kernel": P(None, units), "bias": P(units)}
            case Classifier():
                specs[layer.name] = {"kernel": P(units, None), "bias": P()}
    return specs
