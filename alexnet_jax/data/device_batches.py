"""How training batches reach the devices (`data.feed`): the same batches in three ways, at different costs.

"jpeg" decodes the images again in each epoch, "raw" copies pixels that were decoded once to disk, "device" holds all
images in device memory and sends only the indices of each batch. What each one needs and gives: `docs/data.md`.
"""

import concurrent.futures
import functools
import itertools
from typing import Protocol

import grain
import jax
import numpy as np
import psutil
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.data.pipeline import Batch, batch_indices, consecutive_batches, read_options, train_batches
from alexnet_jax.data.raw import open_raw
from alexnet_jax.data.sources import ImageSource, JpegSource
from alexnet_jax.errors import UserError
from alexnet_jax.parallel.mesh import local_rows, shard_batch
from alexnet_jax.parallel.resident import create_gather, free_memory, place_rows

MEMORY_SHARE = 0.75  # of the free device memory may hold images: the rest is for the training step
_UPLOAD_BATCH = 256  # images sent to the devices at a time

DeviceBatch = dict[str, jax.Array]


class DeviceBatches(Protocol):
    """The endless training batches, on the devices: "image" (uint8 [B, S, S, 3]) and "label" (int32 [B])."""

    def __next__(self) -> DeviceBatch:
        """Return the batch of the next step; UserError if one of its records is damaged."""

    def ready(self) -> bool:
        """Return whether the next batch is on the devices, or on its way to them."""

    def close(self) -> None:
        """Stop reading ahead, and free the memory."""


def open_train_batches(source: JpegSource, config: Config, mesh: Mesh, start_step: int) -> DeviceBatches:
    """Return the training batches from a step on, delivered as `config.data.feed` says.

    UserError if the disk ("raw"), the devices' ("device") or the host's memory is too small, or a record is damaged.
    """
    if config.data.feed == "device":
        return ResidentBatches(source, config, mesh, start_step)
    rows = local_rows(mesh, config.batch_size)
    threads = {"read_threads": config.data.read_threads, "prefetch_batches": config.data.prefetch_batches}
    ahead = read_options(**threads).prefetch_buffer_size
    _check_batches_fit(len(rows), source.image_size, ahead + 2)  # one goes to the devices, one is in use
    images = open_raw(source, config.data.read_threads) if config.data.feed == "raw" else source
    batches = train_batches(
        images, seed=config.seed, batch_size=config.batch_size, rows=rows, start_step=start_step, **threads
    )
    return HostBatches(batches, mesh)


def _check_batches_fit(num_images: int, image_size: int, num_batches: int) -> None:
    """Raise UserError if `num_batches` batches of uint8 images [num_images, S, S, 3] exceed this machine's free memory.

    Otherwise the system would kill the process without a message.
    """
    needed, free = num_batches * num_images * image_size**2 * 3, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{num_batches} batches of {num_images:,} images take {needed / 2**30:,.1f} GiB of memory, of which "
            f"{free / 2**30:,.1f} GiB are free; make config.batch_size, config.data.read_threads or "
            "config.data.prefetch_batches smaller."
        )


class HostBatches(DeviceBatches):
    """Batches made on the host. While a step runs, the next batch is on its way to the devices."""

    def __init__(self, batches: grain.DatasetIterator[Batch], mesh: Mesh):
        """Start sending the first batch; `close` also closes `batches`."""
        self._batches = batches
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "host_batches")
        self._send_next = lambda: shard_batch(mesh, next(batches))
        self._next = self._thread.submit(self._send_next)

    def __next__(self) -> DeviceBatch:
        batch = self._next.result()
        self._next = self._thread.submit(self._send_next)
        return batch

    def ready(self) -> bool:
        return self._next.done()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._batches.close()


class ResidentBatches(DeviceBatches):
    """Batches of images that are all in device memory: on every device if they fit, otherwise sharded over `data`."""

    def __init__(self, source: ImageSource, config: Config, mesh: Mesh, start_step: int):
        """Decode all images and send them to the devices; UserError if they don't fit."""
        split = _must_be_split(len(source) * source.image_size**2 * 3, mesh)
        options = {"batch_size": _UPLOAD_BATCH, "read_threads": config.data.read_threads}
        read = functools.partial(consecutive_batches, source, **options)
        self._rows = place_rows(mesh, len(source), read, split=split)
        self._gather = create_gather(mesh, split=split)
        self._local = local_rows(mesh, config.batch_size)
        self._indices = functools.partial(batch_indices, len(source), config.seed, config.batch_size)
        self._steps = itertools.count(start_step)

    def __next__(self) -> DeviceBatch:
        return self._gather(self._rows, self._indices(next(self._steps)).astype(np.int32), self._local)

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        self._rows = {}


def _must_be_split(num_bytes: int, mesh: Mesh) -> bool:
    """Return whether the images must be sharded over the devices to fit; UserError if even their shards don't fit."""
    allowed, shards = MEMORY_SHARE * free_memory(mesh), mesh.shape["data"]
    if num_bytes <= allowed * shards:
        return num_bytes > allowed
    shared = f", {num_bytes / shards / 2**30:,.1f} GiB on each of {shards} devices" if shards > 1 else ""
    raise UserError(
        f"data.feed='device' needs {num_bytes / 2**30:,.1f} GiB for all training images{shared}; the limit is "
        f"{MEMORY_SHARE:.0%} of a device's free memory, {allowed / 2**30:,.1f} GiB: use data.feed='raw' or 'jpeg', or "
        "more devices (mesh.data)."
    )
