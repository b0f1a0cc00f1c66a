"""From a file of weights to a workdir like a training's, with a checkpoint of step 0."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.convert.caffe import read_caffemodel, read_mean
from alexnet_jax.convert.fitting import Fitted, fit, guess_variant, num_classes_in, recipe
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.convert.npz import read_npz
from alexnet_jax.convert.torchvision import read_state_dict
from alexnet_jax.data import class_names as imagenet
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.statistics import FILE_NAME as STATISTICS
from alexnet_jax.data.statistics import (
    IMAGENET_CHANNEL_MEAN,
    IMAGENET_COLOR_AXES,
    IMAGENET_COLOR_STD,
    Statistics,
    load_statistics,
)
from alexnet_jax.errors import UserError
from alexnet_jax.files import writing
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.run import workdir
from alexnet_jax.state import TrainState, create_train_state

_SIZE = 256  # pixels a side of the stored images, and so of a mean image
_CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)  # of ilsvrc_2012_mean.npy over its pixels, red first
# What the colors' mean is where no file says, by variant; for all others the author's.
_CHANNEL_MEANS = {
    "caffe": (_CAFFE_MEAN, "that of Caffe's mean image"),
    "caffenet": (_CAFFE_MEAN, "that of Caffe's mean image"),
    "torchvision": ((0.485 * 255, 0.456 * 255, 0.406 * 255), "torchvision's"),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """What to import, as the flags say; None is left open.

    path, format: the file, "caffe", "torchvision" or "npz". variant or config: the net. bgr: whether its images had
    blue first. mean: a file of a mean image. labels: a file of class names. initialize_missing: whether layers that
    the file lacks start fresh.
    """

    path: Path
    format: str
    variant: str | None = None
    config: Config | None = None
    bgr: bool = False
    mean: Path | None = None
    labels: Path | None = None
    initialize_missing: bool = False


class ImportedNet(NamedTuple):
    """What a file and the flags together say, and how the open questions were answered, a line each."""

    config: Config
    fitted: Fitted
    dataset_info: DatasetInfo
    answers: list[str]


def import_weights(source: Source, folder: Path) -> list[str]:
    """Writes the workdir, whole or not at all, and returns what is worth telling, a line each.

    UserError if the file is not what it should be, does not fit, or the folder is not free.
    """
    _check_free(folder)
    net = read_net(source)
    state = _state(net)
    with _taking_shape(folder) as unfinished:
        workdir.open_for_training(unfinished, net.config, net.dataset_info)
        with Checkpoints(workdir.checkpoints_in(unfinished), keep_last=1, keep_best=0) as checkpoints:
            checkpoints.save(0, state)
    return net.answers


def read_net(source: Source) -> ImportedNet:
    """Reads the file and settles what it leaves open; UserError if that can't be done."""
    try:
        for path in (source.path, source.mean, source.labels):
            if path and not path.is_file():
                raise UserError(f"{path}: there is no such file.")
        arrays, told = _read(source)
        variant = source.variant or told or (None if source.config else guess_variant(arrays, source.path))
        config = source.config or recipe(str(variant))
        labels = _read_labels(source.labels) if source.labels else None
        statistics, mean_in_words = _statistics(source.mean, config.model.variant)
    except OSError as error:
        raise UserError(f"{error.filename or source.path} can't be read ({error.strerror or error}).") from error
    if {told, config.model.variant} == {"caffe", "caffenet"}:  # of the same shapes, so nothing else would tell
        raise UserError(
            f"{source.path} is a {told!r}, by the order of its layers, not a {config.model.variant!r}; leave --variant "
            "out, or take the config of that net."
        )
    if source.config is None:
        config.model.num_classes = num_classes_in(arrays)
        if source.labels:
            config.data.name = source.labels.stem
    if statistics.image_size < config.model.image_size:
        raise UserError(
            f"--mean={source.mean} has {statistics.image_size} pixels a side, but the net sees "
            f"{config.model.image_size}; give the mean of whole images, as a rule of 256."
        )
    fitted = fit(arrays, config, source.path, source.bgr)
    if (fitted.missing or fitted.left_out) and not source.initialize_missing:
        raise UserError(_incomplete(fitted, config, source.path))
    answers = [f"net:  {config.model.variant}", f"mean: {mean_in_words}"]
    if fitted.missing:
        answers.append(f"new:  {', '.join(fitted.missing)}, initialized (seed {config.seed})")
    if fitted.left_out:
        answers.append(f"left: {', '.join(fitted.left_out)}, which are no whole layer of the net")
    return ImportedNet(config, fitted, _dataset_info(config, labels, statistics, source), answers)


def _read(source: Source) -> tuple[Arrays, str | None]:
    """The arrays of the file, and which variant it says that it is."""
    match source.format:
        case "caffe":
            return read_caffemodel(source.path)
        case "torchvision":
            return read_state_dict(source.path), "torchvision"
        case _:
            return read_npz(source.path), None


def _statistics(mean: Path | None, variant: str) -> tuple[Statistics, str]:
    """The mean image of the file, or a mean color, with the author's color statistics; and where it is from."""
    if mean and mean.suffix == ".npz":
        if mean.name != STATISTICS:
            raise UserError(f"--mean={mean} must be a .npy or .binaryproto of Caffe's, or a {STATISTICS}.")
        return load_statistics(mean.parent), f"{mean}, with its color statistics"
    color_std = np.array(IMAGENET_COLOR_STD, np.float32)
    color_axes = np.array(IMAGENET_COLOR_AXES, np.float32)
    if mean:
        return Statistics(read_mean(mean), color_std, color_axes), f"the image of {mean}"
    color, whose = _CHANNEL_MEANS.get(variant, (IMAGENET_CHANNEL_MEAN, "the author's for ImageNet"))
    image = np.broadcast_to(np.array(color, np.float32), (_SIZE, _SIZE, 3)).copy()
    numbers = ", ".join(f"{value:.2f}" for value in color)
    return Statistics(image, color_std, color_axes), f"red, green, blue {numbers} ({whose}; --mean=FILE gives another)"


def _read_labels(path: Path) -> tuple[str, ...]:
    """The names of the classes, a line each; UserError if they are not text, or one comes twice."""
    try:
        names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"--labels={path} is not a text file; it must hold the name of one class a line.") from error
    if not names:
        raise UserError(f"--labels={path} is empty; it must hold the name of one class a line.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--labels={path} names {twice!r} twice; every class needs a name of its own.")
    return names


def _dataset_info(
    config: Config, labels: tuple[str, ...] | None, statistics: Statistics, source: Source
) -> DatasetInfo:
    """What the net knows of its data: ImageNet's classes, or those of --labels."""
    there, num_classes = labels or tuple(imagenet.imagenet_classes()), config.model.num_classes
    if len(there) != num_classes:
        where = f"--labels={source.labels} names {len(there)}" if labels else "only ImageNet's 1000 are built in"
        raise UserError(
            f"{source.path} has {num_classes} classes, but {where}; give --labels=FILE, a text file with the name of "
            "one class a line, in their order."
        )
    num_examples = imagenet.NUM_EXAMPLES if labels is None else 1
    return DatasetInfo(config.data.name, num_examples, there, imagenet.names_for_people(there), statistics)


def _incomplete(fitted: Fitted, config: Config, path: Path) -> str:
    """The sentence for layers that the file lacks, or arrays that the net has no place for."""
    parts = []
    if fitted.missing:
        parts.append(f"lacks {', '.join(fitted.missing)}")
    if fitted.left_out:
        parts.append(f"holds {', '.join(fitted.left_out)}, which are no whole layer of it")
    return (
        f"{path} is not a whole {config.model.variant!r}: it {' and '.join(parts)}; --missing=initialize takes what "
        "fits and starts the other layers fresh."
    )


def _state(net: ImportedNet) -> TrainState:
    """The state of step 0, on the first device: the file's layers, others initialized from the seed, no velocity."""
    config = dataclasses.replace(net.config, mesh=MeshConfig(data=1))
    optimizer = create_optimizer(config, num_steps=1)
    fresh: Mapping = create_train_state(config, optimizer, create_mesh(config)).params if net.fitted.missing else {}
    shapes = {**net.fitted.params, **{layer: fresh[layer] for layer in net.fitted.missing}}
    params = {layer: {name: jnp.asarray(array) for name, array in of.items()} for layer, of in shapes.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def _check_free(folder: Path) -> None:
    """UserError if there is something in `folder` already, or it is not named."""
    if folder.name in ("", ".."):  # another folder could not be put in its place
        raise UserError(f"--workdir={folder} must be named; give a new folder, for example {folder / 'net'}.")
    with writing(f"--workdir={folder}"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--workdir={folder} is taken; converted weights need a new or empty folder.")


@contextlib.contextmanager
def _taking_shape(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name when all went well, and vanishes otherwise.

    UserError if it can't be made, or can't be put in the place of `folder`.
    """
    unfinished = folder.with_name(f"{folder.name}.converting")
    with writing(f"--workdir={folder}"):
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            yield unfinished
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
