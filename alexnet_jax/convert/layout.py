"""The order of a kernel's numbers: channels last in this project, channels first in Caffe and PyTorch.

                        kernel (ours)                 weight (theirs)
    convolution         [kh, kw, in, out]             [out, in, kh, kw]
    fully connected     [H * W * C, out]              [out, C * H * W]

"in" and C count one tower's channels where a layer sees only its own tower. The first tower's units and channels come
first in both.
"""

from collections.abc import Mapping

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.model import layers
from alexnet_jax.model.ablations import build_net

Arrays = Mapping[str, np.ndarray]  # by layer and kind: "conv1/kernel" (or "conv1/weight"), "conv1/bias", ...
Params = dict[str, dict[str, np.ndarray]]  # as the model has them: {"conv1": {"kernel", "bias"}, ...}


def parameter_shapes(config: Config) -> dict[str, layers.LayerShape]:
    """Return the shapes of the layers that have parameters, by name."""
    shapes = layers.layer_shapes(build_net(config.model), config.model.image_size, config.model.num_classes)
    return {shape.layer.name: shape for shape in shapes if shape.kernel_shape}


def to_kernel(weight: np.ndarray, shape: layers.LayerShape) -> np.ndarray:
    """Turn a weight with channels first into a kernel."""
    kernel = weight.reshape(-1, *_channels_first(shape)).transpose(2, 3, 1, 0)
    return np.ascontiguousarray(kernel).reshape(shape.kernel_shape)


def to_weight(kernel: np.ndarray, shape: layers.LayerShape) -> np.ndarray:
    """Turn a kernel into a weight with channels first."""
    channels, height, width = _channels_first(shape)
    weight = kernel.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(weight).reshape(weight_shape(shape))


def red_first(kernel: np.ndarray, shape: layers.LayerShape) -> np.ndarray:
    """Turn a kernel for images with blue first into one for red first; only a layer that sees the image changes."""
    sees_image = isinstance(shape.layer, layers.Convolution) and shape.layer.sees == "image"
    return np.ascontiguousarray(kernel[:, :, ::-1]) if sees_image else kernel


def weight_shape(shape: layers.LayerShape) -> tuple[int, ...]:
    """Return the shape of a layer's weight with channels first."""
    channels, height, width = _channels_first(shape)
    units = shape.output_shape[-1]
    is_convolution = isinstance(shape.layer, layers.Convolution)
    return (units, channels, height, width) if is_convolution else (units, channels * height * width)


def _channels_first(shape: layers.LayerShape) -> tuple[int, int, int]:
    """Return what one unit sees as [C, H, W]: a convolution's window, or a fully connected layer's input."""
    kernel = shape.kernel_shape
    assert kernel is not None, shape.layer.name
    if isinstance(shape.layer, layers.Convolution):
        height, width, channels = kernel[:3]
        return channels, height, width
    height, width = shape.input_shape[:2] if len(shape.input_shape) == 3 else (1, 1)
    return kernel[0] // (height * width), height, width
