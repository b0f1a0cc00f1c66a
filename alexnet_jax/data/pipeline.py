"""Host batches from a source, through Grain: shuffled for training, in order for evaluation.

A batch is {"image": uint8 [R, S, S, 3], "label": int32 [R]} with R the rows of the global batch that this process
feeds. Images stay bytes until they are on the device, and are cropped, flipped and colored there. Threads decode;
simplejpeg lets go of the interpreter lock while it does.
"""

import sys
from collections.abc import Iterator
from typing import TypedDict

import grain
import numpy as np

from alexnet_jax.data.sources import ImageSource

Batch = dict[str, np.ndarray]


class Position(TypedDict):
    """A position in the training stream: the next step. JSON-able; all that a checkpoint needs."""

    step: int


class TrainBatches:
    """The endless iterator over training batches; see `train_batches`. `close` it to stop its threads."""

    def __init__(self, batches: grain.DatasetIterator, start_step: int):
        """Starts reading at `start_step`."""
        self._batches = batches
        self.set_state({"step": start_step})

    def __iter__(self) -> "TrainBatches":
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The batch of the next step; UserError if one of its records is damaged."""
        return next(self._batches)

    def get_state(self) -> Position:
        """The position after the batches handed out so far, whatever was read ahead."""
        return {"step": self._batches.get_state()["next_index"]}

    def set_state(self, position: Position) -> None:
        """Goes on from this position, at once."""
        self._batches.set_state({"next_index": position["step"]})

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
    """Batches of an endless stream in which every epoch is a permutation of the source, drawn from `seed`.

    Row r of the global batch of step s is the stream's element s * batch_size + r: the stream, and so what a run
    sees, depends neither on the batch size nor on how rows are split over processes nor on threads. An epoch need not
    be a whole number of batches. `rows`: which rows of the global batch to deliver, int [R]. `prefetch_batches` are
    read ahead, at least one a thread; without threads, batches are made when they are asked for.
    """
    stream = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()

    def batch(step: int) -> Batch:
        return _read(source, [stream[step * batch_size + int(row)] for row in rows])

    steps = grain.MapDataset.range(sys.maxsize // batch_size).map(batch)
    return TrainBatches(_iterate(steps, read_threads, prefetch_batches), start_step)


def evaluation_batches(
    source: ImageSource, *, batch_size: int, rows: np.ndarray, read_threads: int = 2, prefetch_batches: int = 2
) -> Iterator[Batch]:
    """Batches of every example once, in order, all of full size; "mask" (float32 [R]) is 0 where one is padded.

    Row r of the global batch b is example b * batch_size + r; past the last example the image is black, the label 0.
    Every process gets the same number of batches. UserError if a record is damaged.
    """

    def batch(number: int) -> Batch:
        indices = number * batch_size + np.asarray(rows)
        mask = indices < len(source)
        real = _read(source, indices[mask].tolist())
        return {name: _scatter(values, mask) for name, values in real.items()} | {"mask": mask.astype(np.float32)}

    num_batches = -(-len(source) // batch_size)
    batches = _iterate(grain.MapDataset.range(num_batches).map(batch), read_threads, prefetch_batches)
    try:
        yield from batches
    finally:
        batches.close()


def _read(source: ImageSource, indices: list[int]) -> Batch:
    images = np.empty((len(indices), source.image_size, source.image_size, 3), np.uint8)
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


def _iterate(batches: grain.MapDataset, read_threads: int, prefetch_batches: int) -> grain.DatasetIterator:
    # Grain's threads each make a whole batch; its worker processes would need more memory and outlive a killed run.
    options = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=max(read_threads, prefetch_batches))
    return iter(batches.to_iter_dataset(options))
