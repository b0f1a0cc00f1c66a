"""Turn a file of weights into a workdir like that of a training, with a checkpoint of step 0."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.convert.caffe import read_caffemodel, read_mean
from alexnet_jax.convert.fitting import Fitted, count_classes, fit, guess_variant, recipe
from alexnet_jax.convert.formats import read_npz, read_state_dict
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.data import class_names, statistics
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading, removed_at_end, writing
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.run import workdir
from alexnet_jax.state import TrainState, create_model, create_train_state

_SIZE = 256  # pixels a side of stored images, and so of a mean image
# Mean colors (0 to 255, red first) for nets without a mean image, and their origin.
_CAFFE_MEAN = ((122.67891434, 116.66876762, 104.00698793), "that of Caffe's ilsvrc_2012_mean.npy")
_TORCHVISION_MEAN = ((0.485 * 255, 0.456 * 255, 0.406 * 255), "torchvision's")
_AUTHORS_MEAN = (statistics.IMAGENET_CHANNEL_MEAN, "the author's for ImageNet")  # for all other variants
_MEANS = {"caffe": _CAFFE_MEAN, "caffenet": _CAFFE_MEAN, "torchvision": _TORCHVISION_MEAN}
_PREPROCESSING = {"caffe": "caffe", "caffenet": "caffe", "torchvision": "torchvision"}  # by variant; others: "paper"


@dataclasses.dataclass(frozen=True)
class Source:
    """What to import, as the command's flags say it; the net is `variant` or that of `config`, by default detected."""

    path: Path
    format: str  # "caffe", "torchvision" or "npz"
    variant: str | None = None
    config: Config | None = None
    bgr: bool = False  # whether the net's images had blue first
    mean: Path | None = None  # a file with a mean image
    labels: Path | None = None  # a file with class names
    missing: str = "refuse"  # or "initialize": accept a file that lacks layers


class ImportedNet(NamedTuple):
    """A net with its parameters and data set, and one line for each choice that importing it made."""

    config: Config
    fitted: Fitted
    dataset_info: DatasetInfo
    choices: list[str]


def import_weights(source: Source, folder: Path) -> list[str]:
    """Write a workdir, whole or not at all, and return one line for each choice that was made.

    UserError if the file is damaged or does not fit, or if the folder is not free.
    """
    with _new_folder(folder) as unfinished:
        net = read_net(source)
        state = _initial_state(net)
        workdir.open_for_training(unfinished, net.config, net.dataset_info)
        with Checkpoints(workdir.checkpoints_in(unfinished), keep_last=1, keep_best=0) as checkpoints:
            checkpoints.save(0, state)
    return net.choices


def read_net(source: Source) -> ImportedNet:
    """Read the file and choose what it leaves open; UserError if it is damaged or does not fit."""
    for path in filter(None, (source.path, source.mean, source.labels)):
        with reading(str(path)):
            if not path.is_file():
                raise UserError(f"{path} is not a file; check the path.")
    arrays, detected = _read_arrays(source)
    config = source.config or recipe(source.variant or detected or guess_variant(arrays, source.path))
    variant = config.model.variant
    labels = _read_labels(source.labels) if source.labels else tuple(class_names.imagenet_classes())
    image_statistics, origin = _statistics(source.mean, variant)
    if {detected, variant} == {"caffe", "caffenet"}:  # their shapes are the same, so nothing else tells them apart
        raise UserError(
            f"{source.path} is a {detected!r} by the order of its layers, not a {variant!r}; leave out the variant, or "
            "take that net's config."
        )
    if source.config is None:
        config.model.num_classes = count_classes(arrays)
        if source.labels:
            config.data.name = source.labels.stem
    if image_statistics.image_size < config.model.image_size:
        raise UserError(
            f"{source.mean} has {image_statistics.image_size} pixels a side, but the net sees "
            f"{config.model.image_size}; give the mean of whole images, usually of {_SIZE}."
        )
    fitted = fit(arrays, config, source.path, source.bgr)
    if (fitted.missing or fitted.unused) and source.missing == "refuse":
        raise UserError(_incomplete(fitted, variant, source.path))
    choices = [f"net:  {variant}", f"mean: {origin}"]
    if fitted.missing:
        choices.append(f"new:  {', '.join(fitted.missing)}, initialized (seed {config.seed})")
    if fitted.unused:
        choices.append(f"skip: {', '.join(fitted.unused)}, not a whole layer of the net")
    return ImportedNet(config, fitted, _dataset_info(source, config, labels, image_statistics), choices)


def _read_arrays(source: Source) -> tuple[Arrays, str | None]:
    """Return the file's arrays, and its variant if the file determines it."""
    with reading(str(source.path)):
        if source.format == "caffe":
            return read_caffemodel(source.path)
        if source.format == "torchvision":
            return read_state_dict(source.path), "torchvision"
        return read_npz(source.path), None


def _statistics(mean: Path | None, variant: str) -> tuple[Statistics, str]:
    """Return the mean image of a file, or of the published mean color, with color statistics; and its origin."""
    if mean and mean.suffix == ".npz":
        if mean.name != statistics.FILE_NAME:
            raise UserError(f"{mean} must be a .npy or .binaryproto from Caffe, or a {statistics.FILE_NAME}.")
        return statistics.load_statistics(mean.parent), f"{mean}, with its color statistics"
    if mean:
        with reading(str(mean)):
            image, origin = read_mean(mean), f"the image {mean}"
    else:
        color, publisher = _MEANS.get(variant, _AUTHORS_MEAN)
        image = np.full((_SIZE, _SIZE, 3), color, np.float32)
        values = ", ".join(f"{value:.2f}" for value in color)
        origin = f"red, green, blue {values} ({publisher}; give a mean file to replace it)"
    color_std, color_axes = statistics.IMAGENET_COLOR_STD, statistics.IMAGENET_COLOR_AXES
    return Statistics(image, np.array(color_std, np.float32), np.array(color_axes, np.float32)), origin


def _read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, one per line; UserError if the file is not text, is empty, or repeats a name."""
    try:
        with reading(str(path)):
            names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file; it must hold the class names, one per line.") from error
    if not names:
        raise UserError(f"{path} is empty; it must hold the class names, one per line.")
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {repeated!r} twice; every class needs its own name.")
    return names


def _dataset_info(source: Source, config: Config, labels: tuple[str, ...], image_statistics: Statistics) -> DatasetInfo:
    """Describe the net's data; UserError unless there is a name for every class."""
    if len(labels) != config.model.num_classes:
        origin = f"{source.labels} names {len(labels)}" if source.labels else "only ImageNet's 1000 are built in"
        raise UserError(
            f"{source.path} has {config.model.num_classes} classes, but {origin}; give --labels=FILE, a text file "
            "with the class names in order, one per line."
        )
    num_examples = 1 if source.labels else class_names.NUM_EXAMPLES
    names, preprocessing = class_names.names_for_people(labels), _PREPROCESSING.get(config.model.variant, "paper")
    return DatasetInfo(config.data.name, num_examples, labels, names, image_statistics, preprocessing)


def _incomplete(fitted: Fitted, variant: str, path: Path) -> str:
    """Return the error sentence for layers that the file lacks, or arrays that have no place in the net."""
    faults = [f"lacks {', '.join(fitted.missing)}"] if fitted.missing else []
    if fitted.unused:
        faults.append(f"has {', '.join(fitted.unused)}, not a whole layer of that net")
    return (
        f"{path} is not a complete {variant!r}: it {' and '.join(faults)}; add --missing=initialize to take what "
        "fits and initialize the other layers."
    )


def _initial_state(net: ImportedNet) -> TrainState:
    """Return the state of step 0 on one device: the file's layers, the others initialized, momentum buffers zero."""
    config = dataclasses.replace(net.config, mesh=MeshConfig(data=1))
    model = create_model(config)
    optimizer = create_optimizer(config, model.net, num_steps=1)
    mesh = create_mesh(config.mesh)
    initialized = create_train_state(config, model, optimizer, mesh).params if net.fitted.missing else {}
    params = jax.tree.map(jnp.asarray, net.fitted.params | {layer: initialized[layer] for layer in net.fitted.missing})
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to make, renamed to `folder` at the end, removed after an error; UserError if that isn't free."""
    if folder.name in ("", ".."):  # another folder could not be renamed to it
        raise UserError(f"{folder} is not the name of a new folder; give one, for example {folder / 'net'}.")
    unfinished = folder.with_name(f"{folder.name}.converting")
    with writing(str(folder)):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is taken; converted weights need a new or empty folder.")
        shutil.rmtree(unfinished, ignore_errors=True)
        with removed_at_end(unfinished):
            yield unfinished
            unfinished.replace(folder)
