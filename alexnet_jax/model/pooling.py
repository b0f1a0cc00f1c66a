"""Max pooling with overlapping windows (paper section 3.4), without select-and-scatter in its gradient.

Going forward, the gradient rule keeps one byte for each output: the place of the largest pixel in its window. Going
backward, each input pixel looks at the few outputs whose windows hold it, instead of each output scattering to its
window. On the CPU that takes an eighth of the time of the gradient of `lax.reduce_window`.

Response normalization, which works on each pixel by itself, can be pooled as it is computed. On an accelerator its
values are then never stored: they are computed for each place in each window, which XLA would not do unasked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.normalization import Normalization
from alexnet_jax.model.platforms import by_platform, stored_on_cpu


def max_pool(x: jax.Array, window: int, stride: int, of: Normalization | None = None) -> jax.Array:
    """Take the maximum of x, normalized or not, over window x window pixels, every `stride` pixels; no padding.

    [B, H, W, C] -> [B, (H - window) // stride + 1, (W - window) // stride + 1, C]. The gradient of an output goes to
    the first of its largest inputs, row by row, as in PyTorch and Caffe.
    """
    height, width = x.shape[1:3]
    if min(height, width) < window:
        raise ValueError(f"a pooling window of {window} x {window} does not fit into {height} x {width} pixels")
    return _max_pool(x, of, window, stride, (height, width))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x: jax.Array, of: Normalization | None, window: int, stride: int, size: tuple[int, int]) -> jax.Array:
    y = stored_on_cpu(reduce(lax.max, _places(of.values(of.grouped(x)) if of else x, window, stride)))
    return _on_accelerator(y, lambda x: reduce(lax.max, _values(x, of, window, stride)), x) if of else y


def _values(x: jax.Array, of: Normalization, window: int, stride: int) -> Iterator[jax.Array]:
    """Yield the normalized pixels at each place in a window."""
    return (of.values(of.grouped(pixels)) for pixels in _places(x, window, stride))


def _on_accelerator(plain: Any, function: Callable, *operands: jax.Array) -> Any:
    """Return `plain`, which the compiler drops on an accelerator for the function's result.

    A CPU's program is left as it is without this: in a branch, XLA would not recognize what it has computed before.
    """
    return by_platform(plain, *operands, cpu=lambda plain, *_: plain, accelerator=lambda _, *given: function(*given))


def _places(x: jax.Array, window: int, stride: int) -> Iterator[jax.Array]:
    """Yield, for each place in a window, row by row, the pixels there: [B, rows, columns, C], one for each output."""
    batch, height, width, channels = x.shape
    for row in range(window):
        for column in range(window):
            end = (batch, height - window + row + 1, width - window + column + 1, channels)
            yield lax.slice(x, (0, row, column, 0), end, (1, stride, stride, 1))


def _blocks(window: int, stride: int) -> int:
    """Count the blocks of `stride` pixels that a window reaches over, along one axis."""
    return -(-window // stride)


def _reach(window: int, stride: int) -> int:
    """Round the window up to whole blocks: codes count in these, so a place outside the window has its own."""
    return _blocks(window, stride) * stride


def _forward(x: jax.Array, of: Normalization | None, window: int, stride: int, size: tuple[int, int]):
    reach = _reach(window, stride)
    codes = [row * reach + column for row in range(window) for column in range(window)]
    grouped = of.grouped(x) if of else x
    y, where = _first_largest(_places(of.values(grouped) if of else x, window, stride), codes, reach**2)
    if of is None:
        return y, (where, None)

    def on_accelerator(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if x.dtype == jnp.bfloat16:
            return _packed_first_largest(_values(x, of, window, stride), codes, reach**2)
        copy = lax.optimization_barrier(x)  # by name: else XLA keeps what the gradient computes too until then
        return _first_largest(_places(of.values(of.grouped(copy)), window, stride), codes, reach**2)

    y, where = _on_accelerator((y, where), on_accelerator, x)
    return y, (where, grouped)


def _first_largest(values: Iterable[jax.Array], codes: Sequence[int], nowhere: int) -> tuple[jax.Array, jax.Array]:
    """Return the largest of the values, and the code of the first that is as large."""
    values = list(values)
    y = stored_on_cpu(reduce(lax.max, values))
    where = jnp.full_like(y, nowhere, dtype=np.min_scalar_type(nowhere))
    for code, pixels in reversed(list(zip(codes, values, strict=True))):
        where = jnp.where(pixels == y, where.dtype.type(code), where)
    return y, where


def _packed_first_largest(values: Iterable[jax.Array], codes: Sequence[int], nowhere: int):
    """Do the same for bfloat16, reading each value once: XLA would store it, were it read for both results.

    A value is the upper half of an integer in the same order, and its code the lower half, the first being the largest.
    """

    def in_order(bits: jax.Array) -> jax.Array:  # of a float32 whose lower half is 0 to the integer, or back
        return jnp.where(bits < 0, bits ^ 0x7FFF0000, bits)

    def packed(value: jax.Array, code: int) -> jax.Array:
        number = jnp.where(jnp.isnan(value), jnp.nan, value)  # one without a sign, above all numbers
        return in_order(lax.bitcast_convert_type(number.astype(jnp.float32), jnp.int32)) | (0xFFFF - code)

    largest = reduce(lax.max, map(packed, values, codes))
    y = lax.bitcast_convert_type(in_order(largest & ~0xFFFF), jnp.float32).astype(jnp.bfloat16)
    return y, (0xFFFF - (largest & 0xFFFF)).astype(np.min_scalar_type(nowhere))


def _backward(
    of: Normalization | None, window: int, stride: int, size: tuple[int, int], residuals, cotangent: jax.Array
):
    where, grouped = residuals
    gathered = partial(_gathered, window=window, stride=stride, size=size)
    g = gathered(where, cotangent)
    if of is None:
        return (g,)

    def gathered_twice(where: jax.Array, grouped: jax.Array, cotangent: jax.Array) -> jax.Array:
        again = lax.optimization_barrier((where, cotangent))  # other names: else XLA stores what both uses gather
        return of.gradient(grouped, gathered(where, cotangent), gathered(*again))

    return (_on_accelerator(of.gradient(grouped, g, g), gathered_twice, where, grouped, cotangent),)


def _gathered(where: jax.Array, cotangent: jax.Array, window: int, stride: int, size: tuple[int, int]) -> jax.Array:
    """Gather the gradient of what is pooled from the outputs.

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
    return stored_on_cpu(dx[:, : size[0], : size[1]].astype(cotangent.dtype))


_max_pool.defvjp(_forward, _backward)
