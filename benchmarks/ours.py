"""The work of this project's side, through the functions that training and evaluation use themselves."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.statistics import IMAGENET_COLOR_AXES, IMAGENET_COLOR_STD, Statistics
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh, shard_batch
from alexnet_jax.predict_step import create_predict_step
from alexnet_jax.state import TrainState, create_train_state
from alexnet_jax.train import create_train_step
from benchmarks.work import Piece, Work

NUM_STEPS = 1_000_000  # of the training that the steps are taken from: no rate drops while it is timed
STORED_SIZE = 256  # pixels a side of the images that training reads


def config_of(variant: str, batch: int, precision: str, width: float, augmentation: bool) -> Config:
    """The variant's own recipe on one device. `width` multiplies all layers' widths; 1.0 is the published net.

    Without augmentation the step takes images of the size that the net sees, and only converts them to floats and
    subtracts a constant, so that what remains is the work of a peer that is handed finished floats.
    """
    config: Config = importlib.import_module(f"configs.{variant}").get_config()
    config.batch_size = batch
    config.precision = precision
    config.model.conv_width = config.model.fc_width = width
    config.mesh.data = config.mesh.tower = 1
    if not augmentation:
        config.data.flip = False
        config.data.color_noise = "none"
        config.data.mean = "channel"
    return config


def random_batch(config: Config, mesh: Mesh, size: int) -> tuple[dict[str, jax.Array], Statistics]:
    """A batch of noise on the device, and statistics to go with images of this size."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8)
    labels = random.integers(0, config.model.num_classes, config.batch_size, dtype=np.int32)
    examples = shard_batch(mesh, {"image": images, "label": labels})
    return examples, jax.device_put(statistics(size), NamedSharding(mesh, P()))


def statistics(size: int) -> Statistics:
    """Statistics like ImageNet's, for images of this size."""
    return Statistics(
        mean_image=np.full((size, size, 3), 120.0, np.float32),
        color_std=np.array(IMAGENET_COLOR_STD, np.float32),
        color_axes=np.array(IMAGENET_COLOR_AXES, np.float32),
    )


def training(
    variant: str, batch: int, precision: str, width: float, augmentation: bool
) -> tuple[Any, TrainState, dict[str, jax.Array], Statistics]:
    """The step as training compiles it, and its three arguments: state, batch and statistics."""
    config = config_of(variant, batch, precision, width, augmentation)
    mesh = create_mesh(config)
    optimizer = create_optimizer(config, NUM_STEPS)
    state = create_train_state(config, optimizer, mesh)
    step = create_train_step(config, optimizer, mesh, NUM_STEPS)
    examples, measured = random_batch(config, mesh, STORED_SIZE if augmentation else config.model.image_size)
    return step, state, examples, measured


def train_step(variant: str, batch: int, precision: str, width: float, augmentation: bool) -> Work:
    """The whole step: augmentation, forward, backward, update; one batch over and over."""
    step, state, examples, measured = training(variant, batch, precision, width, augmentation)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = step(state, examples, measured)
        jax.block_until_ready((state, metrics))

    return Work({"training": run}, facts())


def predict_step(variant: str, batch: int, precision: str, width: float) -> Work:
    """The center view's log-probabilities, as evaluation computes them."""
    config = config_of(variant, batch, precision, width, augmentation=False)
    mesh = create_mesh(config)
    state = create_train_state(config, create_optimizer(config, NUM_STEPS), mesh)
    step = create_predict_step(config, mesh, views=1)
    examples, measured = random_batch(config, mesh, config.model.image_size)
    params = state.params
    return Work({"inference": repeated(lambda: step(params, measured, examples["image"]))}, facts())


def matmul(size: int, precision: str) -> Work:
    """The product of two square matrices: what the hardware can do, to compare with."""
    left, right = noise((size, size), precision, seed=0), noise((size, size), precision, seed=1)
    product = compiled(jnp.dot)
    return Work({"matmul": repeated(lambda: product(left, right))}, facts())


def forward_and_backward(
    name: str, function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], precision: str
) -> dict[str, Piece]:
    """Two pieces: the function of an array of noise, and the function with its gradient for a cotangent of noise."""

    def with_gradient(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, backward = jax.vjp(function, x)
        return y, backward(cotangent)[0]

    x = noise(shape, precision, seed=0)
    cotangent = noise(jax.eval_shape(function, x).shape, precision, seed=1)
    forward = compiled(function)
    both = compiled(with_gradient)
    return {
        f"{name}, forward": repeated(lambda: forward(x)),
        f"{name}, forward and backward": repeated(lambda: both(x, cotangent)),
    }


def noise(shape: tuple[int, ...], precision: str, seed: int) -> jax.Array:
    """Normally distributed numbers."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.dtype(precision))


def compiled(function: Callable) -> Callable:
    """Compiled with the options that the training step has."""
    return jax.jit(function, compiler_options=runtime.compiler_options())


def repeated(function: Any) -> Any:
    """The piece of work that calls the function so many times and waits for the last result."""

    def run(calls: int) -> None:
        for _ in range(calls):
            result = function()
        jax.block_until_ready(result)

    return run


def facts() -> dict[str, Any]:
    """The device, and what the program set for itself."""
    return {"device": jax.devices()[0].device_kind, "tuning": runtime.tuning_in_words()}
