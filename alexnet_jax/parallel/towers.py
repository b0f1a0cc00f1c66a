"""Where the towers meet: every collective that a layer needs.

In the paper each GPU holds half of the kernels, and "the GPUs communicate only in certain layers" (section 3.5).
Here a device of the mesh axis `tower` holds half of every kernel; the functions below are the only places where
channels cross from one tower to the other. They are called inside `jax.shard_map` (or `jax.vmap`) with that axis bound.

Fully connected layers may be sharded over the axis `data` instead (A. Krizhevsky, "One weird trick for parallelizing
convolutional neural networks", arXiv 1404.5997, section 4, scheme (a)): convolutions do most of the work with few
parameters, so each device has all of them and its own images; fully connected layers have most of the parameters, so
each device has 1/K of their units and sees the images of all K devices.
"""

import jax
from jax import lax

DATA_AXIS = "data"
TOWER_AXIS = "tower"


def join(x: jax.Array, axis: str = TOWER_AXIS) -> jax.Array:
    """Gather the channels of all devices of an axis, [..., C / devices] -> [..., C], in their order."""
    return lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True)


def add_up(x: jax.Array) -> jax.Array:
    """Sum what each tower contributes: an all-reduce."""
    return lax.psum(x, TOWER_AXIS)


def neighbor_channels(x: jax.Array, before: int, after: int, devices: int) -> tuple[jax.Array, jax.Array]:
    """Fetch the last `before` channels of the tower on the left and the first `after` of the one on the right.

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


def gather_batch(x: jax.Array) -> jax.Array:
    """Gather the images of all devices along `data`, [B / K, ...] -> [B, ...]: an all-gather."""
    return lax.all_gather(x, DATA_AXIS, tiled=True)


def add_up_own_images(x: jax.Array) -> jax.Array:
    """Sum what each device along `data` contributes, and keep this device's images, [B, ...] -> [B / K, ...].

    A reduce-scatter, whose gradient is an all-gather: together they send what one all-reduce does.
    """
    return lax.psum_scatter(x, DATA_AXIS, scatter_dimension=0, tiled=True)
