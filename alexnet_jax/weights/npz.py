"""Plain NumPy archives: `conv1/kernel`, `conv1/bias`, ... `fc8/bias`, as the parameters are here.

Read as well: `conv1/weight`, with channels first (`layout.py`).
"""

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.weights.layout import Arrays

# What reading a damaged array or archive may raise: NumPy parses a header as Python, and `zipfile` has a RuntimeError
# for what looks encrypted.
DAMAGE = (
    *(ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


def read_npz(path: Path) -> Arrays:
    """All arrays of the file; UserError if it is something else, broken, or holds Python objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UserError(
                    f"{path} holds a single array, not a net; give a .npz file with conv1/kernel and so on."
                )
            return {name: file[name] for name in file.files}
    except DAMAGE as error:
        raise UserError(f"{path} is not a .npz file of plain arrays, or is damaged ({error}).") from error


def write_npz(arrays: Arrays, path: Path) -> None:
    """Writes all arrays, not compressed."""
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
