"""Convolutions in groups: each tower's kernels see only their own tower's channels (paper section 3.5); biases."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


def grouped_convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: Sequence[tuple[int, int]],
    groups: int,
    dtype: DTypeLike,
) -> jax.Array:
    """Convolve each of `groups` equal parts of the channels with its own kernels.

    One plain convolution per group: `feature_group_count` does the same, but its gradients are several times slower
    on CPUs, and slow on GPUs (jax-ml/jax#13800).

    Args:
        x: [B, H, W, C_in].
        kernel: [kh, kw, C_in / groups, C_out]; the output channels of the first group come first.
        stride: in pixels, the same for rows and columns.
        padding: zeros (before, after) the rows and the columns.
        groups: how many parts; it divides C_in and C_out.
        dtype: the type that both are cast to, and of the result.

    Returns:
        [B, rows, columns, C_out].
    """
    if x.shape[-1] != groups * kernel.shape[2] or kernel.shape[3] % groups:
        raise ValueError(f"kernel {kernel.shape} does not fit input {x.shape} in {groups} groups")
    parts = zip(
        jnp.split(x.astype(dtype), groups, axis=-1), jnp.split(kernel.astype(dtype), groups, axis=-1), strict=True
    )
    return jnp.concatenate(
        [
            lax.conv_general_dilated(
                part, kernels, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            for part, kernels in parts
        ],
        axis=-1,
    )


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Add bias [C] to each pixel of x [B, H, W, C]; both have one type.

    The gradient of the bias, a sum over all pixels of all images, is computed by products with ones: XLA:CPU adds up a
    map's pixels in a scalar loop, which takes ten times as long and is no more exact.
    """
    return x + bias


def _forward(x: jax.Array, bias: jax.Array):
    return add_bias(x, bias), None


def _backward(_: None, cotangent: jax.Array):
    # Stored: the gradients of kernel, bias and input all read it.
    cotangent = lax.optimization_barrier(cotangent)
    maps = cotangent.reshape(cotangent.shape[0], -1, cotangent.shape[-1])
    wide = jnp.promote_types(maps.dtype, jnp.float32)
    of_images = jnp.einsum(
        "bp,bpc->bc", jnp.ones(maps.shape[:2], maps.dtype), maps, precision="highest", preferred_element_type=wide
    )
    return cotangent, of_images.sum(0).astype(cotangent.dtype)


add_bias.defvjp(_forward, _backward)


def locally_connected(x: jax.Array, kernel: jax.Array, *, window: int, padding: int, dtype: DTypeLike) -> jax.Array:
    """Multiply the window around each place with the kernels of that place.

    The windows are laid side by side first, so that one batched matrix product does the work.

    Args:
      x: [B, H, W, C].
      kernel: [rows, columns, window * window * C, units]: the windows' pixels in rows, channels fastest.
      window: side of the window in pixels; its stride is 1.
      padding: zeros on all four sides.
      dtype: the type that both are cast to, and of the result.

    Returns:
      [B, rows, columns, units], rows = H + 2 padding - window + 1.
    """
    rows, columns, seen, _ = kernel.shape
    side = 2 * padding - window + 1
    if (x.shape[1] + side, x.shape[2] + side, window * window * x.shape[3]) != (rows, columns, seen):
        raise ValueError(f"kernel {kernel.shape} does not fit input {x.shape}, window {window}, padding {padding}")
    padded = jnp.pad(x.astype(dtype), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = [padded[:, i : i + rows, j : j + columns] for i in range(window) for j in range(window)]
    return jnp.einsum("bhwk,hwko->bhwo", jnp.concatenate(windows, axis=-1), kernel.astype(dtype))
