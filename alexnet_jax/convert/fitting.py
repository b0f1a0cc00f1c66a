"""From a file's arrays to a net's parameters: whether they fit, which published net they would fit, and the fit."""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.convert.layout import Arrays, red_first, to_kernel, weight_shape
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import Classifier, LayerShape, LocallyConnected, layer_shapes
from alexnet_jax.model.variants import VARIANTS

Params = dict[str, dict[str, np.ndarray]]  # as the model has them: {"conv1": {"kernel", "bias"}, ...}


class Fitted(NamedTuple):
    """What of a file fits into a net: its layers' parameters, the net's other layers, the file's other arrays."""

    params: Params
    missing: tuple[str, ...]
    left_out: tuple[str, ...]


def recipe(variant: str) -> Config:
    """The config of a published net: `configs/<variant>.py`; UserError if there is no such net."""
    if variant not in VARIANTS:
        raise UserError(f"--variant={variant} is unknown; allowed: {', '.join(VARIANTS)}.")
    return importlib.import_module(f"configs.{variant}").get_config()


def num_classes_in(arrays: Arrays) -> int:
    """How many classes the arrays' classifier has; the published 1000 if they hold none."""
    bias = arrays.get(f"{Classifier.name}/bias")
    return bias.size if bias is not None and bias.size > 1 else 1000


def fitting_variants(arrays: Arrays) -> list[str]:
    """The published nets that have all of these arrays, with these shapes."""
    fitting = []
    for variant in VARIANTS:
        config = recipe(variant)
        config.model.num_classes = num_classes_in(arrays)
        expected = _expected_shapes(_shapes(config))
        if arrays and all(array.shape == expected.get(name) for name, array in arrays.items()):
            fitting.append(variant)
    return fitting


def guess_variant(arrays: Arrays, path: Path) -> str:
    """The only published net that the arrays fit; UserError if there is none or a choice."""
    fitting = fitting_variants(arrays)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{path} fits several nets, which differ in more than their weights' shapes; say which it is with "
            f"--variant={'|'.join(fitting)}."
        )
    there = ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:3])
    raise UserError(
        f"{path} fits none of the published nets (it holds {there}, ...); say what it is with --variant, one of "
        f"{', '.join(VARIANTS)}, or with --config for one with other widths."
    )


def fit(arrays: Arrays, config: Config, path: Path, bgr: bool) -> Fitted:
    """The arrays as parameters of the config's net, float32; `bgr`: images had blue first where they were trained.

    UserError if one has another shape there, or holds numbers that are not finite.
    """
    shapes = _shapes(config)
    expected = _expected_shapes(shapes)
    for name, array in arrays.items():
        if name in expected and array.shape != expected[name]:
            raise UserError(_misfit(arrays, config, path, name, expected[name]))
        if not np.issubdtype(array.dtype, np.inexact) and array.dtype.name != "bfloat16":
            raise UserError(f"{path}: {name} holds {array.dtype} where weights are floating-point numbers.")
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite; a net with them gives no answers.")
    params: Params = {}
    used: set[str] = set()
    for layer, shape in shapes.items():
        kernel, bias = f"{layer}/kernel", f"{layer}/bias"
        weight = f"{layer}/weight"
        if bias not in arrays or (kernel not in arrays and weight not in arrays):
            continue
        if kernel in arrays:
            values = arrays[kernel]
            used |= {kernel, bias}
        else:
            values = to_kernel(arrays[weight], shape)
            used |= {weight, bias}
        if bgr:
            values = red_first(values, shape)
        params[layer] = {"kernel": values.astype(np.float32), "bias": arrays[bias].astype(np.float32)}
    missing = tuple(layer for layer in shapes if layer not in params)
    return Fitted(params, missing, tuple(name for name in arrays if name not in used))


def _shapes(config: Config) -> dict[str, LayerShape]:
    """The layers with parameters, by name."""
    shapes = layer_shapes(build_net(config.model), config.model.image_size, config.model.num_classes)
    return {shape.layer.name: shape for shape in shapes if shape.kernel_shape}


def _expected_shapes(shapes: dict[str, LayerShape]) -> dict[str, tuple[int, ...]]:
    """The shape of every array that a file may hold, kernels in both forms."""
    expected: dict[str, tuple[int, ...]] = {}
    for layer, shape in shapes.items():
        assert shape.kernel_shape is not None
        expected |= {f"{layer}/kernel": shape.kernel_shape, f"{layer}/bias": shape.bias_shape}
        if not isinstance(shape.layer, LocallyConnected):  # others' formats have none
            expected[f"{layer}/weight"] = weight_shape(shape)
    return expected


def _misfit(arrays: Arrays, config: Config, path: Path, name: str, expected: tuple[int, ...]) -> str:
    """The sentence for an array of another shape."""
    num_classes = num_classes_in(arrays)
    if name.startswith(f"{Classifier.name}/") and num_classes != config.model.num_classes:
        return (
            f"{path} has {num_classes} classes and config.model.num_classes={config.model.num_classes}; make them the "
            "same."
        )
    fitting = fitting_variants(arrays)
    hint = f"it fits --variant={'|'.join(fitting)}" if fitting else "it fits none of the published nets"
    there = list(arrays[name].shape)
    return f"{path}: {name} is {there} there and {list(expected)} in {config.model.variant!r}; {hint}."
