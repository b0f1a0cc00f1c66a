"""Nets as data: the layers, and the shapes that follow from them.

A `Net` is a sequence of layers, read like section 3.5 of the paper. Widths count all towers together, so the
two-tower conv2 is `Convolution("conv2", 256, ...)`; `sees` says whether a tower sees only its own half of the
input or the channels of both towers.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

Sees = Literal["image", "own", "all"]  # a layer's input: the image, its own tower's channels, all towers' channels


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Normal distribution of this standard deviation, not truncated; mean zero."""

    std: float


@dataclasses.dataclass(frozen=True)
class FanInUniform:
    """Uniform on +-1/sqrt(fan-in), for kernels and biases alike: PyTorch's default for both layer types."""


@dataclasses.dataclass(frozen=True)
class He:
    """Normal distribution of standard deviation sqrt(2 / fan-in)."""


Initializer = Gaussian | FanInUniform | He


@dataclasses.dataclass(frozen=True)
class Convolution:
    """`features` kernels over all towers; zero padding (before, after), the same for rows and columns.

    `decay`, here and below, multiplies the weight decay of the kernels.
    """

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    sees: Sees = "all"
    kernel_init: Initializer = Gaussian(0.01)
    bias_init: float | FanInUniform = 0.0
    decay: float = 1.0


@dataclasses.dataclass(frozen=True)
class LocallyConnected:
    """A convolution of stride 1 with different kernels and biases at every place; for nets with one tower."""

    name: str
    features: int
    kernel: int
    padding: int = 0
    kernel_init: Initializer = Gaussian(0.01)
    bias_init: float = 0.0
    decay: float = 1.0


@dataclasses.dataclass(frozen=True)
class Dense:
    """A hidden fully connected layer of `features` units over all towers."""

    name: str
    features: int
    sees: Sees = "all"
    kernel_init: Initializer = Gaussian(0.01)
    bias_init: float | FanInUniform = 1.0
    decay: float = 1.0


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The last layer: every class sees the units of all towers. The number of classes is the data set's."""

    name: str = "fc8"
    kernel_init: Initializer = Gaussian(0.01)
    bias_init: float | FanInUniform = 0.0
    decay: float = 1.0


@dataclasses.dataclass(frozen=True)
class Activation:
    """The nonlinearity, unit by unit."""

    name: str
    function: Literal["relu", "tanh"] = "relu"


@dataclasses.dataclass(frozen=True)
class ResponseNorm:
    """Local response normalization across channels (paper section 3.3).

    b_i = a_i / (k + coefficient * sum_j a_j^2)^beta over the channels j in [i - before, i + after].
    `alpha` is the published number; `divided` says that the implementation divides it by the window's size.
    `across` says whether the window stops at the border of a tower or runs over the channels of all towers.
    """

    name: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    divided: bool = False
    across: Literal["tower", "all"] = "tower"

    @property
    def coefficient(self) -> float:
        """What each squared response is multiplied by."""
        return self.alpha / self.size if self.divided else self.alpha


@dataclasses.dataclass(frozen=True)
class MapNorm:
    """Response normalization over a size x size neighborhood within each map.

    Not in the paper; layer `cnorm2` of the released net #145. The window is cut off at the borders, the sum is
    over the pixels that exist, and `alpha` is divided by size^2.
    """

    name: str
    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75
    k: float = 1.0


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Maximum over window x window pixels, every `stride` pixels (paper section 3.4: 3 and 2)."""

    name: str
    window: int = 3
    stride: int = 2
    ceil: bool = False  # also count the windows that stick out past the last row and column


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout (paper section 4.2). `original` scales by `keep` at test time, `inverted` by 1/keep in training."""

    name: str
    keep: float = 0.5
    kind: Literal["original", "inverted"] = "original"


Layer = Convolution | LocallyConnected | Dense | Classifier | Activation | ResponseNorm | MapNorm | MaxPool | Dropout


@dataclasses.dataclass(frozen=True)
class Net:
    """A published net: its layers in order, the number of towers its channels are split into, and its source."""

    towers: int
    layers: tuple[Layer, ...]
    source: str = ""

    @property
    def num_convolutional(self) -> int:
        """How many layers come before the first fully connected one."""
        return next(i for i, layer in enumerate(self.layers) if isinstance(layer, Dense | Classifier))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers, in order."""
        return tuple(layer.name for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What follows from a layer and its input, over all towers and for one image."""

    layer: Layer
    input_shape: tuple[int, ...]  # [H, W, C], or [units]
    output_shape: tuple[int, ...]
    # [kh, kw, in, out], [in, out], or, locally connected, [rows, columns, kh * kw * in, out]; None: no parameters
    kernel_shape: tuple[int, ...] | None = None

    @property
    def parameters(self) -> int:
        """Kernel and biases."""
        return math.prod(self.kernel_shape) + math.prod(self.bias_shape) if self.kernel_shape else 0

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """One for each kernel; locally connected, one for each unit."""
        return self.output_shape if isinstance(self.layer, LocallyConnected) else self.output_shape[-1:]

    @property
    def multiply_adds(self) -> int:
        """Multiplications of the kernel with one image's input; biases and element-wise layers are not counted."""
        if self.kernel_shape is None:
            return 0
        if isinstance(self.layer, LocallyConnected):
            return math.prod(self.kernel_shape)
        positions = math.prod(self.output_shape[:-1])
        return positions * math.prod(self.kernel_shape)


class ImpossibleShapeError(ValueError):
    """A window is larger than its input; the message names the layer and its input."""


def window_positions(name: str, pixels: int, window: int, stride: int, ceil: bool = False) -> int:
    """Count the windows that fit along one side of `pixels` pixels (padding included)."""
    if window > pixels:
        raise ImpossibleShapeError(f"{name} needs a window of {window} pixels but its input has only {pixels} a side")
    free = pixels - window
    return 1 + (math.ceil(free / stride) if ceil else free // stride)


def layer_shapes(net: Net, image_size: int, num_classes: int) -> Iterator[LayerShape]:
    """Yield the shapes of each layer for square RGB images of `image_size` pixels.

    Raises:
      ImpossibleShapeError: a window is larger than its input.
    """
    shape: tuple[int, ...] = (image_size, image_size, 3)
    for layer in net.layers:
        kernel: tuple[int, ...] | None = None
        match layer:
            case Convolution():
                seen = shape[-1] // net.towers if layer.sees == "own" else shape[-1]
                side = window_positions(layer.name, shape[0] + sum(layer.padding), layer.kernel, layer.stride)
                kernel = (layer.kernel, layer.kernel, seen, layer.features)
                output: tuple[int, ...] = (side, side, layer.features)
            case LocallyConnected():
                side = window_positions(layer.name, shape[0] + 2 * layer.padding, layer.kernel, stride=1)
                kernel = (side, side, layer.kernel**2 * shape[-1], layer.features)
                output = (side, side, layer.features)
            case Dense() | Classifier():
                features = layer.features if isinstance(layer, Dense) else num_classes
                own = isinstance(layer, Dense) and layer.sees == "own"
                kernel = (math.prod(shape) // (net.towers if own else 1), features)
                output = (features,)
            case MaxPool():
                side = window_positions(layer.name, shape[0], layer.window, layer.stride, layer.ceil)
                output = (side, side, shape[-1])
            case _:
                output = shape
        yield LayerShape(layer, shape, output, kernel)
        shape = output
