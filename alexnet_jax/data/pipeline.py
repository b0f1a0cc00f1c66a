"""Host batches from a source, through Grain: shuffled for training, in order for evaluation.

A batch is {"image": uint8 [R, S, S, 3], "label": int32 [R]}; R rows of the global batch are this process's. Images
stay bytes until they are on the device, where they are cropped, flipped and colored. Threads decode; simplejpeg
releases the interpreter lock while it does.

Grain's usual form, `MapDataset.source(...).shuffle().repeat().map(decode).batch(b)`, copies each image once more to
stack it: on two cores it gives 0.82 of the images/s, and 0.90 with the order below instead of Grain's shuffle
(`python -m benchmarks.input`, medians of nine turns). So the elements here are whole batches, decoded in place.
"""

import contextlib
import functools
import math
import mmap
import sys
import weakref
from collections.abc import Iterator

import grain
import numpy as np

from alexnet_jax import runtime
from alexnet_jax.data.sources import ImageSource

Batch = dict[str, np.ndarray]

MAX_THREADS = 16  # for read_threads=-1: the interpreter can't pass on what more threads decode


def train_batches(
    source: ImageSource,
    *,
    seed: int,
    batch_size: int,
    rows: np.ndarray,
    start_step: int = 0,
    read_threads: int = 2,
    prefetch_batches: int = 2,
) -> grain.DatasetIterator[Batch]:
    """Return the endless training batches: row r of step s is element s * batch_size + r of `stream_indices`.

    So what a run sees depends neither on the batch size nor on threads nor on how rows are split over processes. An
    epoch need not be a whole number of batches. `close` the iterator to stop its threads.

    Args:
      source: the examples.
      seed: determines the order of the examples.
      batch_size: the number of rows of the global batch.
      rows: which of them to read, int [R].
      start_step: the step of the first batch.
      read_threads: threads that each read a whole batch. -1: one per core. 0: batches are read when asked for.
      prefetch_batches: how many batches are read ahead, at least one per thread.

    Raises:
      UserError: a record is damaged; raised by `next`.
    """
    memory = BatchMemory()

    def indices_of(step: int) -> np.ndarray:
        return stream_indices(len(source), seed, step * batch_size + rows)

    steps = grain.MapDataset.range(start_step, sys.maxsize // batch_size)
    batches = steps.map(indices_of).map(lambda indices: _read(source, indices, memory))
    return _iterate(batches, read_threads, prefetch_batches)


def stream_indices(num_examples: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Return the examples at these positions of the endless training stream, whose epochs are permutations: int64."""
    epochs, places = np.divmod(positions, num_examples)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        in_epoch = epochs == epoch
        indices[in_epoch] = epoch_order(num_examples, seed, int(epoch))[places[in_epoch]]
    return indices


@functools.lru_cache(maxsize=4)
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the examples in an epoch, int64 [num_examples].

    NumPy promises that the bits of Philox never change, but not what its shuffling makes of them. Sorting an epoch of
    ImageNet takes 0.2 s; Grain's shuffle computes each place by itself, which takes the interpreter 15 us per image.
    """
    return np.argsort(np.random.Philox(key=(seed, epoch)).random_raw(num_examples), kind="stable")


def evaluation_batches(
    source: ImageSource, *, batch_size: int, rows: np.ndarray, read_threads: int = 2, prefetch_batches: int = 2
) -> Iterator[Batch]:
    """Yield every example once, in order, in batches of full size; "mask" (float32 [R]) is 0 for padded rows.

    Row r of the global batch b is example b * batch_size + r; after the last example images are black and labels 0.
    Every process gets the same number of batches. UserError if a record is damaged.
    """
    memory = BatchMemory()

    def read(start: int) -> Batch:
        indices = start + rows
        exists = indices < len(source)
        batch = _read(source, indices[exists], memory)
        return {name: _pad(values, exists) for name, values in batch.items()} | {"mask": exists.astype(np.float32)}

    batches = grain.MapDataset.range(0, len(source), batch_size).map(read)
    with contextlib.closing(_iterate(batches, read_threads, prefetch_batches)) as iterator:
        yield from iterator


def consecutive_batches(
    source: ImageSource, start: int, stop: int, *, batch_size: int, read_threads: int
) -> Iterator[Batch]:
    """Yield the examples from `start` up to `stop` in order, in batches of this size; the last may be smaller."""
    memory = BatchMemory()

    def read(first: int) -> Batch:
        return _read(source, np.arange(first, min(first + batch_size, stop)), memory)

    batches = grain.MapDataset.range(start, stop, batch_size).map(read)
    with contextlib.closing(_iterate(batches, read_threads, prefetch_batches=2)) as iterator:
        yield from iterator


class BatchMemory:
    """Memory for the images of batches, reused once nothing refers to it.

    The system zeroes fresh memory when it is first written, which takes a twentieth of the decoding time. JAX keeps a
    reference to an array that it has not copied yet, or never copies (on a CPU, because these blocks are page-aligned).
    """

    def __init__(self) -> None:
        """Start without any memory."""
        self._free: list[mmap.mmap] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an uninitialized array, uint8 [shape]."""
        size = math.prod(shape)
        try:
            block = self._free.pop()
        except IndexError:
            block = _map_memory(size)
        if len(block) < size:
            block = _map_memory(size)
        # Views in NumPy and JAX keep this array alive: once it is gone, nothing can see the block.
        array = np.ndarray(shape, np.uint8, block)
        weakref.finalize(array, self._free.append, block).atexit = False
        return array


def _map_memory(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):  # a thousandth of the page faults, on systems that have huge pages
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _read(source: ImageSource, indices: np.ndarray, memory: BatchMemory) -> Batch:
    images = memory.take((len(indices), source.image_size, source.image_size, 3))
    labels = np.empty(len(indices), np.int32)
    source.read(indices.tolist(), images, labels)
    return {"image": images, "label": labels}


def _pad(values: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Return the values [sum(exists), ...] in the rows that exist ([R], bool), and zeros in the others."""
    if exists.all():
        return values
    padded = np.zeros((len(exists), *values.shape[1:]), values.dtype)
    padded[exists] = values
    return padded


def _iterate(batches: grain.MapDataset, read_threads: int, prefetch_batches: int) -> grain.DatasetIterator:
    # Grain's threads each read a whole batch. Its worker processes would need more memory and outlive a killed run.
    options = grain.ReadOptions(
        num_threads=_num_threads(read_threads), prefetch_buffer_size=batches_ahead(read_threads, prefetch_batches)
    )
    return iter(batches.to_iter_dataset(options))


def batches_ahead(read_threads: int, prefetch_batches: int) -> int:
    """Return how many batches are read ahead: at least one per thread."""
    return max(_num_threads(read_threads), prefetch_batches)


def _num_threads(read_threads: int) -> int:
    return min(len(runtime.cores()), MAX_THREADS) if read_threads == -1 else read_threads
