"""Max pooling with overlapping windows (paper section 3.4), and its gradient without select-and-scatter."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Maximum over window x window pixels, every `stride` pixels; no padding.

    [B, H, W, C] -> [B, (H - window) // stride + 1, (W - window) // stride + 1, C]. The gradient of an output goes to
    the first of its largest inputs, row by row, as in PyTorch and Caffe.
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), "VALID")


def _forward(x: jax.Array, window: int, stride: int):
    y = max_pool(x, window, stride)
    return y, (x, y)


def _backward(window: int, stride: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array):
    x, y = saved
    _, rows, columns, _ = y.shape
    dx = jnp.zeros_like(x)
    given = jnp.zeros_like(y, dtype=bool)
    for i in range(window):
        for j in range(window):
            at = (
                slice(None),
                slice(i, i + stride * (rows - 1) + 1, stride),
                slice(j, j + stride * (columns - 1) + 1, stride),
            )
            first = (x[at] == y) & ~given
            dx = dx.at[at].add(jnp.where(first, cotangent, 0))
            given |= first
    return (dx,)


max_pool.defvjp(_forward, _backward)
