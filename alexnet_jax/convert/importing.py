"""Turn a file of weights into a workdir like that of a training, with a checkpoint of step 0."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.convert import naming, record
from alexnet_jax.convert.caffe import read_mean
from alexnet_jax.convert.contents import Contents
from alexnet_jax.convert.fitting import Fitted, count_classes, fit, guess_variant, recipe
from alexnet_jax.convert.formats import read_file
from alexnet_jax.convert.naming import Named
from alexnet_jax.convert.record import Record
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
_ONLY_IMAGENET = f"only ImageNet's {class_names.NUM_CLASSES} are built in"
_PLAIN = ("npz", "npy")  # kinds of files that may be of nets trained on anything
_PREPROCESSING = {"caffe": "caffe", "caffenet": "caffe", "torchvision": "torchvision"}  # by variant; others: "paper"


@dataclasses.dataclass(frozen=True)
class Source:
    """What to import, as the command's flags say it; what is None is taken from the file, or is that of its form."""

    path: Path
    format: str | None = None  # one of `signatures.FORMATS`
    variant: str | None = None
    config: Config | None = None
    bgr: bool | None = None  # whether the net's images had blue first
    mean: Path | None = None  # a file with a mean image or color
    labels: Path | None = None  # a file with class names
    missing: str = "refuse"  # or "initialize": accept a file that lacks layers
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)  # names in the file to ours (`naming.py`)


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
    with reading(str(source.path)):
        contents, kind = read_file(source.path, source.format)
    recorded = record.read(contents.record, source.path) if contents.record is not None else None
    named = naming.to_ours(contents.arrays, source.renames, source.path)
    labels = _read_labels(source.labels) if source.labels else contents.label_names
    labels = recorded.dataset_info.label_names if recorded and not source.labels else labels
    config = source.config or _choose_config(source, contents, named, recorded, labels)
    _check_order(contents, config.model.variant, source.path)
    bgr = contents.bgr if source.bgr is None else source.bgr
    fitted = fit(named.arrays, config, source.path, bgr)
    _check_complete(fitted, config.model.variant, source)
    if fitted.missing and not source.labels:  # a random net must not look like a trained one
        labels = tuple(f"untrained {number}" for number in range(config.model.num_classes))
    if recorded and not source.mean:
        image_statistics, origin = recorded.dataset_info.statistics, f"that of {source.path}"
    else:
        image_statistics, origin = _statistics(source, contents.mean, config, from_published=kind not in _PLAIN)
    if image_statistics.image_size < config.model.image_size:
        raise UserError(
            f"{source.mean or source.path}: the mean image has {image_statistics.image_size} pixels a side, but the "
            f"net sees {config.model.image_size}; give that of whole images, usually of {_SIZE}, or of views."
        )
    info = _dataset_info(source, config, labels, image_statistics, recorded)
    choices = [f"net:  {config.model.variant}", f"mean: {origin}", *contents.notes, *named.notes]
    choices.append(f"color: {'blue' if bgr else 'red'} first in the file")
    if fitted.missing:
        choices.append(f"new:  {', '.join(fitted.missing)}, initialized (seed {config.seed})")
    if fitted.unused:
        choices.append(f"skip: {', '.join(fitted.unused)}, not a whole layer of the net")
    return ImportedNet(config, fitted, info, choices)


def _choose_config(
    source: Source, contents: Contents, named: Named, recorded: Record | None, labels: tuple[str, ...] | None
) -> Config:
    """Return the recipe of the net that the user names or the file is, or the config that the file carries."""
    if recorded and not source.variant:
        return recorded.config
    config = recipe(source.variant or contents.variant or named.variant or guess_variant(named.arrays, source.path))
    config.model.num_classes = count_classes(named.arrays, default=len(labels) if labels else class_names.NUM_CLASSES)
    if labels and labels != tuple(class_names.imagenet_classes()):
        config.data.name = (source.labels or source.path).stem
    return config


def _check_order(contents: Contents, variant: str, path: Path) -> None:
    """Raise UserError if the file is the other of Caffe's two nets, whose shapes are the same."""
    if contents.certain and {contents.variant, variant} == {"caffe", "caffenet"}:
        raise UserError(
            f"{path} is a {contents.variant!r} by the order of its layers, not a {variant!r}; leave out the variant, "
            "or take that net's config."
        )


def _statistics(
    source: Source, mean: np.ndarray | None, config: Config, *, from_published: bool
) -> tuple[Statistics, str]:
    """Return the mean image, by default of the file or the published color, with color statistics; and its origin."""
    view, variant = config.model.image_size, config.model.variant
    origin = f"that of {source.mean or source.path}"
    if source.mean and source.mean.suffix == ".npz":
        if source.mean.name != statistics.FILE_NAME:
            raise UserError(f"{source.mean} must be a .npy or .binaryproto from Caffe, or a {statistics.FILE_NAME}.")
        return statistics.load_statistics(source.mean.parent), f"{source.mean}, with its color statistics"
    if source.mean:
        with reading(str(source.mean)):
            mean = read_mean(source.mean)
    if mean is None:
        if not from_published and config.model.num_classes != class_names.NUM_CLASSES:
            raise UserError(
                f"{source.path} does not say which mean its net subtracts from images, and it has other classes than "
                "ImageNet's; give --mean=FILE: Caffe's mean image, the statistics.npz of a workdir, or "
                "numpy.save('mean.npy', [BLUE, GREEN, RED]) with its color from 0 to 255."
            )
        color, publisher = _MEANS.get(variant, _AUTHORS_MEAN)
        mean = np.array(color, np.float32)
        values = ", ".join(f"{value:.2f}" for value in color)
        origin = f"red, green, blue {values} ({publisher}; give a mean file to replace it)"
    color_std, color_axes = statistics.IMAGENET_COLOR_STD, statistics.IMAGENET_COLOR_AXES
    image = _mean_image(mean, view, source.mean or source.path)
    return Statistics(image, np.array(color_std, np.float32), np.array(color_axes, np.float32)), origin


def _mean_image(mean: np.ndarray, view: int, path: Path) -> np.ndarray:
    """Return the mean of stored images: [3] or [S, S, 3], red first -> [256, 256, 3] or [S, S, 3].

    A mean of the size of views is the center of the whole, which is what center views are of; around it its border is
    repeated. UserError if it is something else.
    """
    if mean.shape == (3,):
        return np.broadcast_to(mean, (_SIZE, _SIZE, 3)).astype(np.float32)
    size = mean.shape[0]
    if mean.shape != (size, size, 3) or not np.isfinite(mean).all():
        raise UserError(
            f"{path} has a mean image of shape {list(mean.shape)}; it must be [S, S, 3], all numbers finite."
        )
    before = (_SIZE - view) // 2
    border = (before, _SIZE - view - before) if size == view < _SIZE else (0, 0)
    return np.pad(mean, (border, border, (0, 0)), "edge")


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


def _dataset_info(
    source: Source,
    config: Config,
    labels: tuple[str, ...] | None,
    image_statistics: Statistics,
    recorded: Record | None,
) -> DatasetInfo:
    """Describe the net's data, as the file records it or its classes have it; UserError unless each has a name."""
    imagenet = tuple(class_names.imagenet_classes())
    labels = labels or imagenet
    if len(labels) != config.model.num_classes:
        origin = f"{source.labels or source.path} names {len(labels)}" if labels != imagenet else _ONLY_IMAGENET
        raise UserError(
            f"{source.path} has {config.model.num_classes} classes, but {origin}; give --labels=FILE, a text file "
            "with the class names in order, one per line."
        )
    if recorded and labels == recorded.dataset_info.label_names:
        return dataclasses.replace(recorded.dataset_info, statistics=image_statistics)
    num_examples = class_names.NUM_EXAMPLES if labels == imagenet else 1
    names, preprocessing = class_names.names_for_people(labels), _PREPROCESSING.get(config.model.variant, "paper")
    return DatasetInfo(config.data.name, num_examples, labels, names, image_statistics, preprocessing)


def _check_complete(fitted: Fitted, variant: str, source: Source) -> None:
    """Raise UserError if the file has layers of another net, or lacks layers without leave to."""
    foreign = [name for name in fitted.unused if name.split("/")[0] not in fitted.missing]
    if not foreign and (not fitted.missing or source.missing == "initialize"):
        return
    parts = [f"lacks {', '.join(fitted.missing)}"] if fitted.missing else []
    parts += [f"has {', '.join(fitted.unused)}, not a whole layer of that net"] if fitted.unused else []
    remedy = "add --missing=initialize to take what fits and initialize the other layers"
    if foreign:
        remedy = f"give another --variant, or leave the layer out with --rename={foreign[0].split('/')[0]}="
    raise UserError(f"{source.path} is not a complete {variant!r}: it {' and '.join(parts)}; {remedy}.")


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
