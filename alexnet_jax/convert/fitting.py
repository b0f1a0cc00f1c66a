"""Fit a file's arrays to a net's parameters, and find the published nets that they fit."""

import importlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.convert.layout import Arrays, Params, parameter_shapes, red_first, to_kernel, weight_shape
from alexnet_jax.data.class_names import NUM_CLASSES
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import NETS
from alexnet_jax.model.layers import Classifier, LocallyConnected
from alexnet_jax.model.variants import VARIANTS


class Fitted(NamedTuple):
    """The parameters that a file gives a net, the net's layers that it lacks, and its arrays that were not used."""

    params: Params
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def recipe(variant: str) -> Config:
    """Return the config of a published net, `configs/<variant>.py`; UserError if there is no such net."""
    if variant not in NETS:
        raise UserError(f"variant {variant!r} is unknown; allowed: {', '.join(NETS)}.")
    return importlib.import_module(f"configs.{variant}").get_config()


def count_classes(arrays: Arrays, default: int = NUM_CLASSES) -> int:
    """Return the number of classes of the arrays' classifier; `default` if it is not among them."""
    bias = arrays.get(f"{Classifier.name}/bias")
    return bias.size if bias is not None and bias.size > 1 else default


def fitting_variants(arrays: Arrays) -> list[str]:
    """Return the published nets that have all of these arrays, with these shapes."""
    fitting = []
    for variant in VARIANTS:
        config = recipe(variant)
        config.model.num_classes = count_classes(arrays)
        expected = _expected_shapes(config)
        if arrays and all(array.shape == expected.get(name) for name, array in arrays.items()):
            fitting.append(variant)
    return fitting


def guess_variant(arrays: Arrays, path: Path) -> str:
    """Return the only published net that the arrays fit; UserError if they fit none, or several."""
    fitting = fitting_variants(arrays)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{path} fits several nets, which differ in more than the shapes of their weights; give one with "
            f"--variant: {'|'.join(fitting)}."
        )
    examples = ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:3])
    raise UserError(
        f"{path} fits none of the published nets (it holds {examples}, ...); give --variant=NAME "
        f"({', '.join(VARIANTS)}), or --config=FILE for other widths."
    )


def fit(arrays: Arrays, config: Config, path: Path, bgr: bool) -> Fitted:
    """Turn the arrays of a file into float32 parameters of the config's net.

    `bgr` says whether the net was trained on images with blue first. UserError if an array has another shape in this
    net, or holds numbers that are not finite.
    """
    expected = _expected_shapes(config)
    for name, array in arrays.items():
        if name in expected and array.shape != expected[name]:
            raise UserError(_misfit(arrays, config, path, name, expected[name]))
        if not jax.dtypes.issubdtype(array.dtype, np.floating):
            raise UserError(f"{path}: {name} holds {array.dtype}, but weights are floating-point numbers.")
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite; a net can't compute with them.")
    params: Params = {}
    used: set[str] = set()
    shapes = parameter_shapes(config)
    for layer, shape in shapes.items():
        kernel, bias = f"{layer}/kernel", f"{layer}/bias"
        source = kernel if kernel in arrays else f"{layer}/weight"
        if bias not in arrays or source not in arrays or source not in expected:
            continue
        used |= {source, bias}
        values = arrays[source] if source == kernel else to_kernel(arrays[source], shape)
        if bgr:
            values = red_first(values, shape)
        params[layer] = {"kernel": values.astype(np.float32), "bias": arrays[bias].astype(np.float32)}
    missing = tuple(layer for layer in shapes if layer not in params)
    return Fitted(params, missing, tuple(name for name in arrays if name not in used))


def _expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that a file may hold, kernels in both orders."""
    expected: dict[str, tuple[int, ...]] = {}
    for layer, shape in parameter_shapes(config).items():
        assert shape.kernel_shape is not None
        expected |= {f"{layer}/kernel": shape.kernel_shape, f"{layer}/bias": shape.bias_shape}
        if not isinstance(shape.layer, LocallyConnected):  # no other format has these layers
            expected[f"{layer}/weight"] = weight_shape(shape)
    return expected


def _misfit(arrays: Arrays, config: Config, path: Path, name: str, expected: tuple[int, ...]) -> str:
    """Return the error sentence for an array of the wrong shape."""
    num_classes, configured = count_classes(arrays), config.model.num_classes
    if name.startswith(f"{Classifier.name}/") and num_classes != configured:
        return f"{path} has {num_classes} classes, but config.model.num_classes={configured}; make them equal."
    fitting = fitting_variants(arrays)
    hint = f"it fits the variant {'|'.join(fitting)}" if fitting else "it fits none of the published nets"
    shape = list(arrays[name].shape)
    return f"{path}: {name} is {shape}, but {list(expected)} in {config.model.variant!r}; {hint}."
