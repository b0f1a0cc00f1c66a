"""Read MatConvNet's models, `.mat` files of MATLAB's version 5 such as `imagenet-caffe-alex.mat`.

A model has `layers`, each a struct with `type`, `name` and `weights` (until 2014 `filters` and `biases`), channels
last; fully connected layers are convolutions. `meta` (at first the model itself) has `normalization.averageImage` and
`classes.name`. Nets that MatConvNet imported from Caffe see red first (github.com/vlfeat/matconvnet,
utils/import-caffe.py).
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from alexnet_jax.arrays import MAX_BYTES
from alexnet_jax.convert.contents import Contents
from alexnet_jax.errors import UserError, printable

_NORMALIZATION = ("lrn", "normalize")  # types of layers
_COMPRESSED = 15  # miCOMPRESSED
# What `loadmat` raises for damaged files, besides its own MatReadError (an Exception, like the others here).
_DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(struct.error, zlib.error, OSError, scipy.io.matlab.MatReadError),
)


def read_mat(path: Path) -> Contents:
    """Read the layers that have weights, the mean image and the classes; UserError if it is another file or damaged.

    Whether it pools or normalizes first tells "caffenet" from "caffe", as in Caffe's own files.
    """
    try:
        _check_size(path)
        model = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
        layers = [layer for layer in np.atleast_1d(model["layers"]) if hasattr(layer, "type")]
        arrays: dict[str, np.ndarray] = {}
        for layer in (layer for layer in layers if layer.type == "conv"):
            weights = (layer.filters, layer.biases) if hasattr(layer, "filters") else layer.weights
            kernel, bias = (np.asarray(array) for array in weights)
            arrays |= {f"{layer.name}/kernel": kernel, f"{layer.name}/bias": bias}
        meta = model.get("meta") or _Struct(model)
        mean = _field(meta, "normalization", "averageImage")
        names = _field(meta, "classes", "name")
        first = next((layer.type for layer in layers if layer.type in ("pool", *_NORMALIZATION)), None)
    except _DAMAGE as error:
        reason = printable(str(error).split("\n")[0] or type(error).__name__)
        raise UserError(
            f"{path} is not a model of MatConvNet, or is incomplete ({reason}); download it again."
        ) from error
    variant = None if first is None else "caffenet" if first == "pool" else "caffe"
    return Contents(
        arrays,
        variant,
        certain=variant is not None,
        mean=None if mean is None or np.size(mean) < 3 else np.asarray(mean, np.float32),
        label_names=None if names is None or not np.size(names) else tuple(map(str, np.atleast_1d(names))),
    )


class _Struct:
    """A model's variables as fields, as older models keep what newer ones have in `meta`."""

    def __init__(self, variables: dict[str, Any]):
        self.__dict__ = dict(variables)


def _field(struct: Any, *names: str) -> Any:
    """Return a field of a field; None if there is none."""
    for name in names:
        struct = getattr(struct, name, None)
    return struct


def _check_size(path: Path) -> None:
    """Raise ValueError if the file's compressed parts unpack to more than a net has."""
    total = 0
    with open(path, "rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, 1)
                continue
            unpacking, end = zlib.decompressobj(), file.tell() + size
            while file.tell() < end and (part := file.read(min(1 << 16, end - file.tell()))):
                while part:
                    total += len(unpacking.decompress(part, 1 << 20))
                    part = unpacking.unconsumed_tail
                    if total > MAX_BYTES:
                        raise ValueError("it unpacks to more than a net has")
