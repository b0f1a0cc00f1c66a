"""All kinds of files, and their shares of a campaign: kinds that are read faster get more inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fuzzing import images_and_archives, runs, weights
from fuzzing.campaign import Subject


class Kind(NamedTuple):
    """`subject` creates the valid files in an empty folder; `share` is a fraction of all inputs."""

    subject: Callable[[Path], Subject]
    share: float


KINDS = {
    "image": Kind(images_and_archives.images, 0.15),
    "archive of images": Kind(images_and_archives.archives, 0.058),
    "archive of archives": Kind(images_and_archives.archives_in_archives, 0.08),
    "development kit": Kind(images_and_archives.development_kits, 0.002),
    "CIFAR-10 batch": Kind(images_and_archives.cifar_batches, 0.06),
    "prepared data set": Kind(images_and_archives.prepared_sets, 0.01),
    "caffemodel": Kind(weights.caffemodels, 0.09),
    "npz": Kind(weights.npz_files, 0.05),
    "npy": Kind(weights.npy_files, 0.03),
    "mat": Kind(weights.mat_files, 0.03),
    "onnx": Kind(weights.onnx_files, 0.03),
    "pth": Kind(weights.pth_files, 0.06),
    "safetensors": Kind(weights.safetensors_files, 0.02),
    "mean image": Kind(weights.mean_images, 0.08),
    "class names": Kind(weights.class_names, 0.02),
    "config.json": Kind(runs.configs, 0.09),
    "dataset.json, statistics.npz": Kind(runs.dataset_infos, 0.05),
    "metrics.jsonl": Kind(runs.records, 0.05),
    "metrics.jsonl, drawn": Kind(runs.curves, 0.0005),
    "outcome.json": Kind(runs.outcomes, 0.0115),
    "checkpoint": Kind(runs.checkpoints, 0.003),
    "checkpoint, checksums forged": Kind(runs.forged_checkpoints, 0.005),
    "--config override": Kind(runs.overrides, 0.02),
}
