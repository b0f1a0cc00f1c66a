"""From the name of a data set to its raw data."""

from collections.abc import Callable, Mapping
from pathlib import Path

from alexnet_jax.data.preparation.cifar import cifar10
from alexnet_jax.data.preparation.folders import folder
from alexnet_jax.data.preparation.imagenet import imagenet2010, imagenet2012
from alexnet_jax.data.preparation.imagenette import imagenette
from alexnet_jax.data.preparation.raw import RawData

PUBLISHED: Mapping[str, Callable[[Path], RawData]] = {
    "imagenet2012": imagenet2012,
    "imagenet2010": imagenet2010,
    "cifar10": cifar10,
    "imagenette": imagenette,
}
FOLDER = "folder"


def open_raw(dataset: str, source: Path, name: str | None, validation_fraction: float) -> RawData:
    """What --dataset and --source name; UserError if something of it is missing."""
    if dataset == FOLDER:
        return folder(source, name=name or source.resolve().name, validation_fraction=validation_fraction)
    return PUBLISHED[dataset](source)
