"""Prediction: images in any format, prepared like the net's own data set; and unreadable ones are reported."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from conftest import SHARED_DATA
from PIL import Image
from test_bad_input import run

from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_codec import BrokenImageError, decode, resize_and_crop
from alexnet_jax.data.image_files import MIN_SIDE, find_images, load_image, load_images
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.errors import EXIT_USER_ERROR, UserError
from alexnet_jax.predict.batching import (
    BatchedProgram,
    Outputs,
    as_text,
    predict_files,
    run_ensemble,
    with_progress,
)
from alexnet_jax.run.restore import restore


@pytest.fixture(scope="module")
def net(trained_folder):
    return restore(trained_folder)


@pytest.fixture(scope="module")
def digit_files(net, tmp_path_factory) -> list[Path]:
    """Ten validation images, as PNG files."""
    images = np.zeros((10, 72, 72, 3), np.uint8)
    open_dataset(net.config.data).evaluation.read(range(10), images, np.zeros(10, np.int32))
    folder = tmp_path_factory.mktemp("digits")
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return find_images([folder])


def square(size: int) -> Preparation:
    """The paper's way to a square that is not cut further."""
    return Preparation("paper", size, size)


def photograph(height: int = 90, width: int = 120) -> np.ndarray:
    """Return a smooth picture whose corners all differ, uint8 [H, W, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (255 * rows / height, 255 * columns / width, 128 * (rows / height + columns / width) ** 2 / 2)
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_files_are_predicted_by_the_program_of_the_evaluation(net, digit_files) -> None:
    """Names, order, padding and probabilities, against the compiled program on the same pixels."""
    images = np.stack([np.asarray(Image.open(path)) for path in digit_files])
    padded = np.concatenate([images, images[:6]])  # divides over the devices
    expected = np.exp(np.asarray(net.predictor(views=1)(padded)))[: len(images)]
    predictions = list(predict_files([net], digit_files, views=1, top=3, broken=[]))
    assert [prediction["image"] for prediction in predictions] == [str(path) for path in digit_files]
    for prediction, probabilities in zip(predictions, expected, strict=True):
        best = np.argsort(-probabilities)[:3]
        assert [row["class"] for row in prediction["predictions"]] == [str(number) for number in best]
        np.testing.assert_allclose(
            [row["probability"] for row in prediction["predictions"]], probabilities[best], rtol=1e-4
        )


def test_more_images_than_a_batch_holds_are_predicted_one_by_one(net, digit_files) -> None:
    many = digit_files * 7  # 70: a whole batch and a padded one
    predictions = [row["predictions"] for row in predict_files([net], many, views=1, top=10, broken=[])]
    assert len(predictions) == 70
    for prediction, first in zip(predictions, predictions[:10] * 7, strict=True):
        assert [row["class"] for row in prediction] == [row["class"] for row in first]


def test_an_ensemble_averages_probabilities(net, digit_files) -> None:
    """Of two checkpoints of a net: the mean of their probabilities, not of their logits."""
    other = restore(net.folder, step=18)
    alone = [_probabilities([one], digit_files) for one in (net, other)]
    np.testing.assert_allclose(_probabilities([net, other], digit_files), np.mean(alone, axis=0), rtol=1e-4)


def _probabilities(nets, files) -> np.ndarray:
    rows = predict_files(nets, files, views=1, top=10, broken=[])
    return np.array(
        [[row["probability"] for row in sorted(r["predictions"], key=lambda row: row["class"])] for r in rows]
    )


def test_ten_views_are_those_of_the_evaluation(net, digit_files) -> None:
    images = np.stack([np.asarray(Image.open(path)) for path in digit_files[:8]])
    expected = np.exp(np.asarray(net.predictor(views=10)(images)))
    predictions = list(predict_files([net], digit_files[:8], views=10, top=1, broken=[]))
    found = [prediction["predictions"][0]["probability"] for prediction in predictions]
    np.testing.assert_allclose(found, expected.max(axis=-1), rtol=1e-4)


def _palette(image: Image.Image) -> bytes:
    return encoded(image.quantize(256), "PNG")


# Formats, and the mean error in levels allowed for each: above 0 for those that are lossy or have few colors.
FORMATS = {
    "PNG": (lambda image: encoded(image, "PNG"), 0.0),
    "BMP": (lambda image: encoded(image, "BMP"), 0.0),
    "TIFF": (lambda image: encoded(image, "TIFF"), 0.0),
    "WebP": (lambda image: encoded(image, "WEBP", lossless=True), 0.0),
    "GIF": (lambda image: encoded(image, "GIF"), 8.0),
    "JPEG": (lambda image: encoded(image, "JPEG", quality=95), 2.0),
    "RGBA": (lambda image: encoded(image.convert("RGBA"), "PNG"), 0.0),
    "CMYK": (lambda image: encoded(image.convert("CMYK"), "JPEG", quality=95), 3.0),
    "palette": (_palette, 8.0),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_shows_the_same_picture(kind: str, tmp_path: Path) -> None:
    encode, levels = FORMATS[kind]
    (tmp_path / "image").write_bytes(encode(Image.fromarray(photograph())))  # the name says nothing
    found = load_image(tmp_path / "image", square(72))
    expected = resize_and_crop(photograph(), 72)
    assert found.shape == (72, 72, 3)
    assert np.abs(found.astype(float) - expected).mean() <= levels


def test_gray_of_8_and_16_bits_becomes_rgb(tmp_path: Path) -> None:
    gray = photograph()[..., 0]
    Image.fromarray(gray).save(tmp_path / "8.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "16.png")
    expected = resize_and_crop(np.repeat(gray[..., None], 3, axis=-1), 72)
    for name in ("8.png", "16.png"):
        np.testing.assert_array_equal(load_image(tmp_path / name, square(72)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_exif_says(orientation: int, kind: str, tmp_path: Path) -> None:
    """Against Pillow's own `ImageOps.exif_transpose`."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(photograph())
    (tmp_path / "image").write_bytes(encoded(image, kind, exif=exif))
    stored = encoded(image, "PNG" if kind == "TIFF" else kind, exif=exif)  # Pillow turns TIFFs twice
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(stored))).convert("RGB")
    found = load_image(tmp_path / "image", square(64)).astype(float)
    assert np.abs(found - resize_and_crop(np.asarray(turned), 64)).max() <= 4  # two JPEG decoders


def _with_many_pixels() -> bytes:
    """Return the header of a PNG of 60,000 x 60,000 pixels, and nothing after it."""
    whole = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    whole[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    return bytes(whole)


def _animation() -> bytes:
    frames = [Image.fromarray(np.full((20, 20, 3), value, np.uint8)) for value in (0, 120, 250)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"this is no image", "cannot identify"),
    "cut": (simplejpeg.encode_jpeg(photograph(), 95, "RGB", "420")[:400], "."),
    "animated": (_animation(), "animated"),
    "1 pixel wide": (encoded(Image.new("RGB", (1, 300)), "PNG"), rf"1 x 300 .* at least {MIN_SIDE}"),
    "a bomb": (_with_many_pixels(), "60000 x 60000|3600000000|pixels"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_not_a_picture_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    data, message = BROKEN[kind]
    (tmp_path / "image.jpg").write_bytes(data)
    with pytest.raises(BrokenImageError, match=message):
        load_image(tmp_path / "image.jpg", square(72))


def test_images_come_in_order_with_the_broken_ones_in_their_places(tmp_path: Path) -> None:
    for number in range(200):
        image = np.full((16, 16, 3), number, np.uint8)
        data = b"broken" if number % 50 == 7 else encoded(Image.fromarray(image), "PNG")
        (tmp_path / f"{number:03}.png").write_bytes(data)
    for number, (path, pixels) in enumerate(load_images(find_images([tmp_path]), square(16))):
        assert path.stem == f"{number:03}"
        if number % 50 == 7:
            assert isinstance(pixels, BrokenImageError)
        else:
            assert pixels[0, 0, 0] == number


def test_folders_are_searched_and_single_files_taken_whatever_their_name(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "b/notes.txt", "b/._1.png", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path / "b", tmp_path / "a"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/1.png", "b/2.JPG", "a"]


def test_the_batch_is_the_smallest_that_holds_all_and_divides(net) -> None:
    assert net.mesh.shape["data"] == 8
    programs = [BatchedProgram(net, lambda images: images, count) for count in (1, 8, 9, 1000)]
    assert [program.batch_size for program in programs] == [8, 8, 64, 64]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason=f"{SHARED_DATA} is not there: real photographs")
def test_real_photographs_are_cut_as_prepare_cuts_them() -> None:
    """Except for the one that its EXIF orientation turns."""
    folder = SHARED_DATA / "imagenet_originals"
    turned = 0
    for path, pixels in load_images(find_images([folder]), square(64)):
        assert isinstance(pixels, np.ndarray), f"{path}: {pixels}"
        decoded = decode(path.read_bytes())
        if "EXIF orientation ignored" in decoded.oddities:
            turned += 1
        else:
            np.testing.assert_array_equal(pixels, resize_and_crop(decoded.pixels, 64))
    assert turned == 1


def test_the_command_predicts_what_it_can_and_reports_the_rest(net, digit_files, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    arguments = [
        f"--workdir={net.folder}",
        "--json",
        "--top=2",
        "--views=10",
        str(digit_files[0]),
        str(tmp_path),
        str(digit_files[1]),
    ]
    result = run("predict", *arguments)
    assert result.returncode == EXIT_USER_ERROR
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in digit_files[:2]]
    assert all(len(row["predictions"]) == 2 for row in rows)
    remark, error = result.stderr.splitlines()
    assert remark == (
        f"{net.folder} was trained without mirror images (data.flip=False): 5 views of each image, not 10."
    )
    assert error.startswith(f"error: {tmp_path}/broken.jpg can't be read as an image: ")


def test_the_command_needs_images(net, tmp_path: Path) -> None:
    result = run("predict", f"--workdir={net.folder}")
    assert result.returncode == EXIT_USER_ERROR
    assert result.stderr.startswith("error: no image was given")
    faults = {
        tmp_path: "contains no images",
        tmp_path / "x.jpg": "no such file",
        tmp_path / f"{300 * 'x'}.jpg": r"can't be read \(File name too long\)",
        "~who/x.jpg": "~who/x.jpg: the home folder",
    }
    for path, message in faults.items():
        with pytest.raises(UserError, match=message):
            find_images([path])


def test_an_ensemble_needs_the_same_classes(net, tmp_path: Path) -> None:
    info = dataclasses.replace(net.dataset_info, label_names=tuple("9876543210"))
    other = dataclasses.replace(net, folder=tmp_path, dataset_info=info)
    classes = rf"^{tmp_path} was trained on the classes of 'digits', which are not those of {net.folder}; use data and"
    with pytest.raises(UserError, match=classes):
        next(run_ensemble([net, other], [], views=1, broken=[]))


def test_each_net_of_an_ensemble_sees_pictures_as_it_knows_them(net, digit_files, tmp_path: Path) -> None:
    """Of one net as trained, and one that squeezes larger pictures; what can't be read is reported once."""
    info = dataclasses.replace(net.dataset_info, preprocessing="caffe")
    other = dataclasses.replace(net, folder=tmp_path, dataset_info=info)
    files = []
    for path in digit_files:
        files.append(tmp_path / path.name)
        Image.open(path).resize((100, 72)).save(files[-1])
    alone = [_probabilities([one], files) for one in (net, other)]
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    (tmp_path / "broken.png").write_bytes(b"broken")
    broken: list[str] = []
    batches = run_ensemble([net, other], [*files[:5], tmp_path / "broken.png", *files[5:]], 1, broken)
    averaged = np.exp(np.concatenate([batch.values for batch in batches]))
    np.testing.assert_allclose(averaged, np.mean(alone, axis=0), rtol=1e-4)
    assert len(broken) == 1


def test_people_read_names_and_programs_labels() -> None:
    predictions = [{"class": "tench", "label": "n01440764", "probability": 0.5}]
    assert as_text({"image": "a.jpg", "predictions": predictions}) == "a.jpg\n   50.00%  tench  (n01440764)"
    predictions = [{"class": "7", "label": "7", "probability": 1.0}]
    assert as_text({"image": "a.jpg", "predictions": predictions}) == "a.jpg\n  100.00%  7"


def test_long_work_reports_its_progress(capsys) -> None:
    """On stderr, from the second batch on; a single batch reports nothing."""
    batches = [Outputs(np.zeros((count, 10)), ["a"] * count) for count in (64, 36)]
    assert list(with_progress(batches, 100)) == batches
    assert capsys.readouterr().err.startswith("100 images, 100.0% of 100, ")
    assert list(with_progress(batches[:1], 64)) == batches[:1]
    assert capsys.readouterr().err == ""
