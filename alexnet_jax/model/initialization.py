"""Starting values of kernels and biases, as the layer list names them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from alexnet_jax.model.layers import FanInUniform, Gaussian, He, Initializer

Draw = Callable[..., jax.Array]  # (key, shape, dtype) -> array


def kernel_initializer(init: Initializer, fan_in: int) -> Draw:
    """Return the initializer of a kernel whose units have `fan_in` inputs."""
    match init:
        case Gaussian(std):
            return _normal(std)
        case He():
            return _normal(math.sqrt(2.0 / fan_in))
        case FanInUniform():
            return _uniform(1.0 / math.sqrt(fan_in))


def bias_initializer(init: float | FanInUniform, fan_in: int) -> Draw:
    """Return the initializer of biases: a constant, or PyTorch's uniform distribution."""
    if isinstance(init, FanInUniform):
        return _uniform(1.0 / math.sqrt(fan_in))
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, init, dtype)


# Numbers are drawn in a row and then reshaped: XLA:CPU compiles that four times as fast as a draw in four dimensions,
# which otherwise takes half of the time to the first step of a small net.


def _normal(std: float) -> Draw:
    """Draw from a normal distribution around zero, not truncated (released code, `layer.py:807`)."""
    return lambda key, shape, dtype=jnp.float32: std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def _uniform(bound: float) -> Draw:
    """Draw uniformly from [-bound, bound)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, (math.prod(shape),), dtype, -bound, bound
    ).reshape(shape)
