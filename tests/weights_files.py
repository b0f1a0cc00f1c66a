"""Write files of weights as Caffe, PyTorch, MatConvNet, caffe-tensorflow and ONNX's Model Zoo do, and compute the
logits of their nets in PyTorch.

`alexnet_jax.convert` is not used: the wire format of Caffe's protocol buffers is assembled here from the field numbers
of BVLC/caffe, src/caffe/proto/caffe.proto.
"""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import scipy.io
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from prepare_sources import python2_pickle

CAFFE_LAYERS = {  # in the order of models/bvlc_alexnet: type in V2, number of LayerType in V1
    "data": ("Data", 5), "conv1": ("Convolution", 4), "relu1": ("ReLU", 18), "norm1": ("LRN", 15),
    "pool1": ("Pooling", 17), "conv2": ("Convolution", 4), "relu2": ("ReLU", 18), "norm2": ("LRN", 15),
    "pool2": ("Pooling", 17), "conv3": ("Convolution", 4), "conv4": ("Convolution", 4), "conv5": ("Convolution", 4),
    "pool5": ("Pooling", 17), "fc6": ("InnerProduct", 14), "drop6": ("Dropout", 6), "fc7": ("InnerProduct", 14),
    "fc8": ("InnerProduct", 14), "loss": ("SoftmaxWithLoss", 21),
}  # fmt: skip
_OTHERS = {"fc8_flickr": ("InnerProduct", 14), **{f"fc{number}-conv": ("Convolution", 4) for number in (6, 7, 8)}}
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
        kind, number = {**CAFFE_LAYERS, **_OTHERS}[name]
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


def v0_caffemodel(weights: dict) -> bytes:
    """Return a NetParameter of 2013, whose layers are inside layers (V0LayerParameter)."""
    kinds = {"Convolution": "conv", "InnerProduct": "innerproduct", "Pooling": "pool"}
    net = bytes_field(1, "CaffeNet")
    for name in CAFFENET_LAYERS:
        kind = kinds.get(CAFFE_LAYERS[name][0], CAFFE_LAYERS[name][0].lower())
        blobs = [blob(weights[name][part], "legacy") for part in ("weight", "bias")] if name in weights else []
        fields = bytes_field(1, name) + bytes_field(2, kind) + b"".join(bytes_field(50, part) for part in blobs)
        net += bytes_field(2, bytes_field(1, fields) + bytes_field(2, "bottom"))
    return net


def channels_last(weights: dict) -> dict:
    """Return kernels [kh, kw, in, out] and [in, out] for images with blue first, fc6's inputs as rows, columns,
    channels; by layer: [kernel, bias].
    """
    side = round((weights["fc6"]["weight"].shape[1] / weights["conv5"]["weight"].shape[0]) ** 0.5)
    kernels = {}
    for name, of in weights.items():
        weight = of["weight"]
        if name == "fc6":
            weight = weight.reshape(len(weight), -1, side, side).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        kernels[name] = [
            np.ascontiguousarray(weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T),
            of["bias"],
        ]
    return kernels


def write_npy(weights: dict, path: Path) -> None:
    """Write a dictionary of lists as NumPy did under Python 2 (cs.toronto.edu/~guerzhoy/tf_alexnet)."""
    layers = {name.encode(): list(of) for name, of in channels_last(weights).items()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header.getvalue() + python2_pickle(np.array(layers, object)))


def write_mat(weights: dict, mean: np.ndarray, names: list[str], path: Path, old: bool = False) -> None:
    """Write a model as MatConvNet's utils/import-caffe.py does: red first, fc6 to fc8 as convolutions; the variables of
    `old` files have other names.

    mean: [S, S, 3], red first.
    """
    layers = []
    for name, (kernel, bias) in channels_last(weights).items():
        if name == "conv1":
            kernel = kernel[:, :, ::-1]
        if name == "fc6":
            side = round((len(kernel) / len(weights["conv5"]["bias"])) ** 0.5)
            kernel = kernel.reshape(side, side, -1, kernel.shape[1])
        if kernel.ndim == 2:
            kernel = kernel[None, None]
        arrays = np.empty((1, 2), object)
        arrays[0, :] = [kernel, bias[None]]
        of = {"filters": kernel, "biases": bias[None]} if old else {"weights": arrays}
        layers.append({"type": "conv", "name": name, **of, "pad": 0.0, "stride": 1.0})
        if name in ("conv1", "conv2"):
            layers += [{"type": "relu"}, {"type": "normalize" if old else "lrn"}, {"type": "pool", "method": "max"}]
    cells = np.empty((1, len(layers)), object)
    cells[0, :] = layers
    labels = np.empty((1, len(names)), object)
    labels[0, :] = names
    meta = {"normalization": {"averageImage": mean, "keepAspect": False}, "classes": {"name": labels}}
    scipy.io.savemat(
        path, {"layers": cells, **(meta if old else {"meta": meta})}, do_compression=len(bias) < 100, oned_as="row"
    )


def write_onnx(weights: dict, path: Path, pool_first: bool = False) -> None:
    """Write a graph like `bvlcalexnet-9.onnx` of the Model Zoo, or `caffenet-9.onnx`: names ending in _w_0, transB."""
    nodes, tensors = [], []

    def add(operator: str, x: str, name: str, **attributes) -> str:
        inputs = [x]
        if name in weights:
            inputs += [f"{name}_w_0", f"{name}_b_0"]
            tensors.extend(
                numpy_helper.from_array(array, key)
                for array, key in zip(weights[name].values(), inputs[1:], strict=True)
            )
        nodes.append(helper.make_node(operator, inputs, [f"{name}_1"], **attributes))
        return f"{name}_1"

    x = "data_0"
    for name in CAFFENET_LAYERS if pool_first else CAFFE_LAYERS:
        if name.startswith("conv"):
            padding = {"conv1": 0, "conv2": 2}.get(name, 1)
            group = 2 if name in ("conv2", "conv4", "conv5") else 1
            x = add("Conv", x, name, group=group, pads=[padding] * 4, strides=[4 if name == "conv1" else 1] * 2)
            x = add("Relu", x, f"{name}_relu")
        elif name.startswith("norm"):
            x = add("LRN", x, name, size=5, alpha=1e-4, beta=0.75, bias=1.0)
        elif name.startswith("pool"):
            x = add("MaxPool", x, name, kernel_shape=[3, 3], strides=[2, 2])
        elif name.startswith("fc"):
            x = add("Flatten", x, f"{name}_flat") if name == "fc6" else x
            x = add("Gemm", x, name, transB=1)
            x = add("Relu", x, f"{name}_relu") if name != "fc8" else x
    nodes.append(helper.make_node("Softmax", [x], ["prob_1"]))
    data = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])
    probabilities = helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [1, len(weights["fc8"]["bias"])])
    graph = helper.make_graph(nodes, "bvlc_alexnet", [data], [probabilities], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3), path)


def write_caffenet_pth(weights: dict, path: Path) -> None:
    """Write a training's checkpoint of CaffeNet with the names of JigenDG's AlexNetCaffe, from several GPUs."""
    state = OrderedDict(
        (f"module.{'features' if name.startswith('conv') else 'classifier'}.{name}.{kind}", torch.tensor(array))
        for name, of in weights.items()
        for kind, array in of.items()
    )
    torch.save({"epoch": 3, "state_dict": state, "best_acc": np.float64(0.5), "optimizer": {"state": {}}}, path)
