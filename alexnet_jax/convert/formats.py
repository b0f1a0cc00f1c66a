"""Read any file of weights, and write torchvision's state dict, `.pth` or `.safetensors`."""

import importlib.util
import io
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

from alexnet_jax.arrays import MAX_BYTES
from alexnet_jax.convert import record
from alexnet_jax.convert.caffe import read_caffemodel
from alexnet_jax.convert.contents import Contents
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.convert.matconvnet import read_mat
from alexnet_jax.convert.naming import TORCHVISION
from alexnet_jax.convert.numpy_files import read_npy, read_npz
from alexnet_jax.convert.onnx_file import read_onnx
from alexnet_jax.convert.signatures import kind_of
from alexnet_jax.convert.torch_file import read_pth
from alexnet_jax.errors import UserError, printable

_NAMES = {f"{module}.{kind}": f"{layer}/{kind}" for module, layer in TORCHVISION.items() for kind in ("weight", "bias")}
_DTYPES: dict[str, type] = {  # of a `.safetensors`
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_},
}


def read_safetensors(path: Path) -> Contents:
    """Read all tensors of a `.safetensors`; UserError if it is another file, or damaged."""
    try:
        data = path.read_bytes()
        tensors = dict(safetensors.deserialize(data))
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        reason = printable(str(error))
        raise UserError(
            f"{path} is not a .safetensors file, or is incomplete ({reason}); download it again."
        ) from error
    if other := [name for name, tensor in tensors.items() if tensor["dtype"] not in _DTYPES]:
        raise UserError(
            f"{path}: {printable(other[0])} is of type {tensors[other[0]]['dtype']}, which is not read; save it as F32."
        )
    arrays = {
        name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors.items()
    }
    return Contents(arrays, record=metadata.get(record.KEY))


_READERS: dict[str, Callable[[Path], Contents]] = {
    "caffemodel": read_caffemodel,
    "pth": read_pth,
    "safetensors": read_safetensors,
    "npz": read_npz,
    "npy": read_npy,
    "onnx": read_onnx,
    "mat": read_mat,
}


def read_file(path: Path, form: str | None) -> tuple[Contents, str]:
    """Read a file of weights, and return its kind too; `form` is the one of `signatures.FORMATS` it is said to have.

    UserError if it is something else, larger than a net, or damaged.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than any AlexNet; give the file of its weights.")
    kind = kind_of(path, form)
    return _READERS[kind](path), kind


def to_safetensors(weights: Arrays, text: str) -> bytes:
    """Return weights by layer ("conv1/weight", ...) as torchvision's state dict in a `.safetensors`, with a record."""
    return save({name: np.ascontiguousarray(weights[key]) for name, key in _NAMES.items()}, {record.KEY: text})


def to_pth(weights: Arrays, text: str) -> bytes:
    """Return the same in a `.pth`; UserError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch writes .pth files: install PyTorch or export as safetensors, which needs nothing.")
    import torch

    state = OrderedDict((name, torch.tensor(weights[key])) for name, key in _NAMES.items())
    vars(state)["_metadata"] = {record.KEY: {"record": text}}  # where `Module.state_dict` keeps versions, by module
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
