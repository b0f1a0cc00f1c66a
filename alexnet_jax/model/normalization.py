"""Local response normalization: across channels (paper section 3.3) and within a map (the released net's `cnorm2`).

    y_i = x_i * t_i^-beta,   t_i = k + coefficient * sum of x_j^2 over j in the window of i

Both kinds share one gradient rule, which saves only x and computes t again:

    dx_i = g_i t_i^-beta - 2 coefficient beta x_i * (sum over j whose window holds i of g_j x_j t_j^(-beta-1))
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Convention = Literal["paper", "caffe", "pytorch"]


class _Norm(NamedTuple):
    """The constants of a channel normalization."""

    before: int
    after: int
    coefficient: float
    beta: float
    k: float
    left: int  # channels at the start of the input that only lie in windows, and have no output
    right: int  # the same at its end


class _MapNorm(NamedTuple):
    """The constants of a map normalization."""

    size: int
    coefficient: float
    beta: float
    k: float


def channel_window(size: int, convention: Convention) -> tuple[int, int]:
    """How many channels (before, after) channel i lie in the window of an LRN of this size.

    "paper": i - floor(n/2) to i + floor(n/2), as section 3.3 prints it; an even n sums over n + 1 channels.
    "caffe": the same for odd n; even n is a ValueError, as in lrn_layer.cpp.
    "pytorch": n channels, floor(n/2) before and floor((n-1)/2) after; also cuda-convnet's kernels.
    """
    if size < 1:
        raise ValueError(f"an LRN window holds at least 1 channel, not {size}")
    match convention:
        case "paper":
            return size // 2, size // 2
        case "caffe":
            if size % 2 == 0:
                raise ValueError(f"Caffe's LRN takes odd sizes only, not {size}")
            return size // 2, size // 2
        case "pytorch":
            return size // 2, (size - 1) // 2
    raise ValueError(f"no LRN window convention {convention!r}; there are 'paper', 'caffe' and 'pytorch'")


def local_response_normalization(
    x: jax.Array,
    *,
    before: int,
    after: int,
    coefficient: float,
    beta: float,
    k: float,
    groups: int = 1,
    left_halo: jax.Array | None = None,
    right_halo: jax.Array | None = None,
) -> jax.Array:
    """Normalize each response by those of the channels around it, at the same pixel (paper section 3.3).

    Args:
        x: [..., C], any floating type. Sums are float32 inside, or float64 if x is.
        before: how many channels before channel i its window holds (see `channel_window`).
        after: how many channels after channel i its window holds.
        coefficient: what each squared response is multiplied by: alpha, or alpha/n where the source divides.
        beta: exponent of the denominator.
        k: constant of the denominator.
        groups: the channels fall into so many equal groups, and no window crosses the border of a group.
        left_halo: [..., before], the channels that precede x's first where the channels of a map are split over
            devices. None: there are none, as on the first device. Only with groups=1.
        right_halo: [..., after], the channels that follow x's last.

    Returns:
        [..., C], in x's type. Differentiable with respect to x and both halos.
    """
    if x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels can't be split into {groups} equal groups")
    if groups > 1 and not (left_halo is None and right_halo is None):
        raise ValueError("halos border on the channels of a single group; groups must be 1")
    parts = [part for part in (left_halo, x, right_halo) if part is not None]
    left, right = (0 if halo is None else halo.shape[-1] for halo in (left_halo, right_halo))
    norm = _Norm(before, after, coefficient, beta, k, left, right)
    extended = lax.concatenate(parts, x.ndim - 1) if len(parts) > 1 else x
    return _normalize(norm, extended.reshape(*x.shape[:-1], groups, -1)).reshape(x.shape)


def map_response_normalization(x: jax.Array, *, size: int, coefficient: float, beta: float, k: float) -> jax.Array:
    """Normalize each response by its size x size neighborhood in the same map (`cnorm2` of net #145).

    x is [B, H, W, C]; `size` is odd; the window is centered and cut off at the borders of the map, so the sum runs
    over the pixels that exist. Types and gradient as in `local_response_normalization`.
    """
    if size % 2 == 0:
        raise ValueError(f"the neighborhood of a pixel has an odd size, not {size}")
    return _normalize_map(_MapNorm(size, coefficient, beta, k), x)


def _powers(t: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
    """t^-beta and t^(-beta-1). The published exponent 0.75 needs two square roots instead of a power."""
    if beta == 0.75:
        root = lax.rsqrt(t)
        power = root * lax.sqrt(root)
        return power, power * root * root
    power = t**-beta
    return power, power / t


def _accumulation_type(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _add_shifted(x: jax.Array, window: int, axis: int = -1) -> jax.Array:
    """Sums over `window` consecutive elements of `axis`, as a sum of shifted slices; `axis` shrinks by window - 1."""
    length = x.shape[axis] - window + 1
    slices = [lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(window)]
    return sum(slices[1:], start=slices[0])


def _pad(x: jax.Array, before: int, after: int, axis: int = -1) -> jax.Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _own(norm: _Norm, x: jax.Array) -> jax.Array:
    """The channels of x that have outputs."""
    return lax.slice_in_dim(x, norm.left, x.shape[-1] - norm.right, axis=-1)


def _denominator(norm: _Norm, x: jax.Array) -> jax.Array:
    """T of the channels that have outputs."""
    squares = _pad(lax.square(x), norm.before - norm.left, norm.after - norm.right)
    return norm.k + norm.coefficient * _add_shifted(squares, norm.before + norm.after + 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(norm: _Norm, x: jax.Array) -> jax.Array:
    """[..., left + C + right] -> [..., C]."""
    wide = x.astype(_accumulation_type(x))
    power, _ = _powers(_denominator(norm, wide), norm.beta)
    return (_own(norm, wide) * power).astype(x.dtype)


def _normalize_forward(norm: _Norm, x: jax.Array):
    return _normalize(norm, x), x


def _normalize_backward(norm: _Norm, x: jax.Array, cotangent: jax.Array):
    wide, g = (a.astype(_accumulation_type(x)) for a in (x, cotangent))
    power, power_over_t = _powers(_denominator(norm, wide), norm.beta)
    # Channel j lies in the windows of the channels j - after ... j + before.
    shares = _pad(g * _own(norm, wide) * power_over_t, norm.after + norm.left, norm.before + norm.right)
    through_windows = wide * _add_shifted(shares, norm.before + norm.after + 1)
    direct = _pad(g * power, norm.left, norm.right)
    return ((direct - 2 * norm.coefficient * norm.beta * through_windows).astype(x.dtype),)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _map_sum(x: jax.Array, size: int) -> jax.Array:
    """Sums over the size x size pixels around each pixel of [B, H, W, C] that exist."""
    for axis in (1, 2):
        x = _add_shifted(_pad(x, size // 2, size // 2, axis), size, axis)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize_map(norm: _MapNorm, x: jax.Array) -> jax.Array:
    wide = x.astype(_accumulation_type(x))
    power, _ = _powers(norm.k + norm.coefficient * _map_sum(lax.square(wide), norm.size), norm.beta)
    return (wide * power).astype(x.dtype)


def _normalize_map_forward(norm: _MapNorm, x: jax.Array):
    return _normalize_map(norm, x), x


def _normalize_map_backward(norm: _MapNorm, x: jax.Array, cotangent: jax.Array):
    wide, g = (a.astype(_accumulation_type(x)) for a in (x, cotangent))
    power, power_over_t = _powers(norm.k + norm.coefficient * _map_sum(lax.square(wide), norm.size), norm.beta)
    shares = _map_sum(g * wide * power_over_t, norm.size)  # a centered window is its own transpose
    return ((g * power - 2 * norm.coefficient * norm.beta * wide * shares).astype(x.dtype),)


_normalize_map.defvjp(_normalize_map_forward, _normalize_map_backward)
