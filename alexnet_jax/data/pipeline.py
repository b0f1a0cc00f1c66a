"""Host batches from a source, through Grain: shuffled for training, in order for evaluation.

A batch is {"image": uint8 [R, S, S, 3], "label": int32 [R]} with R the rows of the global batch that this process
feeds. Images stay bytes until they are on the device, and are cropped, flipped and colored there. Threads decode;
simplejpeg lets go of the interpreter lock while it does.
"""

import functools
import math
import mmap
import sys
import weakref
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from alexnet_jax import runtime
from alexnet_jax.data.sources import ImageSource

Batch = dict[str, np.ndarray]

MAX_THREADS = 16  # for read_threads=-1: what more threads decode, the interpreter can't hand on


class TrainBatches:
    """The endless iterator over training batches; see `train_batches`. `close` it to stop its threads."""

    def __init__(self, batches: grain.DatasetIterator, start_step: int):
        """Starts reading at `start_step`."""
        self._batches = batches
        self._batches.set_state({"next_index": start_step})

    def __iter__(self) -> "TrainBatches":
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The batch of the next step; UserError if one of its records is damaged."""
        return next(self._batches)

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()


def train_batches(
    source: ImageSource,
    *,
    seed: int,
    batch_size: int,
    rows: np.ndarray,
    start_step: int = 0,
    read_threads: int = 2,
    prefetch_batches: int = 2,
) -> TrainBatches:
    """Batches of the training stream (`stream_indices`): row r of step s is its element s * batch_size + r.

    So what a run sees depends neither on the batch size nor on how rows are split over processes nor on threads. An
    epoch need not be a whole number of batches. `rows`: which rows of the global batch to deliver, int [R].
    `prefetch_batches` are read ahead, at least one a thread; without threads, batches are made when they are asked
    for. `read_threads` of -1 is one for each core.
    """
    memory = BatchMemory()

    def batch(step: int) -> Batch:
        indices = stream_indices(len(source), seed, step * batch_size + np.asarray(rows))
        return _read(source, indices.tolist(), memory)

    steps = grain.MapDataset.range(sys.maxsize // batch_size).map(batch)
    return TrainBatches(_iterate(steps, read_threads, prefetch_batches), start_step)


def stream_indices(num_examples: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Which examples stand at these positions (int64) of the endless training stream: every epoch is a permutation."""
    epochs, places = np.divmod(positions, num_examples)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _epoch_order(num_examples, seed, int(epoch))[places[here]]
    return indices


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch sees the examples, int64 [num_examples].

    NumPy promises the bits of Philox for all versions to come, but not what its shuffling makes of them. An epoch of
    ImageNet is sorted in 0.2 s; Grain's shuffle finds each place by itself, which takes the interpreter 15 us an image.
    """
    return np.argsort(np.random.Philox(key=(seed, epoch)).random_raw(num_examples), kind="stable")


def evaluation_batches(
    source: ImageSource, *, batch_size: int, rows: np.ndarray, read_threads: int = 2, prefetch_batches: int = 2
) -> Iterator[Batch]:
    """Batches of every example once, in order, all of full size; "mask" (float32 [R]) is 0 where one is padded.

    Row r of the global batch b is example b * batch_size + r; past the last example the image is black, the label 0.
    Every process gets the same number of batches. UserError if a record is damaged.
    """
    memory = BatchMemory()

    def batch(number: int) -> Batch:
        indices = number * batch_size + np.asarray(rows)
        mask = indices < len(source)
        real = _read(source, indices[mask].tolist(), memory)
        return {name: _scatter(values, mask) for name, values in real.items()} | {"mask": mask.astype(np.float32)}

    num_batches = -(-len(source) // batch_size)
    yield from _all_of(grain.MapDataset.range(num_batches).map(batch), read_threads, prefetch_batches)


def consecutive_batches(
    source: ImageSource, start: int, stop: int, *, batch_size: int, read_threads: int
) -> Iterator[Batch]:
    """The examples from `start` up to `stop` in order, so many at a time; the last batch may be smaller."""
    memory = BatchMemory()

    def batch(first: int) -> Batch:
        return _read(source, range(first, min(first + batch_size, stop)), memory)

    yield from _all_of(grain.MapDataset.range(start, stop, batch_size).map(batch), read_threads, prefetch_batches=2)


class BatchMemory:
    """Memory for the images of batches that is used again once nobody holds them any more.

    Memory fresh from the system comes as zeros, and writing them takes a twentieth of the time that decoding does.
    JAX holds on to an array that it has not copied yet, or never copies (on a CPU: these blocks start on a page).
    """

    def __init__(self) -> None:
        """Without any memory yet."""
        self._free: list[mmap.mmap] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of bytes, uint8 [shape], with anything in it."""
        size = math.prod(shape)
        try:
            block = self._free.pop()
        except IndexError:
            block = _map_memory(size)
        if len(block) < size:
            block = _map_memory(size)
        # NumPy's views of this array keep it alive, and so do JAX's: when it dies, nobody can see the block.
        array = np.ndarray(shape, np.uint8, block)
        weakref.finalize(array, self._free.append, block).atexit = False
        return array


def _map_memory(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):  # a thousandth of the page faults, where the system has such pages
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _read(source: ImageSource, indices: Sequence[int], memory: BatchMemory) -> Batch:
    images = memory.take((len(indices), source.image_size, source.image_size, 3))
    labels = np.empty(len(indices), np.int32)
    source.read(indices, images, labels)
    return {"image": images, "label": labels}


def _scatter(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values [sum(mask), ...] at the places of the mask [R], zeros elsewhere."""
    if mask.all():
        return values
    padded = np.zeros((len(mask), *values.shape[1:]), values.dtype)
    padded[mask] = values
    return padded


def _all_of(batches: grain.MapDataset, read_threads: int, prefetch_batches: int) -> Iterator[Batch]:
    """All batches in order; the threads end with the iteration, or when it is given up."""
    iterator = _iterate(batches, read_threads, prefetch_batches)
    try:
        yield from iterator
    finally:
        iterator.close()


def _iterate(batches: grain.MapDataset, read_threads: int, prefetch_batches: int) -> grain.DatasetIterator:
    # Grain's threads each make a whole batch; its worker processes would need more memory and outlive a killed run.
    options = grain.ReadOptions(
        num_threads=_num_threads(read_threads), prefetch_buffer_size=batches_ahead(read_threads, prefetch_batches)
    )
    return iter(batches.to_iter_dataset(options))


def batches_ahead(read_threads: int, prefetch_batches: int) -> int:
    """How many batches are read ahead: at least one a thread."""
    return max(_num_threads(read_threads), prefetch_batches)


def _num_threads(read_threads: int) -> int:
    return min(len(runtime.cores()), MAX_THREADS) if read_threads == -1 else read_threads
