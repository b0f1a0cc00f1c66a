"""The net of a run: a published variant, with the paper's ablations and reduced widths applied to its data.

Every option of `ModelConfig` other than the variant is one small function from a `Net` to a `Net`. An option that the
variant does not have raises `ContradictionError`.
"""

import dataclasses
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alexnet_jax.model import layers
from alexnet_jax.model.cifar import CIFAR_NETS
from alexnet_jax.model.variants import VARIANTS

if TYPE_CHECKING:
    from alexnet_jax.config import ModelConfig


NETS: dict[str, layers.Net] = {**VARIANTS, **CIFAR_NETS}  # all that `model.variant` can name


class ContradictionError(ValueError):
    """An option that the chosen variant does not have; the message names both."""


def build_net(model: "ModelConfig") -> layers.Net:
    """Build the net that `model` describes.

    Raises:
      ContradictionError: the variant is unknown, or has no place for one of the options.
    """
    if model.variant not in NETS:
        near = difflib.get_close_matches(model.variant, NETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ContradictionError(f"model.variant={model.variant!r} is unknown; allowed: {', '.join(NETS)}.{hint}")
    net = NETS[model.variant]
    try:
        if model.without != "nothing":
            net = without_convolution(net, model.without)
        if model.normalization != "published":
            net = keep_normalization(net, model.normalization)
        if model.second_normalization == "before_relu":
            net = second_normalization_before_relu(net)
        if model.pooling == "non_overlapping":
            net = non_overlapping_pooling(net)
        if model.activation != "relu":
            net = with_activation(net, model.activation)
        if model.dropout != "published":
            net = with_dropout(net, model.dropout)
    except ContradictionError as error:
        raise ContradictionError(f"model.variant={model.variant!r} contradicts {error}") from None
    net = scaled(net, model.conv_width, model.fc_width)
    return he_initialized(net) if model.initialization == "he" else net


def without_convolution(net: layers.Net, name: str) -> layers.Net:
    """Drop one of the middle convolutions and its nonlinearity (paper section 7: about 2 % top-1 worse)."""
    if name not in net.names:
        raise ContradictionError(f"model.without={name!r}: this variant has no such layer")
    position = net.names.index(name)
    return dataclasses.replace(net, layers=net.layers[:position] + net.layers[position + 2 :])


def keep_normalization(net: layers.Net, kept: str) -> layers.Net:
    """Keep the response normalization of the "first" or the "second" layer, or "none".

    [CODE] #148 removes all of it (the paper's -1.4 / -1.2 %), #167 both norms of the second layer.
    """
    if "norm1" not in net.names:
        raise ContradictionError(f"model.normalization={kept!r}: this variant has no response normalization")
    dropped = {"none": ("norm1", "norm2", "mapnorm2"), "first": ("norm2", "mapnorm2"), "second": ("norm1",)}[kept]
    return dataclasses.replace(net, layers=tuple(layer for layer in net.layers if layer.name not in dropped))


def second_normalization_before_relu(net: layers.Net) -> layers.Net:
    """Move the second layer's normalization before its nonlinearity ([CODE] #166: 41.10 / 18.67 %)."""
    names = net.names
    if "norm2" not in names or names.index("norm2") != names.index("relu2") + 1:
        raise ContradictionError(
            "model.second_normalization='before_relu': it needs a second normalization that follows relu2"
        )
    reordered = list(net.layers)
    position = names.index("relu2")
    end = position + 1
    while isinstance(reordered[end], layers.ResponseNorm | layers.MapNorm):
        end += 1
    reordered[position:end] = [*reordered[position + 1 : end], reordered[position]]
    return dataclasses.replace(net, layers=tuple(reordered))


def non_overlapping_pooling(net: layers.Net) -> layers.Net:
    """Pool 2x2 windows every 2 pixels, conv2 padded by 1 and conv5 by 0 ([CODE] layers-147.cfg: 55-28-26-13-11-6)."""
    if "conv5" not in net.names:
        raise ContradictionError("model.pooling='non_overlapping': published for nets with five convolutions only")

    def change(layer: layers.Layer) -> layers.Layer:
        match layer:
            case layers.MaxPool():
                return dataclasses.replace(layer, window=2, stride=2, ceil=True)
            case layers.Convolution(name="conv2"):
                return dataclasses.replace(layer, padding=(1, 1))
            case layers.Convolution(name="conv5"):
                return dataclasses.replace(layer, padding=(0, 0))
        return layer

    return dataclasses.replace(net, layers=tuple(map(change, net.layers)))


def with_activation(net: layers.Net, function: str) -> layers.Net:
    """Use another nonlinearity everywhere (paper section 3.1)."""
    return _replace_each(net, layers.Activation, lambda layer: dataclasses.replace(layer, function=function))


def with_dropout(net: layers.Net, kind: str) -> layers.Net:
    """Use dropout of the other kind, or "none"."""
    if kind == "none":
        return dataclasses.replace(net, layers=tuple(x for x in net.layers if not isinstance(x, layers.Dropout)))
    return _replace_each(net, layers.Dropout, lambda layer: dataclasses.replace(layer, kind=kind))


def scaled(net: layers.Net, conv_width: float, fc_width: float) -> layers.Net:
    """Give the net fewer (or more) kernels and units; each layer keeps at least one per tower."""

    def scale(features: int, width: float) -> int:
        return max(1, round(features * width / net.towers)) * net.towers

    net = _replace_each(
        net,
        layers.Convolution | layers.LocallyConnected,
        lambda layer: dataclasses.replace(layer, features=scale(layer.features, conv_width)),
    )
    return _replace_each(
        net, layers.Dense, lambda layer: dataclasses.replace(layer, features=scale(layer.features, fc_width))
    )


def he_initialized(net: layers.Net) -> layers.Net:
    """Draw hidden kernels with standard deviation sqrt(2 / fan-in), close to the published constants at full width.

    The kernels on the image stay as published: it has three channels however narrow the net is, and with pixels of
    0 to 255, kernels six times as large are too much for the learning rate. So does the classifier: with larger
    kernels the first logits are so far apart that the first steps silence the units below, with some seeds for good.
    """

    def change(layer: layers.Layer) -> layers.Layer:
        match layer:
            case layers.Convolution(sees="image") | layers.Classifier():
                return layer
            case layers.Convolution() | layers.LocallyConnected() | layers.Dense():
                return dataclasses.replace(layer, kernel_init=layers.He())
        return layer

    return dataclasses.replace(net, layers=tuple(map(change, net.layers)))


def _replace_each(net: layers.Net, kind: Any, change: Callable) -> layers.Net:
    """Apply `change` to each layer of this kind."""
    return dataclasses.replace(net, layers=tuple(change(x) if isinstance(x, kind) else x for x in net.layers))
