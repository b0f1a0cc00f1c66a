"""From the name of a data set to its examples, label names and statistics."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from alexnet_jax.config import DataConfig
from alexnet_jax.data import PREPARABLE, digits
from alexnet_jax.data.class_names import names_for_people
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.downloads import download
from alexnet_jax.data.pipeline import consecutive_batches
from alexnet_jax.data.sources import JpegSource
from alexnet_jax.data.statistics import FILE_NAME as STATISTICS
from alexnet_jax.data.statistics import Statistics, compute_statistics, load_statistics, save_statistics
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive, expanded


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened data set: a split to train on, one to evaluate on, and what is known of both."""

    name: str
    train: JpegSource
    evaluation: JpegSource
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    statistics: Statistics

    @property
    def info(self) -> DatasetInfo:
        """What a net that is trained on this set must remember of it."""
        return DatasetInfo(self.name, len(self.train), self.label_names, self.class_names, self.statistics)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.label_names)

    @property
    def image_size(self) -> int:
        """The side S of the stored images in pixels; training sees random crops of them."""
        return self.statistics.image_size


def open_dataset(config: DataConfig) -> Dataset:
    """Opens `config.name` in `config.dir`; "digits" is made there on first use, sets of TFDS are downloaded to it.

    A name is the set's folder in `config.dir`; `name/version` or `name/config/version` picks one of several. UserError
    if the set or a split is missing, one of its files is missing or damaged, or it was not prepared for training.
    """
    root = expanded(config.dir, "config.data.dir")
    directory = find_directory(root, config.name)
    builder, class_names = open_builder(directory)
    _check_features(directory, builder.info)
    if not (directory / STATISTICS).exists():
        _write_statistics(directory, builder, config)
    statistics = load_statistics(directory)
    label_names = tuple(builder.info.features["label"].names)
    return Dataset(
        name=config.name,
        train=JpegSource(builder, config.train_split, statistics.image_size),
        evaluation=JpegSource(builder, config.eval_split, statistics.image_size),
        label_names=label_names,
        class_names=class_names if len(class_names) == len(label_names) else names_for_people(label_names),
        statistics=statistics,
    )


def open_builder(directory: Path) -> tuple[tfds.core.DatasetBuilder, tuple[str, ...]]:
    """The set's description as TFDS reads it, and its names of the classes for people, if it has any; or UserError."""
    try:
        _check_features_file(directory)
        builder = tfds.builder_from_directory(directory)
        for split in builder.info.splits.values():
            _ = split.filepaths  # names that can't be made show only here
        return builder, tuple(map(str, (builder.info.metadata or {}).get("class_names", ())))
    # On a damaged description TFDS raises whatever its code runs into, an AttributeError for example.
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"{directory} can't be read as a TFDS data set ({reason}); delete it and prepare the data set again."
        ) from error


def _check_features_file(directory: Path) -> None:
    """ValueError if the features name a class that is not TFDS's own: TFDS imports, and so runs, any module named."""
    named: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        named.extend(str(value) for key, value in pairs if key in ("pythonClassName", "python_class_name"))

    json.loads((directory / "features.json").read_text(), object_pairs_hook=note)
    if strangers := [name for name in named if not name.startswith("tensorflow_datasets.core.features.")]:
        raise ValueError(f"its features.json names {strangers[0]}, which is not TFDS's")


def find_directory(root: Path, name: str) -> Path:
    """The folder of the data set `name` under `root`, after making or downloading it if it is one of those.

    It is the one of the newest version. UserError if there is none, or there are several configs.
    """
    if name == digits.NAME:
        return digits.prepare(root)
    found = _newest(root, name)
    if found is None and name not in PREPARABLE and download(name, root):
        found = _newest(root, name)
    if found is None:
        dataset = name if name in PREPARABLE else f"folder --name={name}"
        raise UserError(
            f"data.name={name!r}: there is no data set in {root / name}; make it with `python -m alexnet_jax.prepare "
            f"--dataset={dataset} --source=PATH --data_dir={root}`, or set data.dir to the folder that holds it."
        )
    return found


def _newest(root: Path, name: str) -> Path | None:
    """The folder of the newest version, None if there is none; UserError if there are several configs."""
    base = root / name
    for depth in ("", "*/", "*/*/"):  # name/config/version, name/version, name
        found = sorted((path.parent for path in base.glob(f"{depth}dataset_info.json")), key=_version)
        if parents := {path.parent for path in found}:
            if len(parents) == 1 or not depth:
                return found[-1]
            choices = ", ".join(sorted(f"{name}/{path.name}" for path in parents))
            raise UserError(f"data.name={name!r}: {base} holds several configs; choose one of {choices}.")
    return None


def _write_statistics(directory: Path, builder: tfds.core.DatasetBuilder, config: DataConfig) -> None:
    """Computes and writes the statistics of a set that others prepared, if all its images are squares of one size.

    Of several processes one does it and the others wait for it.
    """
    height, width, _ = builder.info.features["image"].shape
    if height is None or height != width:
        return
    source = JpegSource(builder, config.train_split, height)
    try:
        with exclusive(directory / ".statistics.lock"):
            if not (directory / STATISTICS).exists():  # nobody else did it meanwhile
                save_statistics(_compute_statistics(source, config.read_threads), directory)
    except OSError as error:
        raise UserError(
            f"data.dir: the statistics of the images can't be written to {directory} ({error.strerror or error}); make "
            "that folder writable, or copy the data set to one that is."
        ) from error


def _compute_statistics(source: JpegSource, read_threads: int) -> Statistics:
    print(f"Computing the mean image and the colors of {len(source):,} images in {source.directory}, once.", flush=True)
    batches = consecutive_batches(source, 0, len(source), batch_size=64, read_threads=read_threads)
    return compute_statistics(image for batch in batches for image in batch["image"])


def _version(directory: Path) -> tuple[int, ...]:
    """The version that a TFDS folder is named after, to sort by; () if it is named otherwise."""
    parts = directory.name.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def _check_features(directory: Path, info: tfds.core.DatasetInfo) -> None:
    """UserError unless the set has images and labels, stored as ArrayRecord."""
    features = info.features or {}
    has_both = (
        "image" in features
        and isinstance(features["image"], tfds.features.Image)
        and "label" in features
        and isinstance(features["label"], tfds.features.ClassLabel)
    )
    if not has_both:
        raise UserError(f"{directory} has the features {sorted(features)}; it must have an `image` and a `label`.")
    if info.file_format is None or info.file_format.value != "array_record":
        raise UserError(
            f"{directory} is stored as {info.file_format and info.file_format.value}; only array_record can be read "
            "at random without TensorFlow: prepare the data set with `python -m alexnet_jax.prepare`."
        )
