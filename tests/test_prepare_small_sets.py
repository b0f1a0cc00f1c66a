"""CIFAR-10, Imagenette and folders: prepared from their own layouts, read by TFDS, and used for training."""

import json
from pathlib import Path

import numpy as np
import prepare_sources as sources
import pytest
import tensorflow_datasets as tfds
from conftest import SHARED_DATA
from PIL import Image

from alexnet_jax.config import Config, DataConfig
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.statistics import compute_statistics, load_statistics
from alexnet_jax.prepare.imagenette import CLASSES
from alexnet_jax.train import train_and_evaluate
from configs import cifar10 as cifar10_config
from configs import folder as folder_config
from configs import imagenette as imagenette_config


def train_a_little(config: Config, data_dir: Path, workdir: Path) -> list[dict]:
    """Train the narrowest network for a few steps and evaluate it; return the run's records.

    All data sets here have 50 training images of 80 x 80 in ten classes, so that the network is compiled only once.
    """
    config.data.dir = str(data_dir)
    config.batch_size = 8
    config.num_epochs = config.eval.every_epochs = config.checkpoint.every_epochs = 1.0
    config.eval.batch_size = 16
    config.model.image_size = 64
    config.model.conv_width, config.model.fc_width = 0.0833, 0.0079
    config.mesh.data = 1
    config.log.every_steps = 1
    train_and_evaluate(config, workdir)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def check_records(records: list[dict], num_examples: int) -> None:
    """Check that there were steps and that the evaluation saw every example."""
    assert [record["split"] for record in records][:1] == ["train"]
    assert records[-1]["num_examples"] == num_examples
    assert 0 <= records[-1]["top1_error"] <= 100


# CIFAR-10


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    labels = [i % 10 for i in range(60)]
    sources.cifar10(root / "source", images, labels)
    return root, images, labels


def test_cifar10_is_exact_and_tfds_reads_it_as_its_own(cifar):
    root, images, labels = cifar
    sources.prepare_here("cifar10", root)
    for split, first, count in (("train", 0, 50), ("test", 50, 10)):
        data = tfds.data_source("cifar10", split=split, data_dir=root / "data")
        assert len(data) == count
        for record in data:
            index = first + int(record["id"].decode().removeprefix(f"{split}_"))
            np.testing.assert_array_equal(record["image"], images[index])
            assert record["label"] == labels[index]
    dataset = open_dataset(DataConfig(name="cifar10", dir=str(root / "data"), eval_split="test"))
    assert dataset.label_names[0] == "airplane"
    np.testing.assert_allclose(dataset.statistics.mean_image, images[:50].mean(axis=0, dtype=np.float64), rtol=1e-6)
    pixels, label = np.empty((1, 32, 32, 3), np.uint8), np.empty(1, np.int32)
    dataset.train.read([7], pixels, label)
    assert any(np.array_equal(pixels[0], image) for image in images[np.array(labels) == label[0]])


def test_cifar10_enlarged_trains(cifar, tmp_path):
    root, _, _ = cifar
    done = sources.command("cifar10", root, "--size=80")
    assert done.returncode == 0, done.stderr
    assert "config.data.name=cifar10_80" in done.stdout
    check_records(train_a_little(cifar10_config.get_config(), root / "data", tmp_path / "run"), 10)


def test_real_cifar10(tmp_path):
    """Its first and last images, in the layout of the official archive."""
    if not (SHARED_DATA / "cifar10").is_dir():
        pytest.skip(f"{SHARED_DATA / 'cifar10'} is not there")
    with np.load(SHARED_DATA / "cifar10" / "cifar10_train.npz") as file:
        data, offsets, labels = file["data"], file["offsets"], file["labels"][:60].tolist()
    encoded = [data[offsets[i] : offsets[i + 1]].tobytes() for i in range(60)]
    images = np.stack([sources.decoded(content) for content in encoded])
    sources.cifar10(tmp_path / "source", images, labels)
    folder = sources.prepare_here("cifar10", tmp_path)
    found = {record["id"]: record for record in tfds.builder_from_directory(folder).as_data_source("train")}
    assert found[b"train_00000"]["image"][0, 0].tolist() == [59, 62, 63]  # the known first pixel
    assert found[b"train_00000"]["label"] == 6  # a frog


# Imagenette


def write_imagenette(path: Path, per_class: int) -> dict[str, tuple[str, str]]:
    """Write the archive with the real names of its folders; return file name -> (split, class)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, files = {}, [("imagenette2-160/noisy_imagenette.csv", b"path,noisy_labels_0\n")]
    for split in ("val", "train"):  # in the order of the real one
        for label, wordnet_id in enumerate(CLASSES):
            for number in range(per_class):
                name = f"{wordnet_id}_{split}{number}.JPEG"
                written[name] = (split, wordnet_id)
                files.append((f"imagenette2-160/{split}/{wordnet_id}/{name}", sources.jpeg(100 * label + number)))
    path.write_bytes(sources.tar(files, "w:gz"))
    return written


def test_imagenette(tmp_path):
    written = write_imagenette(tmp_path / "source" / "imagenette2-160.tgz", per_class=5)
    done = sources.command("imagenette", tmp_path, "--size=80", "--inspect")
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "data" / "imagenette" / "1.0.0"
    builder = tfds.builder_from_directory(directory)
    names = builder.info.features["label"].names
    found = {
        record["file_name"].decode(): (folder, names[record["label"]])
        for split, folder in (("train", "train"), ("validation", "val"))
        for record in builder.as_data_source(split)
    }
    assert found == written
    assert builder.info.metadata["class_names"][0] == "tench"
    with Image.open(directory / "contact_sheet.png") as sheet:
        assert np.asarray(sheet).std() > 20  # pictures, not a white page
    check_records(train_a_little(imagenette_config.get_config(), tmp_path / "data", tmp_path / "run"), 50)


def test_contact_sheet_of_an_existing_data_set(tmp_path):
    sources.folder(tmp_path / "source")
    sources.prepare_here("folder", tmp_path)
    done = sources.command("folder", tmp_path, "--inspect", "--name=source")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).name == "contact_sheet.png"


# Folders


def test_folder_trains(tmp_path):
    sources.folder(tmp_path / "source", tuple("abcdefghij"), images=5)
    done = sources.command("folder", tmp_path, "--name=mine", "--size=80", "--keep_originals")
    assert done.returncode == 0, done.stderr
    config = folder_config.get_config()
    config.model.num_classes = 10
    check_records(train_a_little(config, tmp_path / "data", tmp_path / "run"), 50)
    builder = tfds.builder_from_directory(tmp_path / "data" / "mine" / "1.0.0")
    for record in builder.as_data_source("train"):
        path = tmp_path / "source" / "train" / record["file_name"].decode()
        assert record["original"] == path.read_bytes()
        assert builder.info.features["label"].names[record["label"]] == path.parent.name


def test_originals_are_kept_on_request(tmp_path):
    source = sources.folder(tmp_path / "source")
    folder = sources.prepare_here("folder", tmp_path, keep_originals=True)
    records = list(tfds.builder_from_directory(folder).as_data_source("train"))
    assert len(records) == 8
    for record in records:
        assert record["original"] == (source / "train" / record["file_name"].decode()).read_bytes()


@pytest.mark.parametrize("has_train", [True, False])
def test_folder_without_validation_holds_out_a_part_of_each_class(tmp_path, has_train):
    sources.folder(tmp_path / "source", ("ant", "bee"), ("train" if has_train else ".",), images=20)
    folder = sources.prepare_here("folder", tmp_path)
    builder = tfds.builder_from_directory(folder)
    files = {split: [r["file_name"] for r in builder.as_data_source(split)] for split in ("train", "validation")}
    assert sorted(files["train"] + files["validation"]) == sorted(
        f"{name}/{number}.jpg".encode() for name in ("ant", "bee") for number in range(20)
    )
    assert [sum(name.startswith(kind) for name in files["validation"]) for kind in (b"ant", b"bee")] == [2, 2]


def test_statistics_of_images_that_have_the_size_already(tmp_path):
    """Without resizing, each image is still measured itself, not the next one in the same memory."""
    sources.folder(tmp_path / "source", ("ant", "bee"), ("train", "val"), images=40)
    images = []
    for number, path in enumerate(sorted((tmp_path / "source" / "train").rglob("*.jpg"))):
        path.write_bytes(sources.encode(sources.pixels(number, 32, 32)))
        images.append(sources.decoded(path.read_bytes()))
    statistics = load_statistics(sources.prepare_here("folder", tmp_path))
    for found, expected in zip(statistics, compute_statistics(images), strict=True):
        np.testing.assert_array_equal(found, expected)
