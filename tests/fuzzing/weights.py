"""Inputs of `convert`: weights in seven formats, mean images, class names."""

import io
import pickle
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from weights_files import (
    blob,
    bytes_field,
    caffe_weights,
    caffemodel,
    number_field,
    torchvision_net,
    write_mat,
    write_npy,
    write_onnx,
)

from alexnet_jax.config import Config
from alexnet_jax.convert.caffe import read_mean
from alexnet_jax.convert.fitting import recipe
from alexnet_jax.convert.importing import Source, read_net
from fuzzing.campaign import Sample, Subject

CLASSES = 7


def caffemodels(folder: Path) -> Subject:
    """Return files for `convert --format=caffe`."""
    path, weights = folder / "net.caffemodel", _caffe_weights()
    forms = [(1, "shape"), (2, "shape"), (1, "legacy"), (2, "double")]
    files = [caffemodel(weights, version, form) for version, form in forms]
    return _subject(folder, "caffe", [Sample(path, data) for data in files])


def npz_files(folder: Path) -> Subject:
    """Return files for `convert --format=npz`: the archive, and an array in it."""
    path, weights = folder / "net.npz", _caffe_weights()
    plain = {f"{layer}/{kind}": array for layer, of in weights.items() for kind, array in of.items()}
    packed, compressed = io.BytesIO(), io.BytesIO()
    np.savez(packed, allow_pickle=False, **plain)
    np.savez_compressed(compressed, allow_pickle=False, **plain)

    def archive_with(name: str):
        def wrap(data: bytes) -> bytes:
            return zipped({f"{other}.npy": npy(array) for other, array in plain.items()} | {f"{name}.npy": data})

        return wrap

    arrays = [Sample(path, npy(plain[name]), archive_with(name)) for name in ("conv1/bias", "fc8/weight")]
    return _subject(folder, "npz", [Sample(path, packed.getvalue()), Sample(path, compressed.getvalue()), *arrays])


def pth_files(folder: Path) -> Subject:
    """Return `.pth` files for `convert --format=torchvision`: both forms, and the pickle in the archive."""
    path, state = folder / "net.pth", _state_dict()
    new, legacy = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(new) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("/data.pkl"))
    newer = files[pickled].replace(b"\x80\x02", b"\x80\x04", 1)
    inner = [Sample(path, data, lambda data: zipped({**files, pickled: data})) for data in (files[pickled], newer)]
    hostile = Sample(path, pickle.dumps({"features.0.bias": np.zeros(3)}, 5), inner[0].wrap)
    samples = [Sample(path, new.getvalue()), Sample(path, legacy.getvalue()), *inner, *inner]
    subject = _subject(folder, "torchvision", samples)
    return subject._replace(samples=[hostile, *samples])


def safetensors_files(folder: Path) -> Subject:
    """Return `.safetensors` files for `convert --format=torchvision`."""
    arrays = {name: tensor.numpy() for name, tensor in _state_dict().items()}
    return _subject(folder, "torchvision", [Sample(folder / "net.safetensors", save(arrays))])


def npy_files(folder: Path) -> Subject:
    """Return dictionaries of arrays as `.npy`: of Python 2, and of Python 3."""
    path = folder / "net.npy"
    write_npy(caffe_weights(), path)
    old, content = path.read_bytes(), np.empty((), object)
    content[()] = {name: {"weights": of["weight"].T, "biases": of["bias"]} for name, of in _caffe_weights().items()}
    return _subject(folder, "npz", [Sample(path, old), Sample(path, npy(content))])


def mat_files(folder: Path) -> Subject:
    """Return models of MatConvNet, compressed and not, and what is inside the compressed one."""
    path, mean = folder / "net.mat", np.full((99, 99, 3), 9, np.float32)
    samples = []
    for old in (False, True):
        write_mat(caffe_weights(), mean, [f"class {number}" for number in range(CLASSES)], path, old=old)
        samples.append(Sample(path, path.read_bytes()))
    packed = samples[0].data
    size = int.from_bytes(packed[132:136], "little")

    def pack(data: bytes) -> bytes:
        part = zlib.compress(data)
        return packed[:132] + len(part).to_bytes(4, "little") + part + packed[136 + size :]

    inside = Sample(path, zlib.decompress(packed[136 : 136 + size]), pack)
    return _subject(folder, "matconvnet", [*samples, inside])


def onnx_files(folder: Path) -> Subject:
    """Return graphs like the Model Zoo's."""
    path = folder / "net.onnx"
    write_onnx(caffe_weights(), path)
    return _subject(folder, "onnx", [Sample(path, path.read_bytes())])


def mean_images(folder: Path) -> Subject:
    """Return files for `convert --mean`: .binaryproto and .npy."""
    image = np.random.default_rng(0).uniform(80, 160, (3, 16, 16)).astype(np.float32)
    sizes = b"".join(number_field(field, size) for field, size in enumerate((1, 3, 16, 16), 1))
    proto = sizes + bytes_field(5, image.astype("<f4").tobytes())
    binary, array = folder / "mean.binaryproto", folder / "mean.npy"
    samples = [Sample(binary, proto), Sample(binary, blob(image, "double")), Sample(array, npy(image))]

    def read() -> None:
        for path in (binary, array):
            read_mean(path)

    return Subject(samples, read, "mean.")


def class_names(folder: Path) -> Subject:
    """Return files for `convert --labels`."""
    subject = npz_files(folder)
    subject.samples[0].path.write_bytes(subject.samples[0].data)
    text = "".join(f"class {number}\n" for number in range(CLASSES)).encode()
    return Subject([Sample(folder / "labels.txt", text)], subject.read, "labels.txt")


def _subject(folder: Path, form: str, samples: list[Sample]) -> Subject:
    """Return files of one format, and their import into a net that their arrays fit."""
    path, labels = samples[0].path, folder / "labels.txt"
    labels.write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    mean = folder / "mean.npy"
    np.save(mean, [104.0, 117.0, 123.0])
    config = _narrow("torchvision" if form == "torchvision" else "caffe")
    source = Source(path, form, config=config, labels=labels, mean=mean, missing="initialize")
    return Subject(samples, lambda: read_net(source), path.name)


def _narrow(variant: str) -> Config:
    config = recipe(variant)
    config.model.conv_width, config.model.fc_width, config.model.num_classes = 0.0833, 0.0079, CLASSES
    config.model.image_size = 224 if variant == "torchvision" else 99
    return config


def _caffe_weights() -> dict:
    """Return weights without the large layers: the form of a file is mutated, not its many numbers."""
    return {name: of for name, of in caffe_weights().items() if name in ("conv1", "conv4", "fc7", "fc8")}


def _state_dict() -> dict[str, torch.Tensor]:
    state = torchvision_net((5, 16, 32, 21, 21), 32, CLASSES).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(("features.3", "classifier.1"))}


def npy(array: np.ndarray) -> bytes:
    """Return the bytes of a `.npy`."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """Return the bytes of a zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()
