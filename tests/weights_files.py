"""Write files of weights as Caffe and PyTorch do, and compute the logits of their nets in PyTorch.

`alexnet_jax.convert` is not used: the wire format of protocol buffers is assembled here from the field numbers of
BVLC/caffe, src/caffe/proto/caffe.proto.
"""

from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F

CAFFE_LAYERS = {  # in the order of models/bvlc_alexnet: type in V2, number of LayerType in V1
    "data": ("Data", 5), "conv1": ("Convolution", 4), "relu1": ("ReLU", 18), "norm1": ("LRN", 15),
    "pool1": ("Pooling", 17), "conv2": ("Convolution", 4), "relu2": ("ReLU", 18), "norm2": ("LRN", 15),
    "pool2": ("Pooling", 17), "conv3": ("Convolution", 4), "conv4": ("Convolution", 4), "conv5": ("Convolution", 4),
    "pool5": ("Pooling", 17), "fc6": ("InnerProduct", 14), "drop6": ("Dropout", 6), "fc7": ("InnerProduct", 14),
    "fc8": ("InnerProduct", 14), "loss": ("SoftmaxWithLoss", 21),
}  # fmt: skip
_SWAPPED = {"norm1": "pool1", "pool1": "norm1", "norm2": "pool2", "pool2": "norm2"}
CAFFENET_LAYERS = [_SWAPPED.get(name, name) for name in CAFFE_LAYERS]  # models/bvlc_reference_caffenet


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def bytes_field(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def blob(array: np.ndarray, form: str) -> bytes:
    """Return a BlobProto: "shape" with packed floats, "legacy" (four sizes, floats unpacked), or "double"."""
    if form == "legacy":
        sizes = [1] * (4 - array.ndim) + list(array.shape)
        floats = b"".join(varint(5 << 3 | 5) + value.tobytes() for value in array.astype("<f4").reshape(-1))
        return b"".join(number_field(i + 1, size) for i, size in enumerate(sizes)) + floats
    shape = bytes_field(7, bytes_field(1, b"".join(map(varint, array.shape))))
    if form == "double":
        return shape + bytes_field(8, array.astype("<f8").tobytes())
    return bytes_field(5, array.astype("<f4").tobytes()) + shape


def caffemodel(weights: dict, version: int, form: str, layers=CAFFE_LAYERS) -> bytes:
    """Return a NetParameter: layers as `layers` (V1) or `layer` (V2), with additional fields."""
    net = bytes_field(1, "a net") + bytes_field(3, "data")
    for name in layers:
        kind, number = CAFFE_LAYERS[name]
        blobs = [blob(weights[name][part], form) for part in ("weight", "bias")] if name in weights else []
        if version == 1:
            fields = bytes_field(2, "bottom") + bytes_field(3, name) + bytes_field(4, name) + number_field(5, number)
            fields += b"".join(bytes_field(6, part) for part in blobs) + varint(7 << 3 | 5) + b"\0\0\x80?"
            net += bytes_field(2, fields)
        else:
            fields = bytes_field(1, name) + bytes_field(2, kind) + bytes_field(4, name) + number_field(10, 1)
            fields += b"".join(bytes_field(7, part) for part in blobs) + bytes_field(106, number_field(1, 96))
            net += bytes_field(100, fields)
    return net


def caffe_weights(widths=(8, 22, 32, 32, 22), units=32, classes=7, maps=2, seed=0) -> dict:
    """Return random weights, [out, in / group, kh, kw] and [out, in]; `maps` is the side of pool5's maps in pixels."""
    sizes = [(11, 3), (5, widths[0] // 2), (3, widths[1]), (3, widths[2] // 2), (3, widths[3] // 2)]
    shapes = {f"conv{i}": (out, seen, k, k) for i, (out, (k, seen)) in enumerate(zip(widths, sizes, strict=True), 1)}
    shapes |= {"fc6": (units, widths[-1] * maps**2), "fc7": (units, units), "fc8": (classes, units)}
    return random_weights(shapes, seed)


def random_weights(shapes: dict, seed: int) -> dict:
    random = np.random.default_rng(seed)
    return {
        name: {
            "weight": np.float32((2 / np.prod(shape[1:])) ** 0.5) * random.standard_normal(shape, np.float32),
            "bias": random.standard_normal(shape[0], np.float32),
        }
        for name, shape in shapes.items()
    }


def caffe_logits(weights: dict, bgr: np.ndarray, pool_first: bool = False) -> np.ndarray:
    """Compute bvlc_alexnet (or CaffeNet) in PyTorch: [B, 3, S, S], blue first, minus the mean -> [B, classes]."""

    def norm(x):
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def pool(x):
        return F.max_pool2d(x, 3, 2)

    def convolution(x, name, **kind):
        return torch.relu(F.conv2d(x, *parameters(name), **kind))

    def parameters(name):
        return [torch.tensor(weights[name][part]) for part in ("weight", "bias")]

    x = convolution(torch.tensor(bgr), "conv1", stride=4)
    x = norm(pool(x)) if pool_first else pool(norm(x))
    x = convolution(x, "conv2", padding=2, groups=2)
    x = norm(pool(x)) if pool_first else pool(norm(x))
    x = convolution(x, "conv3", padding=1)
    x = convolution(x, "conv4", padding=1, groups=2)
    x = pool(convolution(x, "conv5", padding=1, groups=2)).flatten(1)
    for name in ("fc6", "fc7"):
        x = torch.relu(F.linear(x, *parameters(name)))
    return F.linear(x, *parameters("fc8")).numpy()


def torchvision_net(widths=(64, 192, 384, 256, 256), units=4096, classes=1000) -> torch.nn.Module:
    """Return torchvision's AlexNet of any widths; it sees 224 pixels."""
    nn, (a, b, c, d, e) = torch.nn, widths
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(a, b, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(e * 36, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(),
        nn.Linear(units, classes),
    )  # fmt: skip
    layers = OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(6), flat=nn.Flatten(), classifier=classifier)
    return nn.Sequential(layers).eval()
