"""The trained net as compiled programs over the mesh: images to probabilities, and to the outputs of its layers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import center_view, several_views
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Activation, Convolution, Dense, Net, layer_shapes
from alexnet_jax.parallel.mesh import platform_of
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS
from alexnet_jax.state import on_mesh, params_specs

Predictor = Callable[[jax.Array], jax.Array]  # uint8 images [B, S, S, 3] -> log-probabilities [B, classes]


def create_predict_step(config: Config, model: AlexNet, mesh: Mesh, views: int) -> Callable:
    """Compile (params, statistics, images) -> log-probabilities [B, classes], split over `data`.

    `views` is 1 or 10, of which `config.num_views` are made. The probabilities of several views are averaged, not the
    logits (paper section 4.1; released code, `layer.cu:1804`).
    """
    device_model = on_mesh(model, config, mesh)
    size, flip, mean, std = config.model.image_size, config.data.flip, config.data.mean, config.data.std

    def predict_step(params: Any, statistics: Statistics, images: jax.Array) -> jax.Array:
        if views == 1:
            crops = center_view(images, statistics, image_size=size, mean=mean, std=std)
        else:
            crops = several_views(images, statistics, image_size=size, flip=flip, mean=mean, std=std)
        crops = crops.reshape(-1, size, size, 3)  # [b * views, s, s, 3]
        logits: Any = device_model.apply({"params": params}, crops)  # [b * views, classes]
        log_probabilities = jax.nn.log_softmax(logits).reshape(len(images), -1, logits.shape[-1])
        return mean_of_probabilities(log_probabilities, axis=1)

    specs = params_specs(config, model, mesh)
    step = jax.shard_map(predict_step, mesh=mesh, in_specs=(specs, P(), P(DATA_AXIS)), out_specs=P(DATA_AXIS))
    return jax.jit(step, compiler_options=runtime.compiler_options(platform_of(mesh)))


def mean_of_probabilities(log_probabilities: jax.Array, axis: int) -> jax.Array:
    """Return the logarithm of the mean of probabilities that are given as logarithms."""
    return jax.nn.logsumexp(log_probabilities, axis=axis) - math.log(log_probabilities.shape[axis])


def create_feature_step(config: Config, model: AlexNet, mesh: Mesh, layer: str) -> Callable:
    """Compile (params, statistics, images) -> a layer's outputs for the central view, float32.

    [B, H, W, C] or [B, units] over all towers, at test time. Which output is meant: `output_of`. What follows the
    layer is not computed.
    """
    device_model = on_mesh(model, config, mesh)
    size, mean, std = config.model.image_size, config.data.mean, config.data.std
    output = output_of(model.net, layer)

    def feature_step(params: Any, statistics: Statistics, images: jax.Array) -> jax.Array:
        views = center_view(images, statistics, image_size=size, mean=mean, std=std)
        _, variables = device_model.apply({"params": params}, views, mutable="intermediates")
        return variables["intermediates"]["outputs"][0][output].astype(jnp.float32)

    channels = None if output == model.net.layers[-1].name else TOWER_AXIS  # logits are the sum of both towers'
    inner = [None] * (len(feature_shape(config, model.net, layer)) - 1)
    specs = params_specs(config, model, mesh)
    step = jax.shard_map(
        feature_step, mesh=mesh, in_specs=(specs, P(), P(DATA_AXIS)), out_specs=P(DATA_AXIS, *inner, channels)
    )
    return jax.jit(step, compiler_options=runtime.compiler_options(platform_of(mesh)))


def feature_shape(config: Config, net: Net, layer: str) -> tuple[int, ...]:
    """Return the shape of a layer's output for one image, [H, W, C] or [units]; UserError if there is no such layer."""
    output = output_of(net, layer)
    shapes = layer_shapes(net, config.model.image_size, config.model.num_classes)
    return next(shape.output_shape for shape in shapes if shape.layer.name == output)


def output_of(net: Net, layer: str) -> str:
    """Return the layer whose output is meant by a name: that layer, or the nonlinearity that follows it directly.

    "fc7" is the last 4096-dimensional hidden layer (paper, figure 4), whose units are those behind the nonlinearity;
    Caffe's blobs of these names, overwritten by their ReLU, hold the same. UserError if there is no such layer.
    """
    if layer not in net.names:
        raise UserError(f"layer={layer!r} is not a layer of this net; its layers are {', '.join(net.names)}.")
    index = net.names.index(layer)
    following = net.layers[index + 1] if index + 1 < len(net.layers) else None
    if isinstance(net.layers[index], Convolution | Dense) and isinstance(following, Activation):
        return following.name
    return layer
