"""torchvision's AlexNet (torchvision/models/alexnet.py): its state dict as `.pth` or `.safetensors`, both ways."""

from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save

from alexnet_jax.convert.layout import Arrays
from alexnet_jax.convert.torch_file import read_pth, write_pth
from alexnet_jax.errors import UserError

# The places of the layers in torchvision's two `nn.Sequential`.
_MODULES = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
SUFFIXES = (".pth", ".safetensors")


def read_state_dict(path: Path) -> Arrays:
    """The weights by layer ("conv1/weight", ...); UserError if the file is not one of this net's, or damaged."""
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_pth(path)
    names = {f"{module}.{kind}": f"{layer}/{kind}" for layer, module in _MODULES.items() for kind in ("weight", "bias")}
    if unknown := [name for name in tensors if name not in names]:
        raise UserError(
            f"{path} is not torchvision's AlexNet: it holds {unknown[0]!r}, where that net has {', '.join(names)}."
        )
    return {names[name]: tensor for name, tensor in tensors.items()}


def read_safetensors(path: Path) -> Arrays:
    """All tensors of a file; UserError if it is something else, or damaged."""
    try:
        return load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not a .safetensors file, or only a part of one ({error}); download it again."
        ) from error


def write_state_dict(weights: Arrays, path: Path) -> None:
    """Writes weights by layer ("conv1/weight", ...) in torchvision's names and order, as the suffix says."""
    tensors = {}
    for layer, module in _MODULES.items():
        for kind in ("weight", "bias"):
            tensors[f"{module}.{kind}"] = np.ascontiguousarray(weights[f"{layer}/{kind}"])
    if path.suffix == ".safetensors":
        path.write_bytes(save(tensors))  # `save_file` has errors of its own where the disk has one
    else:
        write_pth(tensors, path)
