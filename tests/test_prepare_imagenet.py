"""ImageNet from synthetic archives in the official layout: a thousand classes, every odd file, exact labels."""

import collections
import contextlib
import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import prepare_sources as sources
import pytest
import tensorflow_datasets as tfds
from conftest import SHARED_DATA

from alexnet_jax.config import DataConfig
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_codec import BrokenImageError, decode, encode, resize_and_crop
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.data.sources import decode_image
from alexnet_jax.data.statistics import compute_statistics
from alexnet_jax.prepare import devkit
from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.units import Recipe
from alexnet_jax.prepare.workflow import prepare_dataset
from alexnet_jax.train import train_and_evaluate
from configs import paper

SIZE = 72
IDS = list(devkit.without_kit().wordnet_ids)
RECIPE = Recipe(size=SIZE, quality=95, seed=0, keep_originals=False, name_feature="file_name")


def write_2012(
    folder: Path, with_kit: bool = True
) -> tuple[dict[str, tuple[str, bytes]], dict[str, tuple[int, bytes]]]:
    """Write archives of 1000 classes: generated images, real photographs, odd and broken files.

    Returns their contents: name -> (WordNet id, bytes) of training images, name -> (label, bytes) of the others.
    """
    train = {f"{wordnet_id}_{i}.JPEG": (wordnet_id, sources.jpeg(i)) for i, wordnet_id in enumerate(IDS)}
    for number, data in enumerate([*sources.odd_files().values(), *sources.broken_files().values()]):
        train[f"{IDS[number]}_9{number}.JPEG"] = (IDS[number], data)
    for path in sorted((SHARED_DATA / "imagenet_originals").glob("*.JPEG"))[:20]:
        train[f"{path.name[:9]}_1000.JPEG"] = (path.name[:9], path.read_bytes())
    labels = np.random.default_rng(0).integers(0, 1000, 30) if with_kit else devkit.without_kit().validation[:30]
    validation = {
        f"ILSVRC2012_val_{number:08d}.JPEG": (int(label), sources.jpeg(2000 + number))
        for number, label in enumerate(labels, 1)
    }
    by_class = {wordnet_id: [] for wordnet_id in IDS}
    for name, (wordnet_id, data) in train.items():
        by_class[wordnet_id].append((name, data))
    kit = sources.kit(2012, IDS, [label for label, _ in validation.values()]) if with_kit else None
    sources.imagenet2012(folder, by_class, [(name, data) for name, (_, data) in validation.items()], kit)
    return train, validation


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return the folder of the data set, and the contents of its archives."""
    root = tmp_path_factory.mktemp("imagenet")
    train, validation = write_2012(root / "source")
    data = open_source("imagenet2012", root / "source", None, 0.1)
    return prepare_dataset(data, RECIPE, root / "data", max_broken=10, num_threads=2), train, validation


def test_counts_labels_and_pixels_are_exact(prepared):
    """Every decodable image is stored once, with its own label and the pixels of the recipe."""
    folder, train, validation = prepared
    broken = {f"{IDS[8 + number]}_9{8 + number}.JPEG" for number in range(len(sources.broken_files()))}
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["label"].names == IDS
    found = {record["file_name"].decode(): record for record in builder.as_data_source("train")}
    assert set(found) == set(train) - broken
    assert len(builder.as_data_source("train")) == len(found)
    for name, record in found.items():
        wordnet_id, data = train[name]
        assert IDS[record["label"]] == wordnet_id
        expected = np.empty((SIZE, SIZE, 3), np.uint8)
        decode_image(encode(resize_and_crop(decode(data).pixels, SIZE), 95), expected)
        np.testing.assert_array_equal(record["image"], expected)
    held_out = {record["file_name"].decode(): record["label"] for record in builder.as_data_source("validation")}
    assert held_out == {name: label for name, (label, _) in validation.items()}


def test_report_lists_what_is_broken_and_counts_what_is_odd(prepared):
    folder, train, _ = prepared
    report = json.loads((folder / "prepare_report.json").read_text())
    num_broken = len(sources.broken_files())
    assert report["splits"]["train"] == {"images": len(train) - num_broken, "broken": num_broken, "published": 1281167}
    assert {entry["file"] for entry in report["broken"]} == {f"{IDS[8 + n]}_9{8 + n}.JPEG" for n in range(num_broken)}
    assert all(entry["split"] == "train" and entry["reason"] for entry in report["broken"])
    assert set(report["odd"]) == set(sources.odd_files()) | {"GIF"}


def test_stock_tfds_reads_it_as_its_own_imagenet(prepared):
    folder, train, _ = prepared
    data = tfds.data_source("imagenet2012", split="train", data_dir=folder.parents[1])
    assert len(data) == len(train) - len(sources.broken_files())
    assert data[0]["image"].shape == (SIZE, SIZE, 3)


def test_statistics_are_those_of_the_resized_images(prepared):
    """They equal those before compression, and are within half a gray level of those that training reads."""
    folder, train, _ = prepared
    dataset = open_dataset(DataConfig(name="imagenet2012", dir=str(folder.parents[1])))
    assert dataset.class_names == tuple(f"word of {wordnet_id}" for wordnet_id in IDS)
    resized = []
    for _, data in train.values():
        with contextlib.suppress(BrokenImageError):
            resized.append(resize_and_crop(decode(data).pixels, SIZE))
    for found, expected in zip(dataset.statistics, compute_statistics(resized), strict=True):
        np.testing.assert_array_equal(found, expected)
    (batch,) = evaluation_batches(dataset.train, batch_size=len(dataset.train), rows=np.arange(len(dataset.train)))
    stored = compute_statistics(batch["image"])
    means = (statistics.mean_image.mean(axis=(0, 1)) for statistics in (dataset.statistics, stored))
    np.testing.assert_allclose(*means, atol=0.5)
    np.testing.assert_allclose(dataset.statistics.color_std, stored.color_std, atol=0.5)


def test_metadata_names_the_classes_and_the_recipe(prepared):
    folder, _, _ = prepared
    metadata = tfds.builder_from_directory(folder).info.metadata
    assert metadata["wordnet_ids"] == IDS
    assert metadata["class_names"] == [f"word of {wordnet_id}" for wordnet_id in IDS]
    assert metadata["preparation"]["encoding"] == "JPEG, quality 95, 420"
    assert not list(folder.parent.glob(".*"))  # nothing temporary is left


def test_records_are_shuffled(prepared):
    """Neighbors in the file are not neighbors in the archive."""
    folder, _, _ = prepared
    labels = [record["label"] for record in tfds.builder_from_directory(folder).as_data_source("train")]
    assert np.mean(np.abs(np.diff(labels)) < 10) < 0.05


def test_validation_labels_without_the_development_kit(tmp_path):
    """They are those that TFDS includes."""
    _, validation = write_2012(tmp_path / "source", with_kit=False)
    images = open_source("imagenet2012", tmp_path / "source", None, 0.1).images()
    found = {image.name: image.label for image in images if image.split == "validation"}
    assert found == {name: label for name, (label, _) in validation.items()}


def test_validation_labels_agree_with_those_that_others_publish():
    """Imagenette's authors put 500 validation images of ImageNet into folders by class."""
    path = SHARED_DATA / "imagenette128" / "imagenette128_train.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with np.load(path) as data:
        published = zip(data["names"], data["labels"], strict=True)
        numbered = {str(name): str(data["classes"][label]) for name, label in published if "_val_" in str(name)}
    labels = devkit.without_kit().validation
    assert len(numbered) > 200
    for name, wordnet_id in numbered.items():
        assert IDS[labels[int(Path(name).stem[-8:]) - 1]] == wordnet_id


def test_order_depends_on_the_seed_and_not_on_the_threads(prepared, tmp_path):
    folder, _, _ = prepared
    data = open_source("imagenet2012", folder.parents[2] / "source", None, 0.1)

    def records(directory):
        builder = tfds.builder_from_directory(directory)
        raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
        return list(builder.as_data_source("train", deserialize_method=raw_bytes))

    one = records(prepare_dataset(data, RECIPE, tmp_path / "one", max_broken=10, num_threads=1))
    other = records(
        prepare_dataset(data, dataclasses.replace(RECIPE, seed=1), tmp_path / "other", max_broken=10, num_threads=3)
    )
    assert one == records(folder)
    assert one != other
    assert collections.Counter(one) == collections.Counter(other)


def test_it_trains_and_is_evaluated(prepared, tmp_path):
    """From the official layout to an error rate: the narrowest network, a thousand classes, eight steps."""
    folder, _, validation = prepared
    config = paper.get_config()
    config.data.dir = str(folder.parents[1])
    config.model.image_size, config.model.conv_width, config.model.fc_width = 64, 0.0833, 0.0079
    config.batch_size, config.num_epochs = 128, 1.0
    config.mesh.data = 1
    train_and_evaluate(config, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["split"] == "validation"
    assert records[-1]["num_examples"] == len(validation)
    assert abs(records[-1]["loss"] - np.log(1000)) < 0.1  # it has learned nothing yet


# ILSVRC-2010


def test_imagenet2010(tmp_path):
    """Its layout: images in folders, a test set with its own labels, a gzipped image, and replaced images."""
    ids = [f"n{number:08d}" for number in range(1000)]
    order = np.random.default_rng(5).permutation(1000)
    numbers = {int(label): number for number, label in enumerate(order, 1)}
    validation, test = [3, 999, 0], [500, 7]
    source = tmp_path / "source"
    source.mkdir()
    classes = {wordnet_id: [(f"{wordnet_id}_1.JPEG", sources.jpeg(i))] for i, wordnet_id in enumerate(ids)}
    classes[ids[1]].append((f"{ids[1]}_2.JPEG", gzip.compress(sources.jpeg(77))))
    train_tar = sources.tar((f"{wordnet_id}.tar", sources.tar(files)) for wordnet_id, files in classes.items())
    (source / "ILSVRC2010_images_train.tar").write_bytes(train_tar)
    for split, labels in (("val", validation), ("test", test)):
        files = [(f"{split}/ILSVRC2010_{split}_{i:08d}.JPEG", sources.jpeg(i)) for i in range(1, len(labels) + 1)]
        (source / f"ILSVRC2010_images_{split}.tar").write_bytes(sources.tar(files))
    (source / "ILSVRC2010_devkit-1.0.tar.gz").write_bytes(sources.kit(2010, ids, validation, order))
    (source / "ILSVRC2010_test_ground_truth.txt").write_text("".join(f"{numbers[label]}\n" for label in test))
    white = sources.encode(np.full((40, 48, 3), 255, np.uint8))
    patches = [("patch_images/val/ILSVRC2010_val_00000002.JPEG", white), (f"patch_images/train/{ids[4]}_1.JPEG", white)]
    (source / "patch_images.tar").write_bytes(sources.tar(patches))

    builder = tfds.builder_from_directory(sources.prepare_here("imagenet2010", tmp_path))
    assert builder.info.features["label"].names == ids
    assert {split: info.num_examples for split, info in builder.info.splits.items() if split != "all"} == {
        "train": 1001, "validation": 3, "test": 2
    }  # fmt: skip
    for split, labels in (("validation", validation), ("test", test)):
        found = {record["file_name"].decode()[-13:-5]: record for record in builder.as_data_source(split)}
        assert [found[f"{number:08d}"]["label"] for number in range(1, len(labels) + 1)] == labels
    train = {record["file_name"].decode(): record for record in builder.as_data_source("train")}
    assert all(ids[record["label"]] == name[:9] for name, record in train.items())
    whites = [name for name, record in train.items() if record["image"].min() > 250]
    assert whites == [f"{ids[4]}_1.JPEG"]
    validation_images = {
        record["file_name"].decode(): record["image"] for record in builder.as_data_source("validation")
    }
    assert validation_images["ILSVRC2010_val_00000002.JPEG"].min() > 250
