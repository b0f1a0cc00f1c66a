"""What a net says of the images of its data set: the part of a report that computes on a device."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.data.sources import ImageSource
from alexnet_jax.model.layers import Activation, Net
from alexnet_jax.parallel.mesh import local_rows, shard_batch
from alexnet_jax.predict_step import Predictor


class Subset:
    """Some examples of a source, as a source."""

    def __init__(self, source: ImageSource, indices: np.ndarray):
        """Those of these indices, int [n]."""
        self.image_size = source.image_size
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        """How many there are."""
        return len(self._indices)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        """Writes the examples of these places into images (uint8 [n, S, S, 3]) and labels (int32 [n])."""
        self._source.read(self._indices[list(indices)].tolist(), images, labels)

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples of these places: uint8 [n, S, S, 3], int32 [n]."""
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        labels = np.empty(len(indices), np.int32)
        self.read(indices.tolist(), images, labels)
        return images, labels


def drawn_evenly(source: ImageSource, at_most: int) -> Subset:
    """At most so many examples of a source, at even distances."""
    count = min(len(source), at_most)
    return Subset(source, np.arange(count) * len(source) // count)


def last_hidden_layer(net: Net) -> str:
    """The nonlinearity before the classifier: relu7 in AlexNet, "the last, 4096-dimensional hidden layer"."""
    return [layer.name for layer in net.layers if isinstance(layer, Activation)][-1]


def outputs_of(
    predictor: Predictor, source: ImageSource, mesh: Mesh, batch_size: int, read_threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The predictor's outputs [n, ...] and the labels [n] of all examples in order, a batch at a time."""
    rows = local_rows(mesh, batch_size)
    for batch in evaluation_batches(source, batch_size=batch_size, rows=rows, read_threads=read_threads):
        count = int(batch["mask"].sum())
        yield (
            np.asarray(predictor(shard_batch(mesh, {"image": batch["image"]})["image"]))[:count],
            batch["label"][:count],
        )


def one_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """So many examples of different classes: the first of each, of classes at even distances. int [at most count]."""
    _, first = np.unique(labels, return_index=True)
    count = min(count, len(first))
    return first[np.arange(count) * len(first) // count]
