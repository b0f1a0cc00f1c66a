"""The Python interface, and that the examples in the documentation run as written."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import alexnet_jax
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError

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
    with pytest.raises(UserError, match=r"array of float64 \[72, 72, 3\]; it must be uint8"):
        net.predict(images[0] / 255)
    with pytest.raises(UserError, match="views=3 is not allowed"):
        net.predict(images, views=3)
    with pytest.raises(UserError, match=r"^layer='fc9' is not a layer of this net"):
        net.features(images, "fc9")
    with pytest.raises(UserError, match="holds no run"):
        alexnet_jax.load(tmp_path)


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
