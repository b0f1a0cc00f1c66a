"""Max pooling and its gradient against PyTorch, ties included."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec
from random_nets import QUICK_TO_COMPILE

from alexnet_jax import runtime
from alexnet_jax.model.pooling import max_pool


def value_and_gradient(function, x, cotangent, options=None):
    @partial(jax.jit, compiler_options=options)
    def both(x, cotangent):
        y, vjp = jax.vjp(function, x)
        return y, *vjp(cotangent)

    return [np.asarray(a) for a in both(x, cotangent)]


def output_shape(x, window, stride):
    batch, height, width, channels = x.shape
    return batch, (height - window) // stride + 1, (width - window) // stride + 1, channels


def pytorch(x, cotangent, window, stride):
    images = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y = torch.nn.functional.max_pool2d(images, window, stride)
    y.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    return y.detach().numpy().transpose(0, 2, 3, 1), images.grad.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [
        (55, 55, 3, 2),  # the paper's, after conv1
        (13, 12, 3, 2),  # pixels are left over at one edge
        (8, 9, 2, 2),  # without overlap
        (7, 5, 3, 1),
        (9, 11, 5, 2),
        (9, 10, 2, 3),  # pixels between the windows
        (13, 13, 4, 3),
        (3, 4, 3, 2),  # one window a row
        (17, 18, 9, 8),  # more places than a byte can tell
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_are_pytorchs(height, width, window, stride, ties):
    rng = np.random.default_rng(0)
    shape = (2, height, width, 3)
    x = rng.integers(-1, 3, shape).clip(0).astype(float) if ties else rng.normal(size=shape)
    cotangent = rng.normal(size=output_shape(x, window, stride))
    with jax.enable_x64(True):
        y, dx = value_and_gradient(lambda x: max_pool(x, window, stride), x, cotangent)
    expected_y, expected_dx = pytorch(x, cotangent, window, stride)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-14, atol=1e-14)


def window_by_window(x, cotangent, window, stride):
    """The maxima, and each one's gradient to the first place that holds it."""
    y, dx = np.empty_like(cotangent), np.zeros_like(x)
    for image, row, column, channel in np.ndindex(y.shape):
        top, left = row * stride, column * stride
        seen = x[image, top : top + window, left : left + window, channel]
        y[image, row, column, channel] = seen.max()
        down, right = divmod(int(seen.argmax()), window)
        dx[image, top + down, left + right, channel] += cotangent[image, row, column, channel]
    return y, dx


@settings(max_examples=25)
@given(
    window=st.integers(1, 6),
    stride=st.integers(1, 7),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    values=st.sampled_from([1, 2, 200]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_window_sends_each_gradient_to_one_pixel(window, stride, more, values, precision, seed):
    """Whole numbers, so that sums are exact; with few different ones most windows hold their maximum several times."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, values, (2, window + more[0], window + more[1], 2)).astype(float)
    cotangent = rng.integers(-4, 5, output_shape(x, window, stride)).astype(float)
    arrays = (jnp.asarray(a, precision) for a in (x, cotangent))
    found = value_and_gradient(lambda x: max_pool(x, window, stride), *arrays, QUICK_TO_COMPILE)
    for actual, expected in zip(found, window_by_window(x, cotangent, window, stride), strict=True):
        np.testing.assert_array_equal(actual.astype(float), expected)


def test_a_constant_map_sends_each_gradient_to_the_first_pixel_of_its_window():
    x = jnp.zeros((1, 5, 5, 1))
    _, dx = value_and_gradient(lambda x: max_pool(x, 3, 2), x, jnp.asarray([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None])
    expected = np.zeros((5, 5))
    expected[:3:2, :3:2] = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(dx[0, :, :, 0], expected)


def test_types_stay_and_not_a_number_is_not_hidden():
    x = jnp.ones((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(jnp.nan)
    y, dx = value_and_gradient(lambda x: max_pool(x, 3, 2), x, jnp.ones((1, 2, 2, 1), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert dx.dtype == jnp.bfloat16
    assert np.isnan(y).all()


def test_gradients_that_meet_in_one_pixel_are_added_in_float32():
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(1)
    cotangent = jnp.asarray([[256.0, 1.0], [1.0, 1.0]], jnp.bfloat16)[None, :, :, None]
    _, dx = value_and_gradient(lambda x: max_pool(x, 3, 2), x, cotangent)
    assert dx[0, 2, 2, 0] == 260  # 256 + 1 is 256 in bfloat16; 259 is rounded to 260


def test_under_shard_map_and_vmap():
    mesh = jax.make_mesh((2, 2), ("data", "tower"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("data", None, None, "tower")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (4, 7, 7, 6)).astype(np.float32)
    cotangent = rng.normal(size=output_shape(x, 3, 2)).astype(np.float32)

    def pool(x):
        return max_pool(x, 3, 2)

    def towers(x):
        each = jax.vmap(pool, in_axes=3, out_axes=3)(x.reshape(4, 7, 7, 2, 3))
        return each.reshape(cotangent.shape)

    expected = value_and_gradient(pool, x, cotangent)
    for other in (towers, jax.shard_map(pool, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True)):
        actual = value_and_gradient(other, x, cotangent)
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6, atol=1e-6)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 x 3 does not fit into 2 x 9 pixels"):
        max_pool(jnp.zeros((1, 2, 9, 1)), 3, 2)


def test_what_is_stored_is_not_computed_anew_by_each_reader():
    """XLA:CPU keeps the barriers of these options; a version of it that calls the pass otherwise would drop them."""
    compiled = jax.jit(lambda x: max_pool(x, 3, 2), compiler_options=runtime.compiler_options(jax.default_backend()))
    assert "opt-barrier" in compiled.lower(jnp.ones((1, 5, 5, 2))).compile().as_text()
