"""Build a net as an ONNX graph from its layer list: nearly every layer is one ONNX operator, which runtimes run fast.
(jax2onnx would translate the compiled program, but needs an older Orbax than ours.)

The graph takes uint8 images [batch, S, S, 3] and returns probabilities [batch, classes]; inside, channels come first.
Operators: github.com/onnx/onnx, docs/Operators.md, opset 17.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.config import Config
from alexnet_jax.convert import record
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.data.augmentation import mean_to_subtract
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.errors import UserError
from alexnet_jax.model import layers

_OPSET, _IR_VERSION = 17, 8  # of 2022, so that older runtimes read them too


def build_model(config: Config, net: layers.Net, dataset_info: DatasetInfo, weights: Arrays) -> onnx.ModelProto:
    """Build the whole net, from weights with channels first (`layout.py`); UserError if it has a layer ONNX lacks."""
    size, num_classes = config.model.image_size, config.model.num_classes
    graph = _Graph(net.towers, weights)
    x = graph.preprocess("images", config, dataset_info)
    for shape in layers.layer_shapes(net, size, num_classes):
        x = graph.layer(x, shape.layer)
    graph.node("Softmax", [x], "probabilities", axis=-1)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", num_classes])
    model = helper.make_model(
        helper.make_graph(graph.nodes, config.model.variant, [images], [probabilities], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="alexnet_jax",
    )
    metadata = {"classes": "\n".join(dataset_info.class_names), record.KEY: record.write(config, dataset_info)}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


class _Graph:
    """A growing graph. Its methods add nodes or constants and return the name of the last one's output."""

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

    def preprocess(self, images: str, config: Config, dataset_info: DatasetInfo) -> str:
        """Turn uint8 [B, S, S, 3] into the first layer's [B, 3, S, S], as `data.augmentation.center_view` does."""
        x = self.node("Cast", [images], "pixels", to=TensorProto.FLOAT)
        mean = mean_to_subtract(dataset_info.statistics, config.data.mean, config.model.image_size)
        x = self.node("Sub", [x, self.constant("mean", mean)], "centered")
        if config.data.std:
            x = self.node("Div", [x, self.constant("std", config.data.std)], "divided")
        return self.node("Transpose", [x], "views", perm=[0, 3, 1, 2])

    def layer(self, x: str, layer: layers.Layer) -> str:
        """Add one layer at test time."""
        match layer:
            case layers.Convolution():
                inputs, (before, after) = [x, *self._parameters(layer.name)], layer.padding
                window = {"strides": [layer.stride] * 2, "pads": [before, before, after, after]}
                return self.node("Conv", inputs, layer.name, group=self._towers if layer.sees == "own" else 1, **window)
            case layers.LocallyConnected():
                raise UserError(
                    f"ONNX has no operator for {layer.name}, a locally connected layer; export as npz or stablehlo."
                )
            case layers.Dense() | layers.Classifier():
                return self._dense(x, layer)
            case layers.Activation():
                return self.node({"relu": "Relu", "tanh": "Tanh"}[layer.function], [x], layer.name)
            case layers.MaxPool():
                window = {"kernel_shape": [layer.window] * 2, "strides": [layer.stride] * 2}
                return self.node("MaxPool", [x], layer.name, ceil_mode=int(layer.ceil), **window)
            case layers.ResponseNorm():
                return self._response_norm(x, layer)
            case layers.MapNorm():
                return self._map_norm(x, layer)
            case layers.Dropout() if layer.kind == "inverted":  # does nothing at test time
                return x
            case layers.Dropout():
                return self.node("Mul", [x, self.constant(f"{layer.name}/keep", layer.keep)], layer.name)

    def _parameters(self, name: str) -> list[str]:
        return [self.constant(f"{name}/{kind}", self._weights[f"{name}/{kind}"]) for kind in ("weight", "bias")]

    def _dense(self, x: str, layer: layers.Dense | layers.Classifier) -> str:
        """Multiply by the weights, inputs in the order channel, row, column; once per tower that sees only its own."""
        name, weight, bias = layer.name, self._weights[f"{layer.name}/weight"], self._weights[f"{layer.name}/bias"]
        if isinstance(layer, layers.Classifier) or layer.sees == "all" or self._towers == 1:
            return self._multiply(x, name, weight, bias)
        parts = list(zip(np.split(weight, self._towers), np.split(bias, self._towers), strict=True))
        return self._per_tower(x, name, lambda x, tower: self._multiply(x, f"{name}/{tower}", *parts[tower]))

    def _multiply(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        flat = self.node("Flatten", [x], f"{name}/flat")
        inputs = [flat, self.constant(f"{name}/weight", weight), self.constant(f"{name}/bias", bias)]
        return self.node("Gemm", inputs, name, transB=1)

    def _response_norm(self, x: str, layer: layers.ResponseNorm) -> str:
        # LRN divides alpha by the size.
        kind = {"alpha": layer.coefficient * layer.size, "beta": layer.beta, "bias": layer.k, "size": layer.size}
        if layer.across == "all" or self._towers == 1:
            return self.node("LRN", [x], layer.name, **kind)
        return self._per_tower(x, layer.name, lambda x, tower: self.node("LRN", [x], f"{layer.name}/{tower}", **kind))

    def _map_norm(self, x: str, layer: layers.MapNorm) -> str:
        """Divide x by (k + alpha * mean of squares)^beta, where the mean counts pixels outside of the map as zeros."""
        name, border = layer.name, layer.size // 2
        squares = self.node("Mul", [x, x], f"{name}/squares")
        window = {"kernel_shape": [layer.size] * 2, "pads": [border] * 4, "count_include_pad": 1}
        mean = self.node("AveragePool", [squares], f"{name}/mean", **window)
        scaled = self.node("Mul", [mean, self.constant(f"{name}/alpha", layer.alpha)], f"{name}/scaled")
        base = self.node("Add", [scaled, self.constant(f"{name}/k", layer.k)], f"{name}/base")
        power = self.node("Pow", [base, self.constant(f"{name}/beta", layer.beta)], f"{name}/power")
        return self.node("Div", [x, power], name)

    def _per_tower(self, x: str, name: str, apply: Callable[[str, int], str]) -> str:
        """Apply a function to the channels of each tower, and join the results."""
        towers = [f"{name}/tower{number}" for number in range(self._towers)]
        self.nodes.append(helper.make_node("Split", [x], towers, name=f"{name}/split", axis=1))
        return self.node("Concat", [apply(x, number) for number, x in enumerate(towers)], name, axis=1)
