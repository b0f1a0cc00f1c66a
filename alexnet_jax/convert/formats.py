"""Files of named arrays: NumPy's `.npz`, and torchvision's AlexNet as a state dict, `.pth` or `.safetensors`.

In a `.npz`, `conv1/kernel` has channels last, as this project's parameters, and `conv1/weight` channels first
(`layout.py`). The names in a state dict are those of torchvision/models/alexnet.py.
"""

import importlib.util
import io
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save

from alexnet_jax.arrays import DamagedArraysError, load_arrays
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.convert.torch_file import read_pth
from alexnet_jax.errors import UserError

_MODULES = {  # where the layers are in torchvision's two `nn.Sequential`
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
_NAMES = {f"{module}.{kind}": f"{layer}/{kind}" for layer, module in _MODULES.items() for kind in ("weight", "bias")}


def read_npz(path: Path) -> Arrays:
    """Read all arrays of a `.npz`; UserError if it is another file, damaged, or holds Python objects."""
    try:
        return load_arrays(path)
    except DamagedArraysError as error:
        raise UserError(
            f"{path} is not a .npz file of plain arrays, or is damaged ({error}); save it again."
        ) from error


def read_safetensors(path: Path) -> Arrays:
    """Read all tensors of a `.safetensors`; UserError if it is another file, or damaged."""
    try:
        return load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a .safetensors file, or is incomplete ({error}); download it again.") from error


def read_state_dict(path: Path) -> Arrays:
    """Read torchvision's weights by layer ("conv1/weight", ...); UserError if the file is of another net or damaged."""
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_pth(path)
    if unknown := [name for name in tensors if name not in _NAMES]:
        raise UserError(
            f"{path} is not torchvision's AlexNet: it holds {unknown[0]!r}, but that net has {', '.join(_NAMES)}."
        )
    return {_NAMES[name]: tensor for name, tensor in tensors.items()}


def to_npz(arrays: Arrays) -> bytes:
    """Return a `.npz` of all arrays, not compressed."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def to_safetensors(weights: Arrays) -> bytes:
    """Return weights by layer ("conv1/weight", ...) as torchvision's state dict in a `.safetensors`."""
    return save({name: np.ascontiguousarray(weights[key]) for name, key in _NAMES.items()})


def to_pth(weights: Arrays) -> bytes:
    """Return the same in a `.pth`; UserError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch writes .pth files: install PyTorch or export as safetensors, which needs nothing.")
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.tensor(weights[key]) for name, key in _NAMES.items()}, buffer)
    return buffer.getvalue()
