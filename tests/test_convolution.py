"""Convolution in groups against lax's feature groups and PyTorch's grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from alexnet_jax.model.convolution import WIDE, add_bias, grouped_convolution
from alexnet_jax.model.winograd import convolve_3x3

CASES = [
    # size, kernel, C_in, C_out, stride, padding, groups
    (9, 5, 8, 12, 1, ((2, 2), (2, 2)), 2),  # as conv2
    (6, 3, 6, 9, 1, ((1, 1), (1, 1)), 3),
    (20, 11, 3, 4, 4, ((0, 3), (0, 3)), 1),  # as conv1 of the original: padded on one side only
]


def example(size, kernel, c_in, c_out, groups):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, size, size, c_in)), rng.normal(size=(kernel, kernel, c_in // groups, c_out))


def value_and_gradients(function, x, kernels):
    """The result y, and the gradients with respect to x and the kernels for the cotangent sin(y)."""
    y, vjp = jax.vjp(function, x, kernels)
    return [np.asarray(a) for a in (y, *vjp(jnp.sin(y)))]


@pytest.mark.parametrize(("size", "kernel", "c_in", "c_out", "stride", "padding", "groups"), CASES)
def test_values_and_gradients_are_those_of_feature_groups(size, kernel, c_in, c_out, stride, padding, groups):
    def ours(x, kernels):
        return grouped_convolution(x, kernels, stride=stride, padding=padding, groups=groups, dtype=x.dtype)

    def feature_groups(x, kernels):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernels, (stride, stride), padding, dimension_numbers=numbers, feature_group_count=groups
        )

    with jax.enable_x64(True):
        x, kernels = (jnp.asarray(a) for a in example(size, kernel, c_in, c_out, groups))
        for actual, expected in zip(
            value_and_gradients(ours, x, kernels), value_and_gradients(feature_groups, x, kernels), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "kernel", "c_in", "c_out", "stride", "padding", "groups"), CASES)
def test_values_and_gradients_are_pytorchs(size, kernel, c_in, c_out, stride, padding, groups):
    x, kernels = example(size, kernel, c_in, c_out, groups)
    images = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    weights = torch.tensor(kernels.transpose(3, 2, 0, 1), requires_grad=True)
    (top, bottom), (left, right) = padding
    padded = torch.nn.functional.pad(images, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, weights, stride=stride, groups=groups)
    y.backward(torch.sin(y.detach()))

    def ours(x, kernels):
        return grouped_convolution(x, kernels, stride=stride, padding=padding, groups=groups, dtype=x.dtype)

    with jax.enable_x64(True):
        actual_y, dx, dkernels = value_and_gradients(ours, jnp.asarray(x), jnp.asarray(kernels))
    np.testing.assert_allclose(actual_y, y.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, images.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dkernels, weights.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-12, atol=1e-12)


def plain(x, kernels, groups=1):
    around = ((1, 1), (1, 1))
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernels, (1, 1), around, dimension_numbers=numbers, feature_group_count=groups, precision="highest"
    )


@pytest.mark.parametrize(("rows", "columns"), [(13, 13), (5, 8), (2, 1)])
def test_winograds_convolution_is_the_plain_one(rows, columns):
    rng = np.random.default_rng(rows)
    with jax.enable_x64(True):
        x, kernels = jnp.asarray(rng.normal(size=(3, rows, columns, 5))), jnp.asarray(rng.normal(size=(3, 3, 5, 7)))
        ours, expected = (value_and_gradients(jax.jit(function), x, kernels) for function in (convolve_3x3, plain))
    for actual, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-12)


def test_a_wide_layer_in_single_precision_is_exact_to_a_millionth():
    """As conv4: two towers of 192 channels. The largest error beside the largest value, in values and gradients."""
    rng = np.random.default_rng(0)
    x, kernels = rng.normal(size=(4, 13, 13, 384)), rng.normal(size=(3, 3, 192, 384))
    cotangent = rng.normal(size=(4, 13, 13, 384))

    def ours(x, kernels):
        return grouped_convolution(x, kernels, stride=1, padding=((1, 1), (1, 1)), groups=2, dtype=x.dtype)

    y, vjp = jax.vjp(jax.jit(ours), *(jnp.asarray(a, jnp.float32) for a in (x, kernels)))
    actual = (y, *vjp(jnp.asarray(cotangent, jnp.float32)))
    with jax.enable_x64(True):
        y, vjp = jax.vjp(lambda x, kernels: plain(x, kernels, groups=2), jnp.asarray(x), jnp.asarray(kernels))
        expected = (y, *vjp(jnp.asarray(cotangent)))
    for found, wanted in zip(map(np.asarray, actual), map(np.asarray, expected), strict=True):
        assert np.max(np.abs(found - wanted)) < 1e-6 * np.max(np.abs(wanted))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "dtype", "takes_it"),
    [
        (WIDE, 3, 1, "float32", True),
        (WIDE - 2, 3, 1, "float32", False),
        (WIDE, 5, 1, "float32", False),
        (WIDE, 3, 2, "float32", False),
        (WIDE, 3, 1, "bfloat16", False),  # sums of pixels would be rounded to 8 bits
    ],
)
def test_which_layers_are_multiplied_as_winograd_does(channels, kernel, stride, dtype, takes_it):
    shapes = (1, 6, 6, channels), (kernel, kernel, channels, WIDE)
    function = jax.jit(
        lambda x, kernels: grouped_convolution(
            x, kernels, stride=stride, padding=((1, 1), (1, 1)), groups=1, dtype=jnp.dtype(dtype)
        )
    )
    program = function.lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).as_text()
    assert ("convolution" not in program) == (takes_it and jax.default_backend() == "cpu")


def test_the_compute_type_is_the_results_and_gradients_keep_their_own():
    x, kernels = (jnp.asarray(a, jnp.float32) for a in example(6, 3, 4, 6, 2))

    def ours(x, kernels):
        padding = ((1, 1), (1, 1))
        return grouped_convolution(x, kernels, stride=1, padding=padding, groups=2, dtype=jnp.bfloat16)

    y, vjp = jax.vjp(ours, x, kernels)
    dx, dkernels = vjp(y)
    assert y.dtype == jnp.bfloat16
    assert dx.dtype == jnp.float32
    assert dkernels.dtype == jnp.float32


def test_kernels_that_do_not_fit_are_refused():
    x = jnp.zeros((1, 5, 5, 6))
    for kernel_shape in ((3, 3, 6, 4), (3, 3, 3, 5)):
        with pytest.raises(ValueError, match="does not fit input"):
            grouped_convolution(x, jnp.zeros(kernel_shape), stride=1, padding=((1, 1), (1, 1)), groups=2, dtype=x.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6), ("bfloat16", 1e-2)])
def test_the_bias_has_the_gradient_of_a_plain_sum(dtype, tolerance):
    rng = np.random.default_rng(0)
    cotangent = rng.normal(size=(3, 9, 7, 5)) + 1
    with jax.enable_x64(True):
        x, g = (jnp.asarray(a, dtype) for a in (rng.normal(size=cotangent.shape), cotangent))
        bias = jnp.arange(5, dtype=dtype)
        y, vjp = jax.vjp(jax.jit(add_bias), x, bias)
        dx, dbias = vjp(g)
    assert y.dtype == dx.dtype == dbias.dtype == dtype
    np.testing.assert_array_equal(y, x + bias)
    np.testing.assert_array_equal(dx, g)
    np.testing.assert_allclose(np.asarray(dbias, float), np.asarray(g, float).sum((0, 1, 2)), rtol=tolerance)
