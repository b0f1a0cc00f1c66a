"""A split as raw pixels on disk: decoded once, then memory-mapped, so that reading an image is one copy.

They lie beside the records that they were made from, in `raw/SPLIT/` of the data set's folder: `images.npy` (uint8
[N, S, S, 3]) and `labels.npy` (int32 [N]), which NumPy opens, and the description of what they were made from.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.data.pipeline import consecutive_batches
from alexnet_jax.data.sources import JpegSource
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive

_IMAGES, _LABELS, _MADE_FROM = "images.npy", "labels.npy", "made_from.json"
_BATCH = 64  # images that are decoded at a time


class RawSource:
    """The examples of a split whose pixels lie on disk."""

    def __init__(self, directory: Path, num_examples: int, image_size: int):
        """Opens the files; UserError if one is missing or not of this many images of this size."""
        self.image_size = image_size
        self._images = _open(directory / _IMAGES, np.uint8, (num_examples, image_size, image_size, 3))
        self._labels = _open(directory / _LABELS, np.int32, (num_examples,))

    def __len__(self) -> int:
        """How many examples the split has."""
        return len(self._labels)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        """Copies the examples of these indices into images (uint8 [n, S, S, 3]) and labels (int32 [n])."""
        # Not mode="raise", with which NumPy copies everything twice.
        np.take(self._images, indices, axis=0, out=images, mode="clip")
        np.take(self._labels, indices, out=labels, mode="clip")


def open_raw(source: JpegSource, read_threads: int) -> RawSource:
    """The same examples as raw pixels, which are decoded first unless that was done before.

    Of several processes one decodes and the others wait for it. UserError if the disk is too small or can't be
    written, or a record is damaged; what a stopped process leaves is never taken for whole.
    """
    target = source.directory / "raw" / source.split
    try:
        if _made_from(target) != source.identity:
            target.parent.mkdir(exist_ok=True)
            with exclusive(target.parent / f".{source.split}.lock"):
                if _made_from(target) != source.identity:  # nobody else did it meanwhile
                    _decode(source, target, read_threads)
    except OSError as error:
        raise UserError(
            f"data.feed='raw': the pixels can't be written to {target} ({error.strerror or error}); make that folder "
            "writable and free some space, or take data.feed='jpeg'."
        ) from error
    return RawSource(target, len(source), source.image_size)


def _decode(source: JpegSource, target: Path, read_threads: int) -> None:
    """Writes the files of all examples, in a folder of their own that is renamed once it is complete."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    for old in (target, unfinished):  # made from other records, or left by a process that was killed
        shutil.rmtree(old, ignore_errors=True)
    shape = (len(source), source.image_size, source.image_size, 3)
    _check_free_space(target.parent, math.prod(shape))
    print(f"Decoding {shape[0]:,} images to {target}, once: {math.prod(shape) / 2**30:,.1f} GiB.", flush=True)
    unfinished.mkdir()
    try:
        labels = []
        with open(unfinished / _IMAGES, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in consecutive_batches(source, 0, len(source), batch_size=_BATCH, read_threads=read_threads):
                # Not through a map: there a full disk would end the process.
                file.write(batch["image"].data)
                labels.append(batch["label"])
        np.save(unfinished / _LABELS, np.concatenate(labels))
        (unfinished / _MADE_FROM).write_text(json.dumps(source.identity))
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _made_from(target: Path) -> object:
    """What the files in this folder were made from; None if there are none, or it can't be read."""
    try:
        return json.loads((target / _MADE_FROM).read_text())
    except (OSError, ValueError):
        return None


def _check_free_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > 0.99 * free:
        raise UserError(
            f"data.feed='raw' needs {needed / 2**30:,.1f} GiB in {directory}, and {free / 2**30:,.1f} GiB are free; "
            "free some space or take data.feed='jpeg'."
        )


def _open(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """The file as a memory-mapped array; UserError if it is missing, cut or another array."""
    try:
        array = np.load(path, mmap_mode="r")
        problem = None if (array.dtype, array.shape) == (dtype, shape) else f"it holds {array.dtype} {array.shape}"
    except (OSError, ValueError, EOFError) as error:
        problem = str(error)
    if problem:
        raise UserError(f"{path} is damaged ({problem}); delete its folder, and it will be made again.")
    return array
