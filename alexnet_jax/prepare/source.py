"""The input of a preparation: a stream of labeled images, and what is known about the whole data set."""

import dataclasses
import unicodedata
from collections import Counter
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
class Part:
    """The images of a source in one of the forms in which people keep data sets, or some of them, after a check.

    form: what the source was taken for. label_names: in the order of the labels; empty where the form only has numbers.
    num_images: per split; the publisher's numbers where counting takes long. num_bytes: of all that will be read.
    identity: distinguishes this source from others: file names, sizes, classes. images: those of one split follow each
    other. left_out: how many things in the source will not be read, by what they are ("dangling links"). train_labels:
    how many training images have each label, if that is known without reading them. folder: that of the images, into
    which nothing is written. any_order: each image is a file of its own and can be loaded at any time. size: side of
    the prepared images in pixels where the data set fixes it (CIFAR-10, stored losslessly), else None.
    """

    form: str
    label_names: tuple[str, ...]
    num_images: Mapping[str, int]
    num_bytes: int
    identity: Mapping[str, int | str]
    images: Callable[[], Iterator[SourceImage]]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    train_labels: Mapping[int, int] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    any_order: bool = False
    size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceData(Part):
    """A data set to prepare: the images, and what the result is called."""

    name: str
    version: str = "1.0.0"
    description: str = ""
    homepage: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name_feature: str = "file_name"

    def in_words(self) -> list[str]:
        """Say what was found, one line each: the form, images by split and classes, and what is left out."""
        images = ", ".join(f"{count:,} images for {split}" for split, count in self.num_images.items())
        names = ", ".join([*self.label_names[:3], *(["..."] if len(self.label_names) > 3 else [])])
        left_out = [f"left out: {count:,} {what}" for what, count in self.left_out.items()]
        found = f"found: {images}; {len(self.label_names):,} classes ({names})"
        return [f"taken for: {self.form}", found, *left_out]


def hold_out(part: Part, fraction: float, where: object) -> Part:
    """Return the training images of a part as two splits: of each class the second image and every 1/fraction-th next.

    The images are read twice, because those of a split must follow each other. UserError if a class has one image.
    """
    for label, count in part.train_labels.items():
        check_can_hold_out(count, f"class {part.label_names[label]} of {where}")

    def held_out(count: int) -> int:
        return int(1 + (count - 2) * fraction) if count > 1 else 0

    def images() -> Iterator[SourceImage]:
        for pass_number, split in enumerate(("train", "validation")):
            numbers = Counter[int]()
            for image in part.images():
                numbers[image.label] += 1
                is_held_out = held_out(numbers[image.label]) > held_out(numbers[image.label] - 1)
                if is_held_out == (split == "validation"):
                    yield image._replace(split=split, position=pass_number * part.num_bytes + image.position)

    num_images = part.num_images["train"]
    num_held_out = sum(map(held_out, part.train_labels.values())) or round(num_images * fraction)
    return dataclasses.replace(
        part,
        num_images={"train": num_images - num_held_out, "validation": num_held_out},
        num_bytes=2 * part.num_bytes,
        identity={**part.identity, "validation_fraction": str(fraction)},
        images=images,
    )


def check_can_hold_out(count: int, where: object) -> None:
    """Raise UserError if a class has too few images to hold one out."""
    if count < 2:
        raise UserError(
            f"{where} contains one image; a class needs at least 2 to hold one out for validation: add images, or hold "
            "none out with validation_fraction=0."
        )


def join(parts: Sequence[Part]) -> Part:
    """Return all images of several parts with the same label names."""

    def images() -> Iterator[SourceImage]:
        start = 0
        for part in parts:
            for image in part.images():
                yield image._replace(position=start + image.position)
            start += part.num_bytes

    def merged(field: str) -> dict[Any, Any]:
        return {key: value for part in parts for key, value in getattr(part, field).items()}

    return Part(
        form=" and ".join(part.form for part in parts),
        label_names=parts[0].label_names,
        num_images=merged("num_images"),
        num_bytes=sum(part.num_bytes for part in parts),
        identity=merged("identity"),
        images=images,
        left_out=merged("left_out"),
        train_labels=merged("train_labels"),
        folder=next((part.folder for part in parts if part.folder), None),
        any_order=all(part.any_order for part in parts),
        size=parts[0].size,
    )


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


def check_no_class_is_empty(
    names: Sequence[str], counts: Mapping[str, int], where: object, remedy: str = "add images, or remove the class"
) -> None:
    """Raise UserError if a class has no images; `counts` holds the number of images by class name."""
    if empty := [name for name in names if not counts.get(name)]:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        classes = f"{len(empty)} of its {len(names)} classes ({shown})"
        raise UserError(f"{where} has no images of {classes}; {remedy}.")
