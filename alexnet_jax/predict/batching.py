"""Restored nets at work on images that come in any number: in batches of one size, so that one program serves all."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.image_files import in_a_sentence, load_images
from alexnet_jax.errors import UserError, printable
from alexnet_jax.parallel.mesh import shard_batch
from alexnet_jax.predict_step import create_predict_step, mean_of_probabilities
from alexnet_jax.progress import Progress
from alexnet_jax.restore import RestoredNet

T = TypeVar("T")

BATCH_SIZES = (1, 8, 64)  # compiling takes longer than computing what pads a batch to the next of these


def batch_size_for(num_images: int, mesh: Mesh) -> int:
    """How many of so many images to take at a time: few sizes, each divisible over the devices."""
    size = next((size for size in BATCH_SIZES if size >= num_images), BATCH_SIZES[-1])
    parts = mesh.shape["data"]
    return -(-size // parts) * parts


def in_batches(images: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Images [S, S, 3] as batches [B, S, S, 3], the last one smaller if they don't divide."""
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def readable(files: Sequence[Path], net: RestoredNet, names: deque[Path], broken: list[str]) -> Iterator[np.ndarray]:
    """The images of files that can be read, cut to the net's size; a name is added to `names` for each that comes.

    A sentence for each of the other files is added to `broken`.
    """
    for path, pixels in load_images(files, net.dataset_info.statistics.image_size):
        if isinstance(pixels, np.ndarray):
            names.append(path)
            yield pixels
        else:
            broken.append(in_a_sentence(path, pixels))


def with_progress(batches: Iterable[T], num_images: int, size: Callable[[T], int]) -> Iterator[T]:
    """The batches, and on stderr, from the second on, how far they are; `size` tells how many images one has."""
    progress = Progress(num_images, of=f"{num_images:,}")
    done = 0
    try:
        for batch in batches:
            yield batch
            done += size(batch)
            progress.images(size(batch), done, skipped=False)
    finally:
        progress.close()


def run(program: Callable[[jax.Array], jax.Array], mesh: Mesh, images: np.ndarray, batch_size: int) -> np.ndarray:
    """The program's rows for images [n, S, S, 3], n <= `batch_size`, padded to a batch for it."""
    padded = np.zeros((batch_size, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    return np.asarray(program(shard_batch(mesh, {"image": padded})["image"]))[: len(images)]


def create_ensemble(nets: Sequence[RestoredNet], views: int) -> Callable[[jax.Array], jax.Array]:
    """uint8 images [B, S, S, 3] -> log-probabilities [B, classes], averaged over the nets (paper section 6.1).

    UserError if the nets were trained on different classes or on stored images of different sizes.
    """
    first = nets[0]
    for net in nets[1:]:
        if net.dataset_info.label_names != first.dataset_info.label_names:
            raise UserError(
                f"--workdir={net.folder} was trained on the classes of {net.dataset_info.name!r}, "
                f"--workdir={first.folder} on those of {first.dataset_info.name!r}; the nets of an ensemble must know "
                "the same classes in the same order."
            )
        sizes = [one.dataset_info.statistics.image_size for one in (net, first)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"--workdir={net.folder} was trained on images of {sizes[0]} pixels a side, --workdir={first.folder} "
                f"of {sizes[1]}; the nets of an ensemble must look at images of one size."
            )
    predictors = [net.predictor(create_predict_step(net.config, net.mesh, views)) for net in nets]
    if len(predictors) == 1:
        return predictors[0]
    return lambda images: mean_of_probabilities(jax.numpy.stack([predict(images) for predict in predictors]), axis=0)


def predict_files(
    nets: Sequence[RestoredNet], files: Sequence[Path], views: int, top: int, broken: list[str]
) -> Iterator[dict[str, Any]]:
    """Of each file that can be read: {"image", "predictions": [{"class", "label", "probability"}, ...]}.

    Args:
      nets: one, or those of an ensemble.
      files: the images.
      views: 1 or 10.
      top: how many classes, most probable first.
      broken: gets a sentence for each of the other files.
    """
    info, mesh = nets[0].dataset_info, nets[0].mesh
    predict = create_ensemble(nets, views)
    batch_size = batch_size_for(len(files), mesh)
    names: deque[Path] = deque()  # of the images that are on their way through the net
    batches = in_batches(readable(files, nets[0], names, broken), batch_size)
    if not sys.stdout.isatty():  # there what is told shows how far it is
        batches = with_progress(batches, len(files), len)
    for images in batches:
        for log_probabilities in run(predict, mesh, images, batch_size):
            best = np.argsort(-log_probabilities, kind="stable")[:top]
            classes = [
                {
                    "class": info.class_names[number],
                    "label": info.label_names[number],
                    "probability": float(np.exp(log_probabilities[number])),
                }
                for number in best
            ]
            yield {"image": str(names.popleft()), "predictions": classes}


def as_text(prediction: dict[str, Any]) -> str:
    """The lines for people."""
    lines = [prediction["image"]]
    for row in prediction["predictions"]:
        label = "" if row["label"] == row["class"] else f"  ({row['label']})"
        lines.append(f"  {row['probability']:7.2%}  {row['class']}{label}")
    return "\n".join(map(printable, lines))
