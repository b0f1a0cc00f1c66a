"""Build a net as an ONNX graph from its layer list: nearly every layer is one ONNX operator, which runtimes run fast.
(jax2onnx would translate the compiled program, but needs an older Orbax than ours.)

The graph takes uint8 images [batch, S, S, 3] and returns probabilities [batch, classes]; inside, channels come first.
Operators: github.com/onnx/onnx, docs/Operators.md. The graph has only such as mean the same in opsets 9 to 21, written
so that older runtimes read them: with every optional size, and padding where an old operator can't round up.
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

OPSET = 17  # of 2022, if none from 9 to 21 is asked for
_SPLIT_BY_INPUT = 13  # the opset from which `Split` takes the sizes as an input


def build_model(
    config: Config,
    net: layers.Net,
    dataset_info: DatasetInfo,
    weights: Arrays,
    opset: int = OPSET,
    batch: int | None = None,
) -> onnx.ModelProto:
    """Build the whole net, from weights with channels first (`layout.py`), for `batch` images or, for None, any number.

    UserError if the net has a layer that ONNX lacks.
    """
    size, num_classes = config.model.image_size, config.model.num_classes
    graph = _Graph(net.towers, weights, opset)
    x = graph.preprocess("images", config, dataset_info)
    for shape in layers.layer_shapes(net, size, num_classes):
        x = graph.layer(x, shape)
    graph.node("Softmax", [x], "probabilities", axis=1)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch or "batch", size, size, 3])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch or "batch", num_classes])
    version = helper.make_opsetid("", opset)
    model = helper.make_model(
        helper.make_graph(graph.nodes, config.model.variant, [images], [probabilities], graph.constants),
        opset_imports=[version],
        ir_version=helper.find_min_ir_version_for([version]),
        producer_name="alexnet_jax",
    )
    metadata = {"classes": "\n".join(dataset_info.class_names), record.KEY: record.write(config, dataset_info)}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


class _Graph:
    """A growing graph. Its methods add nodes or constants and return the name of the last one's output."""

    def __init__(self, towers: int, weights: Arrays, opset: int):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._towers = towers
        self._weights = weights
        self._opset = opset

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

    def layer(self, x: str, shape: layers.LayerShape) -> str:
        """Add one layer at test time."""
        match layer := shape.layer:
            case layers.Convolution():
                inputs, (before, after) = [x, *self._parameters(layer.name)], layer.padding
                window = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
                window["pads"] = [before, before, after, after]
                return self.node("Conv", inputs, layer.name, group=self._towers if layer.sees == "own" else 1, **window)
            case layers.LocallyConnected():
                raise UserError(
                    f"ONNX has no operator for {layer.name}, a locally connected layer; export as npz or stablehlo."
                )
            case layers.Dense() | layers.Classifier():
                return self._dense(x, layer, shape.input_shape[-1])
            case layers.Activation():
                return self.node({"relu": "Relu", "tanh": "Tanh"}[layer.function], [x], layer.name)
            case layers.MaxPool():
                window = {"kernel_shape": [layer.window] * 2, "strides": [layer.stride] * 2}
                missing = -(shape.input_shape[0] - layer.window) % layer.stride if layer.ceil else 0
                return self.node("MaxPool", [x], layer.name, pads=[0, 0, missing, missing], **window)  # of -infinity
            case layers.ResponseNorm():
                return self._response_norm(x, layer, shape.input_shape[-1])
            case layers.MapNorm():
                return self._map_norm(x, layer, shape.input_shape[-1])
            case layers.Dropout() if layer.kind == "inverted":  # does nothing at test time
                return x
            case layers.Dropout():
                return self.node("Mul", [x, self.constant(f"{layer.name}/keep", layer.keep)], layer.name)

    def _parameters(self, name: str) -> list[str]:
        return [self.constant(f"{name}/{kind}", self._weights[f"{name}/{kind}"]) for kind in ("weight", "bias")]

    def _dense(self, x: str, layer: layers.Dense | layers.Classifier, channels: int) -> str:
        """Multiply by the weights, inputs in the order channel, row, column; once per tower that sees only its own."""
        name, weight, bias = layer.name, self._weights[f"{layer.name}/weight"], self._weights[f"{layer.name}/bias"]
        if isinstance(layer, layers.Classifier) or layer.sees == "all" or self._towers == 1:
            return self._multiply(x, name, weight, bias)
        parts = list(zip(np.split(weight, self._towers), np.split(bias, self._towers), strict=True))

        def own(x: str, tower: int) -> str:
            return self._multiply(x, f"{name}/{tower}", *parts[tower])

        return self._per_tower(x, name, channels, own)

    def _multiply(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        flat = self.node("Flatten", [x], f"{name}/flat")
        inputs = [flat, self.constant(f"{name}/weight", weight), self.constant(f"{name}/bias", bias)]
        return self.node("Gemm", inputs, name, transB=1)

    def _response_norm(self, x: str, layer: layers.ResponseNorm, channels: int) -> str:
        # LRN divides alpha by the size.
        kind = {"alpha": layer.coefficient * layer.size, "beta": layer.beta, "bias": layer.k, "size": layer.size}
        if layer.across == "all" or self._towers == 1:
            return self.node("LRN", [x], layer.name, **kind)
        name = layer.name
        return self._per_tower(x, name, channels, lambda x, tower: self.node("LRN", [x], f"{name}/{tower}", **kind))

    def _map_norm(self, x: str, layer: layers.MapNorm, channels: int) -> str:
        """Divide x by (k + alpha * mean of squares)^beta, where the mean counts pixels outside of the map as zeros.

        The base is a convolution of each channel's squares. `AveragePool` would need `count_include_pad`, which OpenCV
        4 ignores.
        """
        name, size = layer.name, layer.size
        squares = self.node("Mul", [x, x], f"{name}/squares")
        weight = self.constant(f"{name}/weight", np.full((channels, 1, size, size), layer.alpha / size**2))
        inputs = [squares, weight, self.constant(f"{name}/k", np.full(channels, layer.k))]
        window = {"kernel_shape": [size] * 2, "strides": [1, 1], "pads": [size // 2] * 4}
        base = self.node("Conv", inputs, f"{name}/base", group=channels, **window)
        power = self.node("Pow", [base, self.constant(f"{name}/beta", layer.beta)], f"{name}/power")
        return self.node("Div", [x, power], name)

    def _per_tower(self, x: str, name: str, channels: int, apply: Callable[[str, int], str]) -> str:
        """Apply a function to the channels of each tower, and join the results."""
        towers = [f"{name}/tower{number}" for number in range(self._towers)]
        sizes = [channels // self._towers] * self._towers
        if self._opset < _SPLIT_BY_INPUT:
            split = helper.make_node("Split", [x], towers, name=f"{name}/split", axis=1, split=sizes)
        else:
            self.constants.append(numpy_helper.from_array(np.asarray(sizes, np.int64), f"{name}/sizes"))
            split = helper.make_node("Split", [x, f"{name}/sizes"], towers, name=f"{name}/split", axis=1)
        self.nodes.append(split)
        return self.node("Concat", [apply(x, number) for number, x in enumerate(towers)], name, axis=1)
