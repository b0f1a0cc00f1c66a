"""Local response normalization: across channels (paper section 3.3) and within a map (the released net's `cnorm2`).

    y_i = x_i * t_i^-beta,   t_i = k + coefficient * sum of x_j^2 over j in the window of i

Both kinds share one gradient rule, which keeps only x and computes t again:

    dx_i = g_i t_i^-beta - 2 coefficient beta x_i * (sum over j whose window holds i of g_j x_j t_j^(-beta-1))
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model.platforms import stored_on_accelerator, stored_on_cpu

Convention = Literal["paper", "caffe", "pytorch"]


def channel_window(size: int, convention: Convention) -> tuple[int, int]:
    """Return how many channels before and after channel i are in the window of an LRN of this size.

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
        groups: number of equal groups of channels; no window crosses the border of a group.
        left_halo: [..., before], the channels that precede x's first where the channels of a map are split over
            devices; None on the first device. Only with groups=1.
        right_halo: [..., after], the channels that follow x's last.

    Returns:
        [..., C], in x's type. Differentiable with respect to x and both halos.
    """
    if x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels can't be split into {groups} equal groups")
    if groups > 1 and not (left_halo is None and right_halo is None):
        raise ValueError("halos border on the channels of a single group; groups must be 1")
    parts = [part for part in (left_halo, x, right_halo) if part is not None]
    extended = lax.concatenate(parts, x.ndim - 1) if len(parts) > 1 else x
    left, right = (0 if halo is None else halo.shape[-1] for halo in (left_halo, right_halo))
    rule = Normalization(_Channels(before, after, left, right), coefficient, beta, k, groups)
    return _normalize(rule, rule.grouped(extended))


def within_pooling(*, before: int, after: int, coefficient: float, beta: float, k: float, groups: int = 1):
    """Return the rule of the same normalization without halos, for `pooling.max_pool`."""
    return Normalization(_Channels(before, after, 0, 0), coefficient, beta, k, groups)


def map_response_normalization(x: jax.Array, *, size: int, coefficient: float, beta: float, k: float) -> jax.Array:
    """Normalize each response by its size x size neighborhood in the same map (`cnorm2` of net #145).

    x is [B, H, W, C]; `size` is odd; the window is centered and cut off at the borders of the map, so the sum runs
    over the pixels that exist. Types and gradient as in `local_response_normalization`.
    """
    if size % 2 == 0:
        raise ValueError(f"the neighborhood of a pixel has an odd size, not {size}")
    return _normalize(Normalization(_Neighborhood(size), coefficient, beta, k), x)


@dataclasses.dataclass(frozen=True)
class _Channels:
    """The window of a channel: `before` and `after` channels around it, for inputs [..., left + C + right].

    The first `left` and the last `right` channels, halos, lie in windows but have none of their own.
    """

    before: int
    after: int
    left: int
    right: int

    def own(self, x: jax.Array) -> jax.Array:
        """Return the C channels that have windows."""
        return lax.slice_in_dim(x, self.left, x.shape[-1] - self.right, axis=-1)

    def own_transposed(self, y: jax.Array) -> jax.Array:
        return _pad(y, self.left, self.right)

    def sums(self, x: jax.Array) -> jax.Array:
        """Sum over the window of each of the C channels."""
        return _add_shifted(_pad(x, self.before - self.left, self.after - self.right), self.before + self.after + 1)

    def sums_transposed(self, y: jax.Array) -> jax.Array:
        """Sum, for each input channel, over the channels whose windows hold it: `after` before, `before` after."""
        return _add_shifted(_pad(y, self.after + self.left, self.before + self.right), self.before + self.after + 1)


@dataclasses.dataclass(frozen=True)
class _Neighborhood:
    """The window of a pixel of [B, H, W, C]: the size x size pixels around it; it is its own transpose."""

    size: int

    def own(self, x: jax.Array) -> jax.Array:
        return x

    own_transposed = own

    def sums(self, x: jax.Array) -> jax.Array:
        for axis in (1, 2):
            x = _add_shifted(_pad(x, self.size // 2, self.size // 2, axis), self.size, axis)
        return x

    sums_transposed = sums


def _pad(x: jax.Array, before: int, after: int, axis: int = -1) -> jax.Array:
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _add_shifted(x: jax.Array, window: int, axis: int = -1) -> jax.Array:
    """Sum `window` consecutive elements of `axis`, as shifted slices; `axis` shrinks by window - 1.

    Compilers turn this into element-wise loops: on the CPU it is faster than `lax.reduce_window`, a product with a
    band matrix, and differences of `cumsum`.
    """
    length = x.shape[axis] - window + 1
    slices = [lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(window)]
    return sum(slices[1:], start=slices[0])


def _powers(t: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
    """Return t^-beta and t^(-beta-1). The published exponent 0.75 takes two roots, an eighth of a power's time."""
    if beta == 0.75:
        root = lax.rsqrt(t)
        power = root * lax.sqrt(root)
        return power, power * root * root
    power = t**-beta
    return power, power / t


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The rule by which x is divided, and its gradient."""

    window: _Channels | _Neighborhood
    coefficient: float
    beta: float
    k: float
    groups: int = 1

    def grouped(self, x: jax.Array) -> jax.Array:
        """Return [..., C] as the other methods take it: [..., groups, C / groups]."""
        return x if self.groups == 1 else x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)

    def values(self, x: jax.Array) -> jax.Array:
        """Normalize [..., groups, C / groups] -> [..., C]."""
        power, _ = self._powers(x)
        return self._joined(stored_on_cpu((self.window.own(_wide(x)) * power).astype(x.dtype)))

    def gradient(self, x: jax.Array, cotangent: jax.Array, again: jax.Array) -> jax.Array:
        """Return the gradient of x, [..., C]; `again` equals `cotangent`: its two uses are then not in one loop."""
        wide, (power, power_over_t) = _wide(x), self._powers(x)
        shares = _wide(self.grouped(cotangent)) * self.window.own(wide) * power_over_t
        shares = self.window.sums_transposed(stored_on_accelerator(shares, x.dtype))
        dx = self.window.own_transposed(_wide(self.grouped(again)) * power)
        return self._joined((dx - 2 * self.coefficient * self.beta * wide * shares).astype(x.dtype))

    def _powers(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _powers(self.k + self.coefficient * self.window.sums(lax.square(_wide(x))), self.beta)

    def _joined(self, x: jax.Array) -> jax.Array:
        return x if self.groups == 1 else x.reshape(*x.shape[:-2], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(rule: Normalization, x: jax.Array) -> jax.Array:
    # A copy by name: else XLA:GPU merges this with the gradient's powers, and keeps those in float32 until then.
    return rule.values(stored_on_accelerator(x, x.dtype))


_normalize.defvjp(
    lambda rule, x: (_normalize(rule, x), x),
    lambda rule, x, cotangent: (rule.grouped(rule.gradient(x, cotangent, cotangent)),),
)
