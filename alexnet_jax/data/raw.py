"""A split as raw pixels on disk: decoded once, then memory-mapped, so that reading an image is one copy.

The files are beside the records that they were made from, in `raw/SPLIT/` of the data set's folder: `images.npy` (uint8
[N, S, S, 3]) and `labels.npy` (int32 [N]), which NumPy can open, and `made_from.json`, which identifies the records.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.data.pipeline import consecutive_batches
from alexnet_jax.data.sources import ImageSource, JpegSource
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive, removed_at_end

_IMAGES, _LABELS, _MADE_FROM = "images.npy", "labels.npy", "made_from.json"
_BATCH = 64  # images decoded at a time


class RawSource(ImageSource):
    """The examples of a split whose pixels are on disk."""

    def __init__(self, directory: Path, num_examples: int, image_size: int):
        """Open the files; UserError if one is missing or does not hold this many images of this size."""
        self.image_size = image_size
        self._images = _open(directory / _IMAGES, np.uint8, (num_examples, image_size, image_size, 3))
        self._labels = _open(directory / _LABELS, np.int32, (num_examples,))

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        # Not mode="raise", with which NumPy copies everything twice.
        np.take(self._images, indices, axis=0, out=images, mode="clip")
        np.take(self._labels, indices, out=labels, mode="clip")


def open_raw(source: JpegSource, read_threads: int) -> RawSource:
    """Return the same examples as raw pixels, after decoding them unless they already were.

    One of several processes decodes while the others wait. What a killed process leaves is never taken for complete.
    UserError if the disk is too small or can't be written to, or a record is damaged.
    """
    target = source.directory / "raw" / source.split
    try:
        if _made_from(target) != source.identity:
            target.parent.mkdir(exist_ok=True)
            with exclusive(target.parent / f".{source.split}.lock"):
                if _made_from(target) != source.identity:  # no other process has done it meanwhile
                    _decode(source, target, read_threads)
    except OSError as error:
        raise UserError(
            f"data.feed='raw': the pixels can't be written to {target} ({error.strerror or error}); make that folder "
            "writable and free some space, or use data.feed='jpeg'."
        ) from error
    return RawSource(target, len(source), source.image_size)


def _decode(source: JpegSource, target: Path, read_threads: int) -> None:
    """Write the files of all examples to a folder that gets its name once it is complete."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    for old in (target, unfinished):  # made from other records, or left by a process that was killed
        shutil.rmtree(old, ignore_errors=True)
    shape = (len(source), source.image_size, source.image_size, 3)
    needed, free = math.prod(shape) / 2**30, shutil.disk_usage(target.parent).free / 2**30
    if needed > 0.99 * free:
        raise UserError(
            f"data.feed='raw' needs {needed:,.1f} GiB in {target.parent}, and {free:,.1f} GiB are free; "
            "free some space or use data.feed='jpeg'."
        )
    print(f"Decoding {len(source):,} images to {target}, once: {needed:,.1f} GiB.", flush=True)
    with removed_at_end(unfinished):
        unfinished.mkdir()
        labels = []
        with open(unfinished / _IMAGES, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for batch in consecutive_batches(source, 0, len(source), batch_size=_BATCH, read_threads=read_threads):
                file.write(batch["image"].data)  # not through a memory map, where a full disk would kill the process
                labels.append(batch["label"])
        np.save(unfinished / _LABELS, np.concatenate(labels))
        (unfinished / _MADE_FROM).write_text(json.dumps(source.identity))
        unfinished.rename(target)


def _made_from(target: Path) -> object:
    """Return the identity of the records that these files were made from; None if it can't be read."""
    try:
        return json.loads((target / _MADE_FROM).read_text())
    except (OSError, ValueError):
        return None


def _open(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return the file as a memory-mapped array; UserError if it is missing, cut or another array."""
    try:
        array = np.load(path, mmap_mode="r")
        problem = None if (array.dtype, array.shape) == (dtype, shape) else f"it holds {array.dtype} {array.shape}"
    except (OSError, ValueError, EOFError) as error:
        problem = str(error)
    if problem:
        raise UserError(f"{path} is damaged ({problem}); delete its folder, and it will be made again.")
    return array
