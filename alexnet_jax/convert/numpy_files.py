"""Files of NumPy arrays: `.npz`, by name, and a `.npy` that holds a pickled dictionary, as caffe-tensorflow wrote."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import pickles
from alexnet_jax.arrays import DAMAGE, DamagedArraysError, load_arrays
from alexnet_jax.convert import record
from alexnet_jax.convert.contents import Contents
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError, printable

_KINDS = ("weights", "biases")  # of a layer's arrays, in caffe-tensorflow's order


def read_npz(path: Path) -> Contents:
    """Read all arrays of a `.npz`; UserError if it is another file, damaged, or holds Python objects."""
    try:
        arrays = load_arrays(path)
    except DamagedArraysError as error:
        raise UserError(
            f"{path} is not a .npz file of plain arrays, or is damaged ({error}); save it again."
        ) from error
    text = arrays.pop(record.KEY, None)
    return Contents(arrays, record=None if text is None else str(text))


def to_npz(arrays: Arrays, text: str) -> bytes:
    """Return a `.npz` of all arrays and the net's record, not compressed."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays, **{record.KEY: np.array(text)})
    return buffer.getvalue()


def read_npy(path: Path) -> Contents:
    """Read a dictionary {layer: [weights, biases]} (or {layer: {"weights", "biases"}}) without running its pickle.

    Toronto's `bvlc_alexnet.npy` is one: BVLC's AlexNet, blue first. Kernels have channels last, and fc6 sees rows,
    columns, channels, as ours (github.com/ethereon/caffe-tensorflow, kaffe/transformers.py). UserError if the file is
    something else, or damaged.
    """
    try:
        layers = _read_object(path)
        arrays = {
            f"{layer}/{kind}": _to_array(value)
            for layer, of in layers.items()
            for kind, value in (of.items() if isinstance(of, dict) else zip(_KINDS, of, strict=True))
        }
    except (*pickles.DAMAGE, *DAMAGE) as error:
        reason = printable(str(error))
        raise UserError(
            f"{path} is not a .npy file with a dictionary of layers, or is damaged ({reason}); give the original, or "
            "an .npz of its arrays."
        ) from error
    return Contents(arrays, variant="caffe", bgr=True)


def _read_object(path: Path) -> dict[Any, Any]:
    """Return the dictionary in a `.npy`; ValueError or another of `pickles.DAMAGE` if it has none."""
    with open(path, "rb") as file:
        major, _ = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype != np.dtype(object) or shape != ():
            raise ValueError(f"it holds an array of {dtype} {list(shape)}")
        data = file.read()
    (content,) = pickles.load_arrays(data, encoding="latin-1").array
    if not isinstance(content, dict):
        raise ValueError("it holds another Python object")
    return content


def _to_array(value: Any) -> np.ndarray:
    if not isinstance(value, pickles.PickledArray) or not isinstance(value.array, np.ndarray):
        raise ValueError("it holds something else than arrays")
    return value.array
