"""Write a trained net for other programs: plain arrays, torchvision's state dict, or the whole computation."""

import importlib.util
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


def export(net: RestoredNet, form: str, path: Path) -> list[str]:
    """Write the file, whole or not at all, and return lines that describe it.

    `form` is "npz", "torchvision" (a `.pth`), "safetensors" (the same tensors), "stablehlo" or "onnx". UserError if the
    net has no such form, a package is missing, or the file can't be written.
    """
    with writing(str(path)):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the file to write.")
    data = _serialize(net, form)
    with writing(str(path)), atomic(path) as unfinished:
        unfinished.write_bytes(data)
    return [f"{path}: step {net.step:,} of {net.folder}, {len(data):,} bytes", _describe_input(net, form)]


def _serialize(net: RestoredNet, form: str) -> bytes:
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
            return _stablehlo(net, params)
        case "onnx":
            if importlib.util.find_spec("onnx") is None:
                raise UserError("An ONNX graph needs a package that training does not: pip install onnx.")
            from alexnet_jax.convert.onnx_graph import build_model

            graph = build_model(net.config, net.model.net, net.dataset_info, _channels_first(net.config, params))
            return graph.SerializeToString()
    raise ValueError(f"unknown form {form!r}")


def _describe_input(net: RestoredNet, form: str) -> str:
    """Return a line about the images that the exported net takes."""
    size, statistics, std = net.config.model.image_size, net.dataset_info.statistics, net.config.data.std
    if form in ("stablehlo", "onnx"):
        return (
            f"input: uint8 [batch, {size}, {size}, 3], red first, the centers of images whose shorter side is "
            f"{statistics.image_size}; output: probabilities [batch, {net.config.model.num_classes}]"
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


def _stablehlo(net: RestoredNet, params: Params) -> bytes:
    """Return the net as `jax.export` serializes it: StableHLO with the weights inside, for a batch of any size."""
    data, size = net.config.data, net.config.model.image_size

    def probabilities(images: jax.Array) -> jax.Array:
        views = center_view(images, net.dataset_info.statistics, image_size=size, mean=data.mean, std=data.std)
        logits: Any = net.model.apply({"params": params}, views)
        return jax.nn.softmax(logits)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    return bytes(jax.export.export(jax.jit(probabilities), platforms=_PLATFORMS)(images).serialize())
