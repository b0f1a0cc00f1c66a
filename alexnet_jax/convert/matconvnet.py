"""Read MatConvNet's models, `.mat` files such as `imagenet-caffe-alex.mat`.

A model has `layers`, each a struct with `type`, `name` and `weights` (until 2014 `filters` and `biases`), channels
last; fully connected layers are convolutions. `meta` (at first the model itself) has `normalization.averageImage` and
`classes.name`. Nets that MatConvNet imported from Caffe see red first (github.com/vlfeat/matconvnet,
utils/import-caffe.py).
"""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import matlab_file
from alexnet_jax.arrays import MAX_BYTES
from alexnet_jax.convert.contents import Contents
from alexnet_jax.errors import UserError, printable

_NORMALIZATION = ("lrn", "normalize")  # types of layers


def read_mat(path: Path) -> Contents:
    """Read the layers that have weights, the mean image and the classes; UserError if it is another file or damaged.

    Whether it pools or normalizes first tells "caffenet" from "caffe", as in Caffe's own files.
    """
    try:
        model = matlab_file.read_variables(path.read_bytes(), MAX_BYTES)
        layers = model["layers"] if isinstance(model["layers"], list) else [model["layers"]]
        arrays: dict[str, np.ndarray] = {}
        for layer in (layer for layer in layers if layer["type"] == "conv"):
            kernel, bias = layer["weights"] if "weights" in layer else (layer["filters"], layer["biases"])
            arrays |= {f"{layer['name']}/kernel": np.asarray(kernel), f"{layer['name']}/bias": np.asarray(bias)}
        meta = model.get("meta", model)
        mean = np.asarray(_field(meta, "normalization", "averageImage"))
        names = _field(meta, "classes", "name")
        first = next((layer["type"] for layer in layers if layer["type"] in ("pool", *_NORMALIZATION)), None)
    except matlab_file.DAMAGE as error:
        reason = printable(str(error) or type(error).__name__)
        raise UserError(
            f"{path} is not a model of MatConvNet, or is incomplete ({reason}); download it again."
        ) from error
    variant = None if first is None else "caffenet" if first == "pool" else "caffe"
    return Contents(
        arrays,
        variant,
        certain=variant is not None,
        mean=mean.astype(np.float32) if mean.dtype.kind == "f" and mean.size >= 3 else None,
        label_names=tuple(map(str, names)) if isinstance(names, list) and names else None,
    )


def _field(struct: Any, *names: str) -> Any:
    """Return a field of a field; None if there is none."""
    for name in names:
        struct = struct.get(name) if isinstance(struct, dict) else None
    return struct
