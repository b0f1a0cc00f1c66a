"""Rows that stay in device memory during a whole training, and how each step gathers its batch from them."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.parallel.mesh import batch_sharding
from alexnet_jax.parallel.towers import DATA_AXIS

Rows = dict[str, jax.Array]  # columns by name, each [N, ...]


def free_memory(mesh: Mesh) -> int:
    """Return the free bytes on each device: the least over all devices of all processes."""
    devices = jax.local_devices()
    free = [psutil.virtual_memory().available // len(devices)]  # the devices of a CPU share its memory
    if all(stats := [device.memory_stats() for device in devices]):
        free = [device_stats["bytes_limit"] - device_stats["bytes_in_use"] for device_stats in stats]
    mebibytes = np.int32(min(free) >> 20)  # JAX would truncate a 64-bit number
    return int(np.min(multihost_utils.process_allgather(mebibytes))) << 20


def place_rows(
    mesh: Mesh, num_rows: int, read: Callable[[int, int], Iterable[Mapping[str, np.ndarray]]], *, split: bool
) -> Rows:
    """Put N rows into device memory, a piece at a time, and return global arrays [N, ...].

    `read(start, stop)` yields the rows from `start` up to `stop`, in pieces of at least one row. With `split`, the rows
    are sharded over `data`, padded with zeros to a multiple of the number of shards; otherwise every device holds all.
    """
    sharding = NamedSharding(mesh, P(DATA_AXIS) if split else P())
    num_shards = mesh.shape[DATA_AXIS] if split else 1
    padded = -(-num_rows // num_shards) * num_shards
    devices: dict[tuple[int, int], list[jax.Device]] = {}  # by the rows that they hold: start, stop
    for device, index in sharding.addressable_devices_indices_map((padded,)).items():
        shard = np.arange(padded)[index]
        devices.setdefault((shard[0], shard[-1] + 1), []).append(device)

    (first,) = read(0, 1)
    held: dict[jax.Device, Rows] = {}
    for (start, stop), holders in devices.items():
        for device in holders:
            shapes = {name: (stop - start, *column.shape[1:]) for name, column in first.items()}
            held[device] = {name: jnp.zeros(shape, first[name].dtype, device=device) for name, shape in shapes.items()}
        offset = 0
        for piece in read(min(start, num_rows), min(stop, num_rows)):
            for device in holders:
                held[device] = _write(held[device], jax.device_put(dict(piece), device), offset)
            offset += len(next(iter(piece.values())))
    return {
        name: jax.make_array_from_single_device_arrays(
            (padded, *column.shape[1:]), sharding, [rows[name] for rows in held.values()]
        )
        for name, column in first.items()
    }


@jax.jit(donate_argnums=0)
def _write(rows: Rows, piece: Rows, offset: int) -> Rows:
    """Write the piece over the rows from `offset` on, in the same memory."""
    return jax.tree.map(lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, offset, axis=0), rows, piece)


def create_gather(mesh: Mesh, *, split: bool) -> Callable[[Rows, np.ndarray, np.ndarray], Rows]:
    """Return the function (rows, indices, local) -> the rows of a batch, sharded like a batch from the host.

    `indices`, int [B], are those of the global batch; `local` says which of them are this process's
    (`mesh.local_rows`). `split` is as in `place_rows`.
    """
    pick, rows_spec, indices_spec = (_pick_sharded, P(DATA_AXIS), P()) if split else (_pick, P(), P(DATA_AXIS))
    picked = jax.shard_map(pick, mesh=mesh, in_specs=(rows_spec, indices_spec), out_specs=P(DATA_AXIS))
    # The sharding of a batch from the host, exactly, so that the training step is compiled only once.
    gather = jax.jit(picked, out_shardings=batch_sharding(mesh))
    indices_sharding = NamedSharding(mesh, indices_spec)

    def gather_batch(rows: Rows, indices: np.ndarray, local: np.ndarray) -> Rows:
        own = indices if split else indices[local]
        return gather(rows, jax.make_array_from_process_local_data(indices_sharding, own))

    return gather_batch


def _pick(rows: Rows, indices: jax.Array) -> Rows:
    return jax.tree.map(lambda column: jnp.take(column, indices, axis=0, mode="clip"), rows)


def _pick_sharded(rows: Rows, indices: jax.Array) -> Rows:
    """Let each device contribute the rows of the batch that it holds, zeros elsewhere, and scatter their sum."""

    def pick(column: jax.Array) -> jax.Array:
        local = indices - lax.axis_index(DATA_AXIS) * len(column)
        is_held = (local >= 0) & (local < len(column))
        batch = jnp.take(column, local, axis=0, mode="clip")
        batch = jnp.where(is_held.reshape(-1, *[1] * (column.ndim - 1)), batch, jnp.zeros_like(batch))
        return lax.psum_scatter(batch, DATA_AXIS, scatter_dimension=0, tiled=True)

    return jax.tree.map(pick, rows)
