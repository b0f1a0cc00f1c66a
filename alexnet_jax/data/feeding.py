"""How training images reach the devices (`data.feed`): the same batches in every way, at another price.

"jpeg" decodes them again each epoch, "raw" copies pixels that were decoded once to disk, "device" holds all of them in
device memory and sends each step only the indices of its batch. What each takes and gives: `docs/data.md`.
"""

import concurrent.futures
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.data.pipeline import (
    TrainBatches,
    batches_ahead,
    consecutive_batches,
    stream_indices,
    train_batches,
)
from alexnet_jax.data.raw import open_raw
from alexnet_jax.data.sources import ImageSource, JpegSource
from alexnet_jax.errors import UserError
from alexnet_jax.parallel.mesh import local_rows, shard_batch
from alexnet_jax.parallel.resident import create_gather, free_memory, place_rows
from alexnet_jax.run import limits

MEMORY_SHARE = 0.75  # of the free device memory, that images may take: the rest is for the training step
_UPLOAD_BATCH = 256  # images that are sent to the devices at a time

DeviceBatch = dict[str, jax.Array]


class Feed(Protocol):
    """The endless training batches, on the devices: "image" (uint8 [B, S, S, 3]) and "label" (int32 [B])."""

    def __next__(self) -> DeviceBatch:
        """The batch of the next step."""
        ...

    def ready(self) -> bool:
        """Whether the next batch is there, or on its way to the devices."""
        ...

    def close(self) -> None:
        """Stops reading ahead."""
        ...


def open_feed(source: JpegSource, config: Config, mesh: Mesh, start_step: int) -> Feed:
    """The batches of the training stream from a step on, fed as `config.data.feed` says.

    UserError if the disk ("raw") or the devices' memory ("device") does not suffice, or a record is damaged.
    """
    if config.data.feed == "device":
        return ResidentFeed(source, config, mesh, start_step)
    rows = local_rows(mesh, config.batch_size)
    ahead = batches_ahead(config.data.read_threads, config.data.prefetch_batches)
    limits.check_batches_fit(len(rows), source.image_size, ahead + 2)  # one goes to the devices, one is at work
    from_disk: ImageSource = open_raw(source, config.data.read_threads) if config.data.feed == "raw" else source
    batches = train_batches(
        from_disk,
        seed=config.seed,
        batch_size=config.batch_size,
        rows=rows,
        start_step=start_step,
        read_threads=config.data.read_threads,
        prefetch_batches=config.data.prefetch_batches,
    )
    return HostFeed(batches, mesh)


class HostFeed:
    """Batches that are made on the host. The next one is on its way to the devices while a step runs."""

    def __init__(self, batches: TrainBatches, mesh: Mesh):
        """Starts with the batch that comes next."""
        self._batches = batches
        self._mesh = mesh
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "feed")
        self._next = self._thread.submit(self._feed_next)

    def __next__(self) -> DeviceBatch:
        """The batch of the next step; UserError if one of its records is damaged."""
        batch = self._next.result()
        self._next = self._thread.submit(self._feed_next)
        return batch

    def ready(self) -> bool:
        """Whether the next batch is there, or on its way to the devices."""
        return self._next.done()

    def close(self) -> None:
        """Stops reading ahead."""
        self._thread.shutdown(cancel_futures=True)
        self._batches.close()

    def _feed_next(self) -> DeviceBatch:
        return shard_batch(self._mesh, next(self._batches))


class ResidentFeed:
    """All images in device memory: on every device if they fit, otherwise split over the parts of the batch."""

    def __init__(self, source: ImageSource, config: Config, mesh: Mesh, start_step: int):
        """Decodes all images and sends them to the devices; UserError if they don't fit."""
        split = _must_be_split(len(source) * source.image_size**2 * 3, mesh)
        threads = config.data.read_threads

        def read(start: int, stop: int):
            return consecutive_batches(source, start, stop, batch_size=_UPLOAD_BATCH, read_threads=threads)

        self._rows = place_rows(mesh, len(source), read, split=split)
        self._gather = create_gather(mesh, split=split)
        self._local = local_rows(mesh, config.batch_size)
        self._num_examples, self._seed, self._batch_size = len(source), config.seed, config.batch_size
        self._step = start_step

    def __next__(self) -> DeviceBatch:
        """The batch of the next step."""
        positions = self._step * self._batch_size + np.arange(self._batch_size)
        indices = stream_indices(self._num_examples, self._seed, positions)
        self._step += 1
        return self._gather(self._rows, indices.astype(np.int32), self._local)

    def ready(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Frees the memory."""
        self._rows = {}


def _must_be_split(num_bytes: int, mesh: Mesh) -> bool:
    """Whether each device can hold only its share of so many bytes of images; UserError if not even that."""
    free, parts = free_memory(mesh), mesh.shape["data"]
    if num_bytes <= MEMORY_SHARE * free:
        return False
    if num_bytes <= MEMORY_SHARE * free * parts and parts > 1:
        return True
    shared = f", {num_bytes / parts / 2**30:,.1f} GiB on each of {parts} devices" if parts > 1 else ""
    raise UserError(
        f"data.feed='device' needs {num_bytes / 2**30:,.1f} GiB for all training images{shared}; {MEMORY_SHARE:.0%} of "
        f"the memory that is free on a device are {MEMORY_SHARE * free / 2**30:,.1f} GiB: take data.feed='raw' or "
        "'jpeg', or more devices (mesh.data)."
    )
