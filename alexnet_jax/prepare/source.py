"""What is to be prepared: a stream of labeled image files, and what is known of the whole."""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError


class SourceImage(NamedTuple):
    """An image as its publisher gives it.

    name: unique within its split; becomes the record's file name.
    label: index into the label names.
    load: gives the file's bytes, or pixels (uint8 [H, W, 3] RGB) where they are published as such. To be called
        before the next image is asked for: a compressed archive can't go back.
    position: how many bytes of the whole source come before the end of this image, for the progress.
    """

    split: str
    name: str
    label: int
    load: Callable[[], bytes | np.ndarray]
    position: int


@dataclasses.dataclass(frozen=True)
class SourceData:
    """A data set before its preparation; everything that is needed is known to be there.

    num_images: per split; exact for folders, the publisher's for archives. num_bytes: of all that will be read.
    identity: what tells this source from another: file names, sizes, classes. size: the side of the prepared images
    where the data set fixes it (CIFAR-10), stored without loss then; None where the user chooses.
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
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: int | None = None
    name_feature: str = "file_name"

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, in the order in which `images` gives them, one after the other."""
        return tuple(self.num_images)


def check_class_names(names: Sequence[str], where: object) -> None:
    """UserError if two classes have one name: names that differ only in case or in how an accent is spelled, too."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).strip().casefold()
        if key in seen:
            raise UserError(f"{where} holds two classes with one name, {seen[key]!r} and {name!r}; rename one of them.")
        seen[key] = name


def check_no_class_is_empty(names: Sequence[str], found: Mapping[str, int], where: object) -> None:
    """UserError if a class has no image."""
    if empty := [name for name in names if not found.get(name)]:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise UserError(
            f"{where} holds no image of {len(empty)} of its {len(names)} classes ({shown}); add images, or remove "
            "the class."
        )
