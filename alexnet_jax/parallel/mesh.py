"""The grid of devices a run works on: axes `data` (parts of the batch) and `tower` (halves of the net)."""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS
from alexnet_jax.validation import layout_faults


def devices() -> list[jax.Device]:
    """All devices of the platform that JAX computes on; UserError if it finds none."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # an AssertionError is what JAX_PLATFORMS=cuda without one ends in
        reason = str(error).split("\n", 1)[0] or "nothing answers"
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device of the platform that JAX_PLATFORMS={asked} asks for ({reason}); "
            "install the build of JAX for it (see README), or unset JAX_PLATFORMS."
        ) from error


def create_mesh(config: Config) -> Mesh:
    """The mesh that the config asks for, over the first devices there are.

    Raises:
      UserError: the devices do not suffice, or the batch does not divide into the parts.
    """
    data, tower = config.mesh.data, config.mesh.tower
    if data == -1:
        data = max(1, jax.device_count() // tower)
    mesh = mesh_of(data, tower)
    if faults := layout_faults(config, data):
        raise UserError("\n".join(faults))
    return mesh


def mesh_of(data: int, tower: int) -> Mesh:
    """The mesh of this size, over the first devices there are; UserError if they do not suffice."""
    available = jax.device_count()
    if data * tower > available:
        raise UserError(
            f"config.mesh.data={data} x config.mesh.tower={tower} needs {data * tower} devices, but there "
            f"{'is' if available == 1 else 'are'} {available} ({jax.devices()[0].platform}); make the mesh smaller"
            " or, to simulate devices on a CPU, set JAX_NUM_CPU_DEVICES."
        )
    devices = jax.devices()[: data * tower]
    return jax.make_mesh((data, tower), (DATA_AXIS, TOWER_AXIS), axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies on the mesh: rows split over `data`, whole on each tower."""
    return NamedSharding(mesh, P(DATA_AXIS))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process must feed, in order: those of its devices."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = np.concatenate([np.arange(batch_size)[part] for part in parts])
    return np.unique(rows)


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch onto its devices, as one global array for each entry."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
