"""Restored nets applied to any number of images, in padded batches of one size so that one program serves all."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.image_files import in_a_sentence, load_images
from alexnet_jax.errors import printable
from alexnet_jax.parallel.mesh import divisible_batch, shard_batch
from alexnet_jax.predict_step import mean_of_probabilities
from alexnet_jax.progress import Progress
from alexnet_jax.run.restore import RestoredNet, check_same_classes

BATCH_SIZES = (1, 8, 64)  # compiling for more sizes would take longer than computing the padding up to one of these


Values = Any  # what a program computes for n images: an array [n, ...], or arrays by layer


class Outputs(NamedTuple):
    """What a program computes for n images, with their names and, where known, their labels, int32 [n]."""

    values: Values
    names: Sequence[str]
    labels: np.ndarray | None = None


class BatchedProgram:
    """A net's compiled program, applied to padded batches of one size."""

    def __init__(self, net: RestoredNet, program: Callable[[jax.Array], Any], num_images: int, views: int = 1):
        """Choose the batch size for this many images; it is a multiple of the mesh's shards of a batch."""
        size = next((size for size in BATCH_SIZES if size >= num_images), BATCH_SIZES[-1])
        self.batch_size = divisible_batch(net.mesh, size)
        self._mesh, self._program, self._prepare = net.mesh, program, net.preparation(views)

    def run(self, images: np.ndarray) -> Values:
        """Return the outputs for uint8 images [n, S, S, 3], n <= `batch_size`."""
        padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        outputs = self._program(shard_batch(self._mesh, {"image": padded})["image"])
        return jax.tree.map(lambda values: np.asarray(values)[: len(images)], outputs)

    def run_on_files(self, files: Sequence[Path], broken: list[str]) -> Iterator[Outputs]:
        """Yield the outputs for the readable files, batch by batch; append a sentence about each other to `broken`."""
        images = self._read(files, broken)
        while batch := list(itertools.islice(images, self.batch_size)):
            names, pixels = zip(*batch, strict=True)
            yield Outputs(self.run(np.stack(pixels)), names)

    def _read(self, files: Sequence[Path], broken: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the image, uint8 [S, S, 3], of each readable file."""
        for path, pixels in load_images(files, self._prepare):
            if isinstance(pixels, np.ndarray):
                yield str(path), pixels
            else:
                broken.append(in_a_sentence(path, pixels))


def with_progress(batches: Iterable[Outputs], num_images: int) -> Iterator[Outputs]:
    """Yield the batches and report progress on stderr from the second one on."""
    done = 0
    with Progress(num_images, of=f"{num_images:,}") as progress:
        for batch in batches:
            yield batch
            done += len(batch.names)
            progress.images(len(batch.names), done, skipped=False)


def run_ensemble(
    nets: Sequence[RestoredNet], files: Sequence[Path], views: int, broken: list[str]
) -> Iterator[Outputs]:
    """Yield log-probabilities [n, classes], averaged over the nets as probabilities (paper section 6.1).

    Each net sees the files as it knows pictures, so they are read once for each. UserError if the classes differ.
    """
    for net in nets[1:]:
        check_same_classes(net, nets[0].dataset_info, str(nets[0].folder))
    programs = [BatchedProgram(net, net.predictor(views), len(files), views) for net in nets]
    sentences = [broken, *([] for _ in nets[1:])]  # about the same files
    each = [program.run_on_files(files, found) for program, found in zip(programs, sentences, strict=True)]
    for batches in zip(*each, strict=True):
        values = jnp.stack([batch.values for batch in batches])  # [nets, n, classes]
        yield batches[0]._replace(values=np.asarray(mean_of_probabilities(values, axis=0)))


def predict_files(
    nets: Sequence[RestoredNet], files: Sequence[Path], views: int, top: int, broken: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield for each readable file {"image", "predictions": [{"class", "label", "probability"}, ...]}.

    `predictions` has the `top` most probable classes according to one net or an ensemble, best first; `views` is 1 or
    10, as in `RestoredNet.predictor`. A sentence about each other file is appended to `broken`.
    """
    info = nets[0].dataset_info
    batches = run_ensemble(nets, files, views, broken)
    if not sys.stdout.isatty():  # on a terminal the predictions themselves show the progress
        batches = with_progress(batches, len(files))
    for batch in batches:
        for name, log_probabilities in zip(batch.names, batch.values, strict=True):
            predictions = [
                {
                    "class": info.class_names[number],
                    "label": info.label_names[number],
                    "probability": float(np.exp(log_probabilities[number])),
                }
                for number in np.argsort(-log_probabilities, kind="stable")[:top]
            ]
            yield {"image": name, "predictions": predictions}


def as_text(prediction: dict[str, Any]) -> str:
    """Format a prediction for people, one class per line."""
    lines = [prediction["image"]]
    for row in prediction["predictions"]:
        label = "" if row["label"] == row["class"] else f"  ({row['label']})"
        lines.append(f"  {row['probability']:7.2%}  {row['class']}{label}")
    return "\n".join(map(printable, lines))
