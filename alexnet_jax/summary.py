"""Print the net of a config layer by layer: shapes, neurons, parameters, multiply-adds, memory and sharding.

    python -m alexnet_jax.summary --config=configs/original.py [--json] [--config.section.field=value ...]
    python -m alexnet_jax.summary --workdir=runs/original [--json]

Everything follows from the list of layers: no device is used, and for a config JAX is not imported.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import Config, differences
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.descriptions import describe, describe_initialization
from alexnet_jax.model.layers import Classifier, LayerShape, layer_shapes
from alexnet_jax.tables import aligned

_CONFIG = cli.define_config_flag()
_WORKDIR = cli.define_path_flag("workdir", "the folder of a trained net, instead of a config")
_JSON = flags.DEFINE_bool("json", False, "print the summary as one JSON object")
flags.adopt_module_key_flags(cli)

NOT_OPTIONS = ("model.variant", "model.image_size", "model.num_classes")
BYTES = {"float32": 4, "bfloat16": 2}  # of an activation; parameters, momentum buffers and logits are always float32
COUNTS = ("neurons", "parameters", "multiply_adds")
FIGURE_2 = "conv1 has 55 x 55 x 96 = 290,400 neurons; the paper's figure 2 misprints 253,440 and no other count."
TOTAL = 'These 659,272 neurons are the "650,000 neurons" of the paper\'s abstract.'
HEADER = (
    *("layer", "description", "output", "neurons", "parameters", "multiply-adds", "KiB"),
    *("output sharding", "kernel sharding", "initialization"),
)


def main(arguments: Sequence[str]) -> None:
    """Print the summary as a table or as JSON."""
    cli.no_arguments(arguments)
    if _WORKDIR.value and _CONFIG.value:
        raise UserError("give either --config or --workdir: the folder of a trained net has its own config.")
    summary = summarize(_config_of(_WORKDIR.value) if _WORKDIR.value else cli.the_config(_CONFIG))
    print(json.dumps(summary) if _JSON.value else as_text(summary))


def _config_of(folder: Path) -> Config:
    from alexnet_jax.run.workdir import read_config  # imports JAX

    return read_config(folder)


def summarize(config: Config) -> dict[str, Any]:
    """Return the summary of a valid config's net as JSON-able data: layers, total, notes and the settings behind them.

    A layer's "output_shape", "neurons" and "multiply_adds" are for one image over all towers, its "activation_bytes"
    for one image on each device. "output_spec" and "kernel_spec" are the mesh axes over which its output ([B, H, W, C]
    or [B, units]) and its kernel ([kh, kw, in, out] or [in, out]) are sharded. UserError if fully connected layers are
    sharded over `mesh.data`, which is not set.
    """
    net = build_net(config.model)
    layers, on_device = [], 0
    for number, shape in enumerate(layer_shapes(net, config.model.image_size, config.model.num_classes)):
        split = _split(config, number < net.num_convolutional)
        layers.append(_summarize_layer(shape, net.towers, split, BYTES[config.precision]))
        shared = math.prod(shape.bias_shape) if isinstance(shape.layer, Classifier) else 0
        on_device += (shape.parameters - shared) // split.devices + shared
    total = {name: sum(layer[name] for layer in layers) for name in (*COUNTS, "activation_bytes")}
    memory = 2 * BYTES["float32"] * on_device
    changed = {name: value for name, (value, _) in differences(config, Config()).items() if name.startswith("model.")}
    return {
        "variant": config.model.variant,
        "source": net.source,
        "options": {name: value for name, value in changed.items() if name not in NOT_OPTIONS},
        "towers": net.towers,
        "image_size": config.model.image_size,
        "num_classes": config.model.num_classes,
        "precision": config.precision,
        "mesh": dataclasses.asdict(config.mesh),
        "layers": layers,
        "total": {**total, "parameters_on_device": on_device, "parameter_and_momentum_bytes": memory},
        "notes": [FIGURE_2] * (layers[0]["neurons"] == 290_400) + [TOTAL] * (total["neurons"] == 659_272),
    }


class Split(NamedTuple):
    """The mesh axis over which a layer's channels and kernel are sharded, its size, and the axis of the images."""

    axis: str | None
    devices: int
    images: str | None = "data"


def _split(config: Config, convolutional: bool) -> Split:
    """Return how a layer is sharded: over towers, or a fully connected one over `data` (`parallel.towers`)."""
    if convolutional or not config.mesh.shard_fully_connected:
        return Split("tower" if config.mesh.tower > 1 else None, config.mesh.tower)
    if config.mesh.data == -1:
        raise UserError(
            "config.mesh.data=-1 leaves open over how many devices the fully connected layers are sharded; "
            "set it to a number for the summary, for example --config.mesh.data=8."
        )
    return Split("data", config.mesh.data, images=None)


def _summarize_layer(shape: LayerShape, towers: int, split: Split, activation_bytes: int) -> dict[str, Any]:
    outputs = math.prod(shape.output_shape)
    inner = [None] * (len(shape.output_shape) - 1)
    classifier = isinstance(shape.layer, Classifier)  # each device has all logits of its images, in float32
    kernel_spec: list[str | None] | None = None
    if shape.kernel_shape:  # sharded by output, the classifier's by input: `model.sharding.parameter_specs`
        others = [None] * (len(shape.kernel_shape) - 1)
        kernel_spec = [split.axis, *others] if classifier else [*others, split.axis]
    return {
        "name": shape.layer.name,
        "description": describe(shape, towers),
        "output_shape": list(shape.output_shape),
        "neurons": outputs if shape.kernel_shape else 0,
        "parameters": shape.parameters,
        "multiply_adds": shape.multiply_adds,
        "activation_bytes": outputs * BYTES["float32"] if classifier else outputs // split.devices * activation_bytes,
        "initialization": describe_initialization(shape),
        "output_spec": ["data", None] if classifier else [split.images, *inner, split.axis],
        "kernel_spec": kernel_spec,
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the summary as a table for the console."""
    size, total, mesh = summary["image_size"], summary["total"], summary["mesh"]
    rows = [HEADER, ("image", "", f"{size}x{size}x3", *[""] * 4, "data", "", "")]
    for layer in summary["layers"]:
        shape = "x".join(map(str, layer["output_shape"]))
        sharding = (", ".join(filter(None, layer["output_spec"])), _kernel_sharding(layer["kernel_spec"]))
        rows.append((layer["name"], layer["description"], shape, *_counts(layer), *sharding, layer["initialization"]))
    rows.append(("total", "", "", *_counts(total), "", "", ""))
    data = "all devices" if mesh["data"] == -1 else mesh["data"]
    memory = total["parameter_and_momentum_bytes"] / 2**20
    options = "".join(f", {name}={value!r}" for name, value in summary["options"].items())
    lines = [
        f"{summary['variant']}{options}: {summary['source']}",
        f"towers: {summary['towers']}; {summary['num_classes']} classes; {summary['precision']}; mesh: data={data}, "
        f"tower={mesh['tower']}; {total['parameters_on_device']:,} parameters on each device, {memory:,.1f} MiB with "
        "their momentum buffers",
        "Shapes and counts are for one image and all towers. KiB is a layer's output for one image on each device.",
        "",
        *aligned(rows, right={3, 4, 5, 6}),
        "",
        *(f"Note: {note}" for note in summary["notes"]),
    ]
    return "\n".join(lines).rstrip()


def _counts(counts: Mapping[str, Any]) -> list[str]:
    """Return neurons, parameters, multiply-adds and KiB as cells; counts of 0 are blank."""
    cells = [f"{counts[name]:,}" if counts[name] else "" for name in COUNTS]
    return [*cells, f"{counts['activation_bytes'] / 1024:,.1f}"]


def _kernel_sharding(spec: Sequence[str | None] | None) -> str:
    if spec is None or not any(spec):
        return ""
    return f"{spec[-1]} (outputs)" if spec[-1] else f"{spec[0]} (inputs)"


if __name__ == "__main__":
    cli.run(main)
