"""Exported nets: the same bits in another order, or the same probabilities from another runtime."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_params
from safetensors.numpy import load_file
from weights_files import CAFFE_LAYERS, CAFFENET_LAYERS, caffe_weights, caffemodel, torchvision_net

from alexnet_jax.config import fields
from alexnet_jax.convert.exporting import export
from alexnet_jax.convert.fitting import recipe
from alexnet_jax.convert.importing import Source, import_weights, read_net
from alexnet_jax.convert.layout import to_weight
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import layer_shapes
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.run.restore import RestoredNet, restore
from alexnet_jax.state import create_model

CLASSES = 7


def random_net(variant: str, size: int, **options) -> RestoredNet:
    """Return a narrow net with random parameters and statistics, as `restore` does."""
    config = recipe(variant)
    config.mesh.data = 1
    config.model.conv_width, config.model.fc_width, config.model.num_classes = 0.0833, 0.0079, CLASSES
    config.model.image_size = size
    for name, value in options.items():
        setattr(config.model, name, value)
    random = np.random.default_rng(5)
    mean_image = random.uniform(90, 140, (size + 32, size + 32, 3)).astype(np.float32)
    statistics = Statistics(mean_image, np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    names = tuple(f"class {number}" for number in range(CLASSES))
    params = jax.tree.map(np.float32, random_params(build_net(config.model), size, CLASSES))
    mesh, model = create_mesh(config.mesh), create_model(config)
    dataset_info = DatasetInfo("set", 1, names, names, statistics)
    return RestoredNet(Path("nowhere"), config, dataset_info, mesh, model, 3, params)


def discriminating_net(variant: str, size: int, **options) -> tuple[RestoredNet, Callable]:
    """Return a random net whose classifier is scaled so that probabilities differ from image to image, and the function
    images -> probabilities, as evaluation and prediction compute them.
    """
    net = random_net(variant, size, **options)
    logits = np.asarray(net.predictor(views=1)(random_images(3, size)))
    spread, last = (logits - logits.mean(axis=0)).std(), net.params["fc8"]
    last = {"kernel": last["kernel"] / spread, "bias": (last["bias"] - logits.mean(axis=0)) / spread}
    net = dataclasses.replace(net, params={**net.params, "fc8": last})
    predict = net.predictor(views=1)

    def probabilities(images: np.ndarray) -> np.ndarray:
        return np.exp(predict(images))

    assert probabilities(random_images(3, size)).std(axis=0).min() > 0.01
    return net, probabilities


def random_images(batch: int, size: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (batch, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    ("variant", "size", "options"),
    [
        ("original", 99, {}),  # both normalizations, in towers; dropout that scales at test time
        ("caffe", 99, {}),  # normalization across the towers
        ("torchvision", 99, {}),  # one tower, channel means, division by the standard deviation
        ("no_communication", 99, {}),  # fully connected layers in towers
        ("paper", 99, {"pooling": "non_overlapping", "activation": "tanh"}),  # pooling windows that stick out
    ],
)
def test_onnx_gives_the_same_probabilities(variant, size, options, tmp_path):
    net, probabilities = discriminating_net(variant, size, **options)
    export(net, "onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    expected = {batch: probabilities(random_images(batch, size)) for batch in (3, 1)}
    for batch in (3, 1):  # one file, any batch
        (exported,) = session.run(None, {"images": random_images(batch, size)})
        np.testing.assert_allclose(exported, expected[batch], atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["classes"].split("\n") == list(net.dataset_info.class_names)
    for opset in (9, 13, 21):  # Split changed in 13
        export(net, "onnx", tmp_path / "fixed.onnx", batch=3, opset=opset)
        model = onnx.load(tmp_path / "fixed.onnx")
        assert [version.version for version in model.opset_import] == [opset]
        assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim] == [3, size, size, 3]
        for node in model.graph.node:  # OpenCV before 4.11 needs it
            assert node.op_type != "Conv" or "kernel_shape" in {attribute.name for attribute in node.attribute}
        session = onnxruntime.InferenceSession(tmp_path / "fixed.onnx", providers=["CPUExecutionProvider"])
        (exported,) = session.run(None, {"images": random_images(3, size)})
        np.testing.assert_allclose(exported, expected[3], atol=1e-5)
        if options.get("activation") != "tanh":  # of numbers above 44 it is NaN in OpenCV 5.0
            network = cv2.dnn.readNetFromONNX(str(tmp_path / "fixed.onnx"))
            network.setInput(random_images(3, size))
            np.testing.assert_allclose(network.forward(), expected[3], atol=1e-5)


@pytest.mark.parametrize("variant", ["original", "torchvision"])
def test_stablehlo_gives_the_same_probabilities(variant, tmp_path):
    net, probabilities = discriminating_net(variant, 99)
    export(net, "stablehlo", tmp_path / "net.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes()))
    assert set(program.platforms) >= {"cpu", "cuda", "tpu"}
    for batch in (3, 1):
        images = random_images(batch, 99)
        np.testing.assert_allclose(program.call(images), probabilities(images), atol=1e-5)
    export(net, "stablehlo", tmp_path / "fixed.stablehlo", batch=3)
    program = jax.export.deserialize(bytearray((tmp_path / "fixed.stablehlo").read_bytes()))
    assert program.in_avals[0].shape == (3, 99, 99, 3)
    export(net, "stablehlo", tmp_path / "fixed.mlir", batch=3)
    assert (tmp_path / "fixed.mlir").read_bytes()[:4] == b"ML\xefR"  # MLIR's bytecode


@pytest.mark.slow
def test_openvino_gives_the_same_probabilities(tmp_path):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    for variant in ("original", "caffe", "torchvision", "no_communication"):
        net, probabilities = discriminating_net(variant, 99)
        images = random_images(2, 99)
        for batch, opset in ((None, None), (2, 9)):
            export(net, "onnx", tmp_path / "net.onnx", batch, opset)
            in_float32 = {"INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino.Core().compile_model(str(tmp_path / "net.onnx"), "CPU", in_float32)
            np.testing.assert_allclose(compiled(images)[0], probabilities(images), atol=1e-5)


@pytest.mark.slow
def test_irees_compiler_gives_the_same_probabilities(tmp_path):
    reason = "pip install iree-base-compiler iree-base-runtime"
    compiler = pytest.importorskip("iree.compiler", reason=reason)
    runtime = pytest.importorskip("iree.runtime", reason=reason)
    for variant in ("original", "torchvision"):
        net, probabilities = discriminating_net(variant, 99)
        export(net, "stablehlo", tmp_path / "net.mlir", batch=2)
        program = compiler.compile_file(
            str(tmp_path / "net.mlir"),
            input_type="stablehlo",
            target_backends=["llvm-cpu"],
            extra_args=["--iree-llvmcpu-target-cpu=generic"],
        )
        images = random_images(2, 99)
        found = runtime.load_vm_flatbuffer(program, driver="local-task").main(images)
        np.testing.assert_allclose(np.asarray(found), probabilities(images), atol=1e-5)


def bits(params) -> dict[str, bytes]:
    return {
        f"{layer}/{kind}": np.asarray(array).tobytes() for layer, of in params.items() for kind, array in of.items()
    }


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(f"class {number}" for number in range(CLASSES)))
    return path


def round_trip(source: Source, form: str, suffix: str, folder: Path) -> tuple[dict, dict]:
    """Return the bits of a net as imported, and after an export as `form` and a second import."""
    import_weights(source, folder / "first")
    first = restore(folder / "first")
    out = folder / f"out{suffix}"
    export(first, form, out)
    imported_as = "npz" if form == "npz" else "torchvision"
    import_weights(Source(out, imported_as, config=source.config, labels=source.labels), folder / "second")
    return bits(first.params), bits(restore(folder / "second").params)


@pytest.mark.parametrize(
    ("origin", "form", "suffix"),
    [
        ("torchvision", "npz", ".npz"),
        ("torchvision", "torchvision", ".pth"),
        ("torchvision", "safetensors", ".safetensors"),
        ("npz", "torchvision", ".pth"),
        ("npz", "safetensors", ".safetensors"),
        ("npz", "npz", ".npz"),
    ],
)
def test_torchvisions_net_comes_back_bit_for_bit(origin, form, suffix, labels, tmp_path):
    """Also, PyTorch sees the same state dict before and after."""
    net, path = torchvision_net((5, 16, 32, 21, 21), 32, CLASSES), tmp_path / "in.pth"
    torch.save(net.state_dict(), path)
    config = random_net("torchvision", 224).config
    source = Source(path, "torchvision", config=config, labels=labels)
    if origin == "npz":
        import_weights(source, tmp_path / "zero")
        export(restore(tmp_path / "zero"), "npz", tmp_path / "in.npz")
        source = Source(tmp_path / "in.npz", "npz", config=config, labels=labels)
    first, second = round_trip(source, form, suffix, tmp_path)
    assert first == second
    out = tmp_path / f"out{suffix}"
    if suffix == ".npz":
        return
    if suffix == ".pth":
        written = torch.load(out, weights_only=True)
        assert list(written) == list(net.state_dict())
    else:
        written = {name: torch.tensor(array) for name, array in load_file(out).items()}
    for name, tensor in net.state_dict().items():
        assert torch.equal(written[name], tensor), name
    with torch.no_grad():
        images = torch.randn(2, 3, 224, 224)
        logits = net(images)
        net.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in written.items()})
        net.load_state_dict(written)
        assert torch.equal(net(images), logits)


def test_caffes_net_comes_back_bit_for_bit(labels, tmp_path):
    """From .caffemodel to .npz and back: blue and red are not swapped a second time."""
    weights, path = caffe_weights(), tmp_path / "in.caffemodel"
    path.write_bytes(caffemodel(weights, version=2, form="shape"))
    config = random_net("caffe", 99).config
    source = Source(path, "caffe", config=config, bgr=True, labels=labels)
    first, second = round_trip(source, "npz", ".npz", tmp_path)
    assert first == second
    blue = weights["conv1"]["weight"][:, 0].transpose(1, 2, 0)
    np.testing.assert_array_equal(restore(tmp_path / "second").params["conv1"]["kernel"][:, :, 2], blue)


def same_net(first: RestoredNet, second: RestoredNet) -> None:
    """Assert that all that predictions depend on is the same, to the bit."""
    assert bits(first.params) == bits(second.params)
    assert dict(fields(first.config.model, "")) == dict(fields(second.config.model, ""))
    for name in ("name", "mean", "std", "flip"):
        assert getattr(first.config.data, name) == getattr(second.config.data, name)
    assert first.config.precision == second.config.precision
    ours, theirs = first.dataset_info, second.dataset_info
    assert dataclasses.replace(ours, statistics=None) == dataclasses.replace(theirs, statistics=None)
    for mine, other in zip(ours.statistics, theirs.statistics, strict=True):
        assert mine.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("form", "variant", "size", "options"),
    [
        ("npz", "original", 99, {"pooling": "non_overlapping"}),
        ("npz", "caffenet", 99, {}),
        ("onnx", "no_communication", 99, {"activation": "tanh"}),  # fc6 and fc7 in two parts each
        ("onnx", "torchvision", 224, {}),
        ("torchvision", "torchvision", 224, {}),
        ("safetensors", "torchvision", 224, {}),
    ],
)
def test_an_export_alone_is_the_same_net(form, variant, size, options, tmp_path):
    """Mean image, scale, classes, variant, view size and preprocessing come back without a flag."""
    net = random_net(variant, size, **options)
    net.config.data.flip, net.config.data.name, net.config.precision = False, "digits", "bfloat16"
    net.config.data.dir = "/home/someone"
    info = dataclasses.replace(net.dataset_info, preprocessing="torchvision")
    net = dataclasses.replace(net, dataset_info=info)
    path = tmp_path / f"net{'.pth' if form == 'torchvision' else f'.{form}'}"
    export(net, form, path)
    assert b"/home/someone" not in path.read_bytes()
    choices = import_weights(Source(path), tmp_path / "back")
    assert choices[:2] == [f"net:  {variant}", f"mean: that of {path}"]
    same_net(net, restore(tmp_path / "back"))


def test_flags_win_over_what_an_export_says(tmp_path):
    export(random_net("caffe", 99), "npz", tmp_path / "net.npz")
    (tmp_path / "names.txt").write_text("\n".join(f"other {number}" for number in range(CLASSES)))
    np.save(tmp_path / "mean.npy", [1.0, 2.0, 3.0])
    net = read_net(Source(tmp_path / "net.npz", labels=tmp_path / "names.txt", mean=tmp_path / "mean.npy"))
    assert net.dataset_info.class_names[0] == "other 0"
    np.testing.assert_array_equal(net.dataset_info.statistics.mean_image[0, 0], [3, 2, 1])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"config": {}}', '{"config": {"model.variant": "x"}, "statistics": ""}']
)
def test_a_damaged_record_is_refused(text, tmp_path):
    np.savez(tmp_path / "net.npz", **{"conv1/bias": np.zeros(3, np.float32), "alexnet_jax": np.array(text)})
    with pytest.raises(UserError, match=r"net.npz: what it says of its net is damaged \(.*\); export it again"):
        read_net(Source(tmp_path / "net.npz"))


def test_a_record_with_a_changed_field_is_refused(tmp_path):
    """Every field is checked as a config's is."""
    export(random_net("caffe", 99), "npz", tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as file:
        arrays = dict(file)
    for before, after in [
        ('"rgb"', "1"),
        ('"data.mean": "image"', '"data.mean": "x"'),
        ('"class 0", ', ""),
        ("99", '"99"'),
    ]:
        text = str(arrays["alexnet_jax"])
        np.savez(tmp_path / "other.npz", **arrays | {"alexnet_jax": np.array(text.replace(before, after))})
        if text.replace(before, after) != text:
            with pytest.raises(UserError, match="what it says of its net is damaged"):
                read_net(Source(tmp_path / "other.npz"))


def any_bits(params: dict, seed: int) -> dict:
    """Return parameters of these shapes with any finite float32 values, subnormal ones and -0.0 too."""
    rng = np.random.default_rng(seed)

    def drawn(leaf: np.ndarray) -> np.ndarray:
        numbers = rng.integers(0, 2**32, leaf.shape, np.uint32).view(np.float32)
        return np.where(np.isfinite(numbers), numbers, np.float32(-0.0))

    return jax.tree.map(drawn, params)


def channels_first(net: RestoredNet) -> dict:
    """Return the net's parameters as Caffe and PyTorch have them: {"conv1": {"weight", "bias"}, ...}."""
    model = net.config.model
    shapes = layer_shapes(build_net(model), model.image_size, model.num_classes)
    return {
        shape.layer.name: {"weight": to_weight(of["kernel"], shape), "bias": of["bias"]}
        for shape in shapes
        if (of := net.params.get(shape.layer.name))
    }


def write_own_npz(net: RestoredNet, path: Path) -> None:
    export(net, "npz", path)


def write_npz_with_channels_first(net: RestoredNet, path: Path) -> None:
    weights = {f"{layer}/{kind}": array for layer, of in channels_first(net).items() for kind, array in of.items()}
    np.savez(path, allow_pickle=False, **weights)


def write_caffemodel(net: RestoredNet, path: Path) -> None:
    layers = CAFFENET_LAYERS if net.config.model.variant == "caffenet" else CAFFE_LAYERS
    path.write_bytes(caffemodel(channels_first(net), version=1, form="shape", layers=layers))


def write_pth(net: RestoredNet, path: Path) -> None:
    export(net, "torchvision", path)


def write_safetensors(net: RestoredNet, path: Path) -> None:
    export(net, "safetensors", path)


@pytest.mark.parametrize(
    ("write", "form", "suffix", "variants"),
    [
        (write_own_npz, "npz", ".npz", list(VARIANTS)),
        (write_npz_with_channels_first, "npz", ".npz", list(VARIANTS)),
        (write_caffemodel, "caffe", ".caffemodel", ["caffe", "caffenet"]),
        (write_pth, "torchvision", ".pth", ["torchvision"]),
        (write_safetensors, "torchvision", ".safetensors", ["torchvision"]),
    ],
)
@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), bgr=st.booleans())
def test_any_net_comes_back_bit_for_bit(write, form, suffix, variants, data, seed, bgr, tmp_path_factory):
    """Nets of any width; for images with blue first, conv1 is reversed."""
    conv_width, fc_width = data.draw(st.floats(0.01, 0.1)), data.draw(st.floats(0.001, 0.01))
    size = 224 if form == "torchvision" else 99
    net = random_net(data.draw(st.sampled_from(variants)), size, conv_width=conv_width, fc_width=fc_width)
    net = dataclasses.replace(net, params=any_bits(net.params, seed))
    folder = tmp_path_factory.mktemp("net")
    labels = folder / "names.txt"
    labels.write_text("\n".join(net.dataset_info.class_names))
    write(net, folder / f"net{suffix}")
    np.save(folder / "mean.npy", [104.0, 117.0, 123.0])
    source = Source(folder / f"net{suffix}", form, None, net.config, bgr, folder / "mean.npy", labels)
    fitted = read_net(source).fitted
    if bgr:
        conv1 = net.params["conv1"]
        net.params["conv1"] = conv1 | {"kernel": conv1["kernel"][:, :, ::-1]}
    assert bits(fitted.params) == bits(net.params)
    assert not fitted.missing + fitted.unused


@pytest.mark.parametrize(
    ("net", "form", "name", "sentence"),
    [
        (("original", 99), "torchvision", "a.pth", "torchvision's AlexNet can't hold 'original'"),
        (("torchvision", 99), "torchvision", "a.pth", "can't hold .*: its fc6 sees maps of 2 pixels a side, not of 6"),
        (("original", 99), "safetensors", "a.safetensors", "torchvision's AlexNet can't hold 'original'"),
        (("torchvision", 224), "npz", "missing/a.npz", r"can't be written \(No such file or directory\)"),
        (("torchvision", 224), "npz", "", r"^/.* is a folder; give the file to write"),
        (("torchvision", 224), "safetensors", "missing/a.safetensors", r"can't be written \(No such file"),
        (("torchvision", 224), "torchvision", "missing/a.pth", r"can't be written \(No such file"),
    ],
)
def test_exports_that_are_refused(net, form, name, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        export(random_net(*net), form, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("net", "form", "name", "sentence"),
    [
        (("caffe", 99), "onnx", "a.onnx", "pip install onnx"),
        (
            ("torchvision", 224),
            "torchvision",
            "a.pth",
            "install PyTorch or export as safetensors, which needs nothing",
        ),
    ],
)
def test_missing_packages_are_named(net, form, name, sentence, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=sentence):
        export(random_net(*net), form, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_weights_leave_and_return_without_pytorch(labels, monkeypatch, tmp_path):
    """A `.pth` is read and a `.safetensors` written and read where `import torch` fails."""
    path = tmp_path / "in.pth"
    torch.save(torchvision_net((5, 16, 32, 21, 21), 32, CLASSES).state_dict(), path)
    monkeypatch.setitem(sys.modules, "torch", None)
    source = Source(path, "torchvision", config=random_net("torchvision", 224).config, labels=labels)
    first, second = round_trip(source, "safetensors", ".safetensors", tmp_path)
    assert first == second
