"""Read Caffe's files: `.caffemodel` (weights) and `.binaryproto` (a mean image), both protocol buffers.

Only the fields that are needed are declared, with the numbers of BVLC/caffe, src/caffe/proto/caffe.proto. A net lists
its layers as `layer`, or until 2014 as `layers` (V1), each of which until 2013 was inside a layer of its own (V0).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.arrays import DamagedArraysError, load_array
from alexnet_jax.convert.contents import Contents
from alexnet_jax.convert.protobuf_schema import parse
from alexnet_jax.errors import UserError

# As in caffe.proto, but with integers for enumerations.
_SCHEMA = """
message BlobShape { repeated int64 dim = 1; }
message BlobProto {
  optional int64 num = 1; optional int64 channels = 2; optional int64 height = 3; optional int64 width = 4;
  repeated float data = 5; optional BlobShape shape = 7; repeated double double_data = 8;
}
message LayerParameter { optional string name = 1; optional string type = 2; repeated BlobProto blobs = 7; }
message V0LayerParameter { optional string name = 1; optional string type = 2; repeated BlobProto blobs = 50; }
message V1LayerParameter {
  optional V0LayerParameter layer = 1; optional string name = 4; optional int32 type = 5; repeated BlobProto blobs = 6;
}
message NetParameter {
  optional string name = 1; repeated V1LayerParameter layers = 2; repeated LayerParameter layer = 100;
}
"""
# Types of layers in the three forms; the numbers are those of V1LayerParameter.LayerType.
_POOLING, _NORMALIZATION = ("Pooling", 17, "pool"), ("LRN", 15, "lrn")


def read_caffemodel(path: Path) -> Contents:
    """Read a net's weights by layer, and detect from the order of its layers which of Caffe's AlexNets it is.

    "caffenet" pools before it normalizes, "caffe" afterwards; None if there are no such layers. UserError if the file
    is something else, or damaged.
    """
    net = parse(_SCHEMA, "NetParameter", path, ".caffemodel")
    layers = net.layer or [layer.layer if layer.HasField("layer") else layer for layer in net.layers]
    arrays: dict[str, np.ndarray] = {}
    for layer in (layer for layer in layers if layer.blobs):
        if len(layer.blobs) != 2:
            raise UserError(
                f"{path}: layer {layer.name!r} holds {len(layer.blobs)} arrays, but a layer of AlexNet has two, "
                "weights and biases; this is another net."
            )
        weight, bias = (_to_numpy(blob, f"{path}: layer {layer.name!r}") for blob in layer.blobs)
        if weight.ndim == 4 and weight.shape[:2] == (1, 1):  # how the older forms store a matrix
            weight = weight[0, 0]
        arrays |= {f"{layer.name}/weight": weight, f"{layer.name}/bias": bias}
    if not arrays:
        raise UserError(f"{path} is not a .caffemodel: it holds no layer with weights; give the file of a trained net.")
    first = next((layer.type for layer in layers if layer.type in _POOLING + _NORMALIZATION), None)
    variant = None if first is None else "caffenet" if first in _POOLING else "caffe"
    return Contents(arrays, variant, certain=variant is not None, bgr=True)


def read_mean(path: Path) -> np.ndarray:
    """Read a mean image or color as Caffe keeps it, `.npy` or `.binaryproto`, blue first, as float32, red first.

    [3, S, S] or [1, 3, S, S] becomes [S, S, 3]; three numbers stay [3]. UserError if it is something else.
    """
    if path.suffix == ".npy":
        try:
            mean = load_array(path)
        except DamagedArraysError as error:
            raise UserError(f"{path} is not a .npy file with a mean image ({error}).") from error
    else:
        mean = _to_numpy(parse(_SCHEMA, "BlobProto", path, ".binaryproto"), str(path))
    shape, side = list(mean.shape), mean.shape[-1] if mean.ndim > 1 else 1
    is_image = mean.ndim > 2 and shape[-3] == math.prod(shape[:-2]) == 3 and shape[-2:] == [side] * 2 and side > 0
    if not (is_image or shape == [3]) or mean.dtype.kind not in "fiu" or not np.isfinite(np.float32(mean)).all():
        raise UserError(
            f"{path} holds {shape}; Caffe's mean image is [3, S, S], or three numbers for blue, green and red, all "
            "finite."
        )
    red_first = mean.reshape(3, side, side)[::-1].transpose(1, 2, 0)
    return np.ascontiguousarray(red_first if is_image else red_first[0, 0], np.float32)


def _to_numpy(blob: Any, source: str) -> np.ndarray:
    """Return the numbers of a BlobProto as float32; UserError if they don't match its shape."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    values = np.array(blob.data or blob.double_data, np.float32)
    if values.size != math.prod(shape) or min(shape, default=0) < 1:
        raise UserError(
            f"{source} holds {values.size:,} numbers for an array of {list(shape)}; download the file again."
        )
    return values.reshape(shape)
