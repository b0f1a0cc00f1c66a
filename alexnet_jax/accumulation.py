"""Micro-batches: a device works through its images in several parts, one after the other in the same memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def accumulate(function: Callable, like: Any, examples: Any, num_micro_batches: int) -> Any:
    """Sum what a function makes of each micro-batch.

    Args:
      function: examples -> tree of sums over them.
      like: a tree of arrays of the shapes that the function returns, on the same mesh axes.
      examples: arrays [b, ...], those of this device.
      num_micro_batches: k, a divisor of b; consecutive examples belong together.

    Returns:
      A tree like `like`.
    """
    if num_micro_batches == 1:
        return function(examples)

    def add(total: Any, micro_batch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(micro_batch)), None

    micro_batches = jax.tree.map(lambda rows: rows.reshape(num_micro_batches, -1, *rows.shape[1:]), examples)
    return lax.scan(add, jax.tree.map(jnp.zeros_like, like), micro_batches)[0]  # [k, b / k, ...]
