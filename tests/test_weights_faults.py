"""Wrong and damaged files: each ends in one sentence, and no folder is left that looks like a net."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing.weights import zipped
from safetensors.numpy import save_file
from test_bad_input import assert_refused, run
from weights_files import bytes_field, caffe_weights, caffemodel, random_weights, torchvision_net

from alexnet_jax.convert.fitting import fit, recipe
from alexnet_jax.convert.importing import Source, import_weights, read_net
from alexnet_jax.convert.layout import parameter_shapes
from alexnet_jax.errors import UserError
from configs import cifar_11pct

CLASSES = 7
SHAPES = {"conv1": (64, 3, 11, 11), "conv2": (192, 64, 5, 5)}  # of torchvision's net


def narrow(variant: str):
    config = recipe(variant)
    config.model.conv_width, config.model.fc_width, config.model.num_classes = 0.0833, 0.0079, CLASSES
    config.model.image_size = 224 if variant == "torchvision" else 99
    return config


def caffe_file(path: Path, **kind) -> None:
    path.write_bytes(caffemodel(caffe_weights(**kind), version=2, form="shape"))


def state_dict(path: Path) -> None:
    torch.save(torchvision_net((5, 16, 32, 21, 21), 32, CLASSES).state_dict(), path)


def plain(path: Path, weights: dict) -> None:
    np.savez(path, **{f"{layer}/{kind}": array for layer, of in weights.items() for kind, array in of.items()})


class RunsCode:
    """A pickle of this object runs a command when it is loaded with `pickle.loads`."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def malicious(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"features.0.weight": RunsCode(path.parent / "proof")}))


def malicious_legacy(path: Path) -> None:
    path.write_bytes(pickle.dumps(RunsCode(path.parent / "proof")))


def cut(write, share: float = 0.5):
    """Return a writer of the same file that keeps only its beginning."""

    def write_and_cut(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write_and_cut


def text(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404 Not Found</title>")


def not_finite(path: Path) -> None:
    weights = caffe_weights()
    weights["conv3"]["weight"][0, 0, 0, 0] = np.nan
    path.write_bytes(caffemodel(weights, version=1, form="shape"))


def with_the_shape_of_another(path: Path) -> None:
    weights = caffe_weights()
    weights["conv2"]["weight"] = weights["conv2"]["weight"][:, :1]
    plain(path, weights)


# file name, how it is written, format, variant, what the sentence must say
FAULTS = {
    "caffe: a web page": ("a.caffemodel", text, "caffe", "caffe", r"a.caffemodel is a web page; the download failed"),
    "caffe: empty": ("a.caffemodel", lambda path: path.touch(), "caffe", "caffe", "it holds no layer with weights"),
    "caffe: truncated": ("a.caffemodel", cut(caffe_file), "caffe", "caffe", "or is incomplete; download it again"),
    "caffe: three arrays in a layer": (
        "a.caffemodel",
        lambda path: path.write_bytes(bytes_field(100, bytes_field(1, "conv1") + bytes_field(7, b"") * 3)),
        "caffe",
        "caffe",
        "layer 'conv1' holds 3 arrays, but a layer of AlexNet has two",
    ),
    "caffe: not finite": ("a.caffemodel", not_finite, "caffe", "caffe", "conv3/weight holds numbers that are not"),
    "caffe: the other of the two": ("a.caffemodel", caffe_file, "caffe", "caffenet", "is a 'caffe' by the order"),
    "caffe: other class count": (
        "a.caffemodel",
        lambda path: caffe_file(path, classes=5),
        "caffe",
        "caffe",
        "has 5 classes, but config.model.num_classes=7",
    ),
    "pth: a web page": ("a.pth", text, "torchvision", "torchvision", "a.pth is a web page"),
    "pth: truncated": ("a.pth", cut(state_dict), "torchvision", "torchvision", "or is incomplete"),
    "pth: code": ("a.pth", malicious, "torchvision", "torchvision", "names posix.system, .* nothing in it was run"),
    "pth: code, old form": ("a.pth", malicious_legacy, "torchvision", "torchvision", "nothing in it was run"),
    "pth: a whole module": (
        "a.pth",
        lambda path: torch.save(torch.nn.Linear(2, 2), path),
        "torchvision",
        "torchvision",
        r"names torch.nn.modules.linear.Linear, .* Save `model.state_dict\(\)`",
    ),
    "pth: a whole module, old form": (
        "a.pth",
        lambda path: torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
        "torchvision",
        "torchvision",
        r"names torch.nn.modules.linear.Linear, .* Save `model.state_dict\(\)`",
    ),
    "pth: two state dicts": (
        "a.pth",
        lambda path: torch.save({"generator": {"a": torch.zeros(1)}, "critic": {"a": torch.zeros(1)}}, path),
        "torchvision",
        "torchvision",
        "holds no state dict, tensors by name, but 'generator', 'critic'",
    ),
    "pth: a net with a count": (
        "a.pth",
        lambda path: torch.save({"features.1.num_batches_tracked": torch.tensor(3)}, path),
        "torchvision",
        "torchvision",
        "holds no arrays of a net; give the file of a trained one",
    ),
    "pth: another net": (
        "a.pth",
        lambda path: torch.save({"layer1.conv1.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, path),
        "torchvision",
        "torchvision",
        r"not known: layer1.conv1.weight \[2, 2\], fc.bias \[2\]; .* for example --rename=layer1.conv1=conv1, or leave",
    ),
    "pth: of a big-endian machine": (
        "a.pth",
        lambda path: path.write_bytes(zipped({"a/data.pkl": b"\x80\x02}.", "a/byteorder": b"big"})),
        "torchvision",
        "torchvision",
        "was written on a big-endian machine; save it again",
    ),
    "safetensors: a web page": ("a.safetensors", text, "torchvision", "torchvision", "is a web page"),
    "safetensors: truncated": (
        "a.safetensors",
        cut(lambda path: save_file({"features.0.bias": np.zeros(64, np.float32)}, path)),
        "torchvision",
        "torchvision",
        "is not a .safetensors file, or is incomplete",
    ),
    "npz: a web page": ("a.npz", text, "npz", "caffe", "is a web page"),
    "npz: truncated": (
        "a.npz", cut(lambda path: plain(path, caffe_weights())), "npz", "caffe", "is not a .npz file of plain arrays"
    ),
    "npz: Python objects": (
        "a.npz",
        lambda path: np.savez(path, **{"conv1/kernel": np.array([{}], object)}),
        "npz",
        "caffe",
        "is not a .npz file of plain arrays, or is damaged",
    ),
    "npz: integers": (
        "a.npz",
        lambda path: np.savez(path, **{"conv1/bias": np.zeros(8, np.int32)}),
        "npz",
        "caffe",
        "conv1/bias holds int32, but weights are floating-point",
    ),
    "npz: layers are missing": (
        "a.npz",
        lambda path: plain(path, {name: of for name, of in caffe_weights().items() if name != "fc7"}),
        "npz",
        "caffe",
        "is not a complete 'caffe': it lacks fc7; add --missing=initialize",
    ),
    "npz: layers of another net": (
        "a.npz",
        lambda path: plain(path, caffe_weights() | {"fc9": {"bias": np.zeros(3, np.float32)}}),
        "npz",
        "caffe",
        r"names that are not known: fc9/bias \[3\]; .* or leave one out with --rename=fc9=\.",
    ),
    "npz: weights of another net": (
        "a.npz",
        lambda path: plain(path, random_weights(SHAPES, seed=0)),
        "npz",
        "caffe",
        r"conv1/weight is \[64, 3, 11, 11\], but \[8, 3, 11, 11\] in 'caffe'; "
        r"it fits the variant one_weird_trick\|torchvision",
    ),
    "npz: weights of no net": (
        "a.npz", with_the_shape_of_another, "npz", "caffe", r"conv2/weight is \[22, 1, 5, 5\], .* fits none of the"
    ),
}  # fmt: skip


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(f"class {number}" for number in range(CLASSES)))
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_something_else(fault, labels, tmp_path):
    name, write, form, variant, sentence = FAULTS[fault]
    write(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence):
        import_weights(Source(tmp_path / name, form, config=narrow(variant), bgr=True, labels=labels), tmp_path / "net")
    assert sorted(tmp_path.iterdir()) == before  # neither a folder, nor what the code in a pickle would have made


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("mean.npy", b"GIF89a", "mean.npy is not a .npy file"),
        ("mean.npy", None, r"mean.npy is not a file; check the path"),
        ("mean.binaryproto", b"\x08", "mean.binaryproto is not a .binaryproto"),
        ("mean.binaryproto", b"", r"mean.binaryproto holds 0 numbers for an array of \[0, 0, 0, 0\]"),
        ("mean.npz", b"PK", "must be a .npy or .binaryproto from Caffe, or a statistics.npz"),
    ],
)
def test_mean_files(name, content, sentence, labels, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    caffe_file(tmp_path / "a.caffemodel")
    source = Source(tmp_path / "a.caffemodel", "caffe", config=narrow("caffe"), labels=labels, mean=tmp_path / name)
    with pytest.raises(UserError, match=sentence):
        import_weights(source, tmp_path / "net")


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((3, 256), r"holds \[3, 256\]; Caffe's mean image is \[3, S, S\]"),
        ((3, 64, 64), "has 64 pixels a side, but"),
    ],
)
def test_means_of_another_shape(shape, sentence, labels, tmp_path):
    np.save(tmp_path / "mean.npy", np.zeros(shape))
    caffe_file(tmp_path / "a.caffemodel")
    source = Source(
        tmp_path / "a.caffemodel", "caffe", config=narrow("caffe"), labels=labels, mean=tmp_path / "mean.npy"
    )
    with pytest.raises(UserError, match=sentence):
        import_weights(source, tmp_path / "net")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (None, "has 7 classes, but only ImageNet's 1000 are built in; give --labels=FILE, a text file"),
        ("cat\ndog\n", "has 7 classes, but .*names.txt names 2"),
        ("cat\ndog\ncat\n", "names 'cat' twice"),
    ],
)
def test_labels(names, sentence, tmp_path):
    if names:
        (tmp_path / "names.txt").write_text(names)
    caffe_file(tmp_path / "a.caffemodel")
    labels = tmp_path / "names.txt" if names else None
    with pytest.raises(UserError, match=sentence):
        import_weights(
            Source(tmp_path / "a.caffemodel", "caffe", config=narrow("caffe"), labels=labels), tmp_path / "n"
        )


def test_labels_that_are_not_text(tmp_path, monkeypatch):
    (tmp_path / "names.txt").write_bytes("café".encode("latin-1"))
    caffe_file(tmp_path / "a.caffemodel")
    source = Source(tmp_path / "a.caffemodel", "caffe", config=narrow("caffe"), labels=tmp_path / "names.txt")
    with pytest.raises(UserError, match=r"names.txt is not a text file; it must hold the class names, one per line"):
        read_net(source)

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"names.txt can't be read \(Permission denied\)"):
        read_net(source)


def test_a_taken_folder_is_left_alone(labels, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "thesis.tex").write_text("precious")
    caffe_file(tmp_path / "a.caffemodel")
    source = Source(tmp_path / "a.caffemodel", "caffe", config=narrow("caffe"), labels=labels)
    with pytest.raises(UserError, match=r"net is taken; converted weights need a new or empty folder"):
        import_weights(source, tmp_path / "net")
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_a_folder_without_a_name_is_refused(folder, labels, tmp_path, monkeypatch):
    caffe_file(tmp_path / "a.caffemodel")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=rf"^{re.escape(folder)} is not the name of a new folder; give one, for example .*net"
    ):
        import_weights(Source(Path("a.caffemodel"), "caffe", config=narrow("caffe"), labels=labels), Path(folder))


def test_a_file_that_can_not_be_read_is_not_taken_for_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"^/.*/x+ can't be read \(File name too long\)"):
        import_weights(Source(tmp_path / (300 * "x"), "npz"), tmp_path / "net")
    with pytest.raises(UserError, match=r"^/.*/x+ can't be written \(File name too long\)"):
        import_weights(Source(tmp_path / "a.npz", "npz"), tmp_path / (300 * "x"))


def test_a_folder_that_can_not_be_put_in_place(labels, tmp_path, monkeypatch):
    caffe_file(tmp_path / "a.caffemodel")
    source = Source(tmp_path / "a.caffemodel", "caffe", config=narrow("caffe"), labels=labels)
    replace = Path.replace

    def refuse(path, target):
        if path.suffix == ".converting":
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match=r"^/.*net can't be written \(Permission denied\)"):
        import_weights(source, tmp_path / "net")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.caffemodel", "labels.txt"]


def test_ambiguous_weights_name_the_choices(tmp_path):
    """The shapes of five published nets are the same as far as conv2."""
    plain(tmp_path / "a.npz", random_weights({"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5)}, seed=0))
    with pytest.raises(
        UserError, match=r"fits several nets, .* give one with --variant: paper\|original\|six_conv\|caffe\|caffenet"
    ):
        import_weights(Source(tmp_path / "a.npz", "npz"), tmp_path / "net")


def test_a_locally_connected_layer_has_no_weight_with_channels_first():
    config = cifar_11pct.get_config()
    shape = parameter_shapes(config)["local3"]
    arrays = {"local3/weight": np.zeros(shape.kernel_shape), "local3/bias": np.zeros(shape.bias_shape)}
    fitted = fit(arrays, config, Path("a.npz"), bgr=False)
    assert "local3" in fitted.missing
    assert fitted.unused == ("local3/weight", "local3/bias")


def test_weights_of_no_published_net(tmp_path):
    with_the_shape_of_another(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a.npz fits none of the published nets \(it holds conv1/weight"):
        read_net(Source(tmp_path / "a.npz", "npz"))
    with pytest.raises(UserError, match=r"variant 'cafe' is unknown; allowed: paper, .*caffe"):
        read_net(Source(tmp_path / "a.npz", "npz", variant="cafe"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either --source=FILE, to import weights, or --export=FORM"),
        (
            ["--source=a.npz", "--workdir=b", "--rename=x"],
            "--rename=x must be THEIRS=OURS, for example --rename=fc8_fl",
        ),
        (["--source=a.npz", "--format=npz", "--workdir=b"], "a.npz is not a file; check the path"),
        (["--source=requirements.txt", "--format=npz", "--workdir=b", "--variant=cafe"], "is not a .npz file"),
        (["--source=requirements.txt", "--workdir=b"], "requirements.txt is none of the files that are read"),
        (
            ["--source=a.npz", "--format=npz", "--workdir=b", "--variant=caffe", "--config=configs/caffe.py"],
            "give either --variant or --config: a config names its variant itself",
        ),
        (["--export=onnx", "--workdir=b"], "--output is missing: give the file to write with --export"),
        (
            ["--export=torchvision", "--workdir=b", "--output=a.safetensors"],
            "--output=a.safetensors must end in .pth with --export=torchvision; use --export=safetensors",
        ),
        (
            ["--export=npz", "--workdir=b", "--output=a.npz", "--batch=2"],
            "--batch=2 is for --export=onnx and stab",
        ),
        (["--export=stablehlo", "--workdir=b", "--output=a", "--opset=9"], "--opset=9 is for --export=onnx; leave it"),
        (["--export=onnx", "--workdir=b", "--output=a.onnx", "--opset=8"], r"flag --opset=8: .* \[9, 21\]"),
        (
            ["--export=onnx", "--workdir=b", "--output=a.onnx", "--batch=0"],
            "--batch=0: 0 is not a positive integer",
        ),
        (
            ["--export=torchvision", "--workdir=b", "--output=a.bin"],
            "--output=a.bin must end in .pth with --export=torchvision.",
        ),
        (
            ["--export=safetensors", "--workdir=b", "--output=a.pth"],
            "--output=a.pth must end in .safetensors with --export=safetensors",
        ),
    ],
)
def test_flags(arguments, sentence):
    assert_refused(run("convert", *arguments), sentence)


@pytest.mark.parametrize(
    ("name", "write", "form"),
    [
        ("a.caffemodel", caffe_file, "caffe"),
        ("a.pth", state_dict, "torchvision"),
        ("a.npz", lambda path: plain(path, caffe_weights()), "npz"),
    ],
)
def test_any_damage_ends_in_a_sentence(name, write, form, labels, tmp_path):
    """A file cut or with some bytes changed, mostly in its headers, is read or refused with a UserError."""
    write(tmp_path / name)
    whole, random = (tmp_path / name).read_bytes(), np.random.default_rng(6)
    source = Source(
        tmp_path / name, form, config=narrow("torchvision" if form == "torchvision" else "caffe"), labels=labels
    )
    refused = 0
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[random.integers(len(whole)) :]
        else:
            ends = (random.integers(200), -1 - random.integers(200), random.integers(len(whole)))
            for place in ends:
                damaged[place] = random.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            read_net(source)
        except UserError:
            refused += 1
    assert refused > 10
