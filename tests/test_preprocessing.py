"""Pictures become what a net sees as its framework does it: to the bit in pixels, to 1e-5 in probabilities."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED_DATA
from PIL import ExifTags, Image
from test_bad_input import assert_refused, run
from test_weights_export import random_net
from weights_files import caffe_logits, caffe_weights, torchvision_net

import alexnet_jax
from alexnet_jax.convert.layout import parameter_shapes, to_kernel
from alexnet_jax.data.dataset_info import PREPROCESSING
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_codec import resize_and_crop
from alexnet_jax.data.image_files import find_images, load_image
from alexnet_jax.data.image_folder import ImageFolder
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.errors import UserError
from alexnet_jax.predict.api import TrainedNet
from alexnet_jax.run.restore import check_same_pictures, restore

PHOTOS = SHARED_DATA / "imagenet_originals"
needs_photos = pytest.mark.skipif(not PHOTOS.exists(), reason=f"{PHOTOS} is not there: real photographs")
SIZES = [(90, 120), (120, 91), (301, 257), (257, 300), (256, 256), (256, 259), (63, 500), (8, 9)]


def noise(height: int, width: int) -> np.ndarray:
    """Pixels in which every rounding shows."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def torchvisions(image: Image.Image, size: int) -> np.ndarray:
    """The published transforms up to the pixels, written with Pillow alone: Resize(256) and CenterCrop(size)."""
    width, height = image.size
    short, long = min(image.size), int(256 * max(image.size) / min(image.size))
    if short != 256:
        image = image.resize((256, long) if width <= height else (long, 256), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2.0) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def caffes(bgr: np.ndarray, size: int) -> np.ndarray:
    """What convert_imageset --resize_height=256 --resize_width=256 stores, and the data layer cuts; blue first."""
    stored = cv2.resize(bgr, (256, 256))
    offset = (256 - size) // 2
    return stored[offset : offset + size, offset : offset + size]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", [224, 227])
def test_pixels_are_those_of_the_framework(shape: tuple[int, int], size: int) -> None:
    """One crop, not two: with 227 of 256 pixels, both would be rounded."""
    pixels = noise(*shape)
    np.testing.assert_array_equal(
        Preparation("torchvision", 256, size)(pixels), torchvisions(Image.fromarray(pixels), size)
    )
    np.testing.assert_array_equal(Preparation("caffe", 256, size)(pixels), caffes(pixels[..., ::-1], size)[..., ::-1])
    start = (256 - size) // 2
    stored = resize_and_crop(pixels, 256)
    np.testing.assert_array_equal(
        Preparation("paper", 256, size)(pixels), stored[start : start + size, start : start + size]
    )


@pytest.mark.parametrize("way", PREPROCESSING)
def test_a_line_of_pixels_takes_no_more_memory_than_a_photograph(way: str) -> None:
    """Brought to 256 pixels, this one would be 3.2 million pixels long."""
    assert Preparation(way, 256, 224)(noise(8, 100_000)).shape == (224, 224, 3)


def test_only_torchvision_leaves_photographs_as_they_lie(tmp_path: Path) -> None:
    """As its loader does; OpenCV turns them as EXIF says, and so do we for the paper's nets."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(noise(90, 120)).save(path, exif=exif, quality=95)
    np.testing.assert_array_equal(
        load_image(path, Preparation("torchvision", 256, 224)), torchvisions(Image.open(path).convert("RGB"), 224)
    )
    np.testing.assert_array_equal(
        load_image(path, Preparation("caffe", 256, 227)), caffes(cv2.imread(str(path)), 227)[..., ::-1]
    )
    upright = Preparation("paper", 256, 224)(np.rot90(np.asarray(Image.open(path)), -1))
    np.testing.assert_array_equal(load_image(path, Preparation("paper", 256, 224)), upright)


def test_the_flag_offers_what_workdirs_may_say() -> None:
    result = run("predict", "--workdir=x", "--preprocessing=pillow", "x.jpg")
    assert_refused(result, rf"--preprocessing=pillow: value should be one of <{'|'.join(PREPROCESSING)}>")


def test_the_commands_take_another_way(trained_folder: Path, tmp_path: Path) -> None:
    """Of files that are half as wide again as they are high; with the probabilities of the interface."""
    images = np.zeros((20, 72, 72, 3), np.uint8)
    labels = np.zeros(20, np.int32)
    restored = alexnet_jax.load(trained_folder).restored
    open_dataset(restored.config.data).evaluation.read(range(20), images, labels)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).resize((108, 72)).save(tmp_path / str(label) / f"{number}.png")
    files = find_images([tmp_path])
    own, other = (TrainedNet(restore(trained_folder, preprocessing=way)).predict(files) for way in ("paper", "caffe"))
    assert np.abs(own - other).max() > 0.01
    loss = -np.log([row[int(path.parent.name)] for row, path in zip(other, files, strict=True)]).mean()
    flags = [f"--workdir={trained_folder}", "--preprocessing=caffe", "--json"]
    result = run("evaluate", *flags, f"--images={tmp_path}")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["num_examples"], record["split"], record["views"]) == (20, str(tmp_path), 1)
    assert record["loss"] == pytest.approx(loss, rel=1e-4)
    result = run("predict", *flags, "--precision=bfloat16", "--top=10", str(tmp_path))
    assert result.returncode == 0, result.stderr
    for line, expected in zip(result.stdout.splitlines(), other, strict=True):
        found = {row["class"]: row["probability"] for row in json.loads(line)["predictions"]}
        np.testing.assert_allclose([found[str(number)] for number in range(10)], expected, atol=0.02)
        assert found["0"] != pytest.approx(expected[0], rel=1e-5)  # it is another precision


MISTAKES = {
    "a data set": (["--preprocessing=caffe"], r"--preprocessing needs original images: those of a data set were"),
    "both": (["--images=x", "--split=train"], r"give either --images, .*, or a data set with --split and --data_dir"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_an_evaluation_end_in_one_sentence(mistake: str) -> None:
    arguments, sentence = MISTAKES[mistake]
    assert_refused(run("evaluate", "--workdir=x", *arguments), sentence)


def test_a_folder_of_another_name_is_not_a_class(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(noise(90, 120)).save(tmp_path / "cat" / "1.png")
    with pytest.raises(UserError, match=r"/cat is not the folder of a class; .* label_names, such as 0, with its"):
        ImageFolder(tmp_path, ["0", "1"], Preparation("paper", 64, 64))
    with pytest.raises(UserError, match=r"1\.png is a file; give a folder that has one folder of images per class"):
        ImageFolder(tmp_path / "cat" / "1.png", ["0", "1"], Preparation("paper", 64, 64))
    (tmp_path / "cat" / "2.png").write_bytes(b"broken")
    source = ImageFolder(tmp_path, ["dog", "cat"], Preparation("paper", 64, 64))
    with pytest.raises(UserError, match=r"2\.png can't be read as an image"):
        source.read([0, 1], np.zeros((2, 64, 64, 3), np.uint8), np.zeros(2, np.int32))


def test_nets_that_see_pictures_differently_are_not_evaluated_together(trained_folder: Path, tmp_path: Path) -> None:
    net = alexnet_jax.load(trained_folder).restored
    other = dataclasses.replace(net, dataset_info=dataclasses.replace(net.dataset_info, preprocessing="caffe"))
    with pytest.raises(UserError, match=r"\(caffe, 72, 64\) and \(paper, 72, 64\) .* evaluate them one by one"):
        check_same_pictures(other, net, views=1)


@needs_photos
def test_photographs_have_the_pixels_of_torchvision_and_caffe() -> None:
    """100 photographs, read by each framework's own decoder; one is turned by its EXIF data, eleven are gray."""
    for path in sorted(PHOTOS.iterdir()):
        expected = torchvisions(Image.open(path).convert("RGB"), 224)
        np.testing.assert_array_equal(load_image(path, Preparation("torchvision", 256, 224)), expected)
        expected = caffes(cv2.imread(str(path)), 227)[..., ::-1]
        np.testing.assert_array_equal(load_image(path, Preparation("caffe", 256, 227)), expected)


def ours(variant: str, weights: dict[str, np.ndarray], mean: np.ndarray, bgr: bool = False) -> TrainedNet:
    """The net of these weights, channels first, of a published variant but narrow; `mean` is [3], or [256, 256, 3]."""
    net = random_net(variant, 224 if variant == "torchvision" else 227)
    params: dict = {}
    for name, shape in parameter_shapes(net.config).items():
        kernel = to_kernel(weights[f"{name}/weight"], shape)
        kernel = kernel[:, :, ::-1] if bgr and name == "conv1" else kernel
        params[name] = {"kernel": kernel, "bias": weights[f"{name}/bias"]}
    statistics = net.dataset_info.statistics._replace(mean_image=np.broadcast_to(np.float32(mean), (256, 256, 3)))
    way = "torchvision" if variant == "torchvision" else "caffe"
    info = dataclasses.replace(net.dataset_info, statistics=statistics, preprocessing=way)
    return TrainedNet(dataclasses.replace(net, params=params, dataset_info=info))


def spread(logits: np.ndarray) -> tuple[np.ndarray, float]:
    """Return by what to shift and divide a random net's logits so that its answers differ from photo to photo."""
    return logits.mean(axis=0), float((logits - logits.mean(axis=0)).std())


TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODULES = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (0, 3, 6, 8, 10), strict=True))
MODULES |= {"fc6": 1, "fc7": 4, "fc8": 6}


def torch_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The weights of torchvision's AlexNet by layer."""
    tensors = model.state_dict()
    parts = {name: "features" if name.startswith("conv") else "classifier" for name in MODULES}
    return {
        f"{name}/{kind}": tensors[f"{parts[name]}.{number}.{kind}"].numpy()
        for name, number in MODULES.items()
        for kind in ("weight", "bias")
    }


def discriminating(model: torch.nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Scale the layers so that probabilities differ from photo to photo, and return them, [n, classes]."""
    last = model.classifier[6]
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.ndim > 1):
            parameter.mul_(6**0.5)  # from PyTorch's initialization to one that keeps the signal
        middle, deviation = spread(model(inputs).numpy())
        last.bias.sub_(torch.tensor(middle))
        for parameter in (last.weight, last.bias):
            parameter.mul_(3 / deviation)
        probabilities = torch.softmax(model(inputs), dim=1).numpy()
    assert probabilities.max(axis=1).mean() > 0.2  # of 1000 classes, too
    return probabilities


@needs_photos
def test_probabilities_are_those_of_torchvisions_net_from_photo_files() -> None:
    """A narrow net in PyTorch on what Pillow makes of the first 30 files."""
    files = sorted(PHOTOS.iterdir())[:30]
    pixels = np.stack([torchvisions(Image.open(path).convert("RGB"), 224) for path in files])
    inputs = torch.tensor(np.float32(pixels) / 255).permute(0, 3, 1, 2)
    inputs = (inputs - torch.tensor(TORCHVISION_MEAN)[:, None, None]) / torch.tensor(TORCHVISION_STD)[:, None, None]
    model = torchvision_net((5, 16, 32, 21, 21), 32, 7)
    expected = discriminating(model, inputs)
    net = ours("torchvision", torch_weights(model), 255 * np.array(TORCHVISION_MEAN))
    np.testing.assert_allclose(net.predict(files), expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(net.view(files[3]), pixels[3])
    squeezed = dataclasses.replace(net.restored.dataset_info, preprocessing="caffe")
    other = TrainedNet(dataclasses.replace(net.restored, dataset_info=squeezed))
    assert np.abs(other.predict(files) - expected).max() > 0.01  # the way matters


@needs_photos
def test_probabilities_are_those_of_caffes_recipe_from_photo_files() -> None:
    """OpenCV reads and squeezes, NumPy subtracts the mean image; blue first, as Caffe has it."""
    files = sorted(PHOTOS.iterdir())[:30]
    mean = np.load(SHARED_DATA / "weights" / "ilsvrc_2012_mean.npy")  # [3, 256, 256], blue first
    stored = np.stack([cv2.resize(cv2.imread(str(path)), (256, 256)) for path in files])
    inputs = (np.float32(stored).transpose(0, 3, 1, 2) - np.float32(mean))[:, :, 14:241, 14:241]
    weights = caffe_weights(maps=6)
    middle, deviation = spread(caffe_logits(weights, inputs))
    last = weights["fc8"]
    last["weight"], last["bias"] = last["weight"] * 3 / deviation, (last["bias"] - middle) * 3 / deviation
    expected = torch.softmax(torch.tensor(caffe_logits(weights, np.ascontiguousarray(inputs))), dim=1).numpy()
    flat = {f"{name}/{kind}": array for name, of in weights.items() for kind, array in of.items()}
    net = ours("caffe", flat, mean[::-1].transpose(1, 2, 0), bgr=True)
    np.testing.assert_allclose(net.predict(files), expected, atol=1e-5, rtol=0)


@needs_photos
@pytest.mark.slow
def test_probabilities_are_those_of_torchvision_itself(tmp_path: Path) -> None:
    """`models.alexnet` at full width and its published transforms; 100 photo files."""
    models = pytest.importorskip("torchvision.models", reason="pip install torchvision, the version for this PyTorch")
    from alexnet_jax.convert.importing import Source, import_weights

    files = sorted(PHOTOS.iterdir())
    torch.manual_seed(0)
    model = models.alexnet(weights=None).eval()
    transform = models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    inputs = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
    expected = discriminating(model, inputs)
    torch.save(model.state_dict(), tmp_path / "alexnet.pth")
    import_weights(Source(tmp_path / "alexnet.pth", "torchvision"), tmp_path / "net")
    found = alexnet_jax.load(tmp_path / "net").predict(files)
    difference = np.abs(found - expected).max()
    print(f"largest difference of {expected.size:,} probabilities of {len(files)} photographs: {difference:.1e}")
    assert difference <= 1e-5
