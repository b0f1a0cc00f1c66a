"""Prints the net of a config layer by layer: shapes, neurons, parameters, multiply-adds, memory, where each part lives.

    python -m alexnet_jax.summary --config=configs/original.py [--json] [--config.section.field=value ...]

Everything follows from the layer list; no device is touched and JAX is not even imported.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import Config, differences
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.descriptions import describe, describe_initialization
from alexnet_jax.model.layers import Classifier, LayerShape, Net, layer_shapes
from alexnet_jax.tables import aligned

_CONFIG = cli.define_config_flag()
_JSON = flags.DEFINE_bool("json", False, "print the summary as one JSON object")
flags.adopt_module_key_flags(cli)

NOT_OPTIONS = ("model.variant", "model.image_size", "model.num_classes")
BYTES = {"float32": 4, "bfloat16": 2}  # of an activation; parameters, velocity and class scores are always float32
FIGURE_2 = (
    "conv1 has 55 x 55 x 96 = 290,400 neurons; the paper's figure 2 misprints 253,440, its other counts are right."
)
TOTAL = 'These 659,272 neurons are the "650,000 neurons" of the paper\'s abstract.'


def main(arguments: Sequence[str]) -> None:
    """Prints the table, or the same as JSON."""
    cli.no_arguments(arguments)
    summary = summarize(cli.the_config(_CONFIG))
    print(json.dumps(summary) if _JSON.value else as_text(summary))


def summarize(config: Config) -> dict[str, Any]:
    """What there is to know of a valid config's net, as JSON-able data.

    Returns:
      "layers", each with "output_shape" (for one image, over all towers), "neurons", "parameters", "multiply_adds"
      (for one image), "activation_bytes" (of its output for one image, on each device), "initialization", and the
      mesh axes over which its output ([B, H, W, C] or [B, units]) and its kernel ([kh, kw, in, out] or [in, out]) are
      split: "output_spec", "kernel_spec"; "total"; "notes"; and the settings all of this follows from.
    """
    net = build_net(config.model)
    shapes = list(layer_shapes(net, config.model.image_size, config.model.num_classes))
    splits = [_split(config, number < net.num_convolutional) for number in range(len(shapes))]
    layers = [
        _summarize_layer(shape, net, split, BYTES[config.precision])
        for shape, split in zip(shapes, splits, strict=True)
    ]
    on_device = sum(_parameters_on_device(shape, split.devices) for shape, split in zip(shapes, splits, strict=True))
    totals = {name: sum(layer[name] for layer in layers) for name in ("neurons", "parameters", "multiply_adds")}
    activation_bytes = sum(layer["activation_bytes"] for layer in layers)
    conv1 = next(layer for layer in layers if layer["name"] == "conv1")
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
        "total": {
            **totals,
            "activation_bytes": activation_bytes,
            "parameters_on_device": on_device,
            "parameter_and_velocity_bytes": 2 * BYTES["float32"] * on_device,
        },
        "notes": [FIGURE_2] * (conv1["neurons"] == 290_400) + [TOTAL] * (totals["neurons"] == 659_272),
    }


class Split(NamedTuple):
    """Over which mesh axis the channels and kernels of a layer are split, over how many devices, and its images."""

    axis: str | None
    devices: int
    images: str | None = "data"


def _split(config: Config, convolutional: bool) -> Split:
    """How a layer is laid out: over towers, or in a hybrid's fully connected part over `data` (`parallel.hybrid`)."""
    mesh = config.mesh
    if convolutional or mesh.fully_connected == "replicated":
        return Split("tower" if mesh.tower > 1 else None, mesh.tower)
    if mesh.data == -1:
        raise UserError(
            f"config.mesh.data=-1 leaves open over how many devices mesh.fully_connected={mesh.fully_connected!r} "
            "splits the units; set it to a number for the summary, for example --config.mesh.data=8."
        )
    return Split("data", mesh.data, images=None)


def _summarize_layer(shape: LayerShape, net: Net, split: Split, activation_bytes: int) -> dict[str, Any]:
    layer = shape.layer
    is_classifier = isinstance(layer, Classifier)
    outputs = math.prod(shape.output_shape)
    return {
        "name": layer.name,
        "description": describe(shape, net.towers),
        "output_shape": list(shape.output_shape),
        "neurons": outputs if shape.kernel_shape else 0,
        "parameters": shape.parameters,
        "multiply_adds": shape.multiply_adds,
        "activation_bytes": outputs * BYTES["float32"]
        if is_classifier
        else outputs // split.devices * activation_bytes,
        "initialization": describe_initialization(shape),
        "output_spec": [split.images, *[None] * (len(shape.output_shape) - 1), None if is_classifier else split.axis],
        "kernel_spec": _kernel_spec(shape, split.axis),
    }


def _kernel_spec(shape: LayerShape, axis: str | None) -> Sequence[str | None] | None:
    """Kernels are split by output, the classifier's by input: `parallel.towers.parameter_specs`."""
    if shape.kernel_shape is None:
        return None
    spec: list[str | None] = [None] * len(shape.kernel_shape)
    spec[0 if isinstance(shape.layer, Classifier) else -1] = axis
    return spec


def _parameters_on_device(shape: LayerShape, devices: int) -> int:
    """Its share of everything but the classifier's biases (`parallel.towers.parameter_specs`)."""
    if shape.kernel_shape is None:
        return 0
    biases = math.prod(shape.bias_shape) // (1 if isinstance(shape.layer, Classifier) else devices)
    return math.prod(shape.kernel_shape) // devices + biases


def as_text(summary: dict[str, Any]) -> str:
    """The table for people."""
    size, total, mesh = summary["image_size"], summary["total"], summary["mesh"]
    header = ("layer", "what", "output", "neurons", "parameters", "multiply-adds", "KiB", "output over", "kernel over")
    rows: list[tuple[str, ...]] = [
        (*header, "starts from"),
        ("image", "", f"{size}x{size}x3", "", "", "", "", "data", "", ""),
    ]
    for layer in summary["layers"]:
        rows.append(
            (
                layer["name"],
                layer["description"],
                "x".join(map(str, layer["output_shape"])),
                *(f"{layer[name]:,}" if layer[name] else "" for name in ("neurons", "parameters", "multiply_adds")),
                f"{layer['activation_bytes'] / 1024:,.1f}",
                ", ".join(axis for axis in layer["output_spec"] if axis),
                _kernel_split_in_words(layer["kernel_spec"]),
                layer["initialization"],
            )
        )
    counts = (f"{total[name]:,}" for name in ("neurons", "parameters", "multiply_adds"))
    rows.append(("total", "", "", *counts, f"{total['activation_bytes'] / 1024:,.1f}", "", "", ""))
    data = "all devices" if mesh["data"] == -1 else mesh["data"]
    memory = total["parameter_and_velocity_bytes"] / 2**20
    options = "".join(f", {name}={value!r}" for name, value in summary["options"].items())
    lines = [
        f"{summary['variant']}{options}: {summary['source']}",
        f"towers: {summary['towers']}; {summary['num_classes']} classes; {summary['precision']}; mesh: data={data}, "
        f"tower={mesh['tower']}; {total['parameters_on_device']:,} parameters on each device, {memory:,.1f} MiB with "
        "their velocity",
        "Shapes and counts are for one image and all towers; KiB are those of a layer's output, for one image, on each "
        "device.",
        "",
        *aligned(rows, right={3, 4, 5, 6}),
    ]
    return "\n".join([*lines, "", *(f"Note: {note}" for note in summary["notes"])]).rstrip()


def _kernel_split_in_words(spec: Sequence[str | None] | None) -> str:
    if spec is None or not any(spec):
        return ""
    return f"{spec[-1]} (outputs)" if spec[-1] else f"{spec[0]} (inputs)"


if __name__ == "__main__":
    cli.run(main)
