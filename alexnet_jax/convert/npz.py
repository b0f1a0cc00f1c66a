"""Plain NumPy archives: `conv1/kernel`, `conv1/bias`, ... `fc8/bias`, as the parameters are here.

Read as well: `conv1/weight`, with channels first (`layout.py`).
"""

from pathlib import Path

import numpy as np

from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError
from alexnet_jax.untrusted.arrays import DamagedArraysError, load_arrays


def read_npz(path: Path) -> Arrays:
    """All arrays of the file; UserError if it is something else, broken, or holds Python objects."""
    try:
        return load_arrays(path)
    except DamagedArraysError as error:
        raise UserError(
            f"{path} is not a .npz file of plain arrays, or is damaged ({error}); save it again."
        ) from error


def write_npz(arrays: Arrays, path: Path) -> None:
    """Writes all arrays, not compressed."""
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
