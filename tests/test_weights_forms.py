"""Files in which people have AlexNet: each is read as it is meant, or named for what it is in one sentence."""

import functools
import os
import zlib
from collections import OrderedDict
from functools import partial
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
import torch
from conftest import SHARED_DATA
from PIL import Image
from random_nets import relative_errors
from safetensors.torch import load_file, save_file
from test_api import example
from test_weights_faults import RunsCode, plain
from test_weights_import import CLASSES, narrow, random_bgr, to_rgb_last
from weights_files import (
    CAFFENET_LAYERS,
    caffe_logits,
    caffe_weights,
    caffemodel,
    channels_last,
    torchvision_net,
    v0_caffemodel,
    write_caffenet_pth,
    write_mat,
    write_npy,
    write_onnx,
)

from alexnet_jax.convert.caffe import read_mean
from alexnet_jax.convert.fitting import recipe
from alexnet_jax.convert.formats import read_file
from alexnet_jax.convert.importing import Source, import_weights, read_net
from alexnet_jax.data.class_names import imagenet_classes
from alexnet_jax.errors import UserError
from alexnet_jax.state import create_model

CASES = SHARED_DATA / "cases" / "weights"
WEIGHTS = caffe_weights()
FULL_SIZE = {"widths": (96, 256, 384, 384, 256), "units": 4096, "classes": 1000, "maps": 6}
MEAN = (123.0, 117.0, 104.0)  # red first
NAMES = [f"class {number}" for number in range(CLASSES)]


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    return tmp_path / "labels.txt"


@pytest.fixture
def mean(tmp_path):
    np.save(tmp_path / "mean.npy", MEAN[::-1])
    return tmp_path / "mean.npy"


def flat(weights: dict) -> dict:
    return {f"{layer}/{kind}": array for layer, of in weights.items() for kind, array in of.items()}


def renamed(weights: dict, names: dict) -> dict:
    return {names.get(name, name): of for name, of in weights.items()}


def write_renamed_caffemodel(names: dict, path: Path, weights: dict = WEIGHTS) -> None:
    """Write a .caffemodel with other names for some layers."""
    layers = [names.get(name, name) for name in CAFFENET_LAYERS]
    form = "legacy" if len(weights["fc6"]["bias"]) < 100 else "shape"  # which is written faster
    path.write_bytes(caffemodel(renamed(weights, names), version=1, form=form, layers=layers))


def write_net_surgery(path: Path) -> None:
    """Write fully connected layers as convolutions, as Caffe's example of that name does."""
    kernels = {"fc6": (2, 2), "fc7": (1, 1), "fc8": (1, 1)}
    weights = {
        name: of | {"weight": of["weight"].reshape(len(of["bias"]), -1, *kernels.get(name, of["weight"].shape[2:]))}
        for name, of in WEIGHTS.items()
    }
    write_renamed_caffemodel({name: f"{name}-conv" for name in kernels}, path, weights)


def write_own_kernels(ending: tuple[str, str], path: Path) -> None:
    """Write channels last, conv1 with red first."""
    arrays = {
        f"{name}{end}": array for name, of in last_red_first().items() for end, array in zip(ending, of, strict=True)
    }
    np.savez(path, **arrays, epoch=np.float64(3))


def last_red_first() -> dict:
    last = channels_last(WEIGHTS)
    return last | {"conv1": [last["conv1"][0][:, :, ::-1], last["conv1"][1]]}


def write_state_dict(prefix: str, path: Path, wrap=lambda state: state) -> None:
    """Write Caffe's net with red first and the names of JigenDG's AlexNetCaffe."""
    state = OrderedDict()
    for name, of in WEIGHTS.items():
        for kind, array in of.items():
            tensor = torch.tensor(array[:, ::-1].copy() if (name, kind) == ("conv1", "weight") else array)
            state[f"{prefix}{'features' if name.startswith('conv') else 'classifier'}.{name}.{kind}"] = tensor
    torch.save(wrap(state), path)


MEAN_IMAGE = np.broadcast_to(np.float32(MEAN), (99, 99, 3)).copy()
mat = partial(write_mat, WEIGHTS, MEAN_IMAGE, NAMES)
FORMS = {  # name of the file, how it is written, options of Source, and what the choices must say
    "Toronto's npy": ("a.npy", partial(write_npy, WEIGHTS), {}, "net:  caffe"),
    "MatConvNet": ("a.mat", mat, {}, "mean: that of"),
    "MatConvNet of 2014": ("a.mat", partial(mat, old=True), {}, "color: red first"),
    "ONNX Model Zoo": ("a.onnx", partial(write_onnx, WEIGHTS), {}, "view: 227 pixels, as published; the file's graph"),
    "Caffe of 2013": ("a.caffemodel", lambda path: path.write_bytes(v0_caffemodel(WEIGHTS)), {}, "color: blue first"),
    "Caffe's net surgery": ("a.caffemodel", write_net_surgery, {}, "net:  caffenet"),
    "Caffe's fine-tuning": (
        "a.caffemodel", partial(write_renamed_caffemodel, {"fc8": "fc8_flickr"}), {}, "fc8_flickr is the classifier"
    ),
    "renamed": (
        "a.caffemodel",
        partial(write_renamed_caffemodel, {"fc7": "fc7-conv", "fc8": "fc8_flickr"}),
        {"renames": {"fc8_flickr": "fc8"}},
        "net:  caffenet",
    ),
    "TensorFlow": ("a.npz", partial(write_own_kernels, ("/weights:0", "/biases:0")), {}, "color: red first"),
    "myalexnet": ("a.npz", partial(write_own_kernels, ("W", "b")), {}, "color: red first"),
    "CaffeNet in PyTorch": ("a.pth.tar", partial(write_state_dict, ""), {}, "net:  caffenet"),
    "from several GPUs": ("a.pth", partial(write_caffenet_pth, WEIGHTS), {"bgr": True}, "dict under 'state_dict'"),
    "Lightning": (
        "a.ckpt",
        partial(write_state_dict, "net._orig_mod.", wrap=lambda state: {"hparams": Path("x"), "state_dict": state}),
        {},
        "names: without '_orig_mod', 'net.'",
    ),
    "under model": (
        "a.pt", partial(write_state_dict, "b.", wrap=lambda state: {"model": state, "lr": 0.1}), {}, "under 'model'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_has_the_arrays_of_the_caffemodel(form, labels, mean, tmp_path):
    """To the bit, in our order; with the options that the command's defaults give."""
    name, write, options, choice = FORMS[form]
    write(tmp_path / name)
    config = narrow("caffenet" if "caffenet" in choice or form in ("Caffe of 2013", "Caffe's fine-tuning") else "caffe")
    options = {"mean": mean if name.endswith("npy") or name.endswith("npz") else None} | options
    net = read_net(Source(tmp_path / name, config=config, labels=labels, **options))
    assert any(choice in line for line in net.choices), net.choices
    (tmp_path / "b.caffemodel").write_bytes(caffemodel(WEIGHTS, version=2, form="shape"))
    expected = read_net(Source(tmp_path / "b.caffemodel", config=narrow("caffe"), labels=labels))
    jax.tree.map(np.testing.assert_array_equal, net.fitted.params, expected.fitted.params)
    if name.endswith((".mat", "npy", "npz")):
        image = net.dataset_info.statistics.mean_image
        np.testing.assert_array_equal(image, np.broadcast_to(np.float32(MEAN), (256, 256, 3)))


@pytest.mark.parametrize("form", ["Toronto's npy", "MatConvNet", "ONNX Model Zoo", "from several GPUs"])
def test_the_documents_example_gives_the_probabilities_of_pytorch(form, labels, mean, tmp_path, monkeypatch):
    """From the file to probabilities of a picture, with the net that the code of docs/use.md loads."""
    name, write, options, _ = FORMS[form]
    write(tmp_path / name)
    variant = "caffenet" if form == "from several GPUs" else "caffe"
    (tmp_path / "runs").mkdir()
    source = Source(tmp_path / name, config=narrow(variant), labels=labels, mean=mean, **options)
    import_weights(source, tmp_path / "runs" / "quickstart")  # the folder of the example
    image = np.random.default_rng(7).integers(0, 256, (256, 256, 3), np.uint8)
    for picture in ("three.png", "seven.png"):
        Image.fromarray(image).save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(example("use.md"), made)
    view = (image[78:177, 78:177] - np.float32(MEAN))[..., ::-1].transpose(2, 0, 1)[None]
    logits = caffe_logits(WEIGHTS, np.ascontiguousarray(view), pool_first=variant == "caffenet")
    expected = torch.softmax(torch.tensor(logits), dim=1).numpy()
    np.testing.assert_allclose(made["net"].predict("three.png"), expected, atol=1e-5)
    assert set(made["names"]) <= set(NAMES)


@pytest.fixture(scope="module")
def full_size():
    """Weights of BVLC's AlexNet's size, images less their mean, and the logits in PyTorch: those of caffe, caffenet."""
    weights, bgr = caffe_weights(**FULL_SIZE), random_bgr(227, batch=1)
    return weights, bgr, {first: caffe_logits(weights, bgr, pool_first=first) for first in (False, True)}


@functools.cache
def compiled(variant: str):
    """Return the program parameters, images -> logits of a published net, compiled once."""
    return jax.jit(create_model(recipe(variant)).apply)


@pytest.mark.parametrize(
    ("name", "write", "bgr", "pool_first"),
    [
        ("bvlc_alexnet.npy", write_npy, None, False),
        (
            "imagenet-caffe-alex.mat",
            lambda weights, path: write_mat(
                weights, np.full((227, 227, 3), 9, np.float32), [*imagenet_classes()], path
            ),
            None,
            False,
        ),
        ("bvlcalexnet-9.onnx", write_onnx, None, False),
        ("alexnet_caffe.pth.tar", write_caffenet_pth, True, True),
    ],
)
def test_a_full_size_file_needs_no_options(name, write, bgr, pool_first, full_size, tmp_path):
    weights, images, logits = full_size
    write(weights, tmp_path / name)
    net = read_net(Source(tmp_path / name, bgr=bgr))
    (tmp_path / name).unlink()
    assert net.config.model.variant == ("caffenet" if pool_first else "caffe")
    assert net.dataset_info.label_names == tuple(imagenet_classes())
    assert net.dataset_info.preprocessing == "caffe"
    if name.endswith("mat"):
        assert (net.dataset_info.statistics.mean_image == 9).all()
    ours = compiled(net.config.model.variant)({"params": net.fitted.params}, to_rgb_last(images))
    assert relative_errors(np.asarray(ours), logits[pool_first])[""] < 1e-4


# The cases of ../shared/data: what each is read as, or the sentence.
READ_CASES = [
    *("alexnet_caffe_tiny.pth.tar", "checkpoint_with_numpy_scalar_tiny.pth.tar", "dataparallel_tiny.pth"),
    *("float8_tiny.pth", "only_state_dict_key_tiny.pth", "parameters_tiny.pth", "python2_legacy_tiny.pth"),
    *("pytorch_examples_checkpoint_tiny.pth.tar", "saved_on_gpu_tiny.pth", "bf16_tiny.safetensors"),
    *("float8_tiny.safetensors", "half_tiny.safetensors", "prefixed_tiny.safetensors"),
]
NAMED_CASES = {
    "alexnet_weights_head.h5": "is an HDF5 file, as Keras saves",
    "exported_tiny.pt2": r"is an exported PyTorch program, .* torch.save\(torch.export.load\('exported_tiny.pt2'\)",
    "lfs_pointer.pth": "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    "page.caffemodel": "is a web page; the download failed",
    "quantized_tiny.pth": "is quantized; give the net's file of floating-point weights",
    "torchscript_tiny.pt": "is a TorchScript program, not plain weights; in PyTorch: torch.save",
}
OTHER_CASES = {  # array, shape
    "bvlc_alexnet_tiny.npy": ("conv1/weights", (3, 3, 3, 3)),
    "flickr_tiny.caffemodel": ("fc8_flickr/weight", (20, 8)),
    "matconvnet_tiny.mat": ("conv1/kernel", (3, 3, 3, 3)),
    "tf_names_tiny.npz": ("conv1W", (3, 3, 3, 3)),
    "v0_tiny.caffemodel": ("fc8/weight", (3, 4)),
}


def case(name: str) -> Path:
    if not CASES.exists():
        pytest.skip(f"{CASES} does not exist")
    return CASES / name


@pytest.mark.parametrize("name", READ_CASES)
def test_a_case_has_the_numbers_that_pytorch_reads(name):
    path = case(name)
    theirs = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=False)
    theirs = theirs.get("state_dict", theirs)
    ours = read_file(path, None)[0].arrays
    assert list(ours) == list(theirs) if path.suffix != ".safetensors" else set(ours) == set(theirs)
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(ours[key].astype(np.float32), tensor.detach().float().numpy())
    with pytest.raises(UserError, match=r"is \[2(, 2)?\], but \[.*fits none of the published nets\.$"):
        read_net(Source(path))  # every name is known; only the shapes are too small


@pytest.mark.parametrize("name", OTHER_CASES)
def test_a_case_is_read(name):
    path, (array, shape) = case(name), OTHER_CASES[name]
    assert read_file(path, None)[0].arrays[array].shape == shape
    with pytest.raises(UserError, match=f"{name}.*fits none of the published nets") as refused:
        read_net(Source(path))
    assert "--missing=initialize" not in str(refused.value)


def test_every_case_is_in_a_table():
    names = {path.name for path in case("").iterdir()} - {"README.md", "style_names_20.txt", "mu.npy"}
    assert names == {*READ_CASES, *NAMED_CASES, *OTHER_CASES}
    np.testing.assert_allclose(read_mean(case("mu.npy")), [122.679, 116.669, 104.007], atol=1e-3)


@pytest.mark.parametrize("name", NAMED_CASES)
def test_a_case_is_named_for_what_it_is(name):
    with pytest.raises(UserError, match=f"{name} {NAMED_CASES[name]}"):
        read_net(Source(case(name)))


def test_the_remedies_for_programs_of_pytorch_are_right(tmp_path):
    torch.save(torch.jit.load(case("torchscript_tiny.pt")).state_dict(), tmp_path / "script.pth")
    torch.save(torch.export.load(case("exported_tiny.pt2")).state_dict, tmp_path / "exported.pth")
    for name in ("script.pth", "exported.pth"):
        assert list(read_file(tmp_path / name, None)[0].arrays) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.caffemodel", b'# AlexNet\nname: "AlexNet"\nlayer {\n', "is a .prototxt, which describes a net and"),
        ("a.mat", b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "is a .mat file of version 7.3, which is HDF5"),
        ("a.pth", b"\x1f\x8b\x08", "is compressed; unpack it"),
        ("a.tar", b"a" * 257 + b"ustar\0", "is a tar archive; unpack it"),
        ("a.mat", b"MATLAB 5.0 MAT-file".ljust(126) + b"IM", "is not a model of MatConvNet"),
        ("a.npy", b"\x93NUMPY\x01", "is not a .npy file with a dictionary of layers"),
        ("a.onnx", b"\x08\x03", "a.onnx has no convolution or fully connected layer"),
        ("a.onnx", b"\xff", "is not a .onnx file, or is incomplete"),
    ],
)  # fmt: skip
def test_other_files_are_named(name, data, sentence, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        read_net(Source(tmp_path / name))


def test_the_format_says_what_nothing_else_does(tmp_path):
    plain(tmp_path / "a.npz", WEIGHTS)
    (tmp_path / "a.npz").rename(tmp_path / "a.dat")
    with pytest.raises(UserError, match=r"a.dat is a \.npz by its content, not --format=caffe; leave out the format"):
        read_net(Source(tmp_path / "a.dat", "caffe"))
    (tmp_path / "b.dat").write_bytes(caffemodel(WEIGHTS, version=1, form="shape"))
    with pytest.raises(
        UserError, match=r"b.dat is none of the files that are read, which are \.caffemodel, .*--format="
    ):
        read_net(Source(tmp_path / "b.dat"))
    assert read_file(tmp_path / "b.dat", "caffe")[1] == "caffemodel"


# Names


def test_unknown_names_are_never_initialized(labels, tmp_path):
    """The sentence names them, the names that are known, and a remedy that works."""
    plain(tmp_path / "a.npz", renamed(WEIGHTS, {"conv1": "first", "fc8": "last"}))
    source = Source(tmp_path / "a.npz", config=narrow("caffe"), labels=labels, missing="initialize")
    with pytest.raises(
        UserError, match=r"not known: first/weight \[8, 3, 11, 11\], .* --rename=first=conv1, or"
    ) as refused:
        read_net(source)
    assert "initialize" not in str(refused.value)
    np.save(tmp_path / "mean.npy", MEAN)
    options = {"config": narrow("caffe"), "labels": labels, "mean": tmp_path / "mean.npy"}
    net = read_net(
        Source(source.path, renames={"first": "conv1", "last/weight": "fc8/weight", "last/bias": "fc8/bias"}, **options)
    )
    assert not net.fitted.missing
    net = read_net(Source(source.path, renames={"first": "", "last": "fc8"}, missing="initialize", **options))
    assert net.fitted.missing == ("conv1",)


@pytest.mark.parametrize(
    ("renames", "sentence"),
    [
        ({"fc9": "fc8"}, r"--rename=fc9=fc8: .*a.npz has no layer or array 'fc9'; it has conv1, conv2, .*, fc8"),
        ({"fc8": "fc9"}, "--rename=fc8=fc9: 'fc9' is neither a layer, such as fc8, nor an array"),
        ({"fc8": "fc7"}, "a.npz has fc7/weight twice, once as fc7/weight; leave it out: --rename=fc7/weight="),
    ],
)
def test_renames_that_can_not_be(renames, sentence, tmp_path):
    plain(tmp_path / "a.npz", WEIGHTS)
    with pytest.raises(UserError, match=sentence):
        read_net(Source(tmp_path / "a.npz", config=narrow("caffe"), renames=renames))


def test_the_classifiers_classes_are_the_files(tmp_path, monkeypatch):
    """Caffe's fine-tuned net has as many classes as names are given, or is refused."""
    monkeypatch.setattr("alexnet_jax.convert.importing.recipe", narrow)
    write_renamed_caffemodel({"fc8": "fc8_flickr"}, tmp_path / "a.caffemodel", caffe_weights(classes=20))
    with pytest.raises(UserError, match="has 20 classes, but only ImageNet's 1000 are built in; give --labels=FILE"):
        read_net(Source(tmp_path / "a.caffemodel"))
    (tmp_path / "styles.txt").write_text("\n".join(f"style {number}" for number in range(20)))
    net = read_net(Source(tmp_path / "a.caffemodel", labels=tmp_path / "styles.txt"))
    assert (net.config.model.num_classes, net.config.data.name) == (20, "styles")
    assert net.dataset_info.class_names[19] == "style 19"


def test_a_net_with_new_layers_has_no_trusted_names(labels, tmp_path):
    trunk = {name: of for name, of in WEIGHTS.items() if name.startswith("conv")}
    plain(tmp_path / "a.npz", trunk)
    config = narrow("caffe")
    config.model.num_classes = 1000
    net = read_net(Source(tmp_path / "a.npz", config=config, missing="initialize"))
    assert net.dataset_info.class_names[:2] == ("untrained 0", "untrained 1")
    assert net.fitted.missing == ("fc6", "fc7", "fc8")


def test_a_mean_that_nothing_says_is_asked_for(labels, mean, tmp_path):
    plain(tmp_path / "a.npz", WEIGHTS)
    with pytest.raises(
        UserError, match=r"a.npz does not say which mean .* give --mean=FILE: .*numpy.save\('mean.npy', \["
    ):
        read_net(Source(tmp_path / "a.npz", config=narrow("caffe"), labels=labels))
    net = read_net(Source(tmp_path / "a.npz", config=narrow("caffe"), labels=labels, mean=mean))
    np.testing.assert_array_equal(net.dataset_info.statistics.mean_image[0, 0], np.float32(MEAN))


@pytest.mark.parametrize("shape", [(3,), (1, 3, 256, 256), (3, 256, 256), (3, 1, 1), (3, 99, 99)])
def test_forms_of_a_mean(shape, labels, tmp_path):
    """A mean of the view's size is the center of the whole image's."""
    values = np.float64(MEAN[::-1]).reshape(*[1] * (len(shape) == 4), 3, *[1] * (min(len(shape), 3) - 1))
    image = np.broadcast_to(values, shape) + (np.arange(shape[-1]) if len(shape) > 1 else 0)
    np.save(tmp_path / "mean.npy", image)
    plain(tmp_path / "a.npz", WEIGHTS)
    source = Source(tmp_path / "a.npz", config=narrow("caffe"), labels=labels, mean=tmp_path / "mean.npy")
    if shape == (3, 1, 1):
        with pytest.raises(UserError, match="the mean image has 1 pixels a side"):
            read_net(source)
        return
    found = read_net(source).dataset_info.statistics.mean_image
    assert found.shape == (256, 256, 3)
    center = found[78:177, 78:177] if shape == (3, 99, 99) else found
    expected = np.broadcast_to(
        image.reshape(-1, *image.shape[-2:]) if image.ndim > 1 else values[:, None, None], (3, *center.shape[:2])
    )
    np.testing.assert_array_equal(center, expected[::-1].transpose(1, 2, 0).astype(np.float32))


# Hostile files


def test_nothing_in_a_file_is_run(labels, tmp_path):
    proof = tmp_path / "proof"
    np.save(tmp_path / "a.npy", np.array({"conv1": RunsCode(proof)}, object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a.npy is not .* \(it asks for posix.system, which no array"):
        read_net(Source(tmp_path / "a.npy"))
    state = OrderedDict((name, torch.tensor(array)) for name, array in flat(WEIGHTS).items())
    torch.save({"state_dict": state, "callback": RunsCode(proof), "who": os.getcwd}, tmp_path / "a.pth")
    assert len(read_file(tmp_path / "a.pth", None)[0].arrays) == 16
    assert not proof.exists()


def test_a_mat_that_unpacks_to_too_much_is_refused(monkeypatch, tmp_path):
    packed = zlib.compress(bytes(1 << 22))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM"
    (tmp_path / "a.mat").write_bytes(header + np.array([15, len(packed)], "<u4").tobytes() + packed)
    monkeypatch.setattr("alexnet_jax.convert.matconvnet.MAX_BYTES", 1 << 20)
    with pytest.raises(UserError, match="it unpacks to more than 1,048,576 bytes"):
        read_net(Source(tmp_path / "a.mat"))


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a.caffemodel", "wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(UserError, match=r"a\.caffemodel has 4,294,967,297 bytes, more than any AlexNet"):
        read_net(Source(tmp_path / "a.caffemodel"))


def test_weights_beside_an_onnx_file(tmp_path):
    """The sentence's remedy makes a file that is read."""
    write_onnx(WEIGHTS, tmp_path / "whole.onnx")
    onnx.save(onnx.load(tmp_path / "whole.onnx"), tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(
        UserError, match=r"keeps its weights in another file; .* onnx.save\(onnx.load\('a.onnx'\), 'one.onnx'\)"
    ):
        read_net(Source(tmp_path / "a.onnx"))
    onnx.save(onnx.load(tmp_path / "a.onnx"), tmp_path / "one.onnx")
    assert len(read_file(tmp_path / "one.onnx", None)[0].arrays) == 16


def test_pytorchs_own_onnx_graph_would_have_other_names(labels, tmp_path):
    """Layers are taken in the graph's order; one without normalization is torchvision's, with red first."""
    net = torchvision_net((5, 16, 32, 21, 21), 32, CLASSES)
    weights = {
        name: {"weight": of.weight.detach().numpy(), "bias": of.bias.detach().numpy()}
        for name, of in zip(
            [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"],
            [of for of in net.modules() if hasattr(of, "weight")],
            strict=True,
        )
    }
    write_onnx(weights, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx")
    for node in [node for node in graph.graph.node if node.op_type == "LRN"]:
        node.op_type = "Identity"
        del node.attribute[:]
    onnx.save(graph, tmp_path / "a.onnx")
    torch.save(net.state_dict(), tmp_path / "a.pth")
    first, second = (
        read_net(Source(tmp_path / name, config=narrow("torchvision"), labels=labels)) for name in ("a.onnx", "a.pth")
    )
    assert first.dataset_info.preprocessing == "torchvision"
    jax.tree.map(np.testing.assert_array_equal, first.fitted.params, second.fitted.params)


def test_float8_is_read_as_its_numbers(labels, tmp_path):
    state = {
        name: tensor.to(torch.float8_e4m3fn)
        for name, tensor in torchvision_net((5, 16, 32, 21, 21), 32, CLASSES).state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        net = read_net(Source(tmp_path / name, config=narrow("torchvision"), labels=labels))
        np.testing.assert_array_equal(
            net.fitted.params["fc8"]["kernel"], state["classifier.6.weight"].float().numpy().T
        )
