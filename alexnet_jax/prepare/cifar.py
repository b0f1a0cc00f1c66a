"""CIFAR-10 from its official Python archive, with its exact pixels.

The archive contains pickles, which normally can run any program when they are loaded. This reader lets them build only
what the real ones contain: dictionaries, lists, numbers, text, and NumPy arrays of bytes.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), cs.toronto.edu/~kriz/cifar.html.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import pickles
from alexnet_jax.errors import UserError, printable
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.source import SourceData, SourceImage, check_class_names

ARCHIVE = "cifar-10-python.tar.gz"
HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIZE = 32
_META = "batches.meta"
_BATCHES = {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"}


def cifar10(source: Path) -> SourceData:
    """Open the archive, or the folder that contains it; UserError if it is missing, damaged or another file.

    Name, version, features and splits (train, test) are those of TFDS's own builder.
    """
    archive = source / ARCHIVE if source.is_dir() else source
    if not archive.is_file():
        raise UserError(f"{archive} does not exist; download {ARCHIVE} from {HOMEPAGE}.")
    label_names = _label_names(archive)

    def images() -> Iterator[SourceImage]:
        numbers = {"train": 0, "test": 0}
        for member in tars.walk(archive):
            if not (split := _BATCHES.get(member.path.name)):
                continue
            pixels, labels = _read_batch(member, archive, len(label_names))
            for image, label in zip(pixels, labels, strict=True):
                name = f"{split}_{numbers[split]:05d}"
                numbers[split] += 1
                yield SourceImage(split, name, label, functools.partial(np.asarray, image), member.position)

    return SourceData(
        name="cifar10",
        version="3.0.2",
        description="CIFAR-10: 60,000 color images of 32 x 32 pixels in 10 classes.",
        homepage=HOMEPAGE,
        form="the archive of CIFAR-10",
        label_names=label_names,
        num_images={"train": 50_000, "test": 10_000},
        num_bytes=archive.stat().st_size,
        identity={archive.name: archive.stat().st_size},
        images=images,
        size=SIZE,
        name_feature="id",
    )


def _label_names(archive: Path) -> tuple[str, ...]:
    """Return the names of the classes; UserError if they are missing or the archive lacks a batch."""
    members = set()
    meta: Any = None
    for member in tars.walk(archive):
        members.add(member.path.name)
        if member.path.name == _META:
            meta = load_pickle(tars.read(member, archive), f"{archive}, {member.path}")
    if missing := sorted({_META, *_BATCHES} - members):
        raise UserError(f"{archive} does not contain {missing[0]}; it must be {ARCHIVE} from {HOMEPAGE}.")
    names = meta.get(b"label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise UserError(f"{archive}, {_META}: there are no label names; it must be {ARCHIVE} from {HOMEPAGE}.")
    decoded = tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)
    check_class_names(decoded, archive)
    return decoded


def _read_batch(member: tars.TarFile, archive: Path, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """Return uint8 [n, 32, 32, 3] and n labels. In the file, a row has the 32 x 32 planes of red, green and blue."""
    where = f"{archive}, {member.path}"
    batch = load_pickle(tars.read(member, archive), where)
    data: Any
    data, labels = (batch.get(b"data"), batch.get(b"labels")) if isinstance(batch, dict) else (None, None)
    is_bytes = isinstance(data, np.ndarray) and data.dtype == np.uint8
    if not isinstance(labels, list) or not is_bytes or np.shape(data) != (len(labels), 3 * SIZE**2):
        raise UserError(f"{where} is not a batch of CIFAR-10 (bytes [n, 3072] and n labels); download it again.")
    if wrong := [label for label in labels if not isinstance(label, int) or not 0 <= label < num_classes]:
        # Other objects are not printed: a list of ten times a list of ten times a list ... would take forever.
        shown = wrong[0] if isinstance(wrong[0], int) and abs(wrong[0]) < 2**63 else f"<{type(wrong[0]).__name__}>"
        raise UserError(f"{where} has the label {shown}; labels are 0 to {num_classes - 1}.")
    return np.ascontiguousarray(data.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)), labels


def load_pickle(data: bytes, where: str) -> Any:
    """Load a pickle, with Python 2's text as bytes, without running any of its code; UserError if that fails."""
    try:
        content = pickles.load_arrays(data, encoding="bytes")
    except Exception as error:  # damaged and hostile pickles raise errors of any type
        reason = printable(str(error))
        raise UserError(f"{where} can't be read as a batch of CIFAR-10 ({reason}); download it again.") from error
    if not isinstance(content, dict):
        return content
    return {name: value.array if isinstance(value, pickles.PickledArray) else value for name, value in content.items()}
