"""Find a data set by its name, and open its examples, label names and statistics."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from alexnet_jax.config import DataConfig
from alexnet_jax.data import DIGITS, PREPARABLE
from alexnet_jax.data.class_names import names_for_people
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.sources import JpegSource
from alexnet_jax.data.statistics import FILE_NAME as STATISTICS
from alexnet_jax.data.statistics import Statistics, compute_statistics, load_statistics, save_statistics
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive, expanded, reading, writing

_TFDS_FEATURES = "tensorflow_datasets.core.features."  # the module of TFDS's own feature classes
_DOWNLOAD_FAILURES = (OSError, tfds.download.DownloadError, tfds.download.download_manager.NonMatchingChecksumError)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An open data set: a split to train on, one to evaluate on, and facts about both."""

    name: str
    train: JpegSource
    evaluation: JpegSource
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    statistics: Statistics

    @property
    def info(self) -> DatasetInfo:
        """What a net trained on this set must remember of it."""
        return DatasetInfo(self.name, len(self.train), self.label_names, self.class_names, self.statistics)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.label_names)

    @property
    def image_size(self) -> int:
        """The side S of the stored images in pixels; training sees random crops of them."""
        return self.statistics.image_size


def open_dataset(config: DataConfig) -> Dataset:
    """Open `config.name` in `config.dir`; "digits" is made there on first use, TFDS's sets are downloaded to it.

    The name is the set's folder in `config.dir`; `name/version` or `name/config/version` selects one of several.
    UserError if the set or a split is missing, a file is missing or damaged, or the set was not prepared for training.
    """
    with reading(f"config.data.dir={config.dir}"):
        directory = find_directory(expanded(config.dir, "config.data.dir"), config.name)
        builder, class_names = open_builder(directory)
        check_image_features(directory, builder.info)
        _check_format(directory, builder.info, config)
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
    """Return the set's description as TFDS reads it, and its readable class names, if any; UserError if damaged."""
    try:
        _check_features_file(directory)
        builder = tfds.builder_from_directory(directory)
        for split in builder.info.splits.values():
            _ = split.filepaths  # raises an error if the description gives impossible names
        return builder, tuple(map(str, (builder.info.metadata or {}).get("class_names", ())))
    # On a damaged description TFDS raises whatever its code runs into, such as an AttributeError.
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"{directory} can't be read as a TFDS data set ({reason}); delete it and prepare the data set again."
        ) from error


def _check_features_file(directory: Path) -> None:
    """Raise ValueError if the features name a class that is not TFDS's own: TFDS imports, and so runs, any module."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        for key, value in pairs:
            if key in ("pythonClassName", "python_class_name") and not str(value).startswith(_TFDS_FEATURES):
                raise ValueError(f"its features.json names {value}, which is not TFDS's")

    json.loads((directory / "features.json").read_text(), object_pairs_hook=check)


def find_directory(root: Path, name: str) -> Path:
    """Return the folder of the newest version of the data set `name` under `root`, made or downloaded if need be.

    UserError if there is none, or there are several configs.
    """
    if name == DIGITS:
        from alexnet_jax.data import digits  # how to write a data set, which only the first use needs

        return digits.prepare(root)
    directory = _newest(root, name)
    if directory is None and name not in PREPARABLE and _download(name, root):
        directory = _newest(root, name)
    if directory is None:
        dataset = name if name in PREPARABLE else f"folder --name={name}"
        raise UserError(
            f"data.name={name!r}: there is no data set in {root / name}; make it with `python -m alexnet_jax.prepare "
            f"--dataset={dataset} --source=PATH --data_dir={root}`, or set data.dir (by default $TFDS_DATA_DIR) "
            "to the folder that contains it."
        )
    return directory


def _newest(root: Path, name: str) -> Path | None:
    """Return the folder of the newest version, None if there is none; UserError if there are several configs."""
    base = root / name
    for depth in ("", "*/", "*/*/"):  # name/config/version, name/version, name
        versions = sorted((path.parent for path in base.glob(f"{depth}dataset_info.json")), key=_version)
        if parents := {path.parent for path in versions}:
            if len(parents) == 1 or not depth:
                return versions[-1]
            choices = ", ".join(sorted(f"{name}/{path.name}" for path in parents))
            raise UserError(f"data.name={name!r}: {base} has several configs; choose one of {choices}.")
    return None


def _download(name: str, root: Path) -> bool:
    """Prepare the TFDS data set `name` (or `name/config`) in `root`, as ArrayRecord.

    Return False if there is no such set, or it must be downloaded by hand (for ImageNet there is
    `python -m alexnet_jax.prepare`). UserError if there is no network, or the set's own code needs a package that is
    not installed, such as TensorFlow.
    """
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
    except ValueError:  # TFDS has no set, or no config, of this name
        return False
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return False
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / ".download.lock"):
            print(f"Downloading {name} to {builder.data_dir}, once.", flush=True)
            builder.download_and_prepare()  # does nothing if another process has done it
    except ImportError as error:
        raise UserError(
            f"data.name={name!r} can't be prepared: TFDS needs the package {error.name} for it; run `tfds build {name} "
            f"--file_format=array_record --data_dir={root}` in another environment that has it."
        ) from error
    except _DOWNLOAD_FAILURES as error:
        reason = (str(error) or type(error).__name__).split("\n", 1)[0][:200]
        raise UserError(
            f"data.name={name!r} can't be downloaded to {root} ({reason}); connect to the network, or copy the data "
            f"set from a machine on which `tfds build {name} --file_format=array_record` ran."
        ) from error
    return True


def _write_statistics(directory: Path, builder: tfds.core.DatasetBuilder, config: DataConfig) -> None:
    """Compute and write the statistics of a set made elsewhere; UserError unless its images are squares of one size.

    One of several processes does it while the others wait.
    """
    from alexnet_jax.data.pipeline import consecutive_batches  # imports JAX: 145 MB that `prepare` does not need

    height, width, _ = builder.info.features["image"].shape
    if height is None or height != width:
        raise UserError(f"{directory} has images of different sizes, or not squares: {_remedy(directory, config)}")
    source = JpegSource(builder, config.train_split, height)
    path = directory / STATISTICS
    with writing(f"data.dir={config.dir}: {path}"), exclusive(directory / ".statistics.lock"):
        if not path.exists():  # no other process has done it meanwhile
            print(f"Computing the mean image and colors of {len(source):,} images in {directory}, once.", flush=True)
            batches = consecutive_batches(source, 0, len(source), batch_size=64, read_threads=config.read_threads)
            save_statistics(compute_statistics(image for batch in batches for image in batch["image"]), directory)


def _version(directory: Path) -> tuple[int, ...]:
    """Return the version in the name of a TFDS folder, as a sort key; () if it has another name."""
    parts = directory.name.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def check_image_features(directory: Path, info: tfds.core.DatasetInfo) -> None:
    """Raise UserError unless the set has images and labels."""
    features = dict(info.features or {})
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(isinstance(features.get(name), kind) for name, kind in kinds.items()):
        raise UserError(f"{directory} has the features {sorted(features)}; it must have an `image` and a `label`.")


def _check_format(directory: Path, info: tfds.core.DatasetInfo, config: DataConfig) -> None:
    """Raise UserError unless the set is stored as ArrayRecord."""
    file_format = info.file_format and info.file_format.value
    if file_format == "array_record":
        return
    remedy = "prepare the data set with `python -m alexnet_jax.prepare`."
    raise UserError(
        f"{directory} is stored as {file_format}; only array_record can be read at random without TensorFlow: "
        f"{_remedy(directory, config) if file_format == 'tfrecord' else remedy}"
    )


def _remedy(directory: Path, config: DataConfig) -> str:
    """Return the command that makes a set readable which is stored in another format, or has images of any size."""
    base = config.name.split("/")[0]
    dataset = base if base == "imagenet2012" else f"folder --name={base}"
    data_dir = f"{expanded(config.dir)}_prepared"
    return (
        f"run `python -m alexnet_jax.prepare --dataset={dataset} --source={directory} --data_dir={data_dir}` and train "
        f"with config.data.dir={data_dir} config.data.name={base}."
    )
