"""What our exports say of a net beside its weights, so that importing them gives the same answers.

One text, JSON: the options that the answers depend on, what the workdir's `dataset.json` holds, and its
`statistics.npz`. It is an array of one string in a `.npz`, metadata in `.safetensors` and ONNX, and beside the tensors
in a `.pth`, where other programs pass it over.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import validation
from alexnet_jax.config import Config, flatten, set_field, to_dict
from alexnet_jax.convert.fitting import recipe
from alexnet_jax.data import dataset_info
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.statistics import read_statistics
from alexnet_jax.errors import UserError


class Record(NamedTuple):
    """What a file says of its net."""

    config: Config
    dataset_info: DatasetInfo


KEY = "alexnet_jax"
_FIELDS = ("model", "precision", "data.name", "data.mean", "data.std", "data.flip")  # nothing of the machine


def write(config: Config, info: DatasetInfo) -> str:
    """Return the text for a net."""
    options = {name: value for name, value in flatten(to_dict(config)) if name.startswith(_FIELDS)}
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **info.statistics._asdict())
    return json.dumps(
        {
            "config": options,
            "dataset": dataset_info.to_dict(info),
            "statistics": base64.b64encode(packed.getvalue()).decode(),
        }
    )


def read(text: Any, path: Path) -> Record:
    """Return the net's config, otherwise that of its recipe, and its data set; UserError if the text is damaged."""
    try:
        fields = json.loads(text)
        options = dict(fields["config"])
        packed = io.BytesIO(base64.b64decode(fields["statistics"], validate=True))
        info = dataset_info.from_dict(fields["dataset"], read_statistics(packed))
        config = recipe(options["model.variant"])
        for name, value in options.items():
            set_field(config, name, value)
        config = validation.from_dict(to_dict(config), str(path))
        validation.validate(config)
        if len(info.label_names) != config.model.num_classes:
            raise ValueError(f"{len(info.label_names)} names for {config.model.num_classes} classes")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, UserError) as error:
        raise UserError(f"{path}: what it says of its net is damaged ({error}); export it again.") from error
    return Record(config, info)
