"""Read the weights of ONNX graphs: the Model Zoo's `bvlcalexnet` and `caffenet`, PyTorch's exports, and our own.

Names of arrays say little, so layers are taken in the graph's order: convolutions are conv1, conv2, ..., then come fc6,
fc7 and fc8. Only the fields that are needed are declared, with the numbers of onnx/onnx.proto.
"""

import math
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from alexnet_jax.convert import record
from alexnet_jax.convert.contents import Contents
from alexnet_jax.convert.protobuf_schema import parse
from alexnet_jax.errors import UserError, printable

_SCHEMA = """
message AttributeProto { optional string name = 1; optional int64 i = 3; }
message TensorProto {
  repeated int64 dims = 1; optional int32 data_type = 2; repeated float float_data = 4; optional string name = 8;
  optional bytes raw_data = 9; repeated double double_data = 10; optional int32 data_location = 14;
}
message NodeProto {
  repeated string input = 1; repeated string output = 2; optional string op_type = 4;
  repeated AttributeProto attribute = 5;
}
message Dimension { optional int64 dim_value = 1; }
message Shape { repeated Dimension dim = 1; }
message TensorType { optional Shape shape = 2; }
message TypeProto { optional TensorType tensor_type = 1; }
message ValueInfoProto { optional string name = 1; optional TypeProto type = 2; }
message GraphProto {
  repeated NodeProto node = 1; optional string name = 2; repeated TensorProto initializer = 5;
  repeated ValueInfoProto input = 11;
}
message StringStringEntryProto { optional string key = 1; optional string value = 2; }
message ModelProto { optional GraphProto graph = 7; repeated StringStringEntryProto metadata_props = 14; }
"""
_DTYPES = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8"), 16: np.dtype(ml_dtypes.bfloat16)}
_QUANTIZED = re.compile("QLinear|Quantize|ConvInteger|MatMulInteger")  # operators
_FIRST_DENSE = 6  # fc6


def read_onnx(path: Path) -> Contents:
    """Read a graph's weights by layer; UserError if the file is something else, damaged, or keeps them otherwise.

    Whether it pools or normalizes first tells "caffenet" from "caffe"; a net that does not normalize is torchvision's.
    """
    model = parse(_SCHEMA, "ModelProto", path, ".onnx")
    tensors = {str(tensor.name): tensor for tensor in model.graph.initializer}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if any(_QUANTIZED.match(str(node.op_type)) for node in model.graph.node):
        raise UserError(f"{path} is quantized; give the net's file of floating-point weights.")
    if record.KEY in metadata:
        layers = [name.removesuffix("/bias") for name in tensors if name.endswith("/bias")]
        names = [f"{layer}/{kind}" for layer in layers for kind in ("weight", "bias") if f"{layer}/{kind}" in tensors]
        arrays = {name: _to_numpy(tensors[name], path) for name in names}
        return Contents(_joined(arrays), record=metadata[record.KEY])
    arrays = {}
    dense = _FIRST_DENSE
    for node in model.graph.node:
        if node.op_type == "Conv":
            name = f"conv{1 + sum(key.endswith('/weight') for key in arrays)}"
        elif node.op_type == "Gemm":
            name, dense = f"fc{dense}", dense + 1
        else:
            continue
        arrays |= _layer(name, node, tensors, path)
    if not arrays:
        raise UserError(f"{path} has no convolution or fully connected layer; give the .onnx file of a trained net.")
    operators = [node.op_type for node in model.graph.node]
    first = next((operator for operator in operators if operator in ("MaxPool", "LRN")), None)
    if "LRN" not in operators:
        return Contents(arrays, "torchvision")
    variant = "caffenet" if first == "MaxPool" else "caffe"
    return Contents(arrays, variant, certain=True, bgr=True, notes=_view(model))


def _layer(name: str, node: Any, tensors: dict[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Return weight and bias of a convolution or a matrix product, channels first."""
    if len(node.input) != 3 or not all(source in tensors for source in node.input[1:]):
        raise UserError(
            f"{path}: the weights of its {name} are not stored as they are, but computed in the graph; export it again "
            "with plain initializers, weights and biases."
        )
    weight, bias = (_to_numpy(tensors[source], path) for source in node.input[1:])
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i):
        weight = weight.T
    return {f"{name}/weight": weight, f"{name}/bias": bias}


def _joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join the parts that our export makes of a layer whose towers see only their own: "fc6/0/weight", ..."""
    parts: dict[str, list[np.ndarray]] = {}
    for name, array in arrays.items():
        parts.setdefault(re.sub(r"/\d+/", "/", name), []).append(array)
    return {name: np.concatenate(of) if len(of) > 1 else of[0] for name, of in parts.items()}


def _view(model: Any) -> tuple[str, ...]:
    """Return a line about the size of the images that the graph takes, if it says so."""
    sides = [dim.dim_value for value in model.graph.input[:1] for dim in value.type.tensor_type.shape.dim][2:]
    return ("view: 227 pixels, as published; the file's graph takes 224",) if sides == [224, 224] else ()


def _to_numpy(tensor: Any, path: Path) -> np.ndarray:
    """Return the numbers of a TensorProto; UserError if they don't match its shape, or are elsewhere."""
    name, shape = printable(str(tensor.name)), tuple(tensor.dims)
    if tensor.data_location:
        raise UserError(
            f"{path} keeps its weights in another file; put them into one with "
            f"onnx.save(onnx.load({path.name!r}), 'one.onnx')."
        )
    if tensor.data_type not in _DTYPES:
        raise UserError(
            f"{path}: {name!r} is not of floating-point numbers; give the net's file that has such weights."
        )
    values = tensor.float_data or tensor.double_data
    dtype = _DTYPES[tensor.data_type]
    size = len(values) if values else len(tensor.raw_data) // dtype.itemsize
    if size != math.prod(shape) or min(shape, default=1) < 1 or (not values and len(tensor.raw_data) % dtype.itemsize):
        raise UserError(f"{path}: {name!r} holds {size:,} numbers for an array of {list(shape)}; download it again.")
    array = np.array(values, dtype) if values else np.frombuffer(tensor.raw_data, dtype)
    return array.reshape(shape)
