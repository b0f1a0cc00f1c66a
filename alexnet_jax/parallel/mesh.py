"""The grid of devices a run works on: axes `data` (shards of the batch) and `tower` (halves of the net)."""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import MeshConfig
from alexnet_jax.errors import UserError
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS


def devices() -> list[jax.Device]:
    """Return all devices of the platform that JAX computes on; UserError if it finds none."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS=cuda without a GPU ends in an AssertionError
        reason = str(error).split("\n", 1)[0] or "nothing answers"
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device of the platform that JAX_PLATFORMS={asked} asks for ({reason}); "
            "install the build of JAX for it (see README), or unset JAX_PLATFORMS."
        ) from error


def create_mesh(config: MeshConfig) -> Mesh:
    """Create the mesh over the first devices there are; UserError if they do not suffice."""
    available = len(devices())
    data = max(1, available // config.tower) if config.data == -1 else config.data
    if data * config.tower > available:
        raise UserError(
            f"config.mesh.data={data} x config.mesh.tower={config.tower} needs {data * config.tower} devices, but "
            f"there {'is' if available == 1 else 'are'} {available} ({jax.devices()[0].platform}); make the mesh "
            "smaller or, to simulate devices on a CPU, set JAX_NUM_CPU_DEVICES."
        )
    used = jax.devices()[: data * config.tower]
    # Explicit axes, the default, are not for Flax: `nn.Dropout` and others raise on them.
    return jax.make_mesh((data, config.tower), (DATA_AXIS, TOWER_AXIS), axis_types=(AxisType.Auto,) * 2, devices=used)


def platform_of(mesh: Mesh) -> str:
    """Return the platform of the mesh's devices, such as "cpu" or "gpu"."""
    return mesh.devices.flat[0].platform


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its rows are split over `data` and replicated over `tower`."""
    return NamedSharding(mesh, P(DATA_AXIS))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return the rows of a global batch that this process must provide, in order: those of its devices."""
    shards = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[shard] for shard in shards]))


def divisible_batch(mesh: Mesh, batch_size: int) -> int:
    """Return the smallest batch size from `batch_size` up that divides into the mesh's shards."""
    shards = mesh.shape[DATA_AXIS]
    return -(-batch_size // shards) * shards


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put this process's rows of a batch onto its devices, as one global array for each entry."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
