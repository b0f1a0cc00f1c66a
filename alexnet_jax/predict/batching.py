"""Restored nets applied to any number of images, in padded batches of one size so that one program serves all."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.image_files import in_a_sentence, load_images
from alexnet_jax.errors import printable
from alexnet_jax.parallel.mesh import divisible_batch, shard_batch
from alexnet_jax.predict_step import Predictor, mean_of_probabilities
from alexnet_jax.progress import Progress
from alexnet_jax.run.restore import RestoredNet, check_same_data

BATCH_SIZES = (1, 8, 64)  # compiling for more sizes would take longer than computing the padding up to one of these


class Outputs(NamedTuple):
    """What a program computes for n images, [n, ...], with their names and, where known, their labels, int32 [n]."""

    values: np.ndarray
    names: Sequence[str]
    labels: np.ndarray | None = None


class BatchedProgram:
    """A net's compiled program, applied to padded batches of one size."""

    def __init__(self, net: RestoredNet, program: Predictor, num_images: int):
        """Choose the batch size for this many images; it is a multiple of the mesh's shards of a batch."""
        size = next((size for size in BATCH_SIZES if size >= num_images), BATCH_SIZES[-1])
        self.batch_size = divisible_batch(net.mesh, size)
        self._net, self._program = net, program

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs [n, ...] for uint8 images [n, S, S, 3], n <= `batch_size`."""
        padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        return np.asarray(self._program(shard_batch(self._net.mesh, {"image": padded})["image"]))[: len(images)]

    def run_on_files(self, files: Sequence[Path], broken: list[str]) -> Iterator[Outputs]:
        """Yield the outputs for the readable files, batch by batch; append a sentence about each other to `broken`."""
        images = self._read(files, broken)
        while batch := list(itertools.islice(images, self.batch_size)):
            names, pixels = zip(*batch, strict=True)
            yield Outputs(self.run(np.stack(pixels)), names)

    def _read(self, files: Sequence[Path], broken: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the image, uint8 [S, S, 3], of each readable file."""
        for path, pixels in load_images(files, self._net.dataset_info.statistics.image_size):
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


def create_ensemble(nets: Sequence[RestoredNet], views: int) -> Predictor:
    """Create the predictor that averages the nets' probabilities (paper section 6.1); UserError if data differ."""
    for net in nets[1:]:
        check_same_data(net, nets[0].dataset_info, str(nets[0].folder))
    predictors = [net.predictor(views) for net in nets]
    if len(predictors) == 1:
        return predictors[0]
    return lambda images: mean_of_probabilities(jnp.stack([predict(images) for predict in predictors]), axis=0)


def predict_files(
    nets: Sequence[RestoredNet], files: Sequence[Path], views: int, top: int, broken: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield for each readable file {"image", "predictions": [{"class", "label", "probability"}, ...]}.

    `predictions` has the `top` most probable classes according to one net or an ensemble, best first; `views` is 1 or
    10, as in `RestoredNet.predictor`. A sentence about each other file is appended to `broken`.
    """
    info = nets[0].dataset_info
    program = BatchedProgram(nets[0], create_ensemble(nets, views), len(files))
    batches = program.run_on_files(files, broken)
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
