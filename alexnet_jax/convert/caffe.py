"""Caffe's files: `.caffemodel` (weights) and `.binaryproto` (a mean image), both protocol buffers.

The few fields that matter here are declared with the numbers of BVLC/caffe, src/caffe/proto/caffe.proto; protobuf skips
all others. A net lists its layers as `layers` (V1, until 2014) or as `layer`, which name the same things differently.
"""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError
from alexnet_jax.untrusted.arrays import DamagedArraysError, load_array

_Field = descriptor_pb2.FieldDescriptorProto
# message: field: (number, type); a message's name as the type, a list of one for a repeated field.
_SCHEMA: dict[str, dict[str, tuple[int, Any]]] = {
    "BlobShape": {"dim": (1, [_Field.TYPE_INT64])},
    "BlobProto": {
        "num": (1, _Field.TYPE_INT64),
        "channels": (2, _Field.TYPE_INT64),
        "height": (3, _Field.TYPE_INT64),
        "width": (4, _Field.TYPE_INT64),
        "data": (5, [_Field.TYPE_FLOAT]),
        "shape": (7, "BlobShape"),
        "double_data": (8, [_Field.TYPE_DOUBLE]),
    },
    "LayerParameter": {"name": (1, _Field.TYPE_STRING), "type": (2, _Field.TYPE_STRING), "blobs": (7, ["BlobProto"])},
    "V1LayerParameter": {"name": (4, _Field.TYPE_STRING), "type": (5, _Field.TYPE_INT32), "blobs": (6, ["BlobProto"])},
    "NetParameter": {
        "name": (1, _Field.TYPE_STRING),
        "layers": (2, ["V1LayerParameter"]),
        "layer": (100, ["LayerParameter"]),
    },
}
_POOLING, _NORMALIZATION = ("Pooling", 17), ("LRN", 15)  # V1LayerParameter.LayerType has the numbers


@functools.cache
def message_class(name: str) -> type[message.Message]:
    """The class of one of the schema's messages."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message_name, fields in _SCHEMA.items():
        declared = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            field = declared.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if isinstance(kind, list):
                field.label, kind = _Field.LABEL_REPEATED, kind[0]
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def read_caffemodel(path: Path) -> tuple[Arrays, str | None]:
    """The weights of a net, by layer, and which of Caffe's two AlexNets it is, if its layers tell.

    UserError if the file is something else, or broken. The two differ in the order of pooling and normalization.
    """
    net: Any = _parse("NetParameter", path, "a .caffemodel")
    layers = net.layer or net.layers
    arrays: dict[str, np.ndarray] = {}
    for layer in layers:
        if not layer.blobs:
            continue
        if len(layer.blobs) != 2:
            raise UserError(
                f"{path}: layer {layer.name!r} holds {len(layer.blobs)} arrays where an AlexNet's layers have two, "
                "weights and biases; this is another net."
            )
        weight, bias = (_array(blob, f"{path}: layer {layer.name!r}") for blob in layer.blobs)
        if weight.ndim == 4 and weight.shape[:2] == (1, 1):  # how a matrix is stored in the older form
            weight = weight[0, 0]
        arrays |= {f"{layer.name}/weight": weight, f"{layer.name}/bias": bias.reshape(-1)}
    if not arrays:
        raise UserError(f"{path} is not a .caffemodel: it holds no layer with weights; give the file of a trained net.")
    kinds = [layer.type for layer in layers]
    first = next((kind for kind in kinds if kind in _POOLING + _NORMALIZATION), None)
    return arrays, None if first is None else "caffenet" if first in _POOLING else "caffe"


def read_mean(path: Path) -> np.ndarray:
    """A mean image: float32 [S, S, 3], red first, of a `.binaryproto` or an `.npy`, which have [3, S, S], blue first.

    UserError if the file is something else.
    """
    if path.suffix == ".npy":
        try:
            mean = load_array(path)
        except DamagedArraysError as error:
            raise UserError(f"--mean={path} is not a .npy file with a mean image ({error}).") from error
    else:
        mean = _array(_parse("BlobProto", path, "a .binaryproto"), f"--mean={path}")
        mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    is_image = mean.ndim == 3 and mean.shape[0] == 3 and mean.shape[1] == mean.shape[2] and mean.size > 0
    if not is_image or mean.dtype.kind not in "fiu" or not np.isfinite(np.float32(mean)).all():
        raise UserError(
            f"--mean={path} holds {list(mean.shape)}; a mean image of Caffe's is [3, S, S], finite numbers."
        )
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0), np.float32)


def _parse(name: str, path: Path, what: str) -> message.Message:
    parsed = message_class(name)()
    try:
        parsed.ParseFromString(path.read_bytes())
    except message.DecodeError as error:
        raise UserError(f"{path} is not {what}, or only a part of one; download it again.") from error
    return parsed


def _array(blob: Any, where: str) -> np.ndarray:
    """The numbers of a BlobProto, float32; UserError if there are not as many as its shape says."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    values = np.array(blob.data or blob.double_data, np.float32)
    if values.size != math.prod(shape) or min(shape, default=0) < 1:
        raise UserError(
            f"{where} holds {values.size:,} numbers for an array of {list(shape)}; download the file again."
        )
    return values.reshape(shape)
