"""Locally connected layers: convolutions with different kernels at every place.

The author's CIFAR-10 nets end in two of them (cuda-convnet, `example-layers/layers-conv-local-13pct.cfg`, type=local).
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


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
