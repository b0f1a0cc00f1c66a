"""Untrusted NumPy files, `.npy` and `.npz`: plain arrays only, of a size that fits in memory."""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAX_BYTES = 4 << 30  # that an archive may unpack to; the widest published net in float64 has an eighth of that
# What reading a damaged array or archive may raise: NumPy parses a header as Python, and `zipfile` has a RuntimeError
# for what looks encrypted and a NotImplementedError (a RuntimeError too) for future versions.
DAMAGE = (
    *(ValueError, TypeError, KeyError, EOFError, MemoryError, OverflowError, SyntaxError, tokenize.TokenError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


class DamagedArraysError(ValueError):
    """The file is damaged or does not hold plain arrays; the message says why."""


def load_array(path: Path) -> np.ndarray:
    """Read the array of a `.npy`; DamagedArraysError if it is not a sound one, OSError if it can't be read."""
    try:
        array = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        raise DamagedArraysError(_first_line(error)) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DamagedArraysError("it is an archive of arrays")
    return array


def load_arrays(file: Path | BinaryIO) -> dict[str, np.ndarray]:
    """Read the arrays of a `.npz`, by name; OSError if it can't be read.

    DamagedArraysError if it is not sound, holds Python objects (which are pickles), or unpacks to over MAX_BYTES.
    """
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DamagedArraysError("it is a single array, not an archive of arrays by name")
        with archive:
            size = sum(entry.file_size for entry in archive.zip.infolist())
            if size > MAX_BYTES:
                raise DamagedArraysError(f"it unpacks to {size:,} bytes, and {MAX_BYTES:,} are allowed")
            arrays = {name: archive[name] for name in archive.files}
    except DAMAGE as error:
        raise DamagedArraysError(_first_line(error)) from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DamagedArraysError(f"{others[0]!r} is not an array")
    return arrays


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__
