"""3 x 3 convolutions with 16 multiplications for each four pixels instead of 36: Winograd's F(2 x 2, 3 x 3).

A tile d of 4 x 4 input pixels and a kernel g give 2 x 2 output pixels, A^T [(G g G^T) * (B^T d B)] A, where * is
elementwise (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.1). Added up over the
channels, for all tiles, that is a matrix product for each of the 16 elements.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.model.platforms import stored_on_cpu

B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


@jax.custom_vjp
def convolve_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve x [B, H, W, C] with a kernel [3, 3, C, units], one pixel of zeros around x; return [B, H, W, units]."""
    products = [jnp.einsum("jnc,jco->jno", *pair) for pair in zip(_tiles(x), _kernels(kernel), strict=True)]
    return _pixels(products, x.shape[:3])


def _forward(x: jax.Array, kernel: jax.Array):
    return convolve_3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients: x's is a convolution with the kernel turned around, the kernel's takes all steps back."""
    x, kernel = residuals
    turned = _kernels(kernel[::-1, ::-1])
    products = [jnp.einsum("jno,jco->jnc", *pair) for pair in zip(_tiles(cotangent), turned, strict=True)]
    x_gradient = _pixels(products, x.shape[:3])
    pairs = zip(_tiles(x), _blocks(cotangent), strict=True)
    elements = jnp.stack([jnp.einsum("jnc,jno->jco", *pair) for pair in pairs])
    return x_gradient, jnp.tensordot(_twice(G).T, elements.reshape(16, -1), 1).reshape(kernel.shape)


convolve_3x3.defvjp(_forward, _backward)


def _twice(matrix: np.ndarray) -> np.ndarray:
    """Return what transforms rows and columns, flattened, at once."""
    return np.kron(matrix, matrix).astype(np.float32)


def _kernels(kernel: jax.Array) -> jax.Array:
    """Return G g G^T, [4, 4, C, units]."""
    return jnp.tensordot(_twice(G), kernel.reshape(9, -1), 1).reshape(4, 4, *kernel.shape[2:])


def _tiles(x: jax.Array) -> list[jax.Array]:
    """Return the rows of B^T d B for all tiles d, which are two pixels apart: four arrays [4, tiles, C]."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    return _transform(padded, B_T, padded.shape[1] - 3, padded.shape[2] - 3)


def _blocks(y: jax.Array) -> list[jax.Array]:
    """Return the rows of A y A^T for all blocks y of 2 x 2 pixels: four arrays [4, blocks, units]."""
    _, height, width, _ = y.shape
    padded = jnp.pad(y, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return _transform(padded, A_T.T, padded.shape[1] - 1, padded.shape[2] - 1)


def _transform(x: jax.Array, matrix: np.ndarray, rows: int, columns: int) -> list[jax.Array]:
    """Return the rows of M d M^T for all windows d of x that begin in every second of these rows and columns."""
    x = stored_on_cpu(x)
    size = matrix.shape[1]
    across = [x[:, :, j : j + columns : 2] for j in range(size)]
    stacked = stored_on_cpu(jnp.stack([_combine(across, weights) for weights in matrix]))
    down = [stacked[:, :, i : i + rows : 2] for i in range(size)]
    return [_combine(down, weights).reshape(len(matrix), -1, x.shape[-1]) for weights in matrix]


def _combine(arrays: Sequence[jax.Array], weights: np.ndarray) -> jax.Array:
    """Add up the arrays, each times its weight, which is 1, 0 or -1."""
    terms = [array if weight == 1 else -array for array, weight in zip(arrays, weights, strict=True) if weight]
    return sum(terms[1:], terms[0])


def _pixels(products: list[jax.Array], shape: Sequence[int]) -> jax.Array:
    """Return A^T m A for the rows m of all tiles, four arrays [4, tiles, units], as a map of this shape [B, H, W]."""
    batch, height, width = shape
    rows, columns = -(-height // 2), -(-width // 2)
    rows_of_pixels = []
    for weights in A_T:
        m = _combine(products, weights)
        pixels = [_combine(list(m), weights).reshape(batch, rows, columns, -1) for weights in A_T]
        rows_of_pixels.append(jnp.stack(pixels, axis=3))
    whole = jnp.stack(rows_of_pixels, axis=2).reshape(batch, 2 * rows, 2 * columns, -1)
    return whole[:, :height, :width]
