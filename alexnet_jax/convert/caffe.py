"""Read Caffe's files: `.caffemodel` (weights) and `.binaryproto` (a mean image), both protocol buffers.

Only the fields that are needed are declared, with the numbers of BVLC/caffe, src/caffe/proto/caffe.proto; protobuf
skips all others. A net lists its layers as `layers` (V1, until 2014) or as `layer`, with different field numbers.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from alexnet_jax.arrays import DamagedArraysError, load_array
from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError

# As in caffe.proto, but with integers for enumerations.
_SCHEMA = """
message BlobShape { repeated int64 dim = 1; }
message BlobProto {
  optional int64 num = 1; optional int64 channels = 2; optional int64 height = 3; optional int64 width = 4;
  repeated float data = 5; optional BlobShape shape = 7; repeated double double_data = 8;
}
message LayerParameter { optional string name = 1; optional string type = 2; repeated BlobProto blobs = 7; }
message V1LayerParameter { optional string name = 4; optional int32 type = 5; repeated BlobProto blobs = 6; }
message NetParameter {
  optional string name = 1; repeated V1LayerParameter layers = 2; repeated LayerParameter layer = 100;
}
"""
_POOLING, _NORMALIZATION = ("Pooling", 17), ("LRN", 15)  # numbers of V1LayerParameter.LayerType


def _message_class(name: str) -> type[message.Message]:
    """Return the class of one of the schema's messages."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message_name, body in re.findall(r"message (\w+) \{(.*?)\}", _SCHEMA, re.DOTALL):
        declared = file.message_type.add(name=message_name)
        for label, kind, field_name, number in re.findall(r"(\w+) (\w+) (\w+) = (\d+);", body):
            field = declared.field.add(name=field_name, number=int(number), label=f"LABEL_{label.upper()}")
            if kind[0].isupper():
                field.type_name = f".caffe.{kind}"
            else:
                field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def read_caffemodel(path: Path) -> tuple[Arrays, str | None]:
    """Read a net's weights by layer, and detect from the order of its layers which of Caffe's AlexNets it is.

    "caffenet" pools before it normalizes, "caffe" afterwards; None if there are no such layers. UserError if the file
    is something else, or damaged.
    """
    net: Any = _parse("NetParameter", path, ".caffemodel")
    layers = net.layer or net.layers
    arrays: dict[str, np.ndarray] = {}
    for layer in (layer for layer in layers if layer.blobs):
        if len(layer.blobs) != 2:
            raise UserError(
                f"{path}: layer {layer.name!r} holds {len(layer.blobs)} arrays, but a layer of AlexNet has two, "
                "weights and biases; this is another net."
            )
        weight, bias = (_to_numpy(blob, f"{path}: layer {layer.name!r}") for blob in layer.blobs)
        if weight.ndim == 4 and weight.shape[:2] == (1, 1):  # how the older form stores a matrix
            weight = weight[0, 0]
        arrays |= {f"{layer.name}/weight": weight, f"{layer.name}/bias": bias.reshape(-1)}
    if not arrays:
        raise UserError(f"{path} is not a .caffemodel: it holds no layer with weights; give the file of a trained net.")
    first = next((layer.type for layer in layers if layer.type in _POOLING + _NORMALIZATION), None)
    return arrays, None if first is None else "caffenet" if first in _POOLING else "caffe"


def read_mean(path: Path) -> np.ndarray:
    """Read a `.npy` or `.binaryproto` of [3, S, S], blue first, as float32 [S, S, 3], red first; UserError if unfit."""
    if path.suffix == ".npy":
        try:
            mean = load_array(path)
        except DamagedArraysError as error:
            raise UserError(f"{path} is not a .npy file with a mean image ({error}).") from error
    else:
        mean = _to_numpy(_parse("BlobProto", path, ".binaryproto"), str(path))
        mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    is_image = mean.ndim == 3 and mean.shape[0] == 3 and mean.shape[1] == mean.shape[2] and mean.size > 0
    if not is_image or mean.dtype.kind not in "fiu" or not np.isfinite(np.float32(mean)).all():
        raise UserError(f"{path} holds {list(mean.shape)}; Caffe's mean image is [3, S, S], all numbers finite.")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0), np.float32)


def _parse(name: str, path: Path, suffix: str) -> message.Message:
    parsed = _message_class(name)()
    try:
        parsed.ParseFromString(path.read_bytes())
    except message.DecodeError as error:
        raise UserError(f"{path} is not a {suffix} file, or is incomplete; download it again.") from error
    return parsed


def _to_numpy(blob: Any, source: str) -> np.ndarray:
    """Return the numbers of a BlobProto as float32; UserError if they don't match its shape."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    values = np.array(blob.data or blob.double_data, np.float32)
    if values.size != math.prod(shape) or min(shape, default=0) < 1:
        raise UserError(
            f"{source} holds {values.size:,} numbers for an array of {list(shape)}; download the file again."
        )
    return values.reshape(shape)
