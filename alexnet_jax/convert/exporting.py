"""Write a trained net for other programs: plain arrays, torchvision's state dict, or the whole computation."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from alexnet_jax.config import Config
from alexnet_jax.convert import formats, record
from alexnet_jax.convert.layout import Arrays, Params, parameter_shapes, to_weight
from alexnet_jax.convert.numpy_files import to_npz
from alexnet_jax.data.augmentation import center_view
from alexnet_jax.errors import UserError
from alexnet_jax.files import atomic, writing
from alexnet_jax.model import layers
from alexnet_jax.model.variants import TORCHVISION
from alexnet_jax.run.restore import RestoredNet

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_TORCHVISION_SIDE = 6  # pixels that torchvision's `AdaptiveAvgPool2d` brings the last maps to


def export(net: RestoredNet, form: str, path: Path, batch: int | None = None, opset: int | None = None) -> list[str]:
    """Write the file, whole or not at all, and return lines that describe it.

    Args:
      net: what to write.
      form: "npz", "torchvision" (a `.pth`), "safetensors" (the same tensors), "stablehlo" or "onnx".
      path: the file. StableHLO in a `.mlir` is the program alone, for other compilers; else as `jax.export` has it.
      batch: how many images "stablehlo" and "onnx" take; None is any number.
      opset: version of ONNX's operators, 9 to 21; None is the usual one.

    Raises:
      UserError: the net has no such form, a package is missing, or the file can't be written.
    """
    with writing(str(path)):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the file to write.")
    data = _serialize(net, form, path, batch, opset)
    with writing(str(path)), atomic(path) as unfinished:
        unfinished.write_bytes(data)
    return [f"{path}: step {net.step:,} of {net.folder}, {len(data):,} bytes", _describe_input(net, form, batch)]


def _serialize(net: RestoredNet, form: str, path: Path, batch: int | None, opset: int | None) -> bytes:
    """Return the content of the file; UserError if the net has no such form, or a package is missing."""
    params: Params = jax.device_get(net.params)
    text = record.write(net.config, net.dataset_info)
    match form:
        case "npz":
            return to_npz(flatten_dict(params, sep="/"), text)
        case "torchvision" | "safetensors":
            _check_torchvision(net.config, net.model.net)
            to_state_dict = formats.to_pth if form == "torchvision" else formats.to_safetensors
            return to_state_dict(_channels_first(net.config, params), text)
        case "stablehlo":
            if path.suffix == ".mlir":  # for one platform: a program for several has the platform as another input
                return _exported(net, params, batch, _PLATFORMS[:1]).mlir_module_serialized
            return bytes(_exported(net, params, batch, _PLATFORMS).serialize())
        case "onnx":
            if importlib.util.find_spec("onnx") is None:
                raise UserError("An ONNX graph needs a package that training does not: pip install onnx.")
            from alexnet_jax.convert.onnx_graph import OPSET, build_model

            weights = _channels_first(net.config, params)
            graph = build_model(net.config, net.model.net, net.dataset_info, weights, opset or OPSET, batch)
            return graph.SerializeToString()
    raise ValueError(f"unknown form {form!r}")


def _describe_input(net: RestoredNet, form: str, batch: int | None) -> str:
    """Return a line about the images that the exported net takes."""
    size, statistics, std = net.config.model.image_size, net.dataset_info.statistics, net.config.data.std
    if form in ("stablehlo", "onnx"):
        return (
            f"input: uint8 [{batch or 'batch'}, {size}, {size}, 3], red first, the views that predict cuts; output: "
            f"probabilities [{batch or 'batch'}, {net.config.model.num_classes}]"
        )
    mean = ", ".join(f"{value:.3f}" for value in statistics.mean_image.mean(axis=(0, 1), dtype=float))
    divided = f", divided by {', '.join(f'{value:.3f}' for value in std)}" if std else ""
    return f"input: {size} x {size} pixels of 0 to 255, red first, minus their mean ({mean} over the image){divided}"


def _channels_first(config: Config, params: Params) -> Arrays:
    """Return the parameters in other frameworks' order, by layer: "conv1/weight", "conv1/bias", ..."""
    weights: dict[str, Any] = {}
    for name, shape in parameter_shapes(config).items():
        if not isinstance(shape.layer, layers.LocallyConnected):
            kernel, bias = params[name]["kernel"], params[name]["bias"]
            weights |= {f"{name}/weight": to_weight(kernel, shape), f"{name}/bias": bias}
    return weights


def _check_torchvision(config: Config, net: layers.Net) -> None:
    """Raise UserError unless torchvision's AlexNet computes the same, apart from widths."""
    reason = ""
    if net.towers != TORCHVISION.towers or _computation(net) != _computation(TORCHVISION):
        reason = "it has other layers (towers, normalization, padding or dropout)"
    elif (side := parameter_shapes(config)["fc6"].input_shape[0]) != _TORCHVISION_SIDE:
        reason = f"its fc6 sees maps of {side} pixels a side, not of {_TORCHVISION_SIDE}"
    if reason:
        raise UserError(
            f"torchvision's AlexNet can't hold {config.model.variant!r} as configured: {reason}; export as npz, onnx "
            "or stablehlo."
        )


def _computation(net: layers.Net) -> list[Any]:
    """Return the layers in a form that is equal for nets that differ only in widths, initializers and decay."""
    ignored = dict.fromkeys(("features", "kernel_init", "bias_init", "decay"))
    return [(type(layer), vars(layer) | ignored) for layer in net.layers]


def _exported(net: RestoredNet, params: Params, batch: int | None, platforms: Sequence[str]) -> jax.export.Exported:
    """Return StableHLO for images, uint8 [batch, S, S, 3] -> probabilities, with the weights inside."""
    data, size = net.config.data, net.config.model.image_size

    def probabilities(images: jax.Array) -> jax.Array:
        views = center_view(images, net.dataset_info.statistics, image_size=size, mean=data.mean, std=data.std)
        logits: Any = net.model.apply({"params": params}, views)
        return jax.nn.softmax(logits)

    rows = batch or jax.export.symbolic_shape("batch")[0]
    images = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8)
    return jax.export.export(jax.jit(probabilities), platforms=platforms)(images)
