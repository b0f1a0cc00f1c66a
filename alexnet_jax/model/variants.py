"""The published AlexNets, written down as data.

Sources: [PAPER] Krizhevsky, Sutskever, Hinton, NIPS 2012, section 3. [CODE] the released 2012 code,
github.com/computerhistory/AlexNet-Source-Code, `layers/layers-*.cfg`. [CC2] github.com/akrizhevsky/cuda-convnet2,
`layers/layers-imagenet-1gpu.cfg`. [CAFFE] github.com/BVLC/caffe, `models/`. [TV] github.com/pytorch/vision,
`torchvision/models/alexnet.py`.
"""

import dataclasses

from alexnet_jax.model.layers import (
    Activation,
    Classifier,
    Convolution,
    Dense,
    Dropout,
    FanInUniform,
    Gaussian,
    Layer,
    MapNorm,
    MaxPool,
    Net,
    ResponseNorm,
)

# [CODE] pads nothing on the left and lets the last of the 55 windows stick out by three pixels (`layer.py:1004`).
LAST_WINDOW_STICKS_OUT = (0, 3)

PAPER = Net(
    towers=2,
    source="[PAPER] section 3.5, standard deviation 0.01 everywhere (section 5), alpha not divided by n (section 3.3)",
    layers=(
        Convolution("conv1", 96, kernel=11, stride=4, padding=LAST_WINDOW_STICKS_OUT, sees="image"),
        Activation("relu1"),
        ResponseNorm("norm1"),
        MaxPool("pool1"),
        Convolution("conv2", 256, kernel=5, padding=(2, 2), sees="own", bias_init=1.0),
        Activation("relu2"),
        ResponseNorm("norm2"),
        MaxPool("pool2"),
        Convolution("conv3", 384, kernel=3, padding=(1, 1), sees="all"),
        Activation("relu3"),
        Convolution("conv4", 384, kernel=3, padding=(1, 1), sees="own", bias_init=1.0),
        Activation("relu4"),
        Convolution("conv5", 256, kernel=3, padding=(1, 1), sees="own", bias_init=1.0),
        Activation("relu5"),
        MaxPool("pool5"),
        Dense("fc6", 4096),
        Activation("relu6"),
        Dropout("drop6"),
        Dense("fc7", 4096),
        Activation("relu7"),
        Dropout("drop7"),
        Classifier("fc8"),
    ),
)

ORIGINAL = Net(
    towers=2,
    source="[CODE] layers-145.cfg with layer-params-145.cfg: the run that gave the paper's numbers",
    layers=(
        Convolution("conv1", 96, kernel=11, stride=4, padding=LAST_WINDOW_STICKS_OUT, sees="image"),
        ResponseNorm("norm1", divided=True),
        MaxPool("pool1"),
        Activation("relu1"),
        Convolution("conv2", 256, kernel=5, padding=(2, 2), sees="own", bias_init=1.0),
        Activation("relu2"),
        ResponseNorm("norm2", divided=True),
        MapNorm("mapnorm2"),
        MaxPool("pool2"),
        Convolution("conv3", 384, kernel=3, padding=(1, 1), sees="all", kernel_init=Gaussian(0.03)),
        Activation("relu3"),
        Convolution("conv4", 384, kernel=3, padding=(1, 1), sees="own", kernel_init=Gaussian(0.03), bias_init=1.0),
        Activation("relu4"),
        Convolution("conv5", 256, kernel=3, padding=(1, 1), sees="own", kernel_init=Gaussian(0.03), bias_init=1.0),
        MaxPool("pool5"),
        Activation("relu5"),
        Dense("fc6", 4096),
        Activation("relu6"),
        Dropout("drop6"),
        Dense("fc7", 4096),
        Activation("relu7"),
        Dropout("drop7"),
        Classifier("fc8"),
    ),
)


def _changed(net: Net, source: str, *, towers: int | None = None, **fields: dict) -> Net:
    """Derive a net of another source by replacing some fields of the named layers."""
    layers = tuple(dataclasses.replace(layer, **fields.get(layer.name, {})) for layer in net.layers)
    return Net(towers=net.towers if towers is None else towers, layers=layers, source=source)


def _with_layers_after(net: Net, name: str, added: tuple[Layer, ...], source: str) -> Net:
    """Derive a net of another source by adding layers after the layer of this name."""
    position = net.names.index(name) + 1
    return Net(net.towers, net.layers[:position] + added + net.layers[position:], source)


MERGED = _changed(
    PAPER,
    "the paper's widths in one tower without groups, as most tutorials draw it; never trained by the authors",
    towers=1,
)

ONE_TOWER = _changed(
    ORIGINAL,
    "[CODE] layers-145-half.cfg: half the kernels, but for conv5 and the fully connected layers ([PAPER] footnote 2)",
    towers=1,
    conv1={"features": 48},
    conv2={"features": 128},
    conv3={"features": 192},
    conv4={"features": 192},
)

SIX_CONV = _with_layers_after(
    ORIGINAL,
    "relu5",
    (
        Convolution("conv6", 256, kernel=3, padding=(1, 1), sees="all", kernel_init=Gaussian(0.03), bias_init=1.0),
        Activation("relu_conv6"),
    ),
    "[CODE] layers-146-*.cfg: the paper's CNN*, a sixth convolution over the last pooling layer (section 6.1)",
)

NO_COMMUNICATION = _changed(
    ORIGINAL,
    "[CODE] layers-150.cfg: the towers meet only in the classifier; 41.83 / 19.33 % on ILSVRC-2012 validation",
    conv2={"features": 320},
    conv3={"sees": "own"},
    fc6={"features": 8192, "sees": "own"},
    fc7={"sees": "own"},
)


def _caffe_norm(name: str) -> ResponseNorm:
    """Make Caffe's normalization: alpha divided by the size, k = 1 (caffe.proto), over the channels of both groups."""
    return ResponseNorm(name, k=1.0, divided=True, across="all")


CAFFE = Net(
    towers=2,
    source="[CAFFE] models/bvlc_alexnet: 227 pixels, biases 0.1, normalization across the groups",
    layers=(
        Convolution("conv1", 96, kernel=11, stride=4, sees="image"),
        Activation("relu1"),
        _caffe_norm("norm1"),
        MaxPool("pool1"),
        Convolution("conv2", 256, kernel=5, padding=(2, 2), sees="own", bias_init=0.1),
        Activation("relu2"),
        _caffe_norm("norm2"),
        MaxPool("pool2"),
        Convolution("conv3", 384, kernel=3, padding=(1, 1), sees="all"),
        Activation("relu3"),
        Convolution("conv4", 384, kernel=3, padding=(1, 1), sees="own", bias_init=0.1),
        Activation("relu4"),
        Convolution("conv5", 256, kernel=3, padding=(1, 1), sees="own", bias_init=0.1),
        Activation("relu5"),
        MaxPool("pool5"),
        Dense("fc6", 4096, kernel_init=Gaussian(0.005), bias_init=0.1),
        Activation("relu6"),
        Dropout("drop6", kind="inverted"),
        Dense("fc7", 4096, kernel_init=Gaussian(0.005), bias_init=0.1),
        Activation("relu7"),
        Dropout("drop7", kind="inverted"),
        Classifier("fc8"),
    ),
)


def _pool_before_norm(net: Net) -> tuple[Layer, ...]:
    """Move each normalization of a net behind the pooling that follows it."""
    layers = list(net.layers)
    for i in range(len(layers) - 1):
        if isinstance(layers[i], ResponseNorm) and isinstance(layers[i + 1], MaxPool):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return tuple(layers)


CAFFENET = _changed(
    Net(2, _pool_before_norm(CAFFE)),
    "[CAFFE] models/bvlc_reference_caffenet: pooling before normalization, biases 1",
    conv2={"bias_init": 1.0},
    conv4={"bias_init": 1.0},
    conv5={"bias_init": 1.0},
    fc6={"bias_init": 1.0},
    fc7={"bias_init": 1.0},
)

ONE_WEIRD_TRICK = _changed(
    Net(1, tuple(layer for layer in ORIGINAL.layers if layer.name != "mapnorm2")),
    "[CC2] layers-imagenet-1gpu.cfg: the net of 'One weird trick' (arXiv 1404.5997), with both normalizations",
    conv1={"features": 64},
    conv2={"features": 192},
    conv4={"features": 256},
    fc8={"bias_init": -7.0},
)

_TORCH: dict = {"kernel_init": FanInUniform(), "bias_init": FanInUniform()}

TORCHVISION = Net(
    towers=1,
    source="[TV] 'One weird trick' without normalization, dropout before fc6 and fc7, PyTorch's starting values",
    layers=(
        Convolution("conv1", 64, kernel=11, stride=4, padding=(2, 2), sees="image", **_TORCH),
        Activation("relu1"),
        MaxPool("pool1"),
        Convolution("conv2", 192, kernel=5, padding=(2, 2), **_TORCH),
        Activation("relu2"),
        MaxPool("pool2"),
        Convolution("conv3", 384, kernel=3, padding=(1, 1), **_TORCH),
        Activation("relu3"),
        Convolution("conv4", 256, kernel=3, padding=(1, 1), **_TORCH),
        Activation("relu4"),
        Convolution("conv5", 256, kernel=3, padding=(1, 1), **_TORCH),
        Activation("relu5"),
        MaxPool("pool5"),
        Dropout("drop5", kind="inverted"),
        Dense("fc6", 4096, **_TORCH),
        Activation("relu6"),
        Dropout("drop6", kind="inverted"),
        Dense("fc7", 4096, **_TORCH),
        Activation("relu7"),
        Classifier("fc8", **_TORCH),
    ),
)

VARIANTS: dict[str, Net] = {
    "paper": PAPER,
    "original": ORIGINAL,
    "merged": MERGED,
    "one_tower": ONE_TOWER,
    "six_conv": SIX_CONV,
    "no_communication": NO_COMMUNICATION,
    "caffe": CAFFE,
    "caffenet": CAFFENET,
    "one_weird_trick": ONE_WEIRD_TRICK,
    "torchvision": TORCHVISION,
}
