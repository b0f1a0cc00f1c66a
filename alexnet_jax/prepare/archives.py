"""Find the reader of a data set by its name."""

import re
from pathlib import Path

from alexnet_jax.data import DIGITS
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.cifar import cifar10
from alexnet_jax.prepare.folders import image_folder
from alexnet_jax.prepare.imagenet import imagenet2010, imagenet2012
from alexnet_jax.prepare.imagenette import imagenette
from alexnet_jax.prepare.source import SourceData

_PUBLISHED = {"imagenet2012": imagenet2012, "imagenet2010": imagenet2010, "cifar10": cifar10, "imagenette": imagenette}


def open_source(dataset: str, source: Path, name: str | None, validation_fraction: float) -> SourceData:
    """Open a published data set or, for dataset="folder", a folder of images; UserError if anything is missing."""
    if dataset in _PUBLISHED:
        return _PUBLISHED[dataset](source)
    name = name or source.resolve().name
    if name == DIGITS or not re.fullmatch(r"\w[\w.+-]*", name):  # also the name of its folder
        raise UserError(
            f"name={name!r} can't be the name of a data set; use letters, digits and `_.+-`, begin with a letter or "
            f"digit, and avoid {DIGITS!r}, which is built in."
        )
    return image_folder(source, name=name, validation_fraction=validation_fraction)
