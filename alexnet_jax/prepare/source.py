"""The input of a preparation: a stream of labeled images, and what is known about the whole data set."""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError


class SourceImage(NamedTuple):
    """An image as its publisher provides it.

    name: unique within its split; becomes the record's file name. label: index into the label names. position: bytes
    of the source up to this image, for the progress. load: returns the bytes of the file, or pixels (uint8 [H, W, 3]
    RGB) where pixels are published; call it before requesting the next image: a compressed archive can't be rewound.
    size: of the file in bytes, if it is known before it is loaded.
    """

    split: str
    name: str
    label: int
    load: Callable[[], bytes | np.ndarray]
    position: int
    size: int = 0


@dataclasses.dataclass(frozen=True)
class SourceData:
    """A data set to prepare, after a check that all its files exist.

    num_images: per split; exact for folders, the publisher's numbers for archives. num_bytes: of all that will be read.
    identity: distinguishes this source from others: file names, sizes, classes. left_out: how many things in the source
    will not be read, by what they are ("dangling links"). folder: that of the images, if each is a file of its own and
    can be loaded at any time. size: side of the prepared images in pixels where the data set fixes it (CIFAR-10, stored
    losslessly); None where the user chooses.
    """

    name: str
    version: str
    description: str
    homepage: str
    label_names: tuple[str, ...]
    num_images: Mapping[str, int]
    num_bytes: int
    identity: Mapping[str, int | str]
    images: Callable[[], Iterator[SourceImage]]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: int | None = None
    name_feature: str = "file_name"

    def in_words(self) -> list[str]:
        """Say what was found, one line each: images by split and classes, and what is left out."""
        images = ", ".join(f"{count:,} images for {split}" for split, count in self.num_images.items())
        names = ", ".join([*self.label_names[:3], *(["..."] if len(self.label_names) > 3 else [])])
        left_out = [f"left out: {count:,} {what}" for what, count in self.left_out.items()]
        return [f"found: {images}; {len(self.label_names):,} classes ({names})", *left_out]


def check_class_names(names: Sequence[str], where: object) -> None:
    """Raise UserError if two class names look the same, or one can't be stored: TFDS keeps one name per line."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip() or name.splitlines() != [name]:
            raise UserError(f"{where} has a class named {name!r}; a name is one line of text: rename it.")
        key = unicodedata.normalize("NFC", name).strip()
        if key in seen:
            raise UserError(f"{where} has two classes with one name, {seen[key]!r} and {name!r}; rename one of them.")
        seen[key] = name


def check_no_class_is_empty(names: Sequence[str], counts: Mapping[str, int], where: object) -> None:
    """Raise UserError if a class has no images; `counts` holds the number of images by class name."""
    if empty := [name for name in names if not counts.get(name)]:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        classes = f"{len(empty)} of its {len(names)} classes ({shown})"
        raise UserError(f"{where} has no images of {classes}; add images, or remove the class.")
