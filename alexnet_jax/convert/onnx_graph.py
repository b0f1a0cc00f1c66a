"""A net as an ONNX graph, made from its layer list: ONNX has an operator for nearly every layer, and runtimes are fast
at those. (jax2onnx would translate the compiled program; it asks for an older Orbax than ours.)

The graph takes uint8 images [batch, S, S, 3] and gives probabilities [batch, classes]; inside, channels come first.
Operators: github.com/onnx/onnx, docs/Operators.md, opset 17.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.config import Config
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.data.augmentation import mean_to_subtract
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import (
    Activation,
    Classifier,
    Convolution,
    Dense,
    Dropout,
    LayerShape,
    LocallyConnected,
    MapNorm,
    MaxPool,
    ResponseNorm,
    layer_shapes,
)

_OPSET, _IR_VERSION = 17, 8  # of 2022: what runtimes have read for years


def build_model(config: Config, dataset_info: DatasetInfo, weights: Arrays) -> onnx.ModelProto:
    """The whole net; `weights` have channels first: "conv1/weight" [out, in, kh, kw], "fc6/weight" [out, C*H*W]."""
    size, num_classes = config.model.image_size, config.model.num_classes
    net = build_net(config.model)
    graph = _Graph(net.towers, weights)
    x = graph.views("images", config, dataset_info)
    for shape in layer_shapes(net, size, num_classes):
        x = graph.layer(x, shape)
    graph.node("Softmax", [x], "probabilities", axis=-1)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", num_classes])
    model = helper.make_model(
        helper.make_graph(graph.nodes, config.model.variant, [images], [probabilities], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="alexnet_jax",
    )
    helper.set_model_props(model, {"classes": "\n".join(dataset_info.class_names)})
    onnx.checker.check_model(model)
    return model


class _Graph:
    """The nodes and constants of a graph that grows. Every method adds nodes and returns the name of their output."""

    def __init__(self, towers: int, weights: Arrays):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._towers = towers
        self._weights = weights

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def views(self, images: str, config: Config, dataset_info: DatasetInfo) -> str:
        """uint8 [B, S, S, 3] -> what the first layer sees, [B, 3, S, S]: `data.augmentation.center_view`."""
        x = self.node("Cast", [images], "pixels", to=TensorProto.FLOAT)
        mean = mean_to_subtract(dataset_info.statistics, config.data.mean, config.model.image_size)
        x = self.node("Sub", [x, self.constant("mean", mean)], "less_mean")
        if config.data.std:
            x = self.node("Div", [x, self.constant("std", config.data.std)], "divided")
        return self.node("Transpose", [x], "views", perm=[0, 3, 1, 2])

    def layer(self, x: str, shape: LayerShape) -> str:
        """One layer at test time."""
        layer = shape.layer
        match layer:
            case Convolution():
                before, after = layer.padding
                return self.node(
                    "Conv",
                    [x, *self._parameters(layer.name)],
                    layer.name,
                    strides=[layer.stride] * 2,
                    pads=[before, before, after, after],
                    group=self._towers if layer.sees == "own" else 1,
                )
            case LocallyConnected():
                raise UserError(f"--export=onnx: ONNX has no operator for {layer.name}, a locally connected layer.")
            case Dense() | Classifier():
                return self._dense(x, layer)
            case Activation():
                return self.node({"relu": "Relu", "tanh": "Tanh"}[layer.function], [x], layer.name)
            case MaxPool():
                window = {"kernel_shape": [layer.window] * 2, "strides": [layer.stride] * 2}
                return self.node("MaxPool", [x], layer.name, ceil_mode=int(layer.ceil), **window)
            case ResponseNorm():
                return self._response_norm(x, layer)
            case MapNorm():
                return self._map_norm(x, layer)
            case Dropout():
                return self._dropout(x, layer)

    def _parameters(self, name: str) -> list[str]:
        return [self.constant(f"{name}/{kind}", self._weights[f"{name}/{kind}"]) for kind in ("weight", "bias")]

    def _dense(self, x: str, layer: Dense | Classifier) -> str:
        """Inputs are numbered by channel, row, column; a tower that sees its own is a product by itself."""
        if isinstance(layer, Classifier) or layer.sees == "all" or self._towers == 1:
            x = self.node("Flatten", [x], f"{layer.name}/flat")
            return self.node("Gemm", [x, *self._parameters(layer.name)], layer.name, transB=1)
        weights, biases = (np.split(self._weights[f"{layer.name}/{kind}"], self._towers) for kind in ("weight", "bias"))
        outputs = []
        for number, part in enumerate(self._split(x, layer.name)):
            name = f"{layer.name}/{number}"
            flat = self.node("Flatten", [part], f"{name}/flat")
            weight, bias = (
                self.constant(f"{name}/weight", weights[number]),
                self.constant(f"{name}/bias", biases[number]),
            )
            outputs.append(self.node("Gemm", [flat, weight, bias], name, transB=1))
        return self.node("Concat", outputs, layer.name, axis=1)

    def _dropout(self, x: str, layer: Dropout) -> str:
        """The inverted one does nothing at test time."""
        if layer.kind == "inverted":
            return x
        return self.node("Mul", [x, self.constant(f"{layer.name}/keep", layer.keep)], layer.name)

    def _response_norm(self, x: str, layer: ResponseNorm) -> str:
        """LRN divides alpha by the size."""
        kind = {"alpha": layer.coefficient * layer.size, "beta": layer.beta, "bias": layer.k, "size": layer.size}
        if layer.across == "all" or self._towers == 1:
            return self.node("LRN", [x], layer.name, **kind)
        parts = [
            self.node("LRN", [part], f"{layer.name}/{number}", **kind)
            for number, part in enumerate(self._split(x, layer.name))
        ]
        return self.node("Concat", parts, layer.name, axis=1)

    def _map_norm(self, x: str, layer: MapNorm) -> str:
        """Divides x by (k + alpha * mean of squares)^beta; the mean counts pixels outside of the map as zeros."""
        name, border = layer.name, layer.size // 2
        squares = self.node("Mul", [x, x], f"{name}/squares")
        window = {"kernel_shape": [layer.size] * 2, "pads": [border] * 4, "count_include_pad": 1}
        mean = self.node("AveragePool", [squares], f"{name}/mean", **window)
        scaled = self.node("Mul", [mean, self.constant(f"{name}/alpha", layer.alpha)], f"{name}/scaled")
        base = self.node("Add", [scaled, self.constant(f"{name}/k", layer.k)], f"{name}/base")
        power = self.node("Pow", [base, self.constant(f"{name}/beta", layer.beta)], f"{name}/power")
        return self.node("Div", [x, power], name)

    def _split(self, x: str, name: str) -> list[str]:
        """The channels of each tower."""
        parts = [f"{name}/tower{number}" for number in range(self._towers)]
        self.nodes.append(helper.make_node("Split", [x], parts, name=f"{name}/split", axis=1))
        return parts
