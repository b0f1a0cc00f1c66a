"""Small nets with random parameters and images, for tests that compare one computation with another."""

import jax
import numpy as np

from alexnet_jax.model.layers import Net, layer_shapes

# Compiling takes longer than running such nets; XLA's optimizations are left out.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def random_params(net: Net, image_size: int, num_classes: int, seed: int = 0) -> dict:
    """Parameters under which the signal keeps its size from layer to layer, with biases that matter; float64."""
    random = np.random.default_rng(seed)
    params = {}
    for shape in layer_shapes(net, image_size, num_classes):
        if shape.kernel_shape:
            deviation = (2 / np.prod(shape.kernel_shape[:-1])) ** 0.5
            params[shape.layer.name] = {
                "kernel": deviation * random.standard_normal(shape.kernel_shape),
                "bias": random.standard_normal(shape.kernel_shape[-1]),
            }
    return params


def random_images(batch: int, size: int, seed: int = 0) -> np.ndarray:
    """[batch, size, size, 3] with the spread that photographs less their mean have on the scale 0 to 255; float64."""
    return 70 * np.random.default_rng(seed).standard_normal((batch, size, size, 3))


def relative_errors(actual, expected) -> dict[str, float]:
    """The largest error of each leaf, relative to its largest expected value (to 1 if all are 0), by path."""

    def error(a, b) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        return np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1.0)

    errors = jax.tree_util.tree_leaves_with_path(jax.tree.map(error, actual, expected))
    return {jax.tree_util.keystr(path): value for path, value in errors}
