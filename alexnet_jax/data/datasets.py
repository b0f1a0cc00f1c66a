"""From the name of a data set to its examples, label names and statistics."""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds
from google.protobuf import json_format

from alexnet_jax.config import DataConfig
from alexnet_jax.data import digits
from alexnet_jax.data.sources import JpegSource
from alexnet_jax.data.statistics import Statistics, load_statistics
from alexnet_jax.errors import UserError

PUBLISHED = ("imagenet2012", "imagenet2010", "cifar10", "imagenette")  # what `alexnet_jax.prepare` knows by name


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened data set: a split to train on, one to evaluate on, and what is known of both."""

    name: str
    train: JpegSource
    evaluation: JpegSource
    label_names: tuple[str, ...]
    statistics: Statistics

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.label_names)

    @property
    def image_size(self) -> int:
        """The side S of the stored images in pixels; training sees random crops of them."""
        return self.statistics.image_size


def open_dataset(config: DataConfig) -> Dataset:
    """Opens `config.name` in `config.dir`; "digits" is made there on first use.

    A name is the set's folder in `config.dir`; `name/version` or `name/config/version` picks one of several. UserError
    if the set or a split is missing, one of its files is missing or damaged, or it was not prepared for training.
    """
    root = Path(config.dir).expanduser()
    directory = digits.prepare(root) if config.name == digits.NAME else find_directory(root, config.name)
    try:
        builder = tfds.builder_from_directory(directory)
    except (OSError, ValueError, KeyError, json_format.ParseError) as error:
        raise UserError(
            f"{directory} can't be read as a TFDS data set ({error}); delete it and prepare the data set again."
        ) from error
    _check_features(directory, builder.info)
    statistics = load_statistics(directory)
    return Dataset(
        name=config.name,
        train=JpegSource(builder, config.train_split, statistics.image_size),
        evaluation=JpegSource(builder, config.eval_split, statistics.image_size),
        label_names=tuple(builder.info.features["label"].names),
        statistics=statistics,
    )


def find_directory(root: Path, name: str) -> Path:
    """The folder of the data set `name` under `root`: its newest version; UserError if there is none or a choice."""
    base = root / name
    for depth in ("", "*/", "*/*/"):  # name/config/version, name/version, name
        found = sorted((path.parent for path in base.glob(f"{depth}dataset_info.json")), key=_version)
        if parents := {path.parent for path in found}:
            if len(parents) == 1 or not depth:
                return found[-1]
            choices = ", ".join(sorted(f"{name}/{path.name}" for path in parents))
            raise UserError(f"data.name={name!r}: {base} holds several configs; choose one of {choices}.")
    dataset = name if name in PUBLISHED else f"folder --name={name}"
    raise UserError(
        f"data.name={name!r}: there is no data set in {base}; make it with `python -m alexnet_jax.prepare "
        f"--dataset={dataset} --source=PATH --data_dir={root}`, or set data.dir to the folder that holds it."
    )


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
