"""Read PyTorch's `.pth` files without PyTorch.

A `.pth` holds a pickle, and a pickle may call whatever it names. This reader knows the few names that describe tensors
and refuses all others before anything is called. There are two forms (torch/serialization.py): since PyTorch 1.6 a zip
archive with `data.pkl` and one file per storage; before, a sequence of pickles and then the storages.
"""

import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from alexnet_jax import pickles
from alexnet_jax.arrays import MAX_BYTES
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError, printable

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of the older form
_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
}


class _Storage(NamedTuple):
    """A pickle's description of numbers that are elsewhere in the file."""

    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """A pickle's description of a tensor: a view of a storage, with strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _ForbiddenNameError(pickle.UnpicklingError):
    """The pickle names something that no file of tensors needs."""


class _TensorUnpickler(pickle.Unpickler):
    """Builds descriptions of tensors, and calls nothing that is not listed in `find_class`."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): lambda *fields: _Tensor(*fields[:4]),  # in the oldest files
            ("torch._utils", "_rebuild_tensor_v2"): lambda *fields: _Tensor(*fields[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            **{("torch", storage): storage for storage in _DTYPES},
        }
        if (module, name) not in known:
            raise _ForbiddenNameError(printable(f"{module}.{name}"))
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, size = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind} is not a storage")
        return _Storage(_DTYPES[storage], key, size)


def _unpickle(file: BinaryIO) -> Any:
    """Read the pickle at the file's position, and leave the file positioned after it."""
    pickles.check(file)
    return _TensorUnpickler(file).load()


def read_pth(path: Path) -> Arrays:
    """Read the tensors of a state dict, in their order; UserError if the file is something else, or damaged.

    Nothing in the file is run: a pickle that names anything but tensors is refused.
    """
    try:
        tensors, load = _open_zip(path) if zipfile.is_zipfile(path) else _open_legacy(path)
        # A storage may have many views.
        if sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values()) > MAX_BYTES:
            raise ValueError("it holds more than a net has")
        return {str(name): _to_numpy(tensor, load(tensor.storage)) for name, tensor in tensors.items()}
    except _ForbiddenNameError as name:
        raise UserError(
            f"{path} names {name}, which is not part of a state dict; nothing in it was run. Save `model.state_dict()` "
            "instead, and make sure that you trust the source of this file."
        ) from None
    except (*pickles.DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a .pth file from PyTorch, or is incomplete; download it again.") from error


def _check_state_dict(content: Any, path: Path) -> Mapping[str, _Tensor]:
    """Return the content of the file's pickle; UserError unless it is tensors by name."""
    if not isinstance(content, Mapping) or not all(isinstance(value, _Tensor) for value in content.values()):
        raise UserError(f"{path} is not a state dict, which holds tensors by name only; save `model.state_dict()`.")
    return content


def _open_zip(path: Path) -> tuple[Mapping[str, _Tensor], Callable[[_Storage], np.ndarray]]:
    """Return the tensors that the pickle describes, and a function that reads a storage."""
    archive = zipfile.ZipFile(path)
    if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
        raise ValueError("it unpacks to more than a net has")
    pickled, *_ = (name for name in archive.namelist() if name.endswith("/data.pkl"))  # ValueError if there is none
    folder = pickled.removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"
    _check_endianness(byteorder not in archive.namelist() or archive.read(byteorder) == b"little", path)

    def load(storage: _Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype, storage.size)

    return _check_state_dict(_unpickle(io.BytesIO(archive.read(pickled))), path), load


def _open_legacy(path: Path) -> tuple[Mapping[str, _Tensor], Callable[[_Storage], np.ndarray]]:
    """Return the same for the older form: magic number, version, machine, state dict, keys, and then the storages."""
    with open(path, "rb") as file:
        if _unpickle(file) != _LEGACY_MAGIC:
            raise ValueError("it has no magic number")
        _version, machine, content, keys = (_unpickle(file) for _ in range(4))
        _check_endianness(machine["little_endian"] is True, path)
        tensors = _check_state_dict(content, path)
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        storages = {}
        for key in keys:
            (size,) = map(int, np.frombuffer(file.read(8), np.int64))
            storages[key] = np.frombuffer(file.read(size * dtypes[key].itemsize), dtypes[key], size)
    return tensors, lambda storage: storages[storage.key]


def _check_endianness(little: bool, path: Path) -> None:
    if not little:
        raise UserError(f"{path} was written on a big-endian machine; save it again on a little-endian one.")


def _to_numpy(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """Copy a tensor out of its storage; ValueError if it reaches beyond it."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
