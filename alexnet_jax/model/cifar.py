"""The author's four-layer nets for CIFAR-10, to which the paper's Figure 1 and section 3.3 refer.

Source: [CC1] his first cuda-convnet, `example-layers/layers-conv-local-13pct.cfg` and `layers-conv-local-11pct.cfg`
with their `layer-params` files (mirrored at github.com/dnouri/cuda-convnet). The paper says "four-layer": two
convolutions and two locally connected layers below the classifier, which is `fc10` there and `fc8` here as in all nets.
They see crops of 24 of the 32 pixels.
"""

import dataclasses

from alexnet_jax.model.layers import (
    Activation,
    Classifier,
    Convolution,
    Gaussian,
    Layer,
    LocallyConnected,
    MaxPool,
    Net,
    ResponseNorm,
)

CIFAR_13PCT = Net(
    towers=1,
    source="[CC1] layers-conv-local-13pct.cfg: 13 % test error without normalization",
    layers=(
        Convolution("conv1", 64, kernel=5, padding=(2, 2), sees="image", kernel_init=Gaussian(1e-4), decay=0.0),
        Activation("relu1"),
        MaxPool("pool1", ceil=True),
        Convolution("conv2", 64, kernel=5, padding=(2, 2), decay=0.0),
        Activation("relu2"),
        MaxPool("pool2", ceil=True),
        LocallyConnected("local3", 32, kernel=3, padding=1, kernel_init=Gaussian(0.04)),
        Activation("relu3"),
        LocallyConnected("local4", 32, kernel=3, padding=1, kernel_init=Gaussian(0.04)),
        Activation("relu4"),
        Classifier(),
    ),
)


def _with_normalization(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Add normalization over 9 channels after pool1 and before pool2, and double the units of local3."""
    norm1, norm2 = (ResponseNorm(name, size=9, alpha=1e-3, k=1.0, divided=True) for name in ("norm1", "norm2"))
    changed: list[Layer] = []
    for layer in layers:
        match layer:
            case MaxPool(name="pool1"):
                changed += [layer, norm1]
            case MaxPool(name="pool2"):
                changed += [norm2, layer]
            case LocallyConnected(name="local3"):
                changed.append(dataclasses.replace(layer, features=64))
            case Classifier():
                changed.append(dataclasses.replace(layer, decay=2.5))  # 0.01, where the local layers have 0.004
            case _:
                changed.append(layer)
    return tuple(changed)


CIFAR_11PCT = Net(
    towers=1,
    source="[CC1] layers-conv-local-11pct.cfg: 11 % test error with normalization, and a wider local3",
    layers=_with_normalization(CIFAR_13PCT.layers),
)

CIFAR_NETS: dict[str, Net] = {"cifar_13pct": CIFAR_13PCT, "cifar_11pct": CIFAR_11PCT}
