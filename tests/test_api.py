"""The Python interface, and that the examples in the documentation run as written."""

import asyncio
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import alexnet_jax
from alexnet_jax.convert.exporting import export
from alexnet_jax.data.augmentation import center_view
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.state import create_model

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def net(trained_folder):
    return alexnet_jax.load(trained_folder)


@pytest.fixture(scope="module")
def images(net) -> np.ndarray:
    """Three validation images, uint8 [3, 72, 72, 3]."""
    images = np.zeros((3, 72, 72, 3), np.uint8)
    open_dataset(net.restored.config.data).evaluation.read(range(3), images, np.zeros(3, np.int32))
    return images


def example(document: str, number: int = 0) -> str:
    """Return a Python block of a document."""
    return re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)[number]


def test_the_example_of_the_document_runs(net, images, trained_folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(trained_folder)
    for name, image in zip(("three.png", "seven.png"), images, strict=False):
        Image.fromarray(image).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(example("use.md"), made)
    np.testing.assert_allclose(made["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert made["probabilities"].shape == (2, 10)
    assert made["names"] == [str(best) for best in made["probabilities"].argmax(axis=1)]
    assert made["hidden"].shape[0] == 2
    np.testing.assert_array_equal(made["hidden"], net.features(images[:2]))
    assert set(made["layers"]) == {"conv5", "relu5", "fc8"}
    np.testing.assert_array_equal(made["seen"], images[0][4:68, 4:68])
    exec(example("use.md", 1), {})
    assert Image.open("grad_cam.png").size == (64, 64)


def test_images_may_come_as_anything(net, images, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    expected = net.predict(images)
    for form in (list(images), paths, [str(path) for path in paths], tmp_path, [Image.open(path) for path in paths]):
        np.testing.assert_array_equal(net.predict(form), expected)
    for one in (images[1], paths[1], str(paths[1]), Image.open(paths[1])):
        np.testing.assert_array_equal(net.predict(one), expected[1:2])
    assert net.predict([]).shape == (0, 10)
    assert net.features([], "pool5").shape[0] == 0


def test_images_may_be_arrays_of_any_library_bytes_and_open_files(net, images, tmp_path: Path) -> None:
    expected = net.predict(images)
    tensors = torch.tensor(images)
    for form in (tensors, list(tensors), jnp.asarray(images), [images[0], jnp.asarray(images[1]), tensors[2]]):
        np.testing.assert_array_equal(net.predict(form), expected)
    Image.fromarray(images[1]).save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    for content in (data, bytearray(data), memoryview(data), io.BytesIO(data), [data]):
        np.testing.assert_array_equal(net.predict(content), expected[1:2])
    with open(tmp_path / "one.png", "rb") as file:
        np.testing.assert_array_equal(net.predict(file), expected[1:2])
    gray, alpha = images[0, ..., 0], np.full((72, 72, 1), 9, np.uint8)
    of_gray = net.predict(np.repeat(gray[..., None], 3, axis=-1))
    for form in (gray, gray[..., None], [gray], torch.tensor(gray), np.asarray(np.asfortranarray(gray))):
        np.testing.assert_array_equal(net.predict(form), of_gray)
    np.testing.assert_array_equal(net.predict(np.concatenate([images[0], alpha], axis=-1)), expected[:1])


def test_an_array_of_the_size_of_the_view_is_the_view(net, images) -> None:
    """It is not enlarged and cut again; a smaller or larger one is resized."""
    views = [net.view(image) for image in images]
    assert [view.shape for view in views] == [(64, 64, 3)] * 3
    np.testing.assert_array_equal(net.predict(views), net.predict(images))
    np.testing.assert_array_equal(net.view(views[0]), views[0])
    assert net.view(images[0][:63, :63]).shape == (64, 64, 3)
    assert net.predict(views, views=10).shape == (3, 10)


def test_another_way_and_precision_can_be_chosen(net, images, trained_folder) -> None:
    wide = np.repeat(images, 2, axis=2)
    other = alexnet_jax.load(trained_folder, preprocessing="caffe")
    np.testing.assert_array_equal(other.view(wide[0]), cv2.resize(wide[0], (72, 72))[4:68, 4:68])
    rounded = alexnet_jax.load(trained_folder, precision="bfloat16").predict(images)
    np.testing.assert_allclose(rounded, net.predict(images), atol=0.02)
    assert (rounded != net.predict(images)).any()


def test_gradients_are_those_of_the_whole_net(net, images) -> None:
    """Against JAX's gradient of the module, and where a product is all that there is, against its kernel."""
    restored = net.restored
    params = jax.device_get(restored.params)
    model = create_model(restored.config)

    def unit(pixels: jax.Array, layer: str, place: tuple[int, ...]) -> jax.Array:
        views = center_view(pixels, restored.dataset_info.statistics, image_size=64, mean="image")
        _, variables = model.apply({"params": params}, views, mutable="intermediates")
        return variables["intermediates"]["outputs"][0][layer][(slice(None), *place)].sum()

    views = np.stack([net.view(image) for image in images])
    for of, layer, place in ((3, "fc8", (3,)), ("3", "fc8", (3,)), (("conv3", (1, 2, 5)), "conv3", (1, 2, 5))):
        expected = jax.grad(unit)(jnp.float32(views), layer, place)
        found = net.gradient(images, of)
        assert found.shape == (3, 64, 64, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    kernel = params["fc8"]["kernel"][:, 3]
    np.testing.assert_allclose(net.gradient(images, 3, wrt="drop7"), [kernel] * 3, rtol=1e-6)
    active = net.features(images, "fc7") > 0
    np.testing.assert_allclose(net.gradient(images, 3, wrt="fc7"), active * kernel / 2, rtol=1e-6)  # half is dropped
    assert net.gradient([], 3, wrt="relu5").shape[0] == 0


def test_what_has_no_gradient_is_refused_by_the_arguments_name(net, images) -> None:
    for arguments, sentence in {
        (10,): r"^of=10 is not a class of this net: give one of its 10 class_names, its number from 0, or \(layer, ",
        ("ten",): r"^of='ten' is not a class",
        (None,): r"^of=None is not a class",
        (("fc9", 1),): r"^of='fc9' is not a layer of this net; its layers are conv1, ",
        (("fc7", (1, 2)),): r"^of=\('fc7', \(1, 2\)\) is not a unit: the outputs of fc7 are \[32\], counted from 0",
        (("conv1", 3),): r"^of=\('conv1', 3\) is not a unit",
        (("fc7",),): r"^of=\('fc7',\) is not a class",
        (3, "fc9"): r"^wrt='fc9' is not a layer",
        (3, "fc8"): r"^wrt='fc8' is not below of='fc8'",
        (("conv3", (0, 0, 0)), "relu5"): r"^wrt='relu5' is not below of='conv3'",
    }.items():
        with pytest.raises(UserError, match=sentence):
            net.gradient(images, *arguments)


def test_a_pil_image_is_what_its_file_is(net, images, tmp_path: Path) -> None:
    """With 16 bits, and turned: by us for a JPEG, by Pillow itself for a TIFF."""
    gray = images[0, ..., 0].astype(np.uint16) * 257
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(images[0]).save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    for name in ("gray.png", "turned.jpg"):
        np.testing.assert_array_equal(net.predict(Image.open(tmp_path / name)), net.predict(tmp_path / name))
    np.testing.assert_array_equal(net.predict(Image.open(tmp_path / "gray.png")), net.predict(images[0]))
    Image.fromarray(images[0]).save(tmp_path / "turned.tiff", exif=exif)
    upright = np.ascontiguousarray(np.rot90(images[0], -1))
    np.testing.assert_array_equal(net.predict(Image.open(tmp_path / "turned.tiff")), net.predict(upright))


def test_logits_are_the_logarithms_of_probabilities_up_to_a_constant(net, images) -> None:
    logits = net.features(images, "fc8")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(net.predict(images), expected, rtol=1e-4)


def test_what_is_not_an_image_is_refused(net, images, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.png can't be read as an image"):
        net.predict(tmp_path / "broken.png")
    Image.fromarray(images[0]).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    pictures = [Image.open(tmp_path / "cut.png"), images[1], Image.new("F", (64, 64)), Image.new("L", (64, 2))]
    broken = r"images\[0\] can't be read as an image: OSError: .*\nimages\[2\] .* mode F .*\nimages\[3\] .* too few"
    with pytest.raises(UserError, match=broken):
        net.predict(pictures)
    channels_first = np.moveaxis(images[0], -1, 0)
    closed = io.BytesIO()
    closed.close()
    for wrong, sentence in (
        (images[0] / 255, r"^images is an array of float64 \[72, 72, 3\]; it must be uint8, 0 to 255, \[H, W, 3\]"),
        ([images[0], channels_first], r"^images\[1\] is an array of uint8 \[3, 72, 72\]; .*; put its channels last\.$"),
        (torch.tensor(channels_first)[None], r"^images\[0\] is an array of uint8 \[3, 72, 72\]; .* channels last"),
        (torch.zeros(8, 8, 3), r"^images is an array of float32 \[8, 8, 3\]"),
        (images[0, :, :, :2], r"^images is an array of uint8 \[72, 72, 2\]"),
        (np.zeros((4, 4, 3), np.uint8), r"^images can't be read as an image: 4 x 4 pixels are too few"),
        (None, r"^images=None is not an image: an image is a file's name, an open file, "),
        ([images[0], 7], r"^images\[1\]=7 is not an image"),
        (closed, r"^images is a file that can't be read \(.* closed file.*\); open it with mode 'rb'"),
        (io.StringIO("x"), r"^images is a file that is open as text; open it with mode 'rb'"),
        (b"", r"^images can't be read as an image: the file is empty"),
        ([b"broken"], r"^images\[0\] can't be read as an image: .* cannot identify"),
    ):
        with pytest.raises(UserError, match=sentence):
            net.predict(wrong)
    with pytest.raises(UserError, match=r"^image stands for 2 images; give one"):
        net.view([images[0], images[1]])
    with pytest.raises(UserError, match="views=3 is not allowed"):
        net.predict(images, views=3)
    with pytest.raises(UserError, match=r"^layer='fc9' is not a layer of this net"):
        net.features(images, "fc9")
    for arguments, sentence in (
        ({"workdir": tmp_path}, "holds no run"),
        ({"workdir": None}, "^workdir=None is not a path"),
        (
            {"workdir": tmp_path, "precision": "float16"},
            "^precision='float16' is not allowed; it must be one of float32",
        ),
        ({"workdir": tmp_path, "preprocessing": "pil"}, "^preprocessing='pil' is not allowed; it must be one of paper"),
        ({"workdir": net.restored.folder, "step": "last"}, "^step='last' is not allowed"),
    ):
        with pytest.raises(UserError, match=sentence):
            alexnet_jax.load(**arguments)


def test_a_net_is_loaded_where_an_event_loop_runs(trained_folder, images, net) -> None:
    """As in a notebook, whose cells run inside one."""

    async def cell() -> np.ndarray:
        return alexnet_jax.load(trained_folder).predict(images)

    np.testing.assert_array_equal(asyncio.run(cell()), net.predict(images))


def test_signals_stay_those_of_a_program_that_imports_the_package(trained_folder, tmp_path: Path) -> None:
    """From any folder; Ctrl-C still interrupts a notebook's cell."""
    program = f"""
import signal
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
import alexnet_jax
net = alexnet_jax.load({str(trained_folder)!r})
print(net.predict("one.png").shape)
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""
    Image.fromarray(np.zeros((72, 72, 3), np.uint8)).save(tmp_path / "one.png")
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stdout == "(1, 10)\n", result.stderr


def test_the_exports_of_the_document_run(trained_folder, images, net, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "original").symlink_to(trained_folder)
    for name, image in zip(("cat.jpg", "dog.jpg"), images, strict=False):
        Image.fromarray(image).save(tmp_path / name, quality=95)
    monkeypatch.chdir(tmp_path)
    export(net.restored, "stablehlo", Path("original.stablehlo"))
    export(net.restored, "onnx", Path("original.onnx"))
    made: dict = {}
    exec(example("weights.md"), made)
    expected = net.predict(["cat.jpg", "dog.jpg"])
    np.testing.assert_allclose(made["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(made["program"].call(made["images"]), expected, atol=1e-5)
    assert tuple(made["names"]) == net.class_names


def test_the_linear_probe_of_the_document_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """On features that a plane separates, the printed accuracy is 100 %."""
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("validation", 30)):
        labels = np.arange(count) % 3
        features = np.eye(3)[labels].repeat(4, axis=1).reshape(count, 2, 2, 3) + random.normal(
            0, 0.05, (count, 2, 2, 3)
        )
        np.save(tmp_path / f"{split}.npy", features.astype(np.float32))
        np.save(tmp_path / f"{split}.labels.npy", labels.astype(np.int32))
    monkeypatch.chdir(tmp_path)
    exec(example("transfer.md"), {})
    assert capsys.readouterr().out == "100.0%\n"
