"""Rows that live in device memory for a whole training, and how each step gathers its batch of them."""

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

Rows = dict[str, jax.Array]


def free_memory(mesh: Mesh) -> int:
    """Bytes that are free on each device of the mesh: of the device that has the least, on whatever process."""
    here = jax.local_devices()
    free = [psutil.virtual_memory().available // len(here)]  # devices of a CPU share its memory
    if all(stats := [device.memory_stats() for device in here]):
        free = [of_device["bytes_limit"] - of_device["bytes_in_use"] for of_device in stats]
    mebibytes = np.int32(min(free) >> 20)  # JAX would cut a 64-bit number off
    return int(np.min(multihost_utils.process_allgather(mebibytes))) << 20


def place_rows(
    mesh: Mesh,
    num_rows: int,
    read: Callable[[int, int], Iterable[Mapping[str, np.ndarray]]],
    *,
    split: bool,
) -> Rows:
    """Puts rows into device memory, a piece at a time.

    Args:
      mesh: the devices.
      num_rows: how many there are.
      read: (start, stop) -> the rows from `start` up to `stop`, in pieces of any number of rows, at least one.
      split: each part of the batch holds its share of the rows; otherwise every device holds all.

    Returns:
      Global arrays [num_rows, ...]; split, they are filled up with zeros to a multiple of the parts.
    """
    sharding = NamedSharding(mesh, P(DATA_AXIS) if split else P())
    parts = mesh.shape[DATA_AXIS] if split else 1
    total = -(-num_rows // parts) * parts
    devices: dict[tuple[int, int], list[jax.Device]] = {}  # by the rows that they hold
    for device, part in sharding.addressable_devices_indices_map((total,)).items():
        rows_there = np.arange(total)[part]
        devices.setdefault((rows_there[0], rows_there[-1] + 1), []).append(device)

    (one,) = read(0, 1)
    held: dict[jax.Device, Rows] = {}
    for (start, stop), holders in devices.items():
        held |= {device: _zeros(one, stop - start, device) for device in holders}
        at = 0
        for piece in read(min(start, num_rows), min(stop, num_rows)):
            for device in holders:
                held[device] = _write(held[device], jax.device_put(dict(piece), device), at)
            at += len(next(iter(piece.values())))
    return {
        name: jax.make_array_from_single_device_arrays(
            (total, *column.shape[1:]), sharding, [rows[name] for rows in held.values()]
        )
        for name, column in one.items()
    }


def _zeros(like: Mapping[str, np.ndarray], num_rows: int, device: jax.Device) -> Rows:
    return {name: jnp.zeros((num_rows, *rows.shape[1:]), rows.dtype, device=device) for name, rows in like.items()}


@jax.jit(donate_argnums=0)
def _write(rows: Rows, piece: Rows, at: int) -> Rows:
    """The rows with the piece written over them from `at` on, in the same memory."""
    return jax.tree.map(lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, at, axis=0), rows, piece)


def create_gather(mesh: Mesh, *, split: bool) -> Callable[[Rows, np.ndarray, np.ndarray], Rows]:
    """The function (rows, indices, local) -> the rows of a batch, split over `data` like one that was fed.

    `indices`: int [B], those of the global batch. `local`: which of them this process feeds (`mesh.local_rows`).
    """
    pick, rows_spec, indices_spec = (_pick_from_all, P(DATA_AXIS), P()) if split else (_pick, P(), P(DATA_AXIS))
    picked = jax.shard_map(pick, mesh=mesh, in_specs=(rows_spec, indices_spec), out_specs=P(DATA_AXIS))
    gather = jax.jit(picked, out_shardings=batch_sharding(mesh))  # exactly as a fed batch: the step is compiled once
    indices_sharding = NamedSharding(mesh, indices_spec)

    def gather_batch(rows: Rows, indices: np.ndarray, local: np.ndarray) -> Rows:
        here = indices if split else indices[local]
        return gather(rows, jax.make_array_from_process_local_data(indices_sharding, here))

    return gather_batch


def _pick(rows: Rows, indices: jax.Array) -> Rows:
    return jax.tree.map(lambda column: jnp.take(column, indices, axis=0, mode="clip"), rows)


def _pick_from_all(rows: Rows, indices: jax.Array) -> Rows:
    """Each device contributes what it holds of the global batch, zeros elsewhere; the sum of all is scattered."""

    def pick(column: jax.Array) -> jax.Array:
        local = indices - lax.axis_index(DATA_AXIS) * len(column)
        held = (local >= 0) & (local < len(column))
        found = jnp.take(column, local, axis=0, mode="clip")
        found = jnp.where(held.reshape(-1, *[1] * (column.ndim - 1)), found, jnp.zeros_like(found))
        return lax.psum_scatter(found, DATA_AXIS, scatter_dimension=0, tiled=True)

    return jax.tree.map(pick, rows)
