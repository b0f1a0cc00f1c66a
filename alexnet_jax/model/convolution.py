"""Kernels times what they see: convolutions in groups (each tower's kernels see their own tower's channels, paper
section 3.5) and products; biases.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from alexnet_jax.model.platforms import by_platform, stored_on_cpu, update_in_place
from alexnet_jax.model.winograd import convolve_3x3

# Channels, in and out, from which Winograd's convolution beats XLA's on a CPU, forward and backward, at any batch size
# (measured: 1.2 to 1.5 times at 128 and more, equal at 64, slower below).
WIDE = 128


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

    On a CPU one convolution per group: `feature_group_count` does the same, but its gradients are several times slower
    there. Wide layers of 3 x 3 kernels in float32 take fewer multiplications there, which rounds differently. On an
    accelerator `feature_group_count` saves the passes that cut maps into groups and put them together again.

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
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

    one_pixel_around = stride == 1 and kernel.shape[:2] == (3, 3) and tuple(padding) == ((1, 1), (1, 1))
    is_wide = min(kernel.shape[2], kernel.shape[3] // groups) >= WIDE
    convolve_group = convolve_3x3 if one_pixel_around and is_wide and dtype == jnp.float32 else convolve

    def one_by_one(x: jax.Array, kernel: jax.Array) -> jax.Array:
        parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
        return jnp.concatenate([convolve_group(part, kernels) for part, kernels in parts], axis=-1)

    together = partial(convolve, feature_group_count=groups)
    return by_platform(x.astype(dtype), update_in_place(kernel).astype(dtype), cpu=one_by_one, accelerator=together)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Multiply x [B, inputs] with a kernel [inputs, units] in x's type; the result, [B, units], has type `dtype`.

    The gradient of the kernel keeps the kernel's type: rounding it to bfloat16 first would only cost a pass over it.
    """
    return jnp.dot(x, kernel.astype(x.dtype), preferred_element_type=dtype)


def _product_forward(x: jax.Array, kernel: jax.Array, dtype: DTypeLike):
    return product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype: DTypeLike, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array):
    x, kernel = residuals
    dx = jnp.einsum("bo,io->bi", cotangent, kernel.astype(x.dtype), preferred_element_type=dtype)
    return dx.astype(x.dtype), jnp.einsum("bi,bo->io", x, cotangent, preferred_element_type=kernel.dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Add bias [C] to each pixel of x [B, H, W, C]; both have one type.

    The gradient of the bias, a sum over all pixels of all images, is computed by products with ones: XLA:CPU adds up a
    map's pixels in a scalar loop, which takes ten times as long and is no more exact.
    """
    return x + bias


def _bias_forward(x: jax.Array, bias: jax.Array):
    return add_bias(x, bias), None


def _bias_backward(_: None, cotangent: jax.Array):
    cotangent = stored_on_cpu(cotangent)  # the gradients of kernel, bias and input all read it
    maps = cotangent.reshape(cotangent.shape[0], -1, cotangent.shape[-1])
    wide = jnp.promote_types(maps.dtype, jnp.float32)
    of_images = jnp.einsum(
        "bp,bpc->bc", jnp.ones(maps.shape[:2], maps.dtype), maps, precision="highest", preferred_element_type=wide
    )
    return cotangent, of_images.sum(0).astype(cotangent.dtype)


add_bias.defvjp(_bias_forward, _bias_backward)


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
