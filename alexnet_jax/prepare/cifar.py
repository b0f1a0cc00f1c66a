"""CIFAR-10 from its official Python archive, pixels kept exactly.

The archive holds pickles, which can run any program when they are opened in the usual way. Here they may only build
what the real ones are made of: dictionaries, lists, numbers, text, and NumPy arrays of bytes.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), cs.toronto.edu/~kriz/cifar.html.
"""

import functools
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError, printable
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.source import SourceData, SourceImage, check_class_names
from alexnet_jax.untrusted import pickles

ARCHIVE = "cifar-10-python.tar.gz"
HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIZE = 32
_META = "batches.meta"
_BATCHES = {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"}


def cifar10(source: Path) -> SourceData:
    """The archive, or the folder that holds it; UserError if it is missing, damaged or another file.

    Name, version, features and splits (train, test) are those of TFDS's own builder.
    """
    archive = source / ARCHIVE if source.is_dir() else source
    if not archive.is_file():
        raise UserError(f"{archive} is missing; download {ARCHIVE} from {HOMEPAGE}.")
    names = _label_names(archive)

    def images() -> Iterator[SourceImage]:
        numbers = {"train": 0, "test": 0}
        batches = (member for member in tars.walk(archive) if member.path.name in _BATCHES)
        for batch in batches:
            split = _BATCHES[batch.path.name]
            pixels, labels = _read_batch(batch, archive, len(names))
            for image, label in zip(pixels, labels, strict=True):
                name = f"{split}_{numbers[split]:05d}"
                numbers[split] += 1
                yield SourceImage(split, name, label, functools.partial(np.asarray, image), batch.position)

    return SourceData(
        name="cifar10",
        version="3.0.2",
        description="CIFAR-10: 60,000 color images of 32 x 32 pixels in 10 classes.",
        homepage=HOMEPAGE,
        label_names=names,
        num_images={"train": 50_000, "test": 10_000},
        num_bytes=archive.stat().st_size,
        identity={archive.name: archive.stat().st_size},
        images=images,
        size=SIZE,
        name_feature="id",
    )


def _label_names(archive: Path) -> tuple[str, ...]:
    there = set()
    content: Any = None
    for member in tars.walk(archive):
        there.add(member.path.name)
        if member.path.name == _META:
            content = load_pickle(tars.read(member, archive), f"{archive}, {member.path}")
    if missing := sorted({_META, *_BATCHES} - there):
        raise UserError(f"{archive} holds no {missing[0]}; it must be {ARCHIVE} from {HOMEPAGE}.")
    names = content.get(b"label_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise UserError(f"{archive}, {_META}: there are no label names; it must be {ARCHIVE} from {HOMEPAGE}.")
    decoded = tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)
    check_class_names(decoded, archive)
    return decoded


def _read_batch(member: tars.TarFile, archive: Path, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """uint8 [n, 32, 32, 3], labels [n]. In the file, a row is the red, green and blue 32 x 32 planes of an image."""
    where = f"{archive}, {member.path}"
    content = load_pickle(tars.read(member, archive), where)
    data: Any
    labels: Any
    data, labels = (content.get(b"data"), content.get(b"labels")) if isinstance(content, dict) else (None, None)
    is_batch = isinstance(labels, list) and isinstance(data, np.ndarray)
    if not is_batch or data.shape != (len(labels), 3 * SIZE * SIZE):
        raise UserError(f"{where} is no batch of CIFAR-10: bytes of shape [n, 3072] and n labels; download it again.")
    if wrong := [label for label in labels if not isinstance(label, int) or not 0 <= label < num_classes]:
        # Not just any object in words: a list that holds a list many times, which holds ..., has no end of them.
        shown = wrong[0] if isinstance(wrong[0], int) and abs(wrong[0]) < 2**63 else f"<{type(wrong[0]).__name__}>"
        raise UserError(f"{where} has the label {shown}; labels are 0 to {num_classes - 1}.")
    return np.ascontiguousarray(data.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)), labels


class _Pixels:
    """An array of bytes, as a pickle describes it. NumPy's own way to rebuild one dies of damaged ones (SIGSEGV)."""

    array = np.empty(0, np.uint8)

    def __init__(self, *_: Any):
        """Empty; the state has everything."""

    def __setstate__(self, state: Any) -> None:
        """Version, shape, type, whether in Fortran's order, and the bytes."""
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Kind) or kind.name not in ("u1", b"u1") or fortran:
            raise pickle.UnpicklingError("an array is not one of bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _Kind:
    """The type of an array's numbers."""

    def __init__(self, name: Any, *_: Any):
        """Its name, as NumPy writes it."""
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes don't have."""


class _ArraysOnly(pickle.Unpickler):
    """Refuses to import anything but what a NumPy array is made of, and makes that of classes of its own."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _Pixels,
        ("numpy._core.multiarray", "_reconstruct"): _Pixels,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Kind,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array of pixels needs")
        return self._ALLOWED[module, name]


def load_pickle(data: bytes, where: str) -> Any:
    """Opens a pickle (text as bytes, as Python 2 wrote it) without running anything of it; UserError if it can't be."""
    try:
        pickles.check(io.BytesIO(data))
        content = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    # All that the opcodes of a damaged or hostile pickle have been seen to raise.
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
        MemoryError, UnicodeDecodeError, RuntimeError,
    ) as error:  # fmt: skip
        said = printable(str(error))
        raise UserError(f"{where} can't be read as a batch of CIFAR-10 ({said}); download it again.") from error
    if not isinstance(content, dict):
        return content
    return {name: value.array if isinstance(value, _Pixels) else value for name, value in content.items()}
