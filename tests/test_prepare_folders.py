"""Image folders as people have them: what is found in them, what is left out, and that nothing of it is silent."""

import gc
import os
import tracemalloc
from pathlib import Path

import numpy as np
import prepare_sources as sources
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax.config import DataConfig
from alexnet_jax.data import image_files
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_codec import BrokenImageError
from alexnet_jax.data.image_files import find_images
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.units import Recipe
from alexnet_jax.prepare.workflow import prepare_dataset


def opened(folder: Path, validation_fraction: float = 0.1):
    return open_source("folder", folder, "x", validation_fraction)


def names(data) -> list[str]:
    return sorted(image.name for image in data.images())


def write(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# What is found


def test_files_are_known_by_their_content(tmp_path):
    """Not by their names: for `prepare` and `predict`."""
    cat = sources.folder(tmp_path, splits=(".",), images=1) / "cat"
    kinds = {"a.jfif": "JPEG", "b": "JPEG", "c.ppm": "PPM", "d.img": "PNG", "e.x": "WEBP", "f.x": "TIFF", "g.x": "BMP"}
    for name, kind in kinds.items():
        write(cat / name, sources.encode(sources.pixels(1), kind))
    write(cat / "notes.txt", b"BMW, P3 and II are no pictures")
    data = opened(tmp_path, validation_fraction=0)
    assert names(data) == [*sorted(f"cat/{name}" for name in ["0.jpg", *kinds]), "dog/0.jpg"]
    formats = "JPEG, PNG, GIF, BMP, TIFF, WEBP, PPM"
    assert data.left_out == {f"files that are not {formats}, such as {cat / 'notes.txt'}": 1}
    assert [path.name for path in find_images([cat])] == sorted(["0.jpg", *kinds])
    for path in find_images([cat]):
        assert isinstance(image_files.load_image(path, Preparation("paper", 32, 32)), np.ndarray)


def test_what_is_left_out_is_counted_with_its_reason(tmp_path):
    sources.folder(tmp_path)
    cat = tmp_path / "train" / "cat"
    for name in (
        ".ipynb_checkpoints/0-checkpoint.jpg",
        "@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg",
        "__MACOSX/0.jpg",
        "._0.jpg",
    ):
        write(cat / name, sources.jpeg(1))
    for name in ("train/loose.jpg", "labels.csv"):
        write(tmp_path / name)
    for name in ("train/eel", "train/cat/8.jpg", "train/cat/9.jpg"):
        (tmp_path / name).symlink_to("nowhere")
    (cat / "itself").symlink_to(cat)
    os.mkfifo(cat / "pipe.jpg")
    with write(cat / "huge.jpg").open("wb") as file:
        file.truncate(image_files.MAX_BYTES + 1)
    data = opened(tmp_path)
    assert data.label_names == ("cat", "dog")
    assert names(data) == sorted(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4) for _ in range(2))
    assert data.in_words() == [
        "taken for: folders of classes",
        "found: 8 images for train, 8 images for validation; 2 classes (cat, dog)",
        f"left out: 2 files outside class folders, such as {tmp_path}/labels.csv",
        f"left out: 3 dangling links, such as {tmp_path}/train/eel",
        f"left out: 4 hidden files and folders, such as {cat}/._0.jpg",
        f"left out: 1 files of more than 536,870,912 bytes, such as {cat}/huge.jpg",
        f"left out: 1 links to folders in class folders, such as {cat}/itself",
        f"left out: 1 pipes, sockets and devices, such as {cat}/pipe.jpg",
    ]


def test_what_may_not_be_read_is_left_out_or_refused(tmp_path, monkeypatch):
    """A file or a folder in a class is left out, and counted; without the folder of a class, nothing is started."""
    cat = sources.folder(tmp_path) / "train" / "cat"
    write(cat / "more" / "1.jpg")
    locked = {str(cat / "more"), str(cat / "0.jpg")}
    listdir, access = os.listdir, os.access

    def list_if_allowed(path):
        if str(path).rstrip("/") in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", list_if_allowed)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in locked and access(path, mode))
    data = opened(tmp_path)
    assert "cat/0.jpg" not in [image.name for image in data.images() if image.split == "train"]
    assert data.left_out == {f"files and folders without permission, such as {cat / '0.jpg'}": 2}
    found = find_images([tmp_path / "train"])
    assert {cat / "0.jpg", cat / "more"} < set(found)  # `predict` reports them
    with pytest.raises(BrokenImageError, match="Is a directory"):
        image_files.load_image(cat / "more", Preparation("paper", 32, 32))
    locked.add(str(cat))
    with pytest.raises(UserError, match=rf"{cat} can't be read \(Permission denied\)"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "Val"), ["train", "validation"]),
        (("Training", "Testing"), ["train", "test"]),
        (("train", "valid", "test"), ["train", "validation", "test"]),
    ],
)
def test_splits_under_other_names(tmp_path, folders, splits):
    data = opened(sources.folder(tmp_path, splits=folders))
    assert list(data.num_images) == splits
    assert data.label_names == ("cat", "dog")


def test_classes_that_sound_like_splits_are_classes(tmp_path):
    """Their folders contain images, not folders."""
    data = opened(sources.folder(tmp_path, ("bullet_train", "test_tube", "train_2"), splits=(".",)))
    assert data.label_names == ("bullet_train", "test_tube", "train_2")


def test_the_links_that_a_refusal_suggests(tmp_path):
    sources.folder(tmp_path / "source", splits=("seg_train", "seg_test"))
    with pytest.raises(UserError, match="give a folder with links of these names to them"):
        opened(tmp_path / "source")
    (tmp_path / "links").mkdir()
    for name in ("train", "test"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "source" / f"seg_{name}")
    assert opened(tmp_path / "links").num_images == {"train": 8, "test": 8}


def test_letters_of_both_cases_are_classes(tmp_path):
    """EMNIST by class has 62."""
    sources.folder(tmp_path / "source", ("A", "a"))
    folder = sources.prepare_here("folder", tmp_path)
    assert tfds.builder_from_directory(folder).info.features["label"].names == ["A", "a"]


# Memory


def test_a_search_keeps_less_than_150_bytes_per_file(tmp_path, monkeypatch):
    """Names as long as ImageNet's; no file is made, because making many takes longer than searching them."""
    cat = sources.folder(tmp_path, splits=(".",), images=2) / "cat"
    status, listdir, count = os.stat(cat / "0.jpg"), os.listdir, 30_000
    many = [f"n01440764_{number:05d}.JPEG" for number in range(count)]

    def list_many(path):
        return [f"{name[:9]}{name[9:]}" for name in many] if str(path).rstrip("/") == str(cat) else listdir(path)

    monkeypatch.setattr(os, "listdir", list_many)
    monkeypatch.setattr(os, "access", lambda *_: True)
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **options: status if "n01440764_" in str(path) else stat(path, **options)
    )
    gc.collect()
    tracemalloc.start()
    data = opened(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(data.num_images.values()) == count + 2
    assert kept < 150 * count
    assert peak < 250 * count


# What is made of it


def test_nothing_is_held_out_on_request(tmp_path):
    """Not even of a class with one image; training then evaluates on the training split."""
    sources.folder(tmp_path / "source", splits=(".",), images=1)
    done = sources.command("folder", tmp_path, "--size=32", "--validation_fraction=0", "--format=png", "--name=all")
    assert done.returncode == 0, done.stderr
    _, found, counted, ready = done.stdout.splitlines()
    assert found == "found: 2 images for train; 2 classes (cat, dog)"
    assert counted == "train: 2 images, 0 broken; published: 2"
    assert ready.endswith(f"config.data.name=all, config.data.dir={tmp_path / 'data'}, config.data.eval_split=train")
    dataset = open_dataset(DataConfig(name="all", dir=str(tmp_path / "data"), eval_split="train"))
    assert len(dataset.train) == len(dataset.evaluation) == 2


def test_a_folder_can_be_kept_without_loss_and_the_first_broken_image_is_named(tmp_path):
    source = sources.folder(tmp_path / "source")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(source / "train" / "cat" / "noise.png")
    write(source / "train" / "cat" / "2.jpg", b"<html>")
    done = sources.command("folder", tmp_path, "--size=32", "--format=png")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "source" / "1.0.0"
    (image,) = [
        record["image"]
        for record in tfds.builder_from_directory(folder).as_data_source("train")
        if record["file_name"] == b"cat/noise.png"
    ]
    np.testing.assert_array_equal(image, noise)
    assert "train: 8 images, 1 broken; published: 9" in done.stdout
    reason = "UnidentifiedImageError: cannot identify image file"
    assert f"first broken image: cat/2.jpg: {reason}; all are in {folder}/prepare_report.json" in done.stdout


@pytest.mark.parametrize("data_dir", [".", "source", "source/train"])
def test_nothing_is_written_into_the_source(tmp_path, data_dir):
    """By default, the name is that of the source: beside it, the data set would be in it."""
    source = sources.folder(tmp_path / "source")
    before = sorted(tmp_path.rglob("*"))
    data = open_source("folder", source, None, 0.1)
    place = tmp_path / data_dir / "source" / "1.0.0"
    with pytest.raises(UserError, match=f"^{place} is in the source, {source}; choose another name or data_dir.$"):
        prepare_dataset(data, Recipe(32, 95, 0, False, "file_name"), tmp_path / data_dir, max_broken=0, num_threads=1)
    assert sorted(tmp_path.rglob("*")) == before
    sources.prepare_here("folder", tmp_path)
    assert len(sources.looks_whole(tmp_path)) == 1
