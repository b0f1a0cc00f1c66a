"""The work of this project, through the functions that training and evaluation use themselves."""

from collections.abc import Callable, Iterable
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
from alexnet_jax.rng import GENERATOR
from alexnet_jax.state import TrainState, create_model, create_train_state
from alexnet_jax.train_step import create_train_step
from benchmarks.nets import net_config
from benchmarks.work import Piece, Work

NUM_STEPS = 1_000_000  # length of the training: the learning rate does not drop while steps are timed
STORED_SIZE = 256  # height and width of the images that training reads


def config_of(variant: str, batch: int, precision: str, width: float, augmentation: bool) -> Config:
    """Return the variant's own recipe on one device.

    Without augmentation the step takes images of the net's input size, converts them to floats and subtracts a
    constant. That is as close as it gets to a peer whose input is floats.
    """
    config = net_config(variant, width)
    config.batch_size = batch
    config.precision = precision
    config.mesh.data = config.mesh.tower = 1
    if not augmentation:
        config.data.flip = False
        config.data.color_noise = "none"
        config.data.mean = "channel"
    return config


def random_batch(config: Config, mesh: Mesh, size: int) -> tuple[dict[str, jax.Array], Statistics]:
    """Return a batch of noise on the device, [B, size, size, 3] uint8 with labels, and statistics for it."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8)
    labels = random.integers(0, config.model.num_classes, config.batch_size, dtype=np.int32)
    examples = shard_batch(mesh, {"image": images, "label": labels})
    return examples, jax.device_put(statistics(size), NamedSharding(mesh, P()))


def statistics(size: int) -> Statistics:
    """Return statistics like ImageNet's, for images of [size, size, 3]."""
    return Statistics(
        mean_image=np.full((size, size, 3), 120.0, np.float32),
        color_std=np.array(IMAGENET_COLOR_STD, np.float32),
        color_axes=np.array(IMAGENET_COLOR_AXES, np.float32),
    )


def training(
    variant: str, batch: int, precision: str, width: float, augmentation: bool
) -> tuple[Any, TrainState, dict[str, jax.Array], Statistics]:
    """Return the step as training compiles it, and its three arguments: state, batch and statistics."""
    config = config_of(variant, batch, precision, width, augmentation)
    mesh, model = create_mesh(config.mesh), create_model(config)
    optimizer = create_optimizer(config, model.net, NUM_STEPS)
    state = create_train_state(config, model, optimizer, mesh)
    step = create_train_step(config, model, optimizer, mesh, NUM_STEPS)
    examples, measured = random_batch(config, mesh, STORED_SIZE if augmentation else config.model.image_size)
    return step, state, examples, measured


def train_step(variant: str, batch: int, precision: str, width: float, augmentation: bool) -> Work:
    """Build the whole step: augmentation, forward, backward, update; the same batch each time."""
    step, state, examples, measured = training(variant, batch, precision, width, augmentation)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = step(state, examples, measured)
        jax.block_until_ready((state, metrics))

    return Work({"training": run}, notes())


def predict_step(variant: str, batch: int, precision: str, width: float) -> Work:
    """Build the log-probabilities of the center view, as evaluation computes them."""
    config = config_of(variant, batch, precision, width, augmentation=False)
    mesh, model = create_mesh(config.mesh), create_model(config)
    state = create_train_state(config, model, create_optimizer(config, model.net, NUM_STEPS), mesh)
    step = create_predict_step(config, model, mesh, views=1)
    examples, measured = random_batch(config, mesh, config.model.image_size)
    params = state.params
    return Work({"inference": repeated(lambda: step(params, measured, examples["image"]))}, notes())


def matmul(size: int, precision: str) -> Work:
    """Build the product of two square matrices: the speed of the hardware, to compare with."""
    left, right = noise((size, size), precision, seed=0), noise((size, size), precision, seed=1)
    product = compiled(jnp.dot)
    return Work({"matmul": repeated(lambda: product(left, right))}, notes())


def forward_and_backward(
    function: Callable[[jax.Array], jax.Array], sizes: Iterable[tuple[int, int]], batch: int, precision: str
) -> Work:
    """Build two pieces per (side, channels): the function of [B, side, side, channels], alone and with its gradient."""

    def with_gradient(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, backward = jax.vjp(function, x)
        return y, backward(cotangent)[0]

    def pieces_at(side: int, channels: int) -> dict[str, Piece]:
        x = noise((batch, side, side, channels), precision, seed=0)
        cotangent = noise(jax.eval_shape(function, x).shape, precision, seed=1)
        forward = compiled(function)
        both = compiled(with_gradient)
        name = f"{side} x {side} x {channels}"
        return {
            f"{name}, forward": repeated(lambda: forward(x)),
            f"{name}, forward and backward": repeated(lambda: both(x, cotangent)),
        }

    return Work({name: piece for size in sizes for name, piece in pieces_at(*size).items()}, notes())


def noise(shape: tuple[int, ...], precision: str, seed: int) -> jax.Array:
    """Return normally distributed numbers."""
    return jax.random.normal(jax.random.key(seed, impl=GENERATOR), shape, jnp.dtype(precision))


def compiled(function: Callable) -> Callable:
    """Compile a function with the options of the training step."""
    return jax.jit(function, compiler_options=runtime.compiler_options(jax.default_backend()))


def repeated(function: Any) -> Any:
    """Return the piece that calls the function the given number of times and waits for the last result."""

    def run(calls: int) -> None:
        for _ in range(calls):
            result = function()
        jax.block_until_ready(result)

    return run


def notes() -> dict[str, Any]:
    """Return the device, and the settings that the program chose for it."""
    return {"device": jax.devices()[0].device_kind, "tuning": runtime.tuning_in_words()}
