"""What happens inside a trained net, as compiled programs over the mesh: outputs of layers, and gradients of units."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import center_view
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Activation, Net, layer_shapes
from alexnet_jax.parallel.mesh import platform_of
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS
from alexnet_jax.state import on_mesh, params_specs

IMAGE = "image"  # what a gradient may be taken with respect to, besides a layer


def create_feature_step(config: Config, model: AlexNet, mesh: Mesh, layers: Sequence[str]) -> Callable:
    """Compile (params, statistics, images) -> {layer: its outputs for the central view}, float32, at test time.

    [B, H, W, C] or [B, units] over all towers. What follows the last of the layers is not computed.
    """
    device_model = on_mesh(model, config, mesh)
    size, mean, std = config.model.image_size, config.data.mean, config.data.std

    def feature_step(params: Any, statistics: Statistics, images: jax.Array) -> dict[str, jax.Array]:
        views = center_view(images, statistics, image_size=size, mean=mean, std=std)
        _, variables = device_model.apply({"params": params}, views, mutable="intermediates")
        outputs = variables["intermediates"]["outputs"][0]
        return {layer: outputs[layer].astype(jnp.float32) for layer in layers}

    def spec(layer: str) -> P:
        channels = None if layer == model.net.layers[-1].name else TOWER_AXIS  # logits are the sum of both towers'
        return P(DATA_AXIS, *[None] * (len(feature_shape(config, model.net, layer)) - 1), channels)

    in_specs = (params_specs(config, model, mesh), P(), P(DATA_AXIS))
    out_specs = {layer: spec(layer) for layer in layers}
    step = jax.shard_map(feature_step, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    return jax.jit(step, compiler_options=runtime.compiler_options(platform_of(mesh)))


def create_gradient_step(config: Config, model: AlexNet, mesh: Mesh, of: str, wrt: str) -> Callable:
    """Compile (params, statistics, unit, images) -> the gradient of a unit of `of` with respect to `wrt`, float32.

    The unit is a place in the flat output of the layer `of`; the gradient has the shape of what `wrt` names: a layer's
    outputs, [B, ...], or IMAGE, on the scale of its pixels. For towers that are on one device. UserError if there is
    no such layer, or `wrt` is not below `of`.
    """
    layers, size, data = model.net.layers, config.model.image_size, config.data
    end = model.net.names.index(checked(model.net, of, "of")) + 1
    start = 0 if wrt == IMAGE else model.net.names.index(checked(model.net, wrt, "wrt")) + 1
    if start >= end:
        raise UserError(f"wrt={wrt!r} is not below of={of!r}, so it has no influence; take a layer before it.")
    below, above = (
        model.clone(net=dataclasses.replace(model.net, layers=part)) for part in (layers[:start], layers[start:end])
    )

    def gradient_step(params: Any, statistics: Statistics, unit: jax.Array, images: jax.Array) -> jax.Array:
        def seen(pixels: jax.Array) -> jax.Array:
            return center_view(pixels, statistics, image_size=size, mean=data.mean, std=data.std)

        def activation(x: jax.Array) -> jax.Array:
            output: Any = above.apply({"params": params}, seen(x) if wrt == IMAGE else x)
            return output.reshape(len(x), -1)[:, unit].astype(jnp.float32).sum()  # no image influences another

        x: Any = images.astype(jnp.float32) if wrt == IMAGE else below.apply({"params": params}, seen(images))
        return jax.grad(activation)(x).astype(jnp.float32)

    # No shard_map: no image or device influences another, so the compiler splits the batch as it comes.
    return jax.jit(gradient_step, compiler_options=runtime.compiler_options(platform_of(mesh)))


def feature_shape(config: Config, net: Net, layer: str) -> tuple[int, ...]:
    """Return the shape of a layer's output for one image, [H, W, C] or [units]; UserError if there is no such layer."""
    checked(net, layer)
    shapes = layer_shapes(net, config.model.image_size, config.model.num_classes)
    return next(shape.output_shape for shape in shapes if shape.layer.name == layer)


def following_nonlinearity(net: Net, layer: str) -> str | None:
    """Return the nonlinearity that follows a layer directly, if one does: relu7 after fc7."""
    following = dict(zip(net.names, net.layers[1:], strict=False)).get(layer)
    return following.name if isinstance(following, Activation) else None


def checked(net: Net, layer: str, argument: str = "layer") -> str:
    """Return the name of a layer; UserError if the net has no such layer. `argument` is what gives it."""
    if layer not in net.names:
        raise UserError(f"{argument}={layer!r} is not a layer of this net; its layers are {', '.join(net.names)}.")
    return layer
