"""Locally connected layers against loops over every place, and against a convolution where all kernels agree."""

import jax
import numpy as np
import pytest
from jax import lax

from alexnet_jax.model.convolution import locally_connected


def in_loops(x, kernel, window, padding):
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns, _, units = kernel.shape
    y = np.zeros((len(x), rows, columns, units))
    for b in range(len(x)):
        for i in range(rows):
            for j in range(columns):
                y[b, i, j] = padded[b, i : i + window, j : j + window].ravel() @ kernel[i, j]
    return y


@pytest.mark.parametrize(("window", "padding", "side"), [(3, 1, 6), (3, 0, 5), (2, 1, 4)])
def test_every_place_has_its_own_kernels(window, padding, side):
    random = np.random.default_rng(0)
    rows = side + 2 * padding - window + 1
    x = random.normal(size=(2, side, side, 3)).astype(np.float32)
    kernel = random.normal(size=(rows, rows, window * window * 3, 4)).astype(np.float32)
    found = locally_connected(x, kernel, window=window, padding=padding, dtype=np.float32)
    np.testing.assert_allclose(found, in_loops(x, kernel, window, padding), rtol=1e-4, atol=1e-5)


def test_with_the_same_kernels_everywhere_it_is_a_convolution():
    random = np.random.default_rng(1)
    x = random.normal(size=(2, 6, 6, 5)).astype(np.float32)
    shared = random.normal(size=(3, 3, 5, 4)).astype(np.float32)
    kernel = np.broadcast_to(shared.reshape(1, 1, 45, 4), (6, 6, 45, 4))

    def local(x, kernel):
        return locally_connected(x, kernel, window=3, padding=1, dtype=np.float32)

    def convolution(x, shared):
        return lax.conv_general_dilated(x, shared, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    expected, expected_gradients = jax.vjp(convolution, x, shared)
    found, gradients = jax.vjp(local, x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    cotangent = random.normal(size=found.shape).astype(np.float32)
    of_x, of_kernel = gradients(cotangent)
    expected_of_x, expected_of_shared = expected_gradients(cotangent)
    np.testing.assert_allclose(of_x, expected_of_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_kernel.sum((0, 1)).reshape(3, 3, 5, 4), expected_of_shared, rtol=1e-4, atol=1e-4)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit input"):
        locally_connected(
            np.zeros((1, 6, 6, 2), np.float32),
            np.zeros((6, 6, 9, 4), np.float32),
            window=3,
            padding=1,
            dtype=np.float32,
        )
