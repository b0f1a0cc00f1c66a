"""Downsampled ImageNet: `train_data_batch_1.npz` ... `train_data_batch_10.npz` and `val_data.npz`, 64, 32 or 16 pixels.

Each has `data`, uint8 [N, 3 * S * S] with the planes of red, green and blue, and `labels`, 1 to 1000 in the order of
the development kit of 2012, not of the WordNet ids. Source: Chrabaszcz, Loshchilov and Hutter, A Downsampled Variant of
ImageNet as an Alternative to the CIFAR datasets (2017), image-net.org/download-images.
"""

import functools
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.forms.shard_names import by_split
from alexnet_jax.prepare.source import Part, SourceImage

_NAMES = ("train_data_batch_*.npz", "val_data.npz")
_FAULTS = (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError)


class _Batch(NamedTuple):
    """A file. offset: of the first pixel in the uncompressed `data.npy`."""

    path: Path
    labels: np.ndarray
    size: int
    offset: int


def find(source: Path) -> list[Path]:
    """Return the batches in a folder or the folders in it, as the zips unpack."""
    return sorted(path for name in _NAMES for folder in ("", "Imagenet*/") for path in source.glob(folder + name))


def open_arrays(paths: list[Path]) -> Part:
    """Open batches; UserError if one is missing or damaged, or the sizes of their images differ."""
    splits = {split: [_open_batch(path) for path in found] for split, found in by_split(paths).items()}
    batches = [batch for split_batches in splits.values() for batch in split_batches]
    if other := [batch for batch in batches if batch.size != batches[0].size]:
        raise UserError(
            f"{other[0].path} has images of {other[0].size} pixels, {batches[0].path} of {batches[0].size}."
        )

    def images() -> Iterator[SourceImage]:
        start = 0
        for split, split_batches in splits.items():
            for batch in split_batches:
                yield from _images(batch, split, start)
                start += batch.path.stat().st_size

    sizes = {batch.path.name: batch.path.stat().st_size for batch in batches}
    train_labels = Counter(label for batch in splits.get("train", ()) for label in (batch.labels - 1).tolist())
    names = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt").read_text().split()
    num_images = {split: sum(len(batch.labels) for batch in found) for split, found in splits.items()}
    form = f"downsampled ImageNet of {batches[0].size} pixels"
    total = sum(sizes.values())
    return Part(form, tuple(names), num_images, total, sizes, images, {}, train_labels, size=batches[0].size)


def _open_batch(path: Path) -> _Batch:
    """Read the labels and what the pixels' header says; UserError if that is not a batch."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["labels"]
        with zipfile.ZipFile(path) as archive, archive.open("data.npy") as file:
            shape, order, dtype = _header(file)
            offset = file.tell()
        size = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
        if shape != (len(labels), 3 * size**2) or dtype != np.uint8 or order:
            raise ValueError(f"{dtype} {list(shape)} with {len(labels)} labels")
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 1 or labels.max() > 1000:
            raise ValueError("its labels are not numbers from 1 to 1000")
    except _FAULTS as error:
        raise UserError(f"{path} is not a batch of downsampled ImageNet ({error}); download it again.") from error
    return _Batch(path, labels.astype(np.int64), size, offset)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the order is Fortran's, and type of an array; the file is then at its first byte."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return read[np.lib.format.read_magic(file)](file)


def _images(batch: _Batch, split: str, start: int) -> Iterator[SourceImage]:
    """Yield the images of a batch, which begins at byte `start` of the part; a row is in memory at a time."""
    num_bytes = batch.path.stat().st_size
    with zipfile.ZipFile(batch.path) as archive, archive.open("data.npy") as file:
        for row, label in enumerate((batch.labels - 1).tolist()):
            load = functools.partial(_load, file, batch, row)
            position = start + num_bytes * (row + 1) // len(batch.labels)
            yield SourceImage(split, f"{batch.path.stem}_{row:06d}", label, load, position)


def _load(file: IO[bytes], batch: _Batch, row: int) -> np.ndarray:
    num_bytes = 3 * batch.size**2
    try:
        file.seek(batch.offset + row * num_bytes)  # forward only: the array may be compressed
        planes = np.frombuffer(file.read(num_bytes), np.uint8).reshape(3, batch.size, batch.size)
    except _FAULTS as error:
        raise UserError(f"{batch.path} is damaged at row {row:,} ({error}); download it again.") from error
    return np.ascontiguousarray(planes.transpose(1, 2, 0))
