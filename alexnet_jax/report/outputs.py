"""The examples that a report shows, and the net's outputs for them, computed on a device."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.data.sources import ImageSource
from alexnet_jax.model.layers import Activation, Net
from alexnet_jax.parallel.mesh import divisible_batch, local_rows, shard_batch
from alexnet_jax.predict_step import Predictor
from alexnet_jax.run.restore import RestoredNet


class Examples(NamedTuple):
    """Images uint8 [n, S, S, 3] with their labels int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


class Subset:
    """A source with some examples of another source, given by their indices, int [n]."""

    def __init__(self, source: ImageSource, indices: np.ndarray):
        self.image_size = source.image_size
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        """Write the examples at these positions into images (uint8 [n, S, S, 3]) and labels (int32 [n])."""
        self._source.read(self._indices[list(indices)].tolist(), images, labels)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Return the examples at these positions."""
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        labels = np.empty(len(indices), np.int32)
        self.read(list(indices), images, labels)
        return Examples(images, labels)


def drawn_evenly(source: ImageSource, at_most: int) -> Subset:
    """Return at most `at_most` examples of a source, at even distances."""
    return Subset(source, _evenly(len(source), at_most))


def one_of_each_class(labels: np.ndarray, at_most: int) -> np.ndarray:
    """Return the position of the first example of each class, for at most `at_most` classes at even distances."""
    _, first = np.unique(labels, return_index=True)
    return first[_evenly(len(first), at_most)]


def _evenly(length: int, at_most: int) -> np.ndarray:
    count = min(length, at_most)
    return np.arange(count) * length // count


def last_hidden_layer(net: Net) -> str:
    """Return the nonlinearity before the classifier: relu7 in AlexNet, "the last, 4096-dimensional hidden layer"."""
    return [layer.name for layer in net.layers if isinstance(layer, Activation)][-1]


def compute(net: RestoredNet, predictor: Predictor, source: ImageSource) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a compiled program's outputs [n, ...] and the labels [n] of all examples, in order and batch by batch."""
    batch_size = divisible_batch(net.mesh, net.config.eval.batch_size)
    rows, read_threads = local_rows(net.mesh, batch_size), net.config.data.read_threads
    for batch in evaluation_batches(source, batch_size=batch_size, rows=rows, read_threads=read_threads):
        count = int(batch["mask"].sum())
        images = shard_batch(net.mesh, {"image": batch["image"]})["image"]
        yield np.asarray(predictor(images))[:count], batch["label"][:count]
