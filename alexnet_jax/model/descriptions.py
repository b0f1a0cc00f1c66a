"""Layers in words, for `alexnet_jax.summary` and `docs/variants.md`."""

import math

from alexnet_jax.model import layers


def describe(shape: layers.LayerShape, towers: int) -> str:
    """Describe a layer in a few words, with all its constants."""
    layer = shape.layer
    match layer:
        case layers.Convolution():
            kernel = "x".join(map(str, (shape.kernel_shape or ())[:3]))
            stride = f", stride {layer.stride}" if layer.stride > 1 else ""
            return f"{layer.features} kernels {kernel}{stride}, {describe_padding(layer)}{_input_towers(layer, towers)}"
        case layers.LocallyConnected():
            window = f"{layer.kernel}x{layer.kernel}x{shape.input_shape[-1]}"
            return f"{layer.features} kernels {window} at each place, padding {layer.padding}"
        case layers.Dense():
            return f"{layer.features} units{_input_towers(layer, towers)}"
        case layers.Classifier():
            return f"{shape.output_shape[0]} classes{', sees both towers' if towers > 1 else ''}"
        case layers.Activation():
            return {"relu": "ReLU", "tanh": "tanh"}[layer.function]
        case layers.ResponseNorm():
            alpha = f"{layer.alpha:g}/{layer.size}" if layer.divided else f"{layer.alpha:g}"
            where = "" if towers == 1 else ", within a tower" if layer.across == "tower" else ", across the towers"
            return f"LRN over {layer.size} channels, k={layer.k:g}, alpha={alpha}, beta={layer.beta:g}{where}"
        case layers.MapNorm():
            alpha = f"{layer.alpha:g}/{layer.size**2}"
            return f"norm over {layer.size}x{layer.size} pixels, k={layer.k:g}, alpha={alpha}, beta={layer.beta:g}"
        case layers.MaxPool():
            return f"max of {layer.window}x{layer.window}, stride {layer.stride}"
        case layers.Dropout():
            scaling = "times {:g} at test" if layer.kind == "original" else "divided by {:g} in training"
            return f"dropout, keeps {layer.keep:g}, {scaling.format(layer.keep)}"


def describe_padding(layer: layers.Convolution) -> str:
    """Describe the padding of a convolution in a few words."""
    before, after = layer.padding
    if before == after:
        return f"padding {before}" if before else "no padding"
    return f"padding {before} before, {after} after"


def _input_towers(layer: layers.Convolution | layers.Dense, towers: int) -> str:
    if towers == 1 or layer.sees == "image":
        return ""
    return ", sees both towers" if layer.sees == "all" else ", sees its own tower"


def describe_initialization(shape: layers.LayerShape) -> str:
    """Describe how kernels and biases are initialized; "" for a layer without parameters."""
    layer, kernel_shape = shape.layer, shape.kernel_shape or ()
    if not isinstance(layer, layers.Convolution | layers.LocallyConnected | layers.Dense | layers.Classifier):
        return ""
    fan_in = kernel_shape[-2] if isinstance(layer, layers.LocallyConnected) else math.prod(kernel_shape[:-1])
    match layer.kernel_init:
        case layers.Gaussian(std):
            kernel = f"Gaussian {std:g}"
        case layers.He():
            kernel = f"Gaussian {math.sqrt(2 / fan_in):.4f}"
        case layers.FanInUniform():
            kernel = f"uniform +-{fan_in**-0.5:.4f}"
    bias = "the same" if isinstance(layer.bias_init, layers.FanInUniform) else f"{layer.bias_init:g}"
    return f"{kernel}, biases {bias}"
