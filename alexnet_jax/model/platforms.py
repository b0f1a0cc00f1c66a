"""What suits a CPU and what suits an accelerator, where they differ: chosen by the platform that a program is for.

On a CPU, loops are slow and memory is near: a map is computed once and stored, and loops read it. On a GPU a pass over
a map costs more than computing it again, so the compiler may fuse what it likes, and what is kept is kept in the
compute type. What XLA makes of it for a GPU, byte by byte: `benchmarks/gpu_program.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike


def by_platform(*operands: Any, cpu: Callable, accelerator: Callable) -> Any:
    """Apply one of two functions that return the same, whichever is faster on the platform."""
    return lax.platform_dependent(*operands, cpu=cpu, default=accelerator)


def stored_on_cpu(x: jax.Array) -> jax.Array:
    """Return x; on a CPU it is stored, where XLA would compute it again in each loop that reads it (`runtime`)."""
    return by_platform(x, cpu=lax.optimization_barrier, accelerator=lambda x: x)


def stored_on_accelerator(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Return x; on an accelerator it is stored in this type, which rounds it, and not merged with an equal value."""
    return by_platform(
        x, cpu=lambda x: x, accelerator=lambda x: lax.optimization_barrier(x.astype(dtype)).astype(x.dtype)
    )


@jax.custom_vjp
def update_in_place(kernel: jax.Array) -> jax.Array:
    """Return the kernel; on an accelerator its gradient gets the kernel's order in memory.

    cuDNN puts output channels first. Without this the update would be computed in that order and then copied back.
    """
    return kernel


def _backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    row_major = Layout(tuple(range(gradient.ndim)))
    return (by_platform(gradient, cpu=lambda g: g, accelerator=lambda g: with_layout_constraint(g, row_major)),)


update_in_place.defvjp(lambda kernel: (kernel, None), _backward)
