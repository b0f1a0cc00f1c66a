"""A trained net for other programs: plain arrays, torchvision's state dict, or the whole computation."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.config import Config
from alexnet_jax.convert.fitting import Params
from alexnet_jax.convert.layout import Arrays, to_weight
from alexnet_jax.convert.npz import write_npz
from alexnet_jax.convert.torchvision import SUFFIXES, write_state_dict
from alexnet_jax.data.augmentation import center_view
from alexnet_jax.errors import UserError
from alexnet_jax.files import writing
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import Classifier, Convolution, Dense, Gaussian, Layer, LocallyConnected, layer_shapes
from alexnet_jax.model.variants import TORCHVISION
from alexnet_jax.restore import RestoredNet
from alexnet_jax.state import create_model

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_TORCHVISION_SIDE = 6  # pixels that torchvision's `AdaptiveAvgPool2d` brings the last maps to


def export(net: RestoredNet, form: str, path: Path) -> list[str]:
    """Writes the file, whole or not at all, and returns what is worth telling, a line each.

    `form` is "npz", "torchvision", "stablehlo" or "onnx". UserError if the net has no such form, or the file can't be
    written.
    """
    if form == "torchvision":
        _check_torchvision(net.config, path)
    if path.is_dir():
        raise UserError(f"--output={path} is a folder; give the file to write.")
    params: Params = jax.device_get(net.params)
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    with writing(f"--output={path}"):
        try:
            match form:
                case "npz":
                    write_npz(
                        {f"{layer}/{kind}": array for layer, of in params.items() for kind, array in of.items()},
                        unfinished,
                    )
                case "torchvision":
                    write_state_dict(_weights(net.config, params), unfinished)
                case "stablehlo":
                    unfinished.write_bytes(_stablehlo(net, params))
                case "onnx":
                    unfinished.write_bytes(_onnx(net, params))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return [f"{path}: step {net.step:,} of {net.folder}, {path.stat().st_size:,} bytes", _input_in_words(net, form)]


def _input_in_words(net: RestoredNet, form: str) -> str:
    """What the exported net wants to see."""
    size = net.config.model.image_size
    if form in ("stablehlo", "onnx"):
        return (
            f"input: uint8 [batch, {size}, {size}, 3], red first, the centers of images whose shorter side is "
            f"{net.dataset_info.statistics.image_size}; output: probabilities [batch, {net.config.model.num_classes}]"
        )
    mean = ", ".join(f"{value:.3f}" for value in net.dataset_info.statistics.mean_image.mean(axis=(0, 1), dtype=float))
    divided = (
        f", divided by {', '.join(f'{value:.3f}' for value in net.config.data.std)}" if net.config.data.std else ""
    )
    return f"input: {size} x {size} pixels of 0 to 255, red first, less their mean ({mean} over the image){divided}"


def _weights(config: Config, params: Params) -> Arrays:
    """The parameters with channels first: "conv1/weight", "conv1/bias", ..."""
    weights = {}
    for shape in layer_shapes(build_net(config.model), config.model.image_size, config.model.num_classes):
        if shape.kernel_shape and not isinstance(shape.layer, LocallyConnected):
            name = shape.layer.name
            weights[f"{name}/weight"] = to_weight(params[name]["kernel"], shape)
            weights[f"{name}/bias"] = params[name]["bias"]
    return weights


def _check_torchvision(config: Config, path: Path) -> None:
    """UserError unless torchvision's AlexNet computes the same, apart from widths, and the suffix says how to write."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output={path} must end in {' or '.join(SUFFIXES)}: the two forms of a state dict.")
    net = build_net(config.model)
    if net.towers != TORCHVISION.towers or _shape_of(net.layers) != _shape_of(TORCHVISION.layers):
        raise UserError(
            f"--export=torchvision: torchvision's AlexNet can't hold {config.model.variant!r} as it is configured, "
            "which has other layers (towers, normalization, padding or dropout); use npz, onnx or stablehlo."
        )
    last = next(shape for shape in layer_shapes(net, config.model.image_size, 1) if isinstance(shape.layer, Dense))
    if last.input_shape[0] != _TORCHVISION_SIDE:
        raise UserError(
            f"--export=torchvision: {last.layer.name} sees maps of {last.input_shape[0]} pixels a side, but in "
            f"torchvision's AlexNet always of {_TORCHVISION_SIDE}; use npz, onnx or stablehlo."
        )


def _shape_of(layers: tuple[Layer, ...]) -> list[Layer]:
    """The layers without what only widths and starting values change."""
    plain: list[Layer] = []
    for layer in layers:
        match layer:
            case Convolution() | Dense():
                plain.append(dataclasses.replace(layer, features=0, kernel_init=Gaussian(0.0), bias_init=0.0))
            case Classifier():
                plain.append(Classifier(layer.name))
            case _:
                plain.append(layer)
    return plain


def _stablehlo(net: RestoredNet, params: Params) -> bytes:
    """The net as `jax.export` serializes it: StableHLO with the weights inside, for a batch of any size."""
    config, size = net.config, net.config.model.image_size
    model = create_model(config)

    def probabilities(images: jax.Array) -> jax.Array:
        views = center_view(
            images, net.dataset_info.statistics, image_size=size, mean=config.data.mean, std=config.data.std
        )
        scores: Any = model.apply({"params": params}, views)
        return jax.nn.softmax(scores)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    return bytes(jax.export.export(jax.jit(probabilities), platforms=_PLATFORMS)(images).serialize())


def _onnx(net: RestoredNet, params: Params) -> bytes:
    if importlib.util.find_spec("onnx") is None:
        raise UserError("--export=onnx needs a package that training does not: pip install onnx.")
    from alexnet_jax.convert.onnx_graph import build_model

    return build_model(net.config, net.dataset_info, _weights(net.config, params)).SerializeToString()
