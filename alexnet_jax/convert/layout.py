"""The order of a kernel's numbers: channels first, as Caffe and PyTorch have it, and channels last, as we do.

                        kernel, here                  weight, there
    convolution         [kh, kw, in, out]             [out, in, kh, kw]
    fully connected     [H * W * C, out]              [out, C * H * W]

"in" and C are those of one group where a layer sees only its own tower: units of the first tower come first on both
sides. Where the towers are joined, so do the first tower's channels.
"""

from collections.abc import Mapping

import numpy as np

from alexnet_jax.model.layers import Convolution, LayerShape

Arrays = Mapping[str, np.ndarray]  # by layer and name: "conv1/kernel" (or "conv1/weight"), "conv1/bias", ...


def to_kernel(weight: np.ndarray, shape: LayerShape) -> np.ndarray:
    """A weight of the other side as a kernel."""
    kernel = weight.reshape(-1, *_input_first(shape)).transpose(2, 3, 1, 0)
    return np.ascontiguousarray(kernel).reshape(_kernel_shape(shape))


def red_first(kernel: np.ndarray, shape: LayerShape) -> np.ndarray:
    """A kernel that had blue first, for images with red first: another only where the layer sees the image."""
    return np.ascontiguousarray(kernel[:, :, ::-1]) if _sees_image(shape) else kernel


def to_weight(kernel: np.ndarray, shape: LayerShape) -> np.ndarray:
    """A kernel as a weight of the other side, whose images have red first."""
    channels, height, width = _input_first(shape)
    weight = kernel.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(weight).reshape(weight_shape(shape))


def weight_shape(shape: LayerShape) -> tuple[int, ...]:
    """The shape of a layer's weight on the other side."""
    channels, height, width = _input_first(shape)
    units = _kernel_shape(shape)[-1]
    if isinstance(shape.layer, Convolution):
        return units, channels, height, width
    return units, channels * height * width


def _input_first(shape: LayerShape) -> tuple[int, int, int]:
    """What one unit sees, channels first: [C, H, W] of a convolution's window, or of a fully connected layer's input.

    With the groups of a tower-wise fully connected layer, C is the channels of one tower.
    """
    kernel = _kernel_shape(shape)
    if isinstance(shape.layer, Convolution):
        height, width, channels = kernel[:3]
        return channels, height, width
    height, width = shape.input_shape[:2] if len(shape.input_shape) == 3 else (1, 1)
    return kernel[0] // (height * width), height, width


def _kernel_shape(shape: LayerShape) -> tuple[int, ...]:
    assert shape.kernel_shape is not None, shape.layer.name
    return shape.kernel_shape


def _sees_image(shape: LayerShape) -> bool:
    return isinstance(shape.layer, Convolution) and shape.layer.sees == "image"
