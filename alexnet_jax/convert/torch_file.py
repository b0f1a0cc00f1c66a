"""PyTorch's `.pth` files without PyTorch: a dict of tensors in, a state dict out.

A `.pth` holds a pickle, and a pickle may call whatever it names. This reader knows the few names with which tensors are
written and refuses every other before anything is called. Two forms (torch/serialization.py): since PyTorch 1.6 a zip
archive with `data.pkl` and one file a storage; before, pickles one after the other and then the storages.
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

from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError, printable
from alexnet_jax.untrusted import pickles
from alexnet_jax.untrusted.arrays import MAX_BYTES

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of the older form
_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
}


class _Storage(NamedTuple):
    """What a pickle says of the numbers that lie elsewhere in the file."""

    dtype: Any
    key: str
    size: int


class _Tensor(NamedTuple):
    """What a pickle says of a tensor: a view of a storage, strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _ForbiddenNameError(pickle.UnpicklingError):
    """The pickle names something that no file of tensors needs."""


# What reading a damaged pickle or archive may raise: the documentation of `pickle` says any of these; `zipfile` has a
# RuntimeError for what looks encrypted or compressed in an unknown way.
_DAMAGE = (
    *(pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError),
    *(MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error),
)


class _TensorUnpickler(pickle.Unpickler):
    """Builds descriptions of tensors, and calls nothing that is not listed in `find_class`."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,  # in the oldest files
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            **{("torch", storage): storage for storage in _DTYPES},
        }
        if (module, name) not in known:
            raise _ForbiddenNameError(printable(f"{module}.{name}"))
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, size = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind} is no storage")
        return _Storage(_DTYPES[storage], key, size)


def _load(file: BinaryIO) -> Any:
    """What the pickle that begins here describes; the file is then behind it."""
    pickles.check(file)
    return _TensorUnpickler(file).load()


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any):
    return _Tensor(storage, offset, shape, strides)


def read_pth(path: Path) -> Arrays:
    """The tensors of a state dict, in their order; UserError if the file is something else, or damaged.

    Nothing in the file is run: a pickle that names anything but tensors is refused.
    """
    try:
        tensors, load = _open_zip(path) if zipfile.is_zipfile(path) else _open_legacy(path)
        if sum(_num_bytes(tensor) for tensor in tensors.values()) > MAX_BYTES:  # of one storage, many times
            raise ValueError("more than a net has")
        return {str(name): _to_numpy(tensor, load(tensor.storage)) for name, tensor in tensors.items()}
    except _ForbiddenNameError as name:
        raise UserError(
            f"{path} names {name}, which is no part of a state dict; nothing of it was run. Save `model.state_dict()`, "
            "and be wary of where this file is from."
        ) from None
    except _DAMAGE as error:
        raise UserError(f"{path} is not a .pth file of PyTorch's, or only a part of one; download it again.") from error


def _state_dict(described: Any, path: Path) -> Mapping[str, _Tensor]:
    """What the file's pickle describes, which must be tensors by name; UserError if it is not."""
    if not isinstance(described, Mapping) or not all(isinstance(value, _Tensor) for value in described.values()):
        raise UserError(
            f"{path} holds no state dict, which has tensors by name and nothing else; save `model.state_dict()`."
        )
    return described


def _open_zip(path: Path) -> tuple[Mapping[str, _Tensor], Callable[[_Storage], np.ndarray]]:
    """What the pickle describes, and the function that reads a storage."""
    archive = zipfile.ZipFile(path)
    if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
        raise ValueError("it unpacks to more than a net has")
    pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if pickled is None:
        raise ValueError("no data.pkl")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise UserError(f"{path} was written on a big-endian machine; save it again on a usual one.")

    def load(storage: _Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype, storage.size)

    return _state_dict(_load(io.BytesIO(archive.read(pickled))), path), load


def _open_legacy(path: Path) -> tuple[Mapping[str, _Tensor], Callable[[_Storage], np.ndarray]]:
    """The same for the older form: magic number, version, facts of the machine, the dict, keys, then the storages."""
    with open(path, "rb") as file:
        if _load(file) != _LEGACY_MAGIC:
            raise ValueError("no magic number")
        _version, machine, described, keys = (_load(file) for _ in range(4))
        if machine["little_endian"] is not True:
            raise UserError(f"{path} was written on a big-endian machine; save it again on a usual one.")
        tensors = _state_dict(described, path)
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        storages = {key: _read_legacy_storage(file, dtypes[key]) for key in keys}
    return tensors, lambda storage: storages[storage.key]


def _read_legacy_storage(file: BinaryIO, dtype: Any) -> np.ndarray:
    """The number of elements as int64, then the elements."""
    (size,) = np.frombuffer(file.read(8), np.int64)
    return np.frombuffer(file.read(int(size) * np.dtype(dtype).itemsize), dtype, int(size))


def _num_bytes(tensor: _Tensor) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.storage.dtype).itemsize


def _to_numpy(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """The numbers of a tensor; ValueError if it reaches out of its storage."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or last >= storage.size:
        raise ValueError("a tensor reaches out of its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


def write_pth(arrays: Arrays, path: Path) -> None:
    """Writes a state dict of float32 arrays that `torch.load(path, weights_only=True)` reads.

    The zip form, version 3: entries are stored, not compressed, so that PyTorch can map the file into memory.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickled(arrays))
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{number}", np.ascontiguousarray(array, "<f4").tobytes())
        archive.writestr("archive/version", "3\n")


def _pickled(arrays: Arrays) -> bytes:
    """The pickle of an OrderedDict of tensors, protocol 2, opcode by opcode: Python's writer would import PyTorch."""
    empty_dict = b"ccollections\nOrderedDict\n)R"
    out = [pickle.PROTO, b"\x02", empty_dict, pickle.MARK]
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // 4 for stride in np.ascontiguousarray(array, "<f4").strides)
        storage = [_text("storage"), b"ctorch\nFloatStorage\n", _text(str(number)), _text("cpu"), _integer(array.size)]
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", pickle.MARK]
        out += [_tuple(storage), pickle.BINPERSID, _integer(0), _integers(array.shape), _integers(strides)]
        out += [pickle.NEWFALSE, empty_dict, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _integer(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def _integers(values: tuple[int, ...]) -> bytes:
    return _tuple([_integer(value) for value in values])


def _tuple(items: list[bytes]) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
