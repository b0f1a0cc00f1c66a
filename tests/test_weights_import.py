"""Imported weights: every number is in its place, and the net computes what it does in its own framework."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from conftest import SHARED_DATA
from random_nets import relative_errors
from safetensors.numpy import save_file
from test_bad_input import run
from weights_files import CAFFENET_LAYERS, blob, caffe_logits, caffe_weights, caffemodel, torchvision_net

from alexnet_jax.convert.caffe import read_caffemodel, read_mean
from alexnet_jax.convert.fitting import fit, recipe
from alexnet_jax.convert.importing import Source, import_weights, read_net
from alexnet_jax.convert.numpy_files import read_npz
from alexnet_jax.data.class_names import imagenet_classes
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Net
from alexnet_jax.run.restore import restore
from alexnet_jax.state import create_model

CLASSES = 7
NARROW_TORCHVISION = {"widths": (5, 16, 32, 21, 21), "units": 32, "classes": CLASSES}


def narrow(variant: str):
    """Return the recipe of a variant with the widths of the small nets in `weights_files`."""
    config = recipe(variant)
    config.model.conv_width, config.model.fc_width, config.model.num_classes = 0.0833, 0.0079, CLASSES
    if variant != "torchvision":
        config.model.image_size = 99
    return config


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "animals.txt"
    path.write_text("\n".join(f"animal {number}" for number in range(CLASSES)))
    return path


@pytest.fixture
def mean(tmp_path):
    """Return a file with a mean color in Caffe's order."""
    np.save(tmp_path / "mean.npy", [104.0, 117.0, 123.0])
    return tmp_path / "mean.npy"


def compute_logits(net, views: np.ndarray) -> np.ndarray:
    """Return the logits [B, classes] of a restored net for [B, S, S, 3]."""
    return np.asarray(jax.jit(create_model(net.config).apply)({"params": jax.device_get(net.params)}, views))


def random_bgr(size: int, batch: int = 2) -> np.ndarray:
    """Return [B, 3, S, S] with the spread of photographs minus their mean."""
    return 70 * np.random.default_rng(1).standard_normal((batch, 3, size, size)).astype(np.float32)


def to_rgb_last(bgr: np.ndarray) -> np.ndarray:
    return bgr[:, ::-1].transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("variant", "version", "form"),
    [("caffe", 1, "legacy"), ("caffenet", 2, "shape"), ("caffe", 2, "double"), ("caffenet", 1, "shape")],
)
def test_caffemodel_computes_what_caffe_does(variant, version, form, labels, tmp_path):
    """Two groups, blue first, fc6 of 2 x 2 x 22 in Caffe's order: the logits of a PyTorch net with the same weights."""
    weights, layers = caffe_weights(), CAFFENET_LAYERS if variant == "caffenet" else None
    path = tmp_path / "a.caffemodel"
    path.write_bytes(caffemodel(weights, version, form, **({"layers": layers} if layers else {})))
    assert read_caffemodel(path).variant == variant
    import_weights(Source(path, "caffe", config=narrow(variant), bgr=True, labels=labels), tmp_path / "net")
    bgr = random_bgr(99)
    logits = compute_logits(restore(tmp_path / "net"), to_rgb_last(bgr))
    assert relative_errors(logits, caffe_logits(weights, bgr, pool_first=variant == "caffenet"))[""] < 1e-5


def test_caffemodel_by_the_command(labels, tmp_path):
    """Without --channels: Caffe's images have blue first."""
    weights, path = caffe_weights(), tmp_path / "a.caffemodel"
    path.write_bytes(caffemodel(weights, version=1, form="shape"))
    result = run(
        "convert", f"--source={path}", "--format=caffe", f"--workdir={tmp_path / 'net'}", f"--labels={labels}",
        "--config=configs/caffe.py", "--config.model.conv_width=0.0833", "--config.model.fc_width=0.0079",
        "--config.model.image_size=99", f"--config.model.num_classes={CLASSES}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    bgr = random_bgr(99)
    logits = compute_logits(restore(tmp_path / "net"), to_rgb_last(bgr))
    assert relative_errors(logits, caffe_logits(weights, bgr))[""] < 1e-5


def test_a_full_size_caffemodel_needs_no_options(tmp_path):
    """Variant, mean, classes and recipe are detected, and the logits are Caffe's."""
    weights = caffe_weights((96, 256, 384, 384, 256), units=4096, classes=1000, maps=6)
    path = tmp_path / "bvlc_alexnet.caffemodel"
    path.write_bytes(caffemodel(weights, version=1, form="shape"))
    net = read_net(Source(path, "caffe", bgr=True))
    path.unlink()
    assert net.choices[0] == "net:  caffe"
    assert "122.68, 116.67, 104.01 (that of Caffe's ilsvrc_2012_mean.npy" in net.choices[1]
    assert (net.config.model.variant, net.config.model.image_size) == ("caffe", 227)
    assert net.dataset_info.label_names == tuple(imagenet_classes())
    assert net.dataset_info.class_names[:2] == ("tench", "goldfish")
    bgr = random_bgr(227, batch=1)
    logits = jax.jit(create_model(net.config).apply)({"params": net.fitted.params}, to_rgb_last(bgr))
    assert relative_errors(np.asarray(logits), caffe_logits(weights, bgr))[""] < 1e-4


class OldTensor:
    """Pickles as tensors did before PyTorch 0.4."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __reduce__(self):
        shape, strides = tuple(self.tensor.shape), self.tensor.stride()
        return torch._utils._rebuild_tensor, (self.tensor._typed_storage(), 0, shape, strides)


@pytest.mark.parametrize("form", ["pth", "legacy.pth", "oldest.pth", "safetensors"])
def test_torchvision_state_dict(form, labels, tmp_path):
    """The same probabilities of uint8 images with torchvision's preprocessing in PyTorch and with ours."""
    theirs, path = torchvision_net(**NARROW_TORCHVISION), tmp_path / f"alexnet.{form}"
    state = theirs.state_dict()
    if form == "safetensors":
        save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
    else:
        tensors = {name: OldTensor(tensor) if form == "oldest.pth" else tensor for name, tensor in state.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "pth")
    import_weights(Source(path, "torchvision", config=narrow("torchvision"), labels=labels), tmp_path / "net")
    net = restore(tmp_path / "net")
    images = np.random.default_rng(2).integers(0, 256, (8, 224, 224, 3), np.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    views = (torch.tensor(images) / 255 - mean) / std
    with torch.no_grad():
        expected = torch.log_softmax(theirs(views.permute(0, 3, 1, 2)), dim=1)
    log_probabilities = net.predictor(views=1)(images)
    np.testing.assert_allclose(log_probabilities, expected, atol=1e-5)


def test_a_full_size_torchvision_file(tmp_path):
    """Without a variant; PyTorch's own 61,100,840 weights."""
    theirs, path = torchvision_net(), tmp_path / "alexnet.pth"
    torch.save(theirs.state_dict(), path)
    net = read_net(Source(path, "torchvision"))
    assert sum(array.size for layer in net.fitted.params.values() for array in layer.values()) == 61_100_840
    views = np.random.default_rng(3).standard_normal((1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(views.transpose(0, 3, 1, 2))).numpy()
    logits = jax.jit(create_model(net.config).apply)({"params": net.fitted.params}, views)
    assert relative_errors(np.asarray(logits), expected)[""] < 1e-4


def shared_weights(name: str):
    path = SHARED_DATA / "weights" / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path


def test_caffes_own_activations(tmp_path):
    """CaffeNet's activations for one image as Caffe computed them, from our layers and the imported weights.

    Tolerances are a few units of float32 rounding of the layer's largest value (1520 after conv1, 139 after norm1).
    """
    golden = np.load(shared_weights("caffenet_activations.npz"))
    names = {"weight": "w", "bias": "b"}
    path = tmp_path / "caffenet.npz"
    layers = ("conv1", "conv2")
    np.savez(
        path, **{f"{layer}/{name}": golden[f"{layer}_{short}"] for layer in layers for name, short in names.items()}
    )
    config = recipe("caffenet")
    params = fit(read_npz(path).arrays, config, path, bgr=True).params
    assert set(params) == set(layers)
    whole = build_net(config.model)
    until_norm2 = Net(whole.towers, whole.layers[: whole.names.index("norm2") + 1])
    model = AlexNet(until_norm2, num_classes=1)
    _, sown = jax.jit(lambda params, x: model.apply({"params": params}, x, mutable="intermediates"))(
        params, to_rgb_last(golden["data"][None])
    )
    outputs = sown["intermediates"]["outputs"][0]
    theirs = {"relu1": "conv1_relu", "pool1": "pool1", "norm1": "norm1"}
    theirs |= {"relu2": "conv2_relu", "pool2": "pool2", "norm2": "norm2"}
    for ours, name in theirs.items():
        expected = golden[name].transpose(1, 2, 0)
        np.testing.assert_allclose(outputs[ours][0], expected, atol=1e-5 * expected.max(), rtol=0, err_msg=name)


def test_the_real_trunk():
    """BVLC AlexNet's convolutions: the missing layers are named, and every number of the others is in its place."""
    path = shared_weights("bvlc_alexnet_trunk.npz")
    net = read_net(Source(path, "npz", variant="caffe", bgr=True, missing="initialize"))
    assert net.fitted.missing == ("fc6", "fc7", "fc8")
    assert "new:  fc6, fc7, fc8, initialized (seed 0)" in net.choices
    with np.load(path) as file:
        for number in range(1, 6):
            weight = net.fitted.params[f"conv{number}"]["kernel"].transpose(3, 2, 0, 1)
            theirs = file[f"conv{number}/weight"]
            np.testing.assert_array_equal(weight[:, ::-1] if number == 1 else weight, theirs)
            np.testing.assert_array_equal(net.fitted.params[f"conv{number}"]["bias"], file[f"conv{number}/bias"])


def test_missing_layers_start_fresh(labels, mean, tmp_path):
    """The file's layers are used; the others are initialized."""
    weights = caffe_weights()
    path = tmp_path / "part.npz"
    np.savez(path, **{f"{layer}/{kind}": weights[layer][kind] for layer in ("conv1", "fc7") for kind in weights[layer]})
    source = Source(path, config=narrow("caffe"), labels=labels, mean=mean, missing="initialize")
    assert any("new:  conv2, conv3, conv4, conv5, fc6, fc8" in line for line in import_weights(source, tmp_path / "a"))
    params = jax.device_get(restore(tmp_path / "a").params)
    np.testing.assert_array_equal(params["fc7"]["kernel"], weights["fc7"]["weight"].T)
    assert np.abs(params["conv2"]["kernel"]).max() > 0
    assert set(params) == {*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"}


def test_blue_first_becomes_red_first_in_either_form(tmp_path):
    """The same net with channels first and channels last: only conv1 changes in both."""
    weights = caffe_weights()
    first, last = tmp_path / "first.npz", tmp_path / "last.npz"
    np.savez(first, **{f"{layer}/{kind}": array for layer, of in weights.items() for kind, array in of.items()})
    plain = fit(read_npz(first).arrays, narrow("caffe"), first, bgr=False).params
    np.savez(last, **{f"{layer}/{kind}": array for layer, of in plain.items() for kind, array in of.items()})
    expected = {**plain, "conv1": {**plain["conv1"], "kernel": plain["conv1"]["kernel"][:, :, ::-1]}}
    for path in (first, last):
        jax.tree.map(
            np.testing.assert_array_equal, fit(read_npz(path).arrays, narrow("caffe"), path, bgr=True).params, expected
        )


@pytest.mark.parametrize("form", ["npy", "binaryproto"])
def test_mean_file(form, tmp_path):
    """Caffe's mean image, [3, S, S] with blue first, becomes [S, S, 3] with red first."""
    mean = np.random.default_rng(4).uniform(0, 255, (3, 256, 256)).astype(np.float32)
    path = tmp_path / f"mean.{form}"
    if form == "npy":
        np.save(path, mean.astype(np.float64))
    else:
        path.write_bytes(blob(mean[None], "legacy"))
    np.testing.assert_array_equal(read_mean(path), mean[::-1].transpose(1, 2, 0))


def test_without_a_mean_file_the_color_is_that_of_caffes(labels, tmp_path):
    """The constant for Caffe's nets is the mean of its mean image."""
    mean = read_mean(shared_weights("ilsvrc_2012_mean.npy"))
    path = tmp_path / "a.caffemodel"
    path.write_bytes(caffemodel(caffe_weights(), version=2, form="shape"))
    net = read_net(Source(path, "caffe", config=narrow("caffe"), bgr=True, labels=labels))
    np.testing.assert_allclose(
        net.dataset_info.statistics.mean_image[0, 0], mean.mean(axis=(0, 1), dtype=np.float64), atol=1e-4
    )


def test_a_net_evaluates_the_same_after_export_and_import(trained_folder, digits_dir, tmp_path):
    """With the commands and nothing but the exported file; the data set is where --data_dir says."""
    exported = run("convert", f"--workdir={trained_folder}", "--export=npz", f"--output={tmp_path / 'net.npz'}")
    assert exported.returncode == 0, exported.stderr
    converted = run("convert", f"--source={tmp_path / 'net.npz'}", f"--workdir={tmp_path / 'back'}")
    assert converted.returncode == 0, converted.stderr
    results = []
    for folder in (trained_folder, tmp_path / "back"):
        shutil.copytree(folder, tmp_path / "copy" / folder.name)
        copy = tmp_path / "copy" / folder.name
        result = run("evaluate", f"--workdir={copy}", f"--data_dir={digits_dir}", "--json")
        assert result.returncode == 0, result.stderr
        results.append(json.loads(result.stdout))
    assert {name: results[0][name] for name in ("loss", "top1_error", "num_examples")} == {
        name: results[1][name] for name in ("loss", "top1_error", "num_examples")
    }
