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
    """Return the endless training batches from a step on, of which this process reads `rows` (int [R]).

    `read_threads` read one whole batch each; -1 means one thread per core, 0 that batches are read when asked for.
    `prefetch_batches` are read ahead, at least one per thread. `close` the iterator to stop the threads. `next` raises
    UserError if a record is damaged.
    """

    def indices(step: int) -> np.ndarray:
        return batch_indices(len(source), seed, batch_size, step)[rows]

    steps = grain.MapDataset.range(start_step, sys.maxsize // batch_size)
    batches = steps.map(indices).map(BatchReader(source, len(rows)).read)
    return iter(batches.to_iter_dataset(read_options(read_threads, prefetch_batches)))


def batch_indices(num_examples: int, seed: int, batch_size: int, step: int) -> np.ndarray:
    """Return the examples in the global batch of a training step, int64 [batch_size].

    Batches are consecutive parts of an endless stream of epochs, each a permutation of all examples. So what a run sees
    depends neither on the batch size nor on processes nor threads, and an epoch need not be a whole number of batches.
    """
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size), num_examples)
    orders = [epoch_order(num_examples, seed, epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
    return np.concatenate(orders)


@functools.lru_cache(maxsize=4)
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the examples in an epoch, int64 [num_examples].

    NumPy promises that the bits of Philox never change, but not what its shuffling makes of them. Sorting an epoch of
    ImageNet takes 0.2 s; Grain's shuffle computes each place by itself, which takes the interpreter 15 us per image.
    """
    return np.argsort(np.random.Philox(key=(seed, epoch)).random_raw(num_examples), kind="stable")


def evaluation_batches(
    source: ImageSource, *, batch_size: int, rows: np.ndarray, read_threads: int = 2
) -> Iterator[Batch]:
    """Yield every example once, in order, in batches of full size; "mask" (float32 [R]) is 0 for padded rows.

    Row r of the global batch b is example b * batch_size + r; this process reads `rows` (int [R], ascending). Padded
    images are black, padded labels 0. Every process gets the same number of batches. UserError if a record is damaged.
    """
    reader = BatchReader(source, len(rows))

    def read(start: int) -> Batch:
        indices = start + rows
        exists = indices < len(source)
        return reader.read(indices[exists]) | {"mask": exists.astype(np.float32)}

    batches = grain.MapDataset.range(0, len(source), batch_size).map(read)
    with contextlib.closing(iter(batches.to_iter_dataset(read_options(read_threads, 2)))) as iterator:
        yield from iterator


def consecutive_batches(
    source: ImageSource, start: int, stop: int, *, batch_size: int, read_threads: int
) -> Iterator[Batch]:
    """Yield the examples from `start` up to `stop` in order, in batches of this size; the last may be smaller."""
    reader = BatchReader(source, min(batch_size, stop - start))

    def read(first: int) -> Batch:
        indices = np.arange(first, min(first + batch_size, stop))
        return {name: values[: len(indices)] for name, values in reader.read(indices).items()}

    batches = grain.MapDataset.range(start, stop, batch_size).map(read)
    with contextlib.closing(iter(batches.to_iter_dataset(read_options(read_threads, 2)))) as iterator:
        yield from iterator


class BatchReader:
    """Reads examples into batches of `num_rows` rows, whose memory is reused once nothing refers to it.

    The system zeroes fresh memory when it is first written, which takes a twentieth of the decoding time. JAX keeps a
    reference to an array that it has not copied yet, or never copies (on a CPU, because these blocks are page-aligned).
    """

    def __init__(self, source: ImageSource, num_rows: int):
        self._source = source
        self._shape = (num_rows, source.image_size, source.image_size, 3)
        self._free: list[mmap.mmap] = []

    def read(self, indices: np.ndarray) -> Batch:
        """Read examples into the first rows of a batch; the other rows are zeros."""
        images, labels = self._uninitialized_images(), np.zeros(self._shape[0], np.int32)
        self._source.read(indices.tolist(), images[: len(indices)], labels[: len(indices)])
        images[len(indices) :] = 0
        return {"image": images, "label": labels}

    def _uninitialized_images(self) -> np.ndarray:
        try:
            block = self._free.pop()
        except IndexError:
            block = mmap.mmap(-1, math.prod(self._shape))
            if hasattr(mmap, "MADV_HUGEPAGE"):  # a thousandth of the page faults, on systems that have huge pages
                block.madvise(mmap.MADV_HUGEPAGE)
        # Views in NumPy and JAX keep this array alive: once it is gone, nothing can see the block.
        images = np.ndarray(self._shape, np.uint8, block)
        weakref.finalize(images, self._free.append, block).atexit = False
        return images


def read_options(read_threads: int, prefetch_batches: int) -> grain.ReadOptions:
    """Return Grain's options: each thread (-1: one per core) reads whole batches, at least one ahead."""
    # Threads, because Grain's worker processes would need more memory and outlive a killed run.
    num_threads = min(len(runtime.cores()), MAX_THREADS) if read_threads == -1 else read_threads
    return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(num_threads, prefetch_batches))
