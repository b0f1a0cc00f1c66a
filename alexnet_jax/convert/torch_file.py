"""Read PyTorch's `.pth` files without PyTorch.

A `.pth` holds a pickle, and a pickle may call whatever it names. This reader knows the few names that describe tensors;
an object that does nothing stands for all others. There are two forms (torch/serialization.py): since PyTorch 1.6 a zip
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
from alexnet_jax.convert import record
from alexnet_jax.convert.contents import Contents
from alexnet_jax.errors import UserError, printable

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of the older form
_STORAGES = {
    **{"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8"},
}
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_DTYPES = {name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", *_FLOAT8)}
_DTYPES |= {name: np.dtype(name) for name in _STORAGES.values() if name not in _DTYPES}
# Where checkpoints keep the state dict: PyTorch's examples and Lightning, many repositories, timm.
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")


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


class _Inert:
    """Stands for anything in a pickle that is not a tensor: takes whatever is done to it, and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        """Ignore the arguments."""

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class _TensorUnpickler(pickle.Unpickler):
    """Builds descriptions of tensors; nothing that the pickle names is imported or called.

    unknown: the names in the pickle that are not of tensors. dtypes: by the key of a storage.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin-1")
        self.unknown: list[str] = []
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): lambda *fields: _Tensor(*fields[:4]),  # in the oldest files
            ("torch._utils", "_rebuild_tensor_v2"): lambda *fields: _Tensor(*fields[:4]),
            ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch.storage", "UntypedStorage"): "UntypedStorage",
            **{("torch", storage): storage for storage in _STORAGES},
            **{("torch", dtype): dtype for dtype in _DTYPES},
        }
        if (module, name) not in known:
            self.unknown.append(printable(f"{module}.{name}"))
        return known.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # the class of a whole net, in the older form
            return pid[1]
        kind, storage, key, _, size = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind} is not a storage")
        if storage not in _STORAGES:
            return _Inert()
        self.dtypes[key] = _DTYPES[_STORAGES[storage]]
        return _Storage(self.dtypes[key], key, size)


def _rebuild_tensor_v3(storage: _Storage, *fields: Any) -> _Tensor:
    """Describe a tensor of a type without a storage of its own, such as float8: the storage counts bytes."""
    dtype = _DTYPES[fields[5]]
    return _Tensor(_Storage(dtype, storage.key, storage.size // dtype.itemsize), *fields[:3])


class _Unpickled(NamedTuple):
    """The content of a file's pickle, what it names that is not a tensor, and a function that reads a storage."""

    content: Any
    unknown: list[str]
    load: Callable[[_Storage], np.ndarray]


def _unpickle(file: BinaryIO) -> tuple[Any, _TensorUnpickler]:
    """Read the pickle at the file's position, and leave the file positioned after it."""
    pickles.check(file)
    unpickler = _TensorUnpickler(file)
    return unpickler.load(), unpickler


def read_pth(path: Path) -> Contents:
    """Read the tensors of a state dict, in their order; UserError if the file has none, or is damaged.

    A training's checkpoint has one inside. Nothing in the file is run: whatever is not a tensor is passed over.
    """
    try:
        content, unknown, load = _open_zip(path) if zipfile.is_zipfile(path) else _open_legacy(path)
        state, notes = _state_dict(content, unknown, path)
        tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, _Tensor)}
        # A storage may have many views.
        if sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values()) > MAX_BYTES:
            raise ValueError("it holds more than a net has")
        arrays = {name: _to_numpy(tensor, load(tensor.storage)) for name, tensor in tensors.items()}
        text = getattr(state, "_metadata", {}).get(record.KEY, {}).get("record")  # as formats.to_pth writes it
        return Contents(arrays, record=text, notes=notes)
    except (*pickles.DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a .pth file from PyTorch, or is incomplete; download it again.") from error


def _state_dict(content: Any, unknown: list[str], path: Path) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    """Return the state dict that is the content, or is inside it, and a line that says where; UserError if none is."""

    def foreign(what: str) -> UserError:
        return UserError(
            f"{path} {what}, which is not part of a state dict; nothing in it was run. Save `model.state_dict()` "
            "instead, and make sure that you trust the source of this file."
        )

    if any("_rebuild_qtensor" in name for name in unknown):
        raise UserError(f"{path} is quantized; give the net's file of floating-point weights.")
    if not isinstance(content, Mapping):
        raise foreign(f"names {unknown[0]}" if unknown else f"holds a {type(content).__name__}")

    def has_tensors(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(item, _Tensor) for item in value.values())

    inside = [key for key, value in content.items() if has_tensors(value)]
    usual = [key for key in _STATE_DICTS if key in inside] or (inside if len(inside) == 1 else [])
    if usual:
        return content[usual[0]], (f"file: the state dict under {usual[0]!r}",)
    if has_tensors(content):
        return content, ()
    if unknown:
        raise foreign(f"names {unknown[0]}")
    keys = ", ".join(printable(repr(key)) for key in list(content)[:5])
    raise UserError(f"{path} holds no state dict, tensors by name, but {keys or 'nothing'}; save `model.state_dict()`.")


def _open_zip(path: Path) -> _Unpickled:
    """Open the form since PyTorch 1.6."""
    archive = zipfile.ZipFile(path)
    if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
        raise ValueError("it unpacks to more than a net has")
    pickled, *_ = (name for name in archive.namelist() if name.endswith("/data.pkl"))  # ValueError if there is none
    folder = pickled.removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"
    _check_endianness(byteorder not in archive.namelist() or archive.read(byteorder) == b"little", path)

    def load(storage: _Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype, storage.size)

    content, unpickler = _unpickle(io.BytesIO(archive.read(pickled)))
    return _Unpickled(content, unpickler.unknown, load)


def _open_legacy(path: Path) -> _Unpickled:
    """Open the older form: magic number, version, machine, content, keys, and then the storages."""
    with open(path, "rb") as file:
        magic, unpickler = _unpickle(file)
        if magic != _LEGACY_MAGIC:
            if unpickler.unknown or not isinstance(magic, int):
                _state_dict(magic, unpickler.unknown, path)
            raise ValueError("it has no magic number")
        _version, (machine, _), (content, unpickler), (keys, _) = (_unpickle(file) for _ in range(4))
        _check_endianness(machine["little_endian"] is True, path)
        dtypes, storages = unpickler.dtypes, {}
        for key in keys:
            (size,) = map(int, np.frombuffer(file.read(8), np.int64))
            storages[key] = np.frombuffer(file.read(size * dtypes[key].itemsize), dtypes[key], size)
    return _Unpickled(content, unpickler.unknown, lambda storage: storages[storage.key])


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
