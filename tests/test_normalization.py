"""Response normalization against the printed formula, PyTorch, and itself on split channels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from alexnet_jax.model.normalization import channel_window, local_response_normalization, map_response_normalization

PAPER = {"before": 2, "after": 2, "coefficient": 1e-4, "beta": 0.75, "k": 2.0}
SEEDS = st.integers(0, 2**32 - 1)


def responses(rng, *shape):
    """Responses of the size that conv1 gives on the 0-255 scale, large enough for the sum to matter."""
    return rng.normal(size=shape) * 100


def printed_formula(x, *, before, after, coefficient, beta, k, groups=1):
    """Section 3.3, channel by channel, for x [rows, C] of real or complex numbers."""
    y = np.empty_like(x)
    size = x.shape[1] // groups
    for i in range(x.shape[1]):
        first = i // size * size
        total = k
        for j in range(max(first, i - before), min(first + size - 1, i + after) + 1):
            total = total + coefficient * x[:, j] ** 2
        y[:, i] = x[:, i] / total**beta
    return y


def printed_map_formula(x, *, size, coefficient, beta, k):
    """The same over the size x size pixels around each pixel, as far as they exist; x is [rows, H, W]."""
    y = np.empty_like(x)
    reach = size // 2
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            there = x[:, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            y[:, row, column] = x[:, row, column] / (k + coefficient * (there**2).sum((1, 2))) ** beta
    return y


def complex_step_gradient(function, x, cotangent):
    """Gradient of sum(cotangent * function(x)) to machine precision; the rows of x must not influence each other."""
    step = 1e-30
    dx = np.empty_like(x)
    for index in np.ndindex(x.shape[1:]):
        moved = x.astype(complex)
        moved[(slice(None), *index)] += 1j * step
        dx[(slice(None), *index)] = (cotangent * function(moved).imag / step).reshape(len(x), -1).sum(1)
    return dx


def value_and_gradient(function, x, cotangent):
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # there are hundreds to compile
    def both(x, cotangent):
        y, vjp = jax.vjp(function, x)
        return y, *vjp(cotangent)

    return [np.asarray(a) for a in both(x, cotangent)]


def assert_close(actual, expected, tolerance):
    """The largest error, relative to the largest expected value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@st.composite
def channel_cases(draw):
    """Constants, and how many channels the left halo, x and the right halo have."""
    size, groups = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    before, after = channel_window(size, draw(st.sampled_from(["paper", "pytorch"])))
    constants = {
        "before": before,
        "after": after,
        "coefficient": draw(st.sampled_from([1e-6, 1e-4, 1e-3])) / draw(st.sampled_from([1, size])),
        "beta": draw(st.sampled_from([0.75, 0.5, 1.0]) | st.floats(0.1, 2)),
        "k": draw(st.sampled_from([1.0, 2.0]) | st.floats(0.5, 3)),
        "groups": groups,
    }
    left, right = (draw(st.sampled_from([0, n])) if groups == 1 else 0 for n in (before, after))
    return constants, (left, groups * draw(st.integers(1, 12)), right)


def on_split_channels(x, constants, channels):
    """Our normalization of the channels between two halos."""
    left_halo, x, right_halo = jnp.split(x, np.cumsum(channels)[:2], axis=-1)
    halos = {"left_halo": left_halo if channels[0] else None, "right_halo": right_halo if channels[2] else None}
    return local_response_normalization(x, **constants, **halos)


# Which errors of value and gradient are rounding. Gradients are differences of numbers up to 200 times as large.
ROUNDING = {"float64": (1e-13, 1e-12), "float32": (1e-6, 2e-5), "bfloat16": (2**-8, 2**-8)}


@settings(max_examples=120)
@given(channel_cases(), st.sampled_from(list(ROUNDING)), SEEDS)
def test_any_shape_and_constants_follow_the_printed_formula(case, precision, seed):
    constants, channels = case
    rng = np.random.default_rng(seed)
    with jax.enable_x64(precision == "float64"):
        x = jnp.asarray(responses(rng, 3, sum(channels)), precision)
        cotangent = jnp.asarray(rng.normal(size=(3, channels[1])), precision)
        y, dx = value_and_gradient(lambda x: on_split_channels(x, constants, channels), x, cotangent)
    assert y.dtype == dx.dtype == x.dtype
    x, cotangent, y, dx = (np.asarray(a, np.float64) for a in (x, cotangent, y, dx))

    def formula(x):
        return printed_formula(x, **constants)[:, channels[0] : channels[0] + channels[1]]

    of_value, of_gradient = ROUNDING[precision]
    assert_close(y, formula(x), of_value)
    assert_close(dx, complex_step_gradient(formula, x, cotangent), of_gradient)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_pytorch_convention_is_pytorch(size):
    rng = np.random.default_rng(size)
    x, cotangent = responses(rng, 2, 3, 4, 11), rng.normal(size=(2, 3, 4, 11))
    images = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch.nn.functional.local_response_norm(images, size, alpha=1e-4, beta=0.75, k=2.0)
    expected.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    before, after = channel_window(size, "pytorch")
    with jax.enable_x64(True):
        y, dx = value_and_gradient(
            lambda x: local_response_normalization(
                x, before=before, after=after, coefficient=1e-4 / size, beta=0.75, k=2.0
            ),
            x,
            cotangent,
        )
    assert_close(y, expected.detach().numpy().transpose(0, 2, 3, 1), 1e-10)
    assert_close(dx, images.grad.numpy().transpose(0, 2, 3, 1), 1e-10)


def test_windows_of_the_three_conventions():
    assert [channel_window(n, "paper") for n in (1, 4, 5)] == [(0, 0), (2, 2), (2, 2)]
    assert [channel_window(n, "pytorch") for n in (1, 4, 5)] == [(0, 0), (2, 1), (2, 2)]
    assert [channel_window(n, "caffe") for n in (1, 5)] == [(0, 0), (2, 2)]
    with pytest.raises(ValueError, match="odd"):
        channel_window(4, "caffe")
    with pytest.raises(ValueError, match="at least 1"):
        channel_window(0, "paper")


def split_with_halos(x, before, after):
    """What two devices compute on the two halves of the channels, with each other's border channels as halos."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    constants = PAPER | {"before": before, "after": after}
    return jnp.concatenate(
        [
            local_response_normalization(first, **constants, right_halo=second[..., :after]),
            local_response_normalization(second, **constants, left_halo=first[..., half - before :]),
        ],
        axis=-1,
    )


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (4, 3), (0, 2)])
def test_halves_with_halos_equal_the_whole(before, after):
    rng = np.random.default_rng(0)
    x, cotangent = responses(rng, 2, 3, 3, 16), rng.normal(size=(2, 3, 3, 16))
    constants = PAPER | {"before": before, "after": after}
    with jax.enable_x64(True):
        whole = value_and_gradient(lambda x: local_response_normalization(x, **constants), x, cotangent)
        halves = value_and_gradient(lambda x: split_with_halos(x, before, after), x, cotangent)
    assert_close(halves[0], whole[0], 1e-14)
    assert_close(halves[1], whole[1], 1e-14)


def test_two_devices_that_exchange_border_channels_equal_one():
    mesh = jax.make_mesh((2, 2), ("data", "tower"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("data", None, None, "tower")

    def on_each_device(x):
        from_left = jax.lax.ppermute(x[..., -2:], "tower", [(0, 1)])  # the first device receives zeros
        from_right = jax.lax.ppermute(x[..., :2], "tower", [(1, 0)])
        return local_response_normalization(x, **PAPER, left_halo=from_left, right_halo=from_right)

    def on_own_tower(x):
        return local_response_normalization(x, **PAPER)

    rng = np.random.default_rng(0)
    x, cotangent = (a.astype(np.float32) for a in (responses(rng, 4, 3, 3, 16), rng.normal(size=(4, 3, 3, 16))))
    for body, groups in ((on_each_device, 1), (on_own_tower, 2)):
        sharded = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True)
        expected = value_and_gradient(
            lambda x, groups=groups: local_response_normalization(x, **PAPER, groups=groups), x, cotangent
        )
        actual = value_and_gradient(sharded, x, cotangent)
        assert_close(actual[0], expected[0], 1e-6)
        assert_close(actual[1], expected[1], 1e-6)


def test_vmap_over_towers_equals_groups():
    rng = np.random.default_rng(0)
    x, cotangent = responses(rng, 2, 3, 3, 12), rng.normal(size=(2, 3, 3, 12))

    def towers(x):
        split = x.reshape(2, 3, 3, 2, 6)
        each = jax.vmap(lambda tower: local_response_normalization(tower, **PAPER), in_axes=3, out_axes=3)
        return each(split).reshape(x.shape)

    with jax.enable_x64(True):
        expected = value_and_gradient(lambda x: local_response_normalization(x, **PAPER, groups=2), x, cotangent)
        actual = value_and_gradient(towers, x, cotangent)
    assert_close(actual[0], expected[0], 1e-14)
    assert_close(actual[1], expected[1], 1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_sums_are_float32_inside_and_the_type_stays(dtype, tolerance):
    """Only the result is rounded: bfloat16 sums (8 bits) of a window of 9 would be off by several units of 2^-8."""
    rng = np.random.default_rng(0)
    x, cotangent = (jnp.asarray(a, dtype) for a in (responses(rng, 64, 48), rng.normal(size=(64, 48))))
    constants = PAPER | {"before": 4, "after": 4}
    y, dx = value_and_gradient(lambda x: local_response_normalization(x, **constants), x, cotangent)
    assert y.dtype == dtype
    assert dx.dtype == dtype
    x, cotangent, y, dx = (np.asarray(a, np.float64) for a in (x, cotangent, y, dx))
    expected = printed_formula(x, **constants)
    np.testing.assert_allclose(y, expected, rtol=tolerance)
    gradient = complex_step_gradient(lambda x: printed_formula(x, **constants), x, cotangent)
    np.testing.assert_allclose(dx, gradient, rtol=tolerance, atol=tolerance * np.abs(gradient).max())


def test_channels_that_do_not_fit_are_refused():
    x = jnp.zeros((2, 9))
    with pytest.raises(ValueError, match="9 channels can't be split into 2"):
        local_response_normalization(x, **PAPER, groups=2)
    with pytest.raises(ValueError, match="groups must be 1"):
        local_response_normalization(x, **PAPER, groups=3, left_halo=x[:, :2])


@settings(max_examples=20)
@given(
    st.sampled_from([1, 3, 5, 7]),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.sampled_from([1e-6, 1e-4, 1e-3]),
    st.sampled_from([0.75, 0.5]),
    st.sampled_from([1.0, 2.0]),
    SEEDS,
)
def test_map_normalization_follows_the_formula(size, shape, coefficient, beta, k, seed):
    constants = {"size": size, "coefficient": coefficient, "beta": beta, "k": k}
    rng, batch, maps = np.random.default_rng(seed), 2, 2
    x, cotangent = responses(rng, batch * maps, *shape), rng.normal(size=(batch * maps, *shape))

    def to_images(a):  # [batch * maps, H, W] -> [batch, H, W, maps]
        return a.reshape(batch, maps, *shape).transpose(0, 2, 3, 1)

    with jax.enable_x64(True):
        y, dx = value_and_gradient(
            lambda x: map_response_normalization(x, **constants), to_images(x), to_images(cotangent)
        )
    expected = complex_step_gradient(lambda x: printed_map_formula(x, **constants), x, cotangent)
    assert_close(y, to_images(printed_map_formula(x, **constants)), 1e-13)
    assert_close(dx, to_images(expected), 1e-12)


def test_map_normalization_needs_a_center():
    with pytest.raises(ValueError, match="odd"):
        map_response_normalization(jnp.zeros((1, 4, 4, 1)), size=4, coefficient=1e-4, beta=0.75, k=1.0)
