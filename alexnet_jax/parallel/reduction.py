"""What the devices along `data` compute by themselves, added up once a step.

Each device has its own images, and finds its share of the gradient of the batch's mean loss. Parameters that are
sharded over `data` themselves have all of their gradient on one device, and nothing is sent for them.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.parallel.towers import DATA_AXIS


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """Return the axes over which a batch is really split: an axis of one device needs no collective."""
    return (DATA_AXIS,) if mesh.shape[DATA_AXIS] > 1 else ()


def first_row(batch_size: int, mesh: Mesh) -> jax.Array | int:
    """Return the row of the batch, of B, that this device's images begin at."""
    devices = mesh.shape[DATA_AXIS]
    return lax.axis_index(DATA_AXIS) * (batch_size // devices) if devices > 1 else 0


def to_differentiate(params: Any, specs: Any, mesh: Mesh) -> Any:
    """Return the parameters, declared to differ along `data`: then each device finds its share, and sends nothing."""

    def declare(leaf: jax.Array, spec: P) -> jax.Array:
        return leaf if DATA_AXIS in spec else lax.pcast(leaf, batch_axes(mesh), to="varying")

    return _map(declare, params, specs)


def reduce_sums(sums: jax.Array, mesh: Mesh) -> jax.Array:
    """Add up sums over each device's images."""
    return lax.psum(sums, batch_axes(mesh))


def reduce_gradients(shares: Any, parameters: Any, wanted: Any, mesh: Mesh) -> Any:
    """Add the devices' shares up.

    Args:
      shares: what each device found, a tree like the parameters.
      parameters: the parameters' specs.
      wanted: the gradients' specs: those of the parameters, or sharded further, as the momentum buffer is.
      mesh: the devices.

    Returns:
      The sums, each device's shard of them.
    """

    def add_up(share: jax.Array, parameter: P, gradient: P) -> jax.Array:
        if DATA_AXIS in parameter:
            return share
        if DATA_AXIS in gradient:
            return lax.psum_scatter(share, DATA_AXIS, scatter_dimension=gradient.index(DATA_AXIS), tiled=True)
        return lax.psum(share, batch_axes(mesh))

    return _map(add_up, shares, parameters, wanted)


def _map(function: Callable, tree: Any, *specs: Any) -> Any:
    """Map over a tree of parameters, or of some layers of it, with the specs of each."""
    return {
        layer: {kind: function(leaf, *(spec[layer][kind] for spec in specs)) for kind, leaf in leaves.items()}
        for layer, leaves in tree.items()
    }
