"""Max pooling with overlapping windows (paper section 3.4), without select-and-scatter in its gradient.

Going forward, the gradient rule keeps one byte for each output: the place of the largest pixel in its window. Going
backward, each input pixel looks at the few outputs whose windows hold it, instead of each output scattering to its
window. On the CPU that takes an eighth of the time of the gradient of `lax.reduce_window`.
"""

from collections.abc import Iterator
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.platforms import stored_on_cpu


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Take the maximum over window x window pixels, every `stride` pixels; no padding.

    [B, H, W, C] -> [B, (H - window) // stride + 1, (W - window) // stride + 1, C]. The gradient of an output goes to
    the first of its largest inputs, row by row, as in PyTorch and Caffe.
    """
    height, width = x.shape[1:3]
    if min(height, width) < window:
        raise ValueError(f"a pooling window of {window} x {window} does not fit into {height} x {width} pixels")
    return _max_pool(x, window, stride, (height, width))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: int, stride: int, size: tuple[int, int]) -> jax.Array:
    return stored_on_cpu(reduce(lax.max, (pixels for _, pixels in _places(x, window, stride))))


def _places(x: jax.Array, window: int, stride: int) -> Iterator[tuple[int, jax.Array]]:
    """Yield, for each place in a window, row by row: its code, and the pixels there, one for each output."""
    batch, height, width, channels = x.shape
    for row in range(window):
        for column in range(window):
            end = (batch, height - window + row + 1, width - window + column + 1, channels)
            pixels = lax.slice(x, (0, row, column, 0), end, (1, stride, stride, 1))
            yield row * _reach(window, stride) + column, pixels


def _blocks(window: int, stride: int) -> int:
    """Count the blocks of `stride` pixels that a window reaches over, along one axis."""
    return -(-window // stride)


def _reach(window: int, stride: int) -> int:
    """Round the window up to whole blocks: codes count in these, so a place outside the window has its own."""
    return _blocks(window, stride) * stride


def _forward(x: jax.Array, window: int, stride: int, size: tuple[int, int]):
    y = _max_pool(x, window, stride, size)
    nowhere = _reach(window, stride) ** 2
    where = jnp.full_like(y, nowhere, dtype=np.min_scalar_type(nowhere))
    for code, pixels in reversed(list(_places(x, window, stride))):
        where = jnp.where(pixels == y, where.dtype.type(code), where)
    return y, where


def _backward(window: int, stride: int, size: tuple[int, int], where: jax.Array, cotangent: jax.Array):
    """Gather the gradient of x from the outputs.

    Cut x into blocks of stride x stride pixels. The windows that reach into a block are those that start there, or up
    to _blocks - 1 blocks further up or left; in the window that starts `up` and `left` blocks away, the block's pixels
    lie at rows up * stride and following, and columns left * stride and following.
    """
    batch, rows, columns, channels = where.shape
    blocks, reach = _blocks(window, stride), _reach(window, stride)
    block_rows, block_columns = (-(-pixels // stride) for pixels in size)
    inside = np.arange(stride)
    in_block = (inside[:, None] * reach + inside)[:, None, :, None]  # [stride, 1, stride, 1], as in `dx` below

    def surrounded(a: jax.Array, value: int) -> jax.Array:
        edges = ((0, 0, 0), (blocks - 1, block_rows - rows, 0), (blocks - 1, block_columns - columns, 0), (0, 0, 0))
        # XLA:CPU does not vectorize loops that ask where the edge is, so this one is by itself.
        return stored_on_cpu(lax.pad(a, jnp.asarray(value, a.dtype), edges))

    def moved(a: jax.Array, up: int, left: int) -> jax.Array:
        first_row, first_column = blocks - 1 - up, blocks - 1 - left
        return a[:, first_row : first_row + block_rows, None, first_column : first_column + block_columns, None]

    where = surrounded(where, reach**2)
    shares = surrounded(cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32)), 0)
    dx = jnp.zeros((batch, block_rows, stride, block_columns, stride, channels), shares.dtype)
    for up in range(blocks):
        for left in range(blocks):
            code = (in_block + (up * reach + left) * stride).astype(where.dtype)
            dx += jnp.where(moved(where, up, left) == code, moved(shares, up, left), 0)
    dx = dx.reshape(batch, block_rows * stride, block_columns * stride, channels)
    return (stored_on_cpu(dx[:, : size[0], : size[1]].astype(cotangent.dtype)),)


_max_pool.defvjp(_forward, _backward)
