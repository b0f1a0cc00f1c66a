"""The trained net as a compiled program over the mesh: images to probabilities."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import center_view, several_views
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.parallel.mesh import platform_of
from alexnet_jax.parallel.towers import DATA_AXIS
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
