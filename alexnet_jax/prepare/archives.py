"""From the name of a data set to its raw data."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from alexnet_jax.data import digits
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.cifar import cifar10
from alexnet_jax.prepare.folders import folder
from alexnet_jax.prepare.imagenet import imagenet2010, imagenet2012
from alexnet_jax.prepare.imagenette import imagenette
from alexnet_jax.prepare.source import SourceData

PUBLISHED: Mapping[str, Callable[[Path], SourceData]] = {
    "imagenet2012": imagenet2012,
    "imagenet2010": imagenet2010,
    "cifar10": cifar10,
    "imagenette": imagenette,
}
FOLDER = "folder"


def open_source(dataset: str, source: Path, name: str | None, validation_fraction: float) -> SourceData:
    """What --dataset and --source name; UserError if something of it is missing."""
    if dataset == FOLDER:
        name = name or source.resolve().name
        _check_name(name)
        return folder(source, name=name, validation_fraction=validation_fraction)
    return PUBLISHED[dataset](source)


def _check_name(name: str) -> None:
    """UserError if a data set can't have this name, which is that of its folder too."""
    if name == digits.NAME or not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(
            f"the data set can't be named {name!r}; give another --name, of letters, digits and `_.+-`, that begins "
            f"with a letter or digit and is not {digits.NAME!r}, which is built in."
        )
