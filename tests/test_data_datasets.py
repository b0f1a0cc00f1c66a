"""Data sets on disk: the built-in digits, sets that others wrote, and everything that can be wrong with one."""

import dataclasses
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from alexnet_jax.config import DataConfig
from alexnet_jax.data import datasets, digits
from alexnet_jax.data.builder import write_tfds
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data.statistics import compute_statistics, save_statistics
from alexnet_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    digits.prepare(root)
    return root


def config(root: Path, name: str = "small", **fields) -> DataConfig:
    return DataConfig(name=name, dir=str(root), **fields)


def jpeg(value: int, size: int = 8) -> bytes:
    return simplejpeg.encode_jpeg(np.full((size, size, 3), value, np.uint8), 95)


def write_small(root: Path, *, name="small", version="1.0.0", image=jpeg, statistics=True, labels=3, size=8) -> Path:
    """Ten training and five validation images of `labels` classes; `image(i)` makes the JPEG of number i."""

    def examples(count):
        return lambda: ((f"{i:02d}", {"image": image(10 * i), "label": i % labels}) for i in range(count))

    directory = write_tfds(
        root,
        name=name,
        version=version,
        description="A set for tests.",
        label_names=[f"class{i}" for i in range(labels)],
        splits={"train": examples(10), "validation": examples(5)},
        image_size=size,
        metadata={},
    )
    if statistics:
        images = (np.full((size or 8, size or 8, 3), 10 * i, np.uint8) for i in range(10))
        save_statistics(compute_statistics(images), directory)
    return directory


def read_all(source) -> tuple[np.ndarray, np.ndarray]:
    (batch,) = evaluation_batches(source, batch_size=len(source), rows=np.arange(len(source)))
    return batch["image"], batch["label"]


# Digits


def test_digits(digits_root):
    """1,437 and 360 images of 72 x 72, every class in both, none in both; statistics are those of the pixels."""
    dataset = open_dataset(config(digits_root, "digits"))
    assert (len(dataset.train), len(dataset.evaluation), dataset.num_classes) == (1437, 360, 10)
    assert dataset.image_size == 72
    assert dataset.label_names == tuple("0123456789")
    images, labels = read_all(dataset.train)
    held_out, held_out_labels = read_all(dataset.evaluation)
    assert np.bincount(held_out_labels).tolist() == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]
    distances = np.abs(held_out[:, None, ::9, ::9, 0].astype(int) - images[None, :, ::9, ::9, 0]).sum(axis=(2, 3))
    assert (distances.min(axis=1) > 0).all()
    np.testing.assert_allclose(dataset.statistics.mean_image, images.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(dataset.statistics.color_std, [0, 0, np.sqrt(3) * images[..., 0].std()], rtol=1e-5)
    assert (labels[distances.argmin(axis=1)] == held_out_labels).mean() > 0.95  # the label belongs to the image


def test_digits_are_those_of_scikit_learn(digits_root):
    """Averaged over 9 x 9 pixels, each image is the original digit but for interpolation and compression."""
    from sklearn.datasets import load_digits

    data = load_digits()
    builder = tfds.builder_from_directory(digits_root / "digits" / digits.VERSION)
    for split, count in (("train", 1437), ("validation", 360)):
        records = builder.as_data_source(split)  # plain TFDS, decoded by TFDS
        assert len(records) == count
        for record in list(records)[::50]:
            original = int(record["file_name"])
            assert record["label"] == data.target[original]
            small = record["image"].astype(float).reshape(8, 9, 8, 9, 3).mean(axis=(1, 3, 4))
            assert np.corrcoef(small.ravel(), data.images[original].ravel())[0, 1] > 0.97
            assert (record["image"].min(), record["image"].max()) >= (0, 200)


def test_digits_are_prepared_once(digits_root):
    before = {path: path.stat().st_mtime_ns for path in digits_root.rglob("*")}
    digits.prepare(digits_root)
    assert {path: path.stat().st_mtime_ns for path in digits_root.rglob("*")} == before
    assert len(list((digits_root / "digits").iterdir())) == 1  # no scratch folder is left


def test_processes_that_prepare_at_once_all_succeed(tmp_path):
    """Whoever is first wins; the others find the whole set."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(digits.prepare, [tmp_path] * 3, chunksize=1)
    assert set(found) == {tmp_path / "digits" / digits.VERSION}
    assert [path.name for path in (tmp_path / "digits").iterdir()] == [digits.VERSION]
    assert len(open_dataset(config(tmp_path, "digits")).train) == 1437


def test_killed_preparation_leaves_nothing_that_looks_whole(tmp_path):
    """The process ends at once, without any cleaning up, when all but the statistics is written."""
    program = f"""
import os
from pathlib import Path
from alexnet_jax.data import datasets, digits
digits.save_statistics = lambda *_: os._exit(9)
digits.prepare(Path({str(tmp_path)!r}))
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=120, check=False).returncode == 9
    assert list(tmp_path.rglob("dataset_info.json"))  # it was far enough
    assert not (tmp_path / "digits" / digits.VERSION).exists()
    assert len(open_dataset(config(tmp_path, "digits")).train) == 1437


def test_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.dir=.*file can't be written \(Not a directory\)"):
        open_dataset(config(tmp_path / "file", "digits"))


def test_no_tensorflow(digits_root):
    """Preparing, reading and iterating import no TensorFlow, and the process ends by itself with batches left over."""
    program = f"""
import sys
import cv2
import numpy as np
from alexnet_jax.config import DataConfig
from alexnet_jax.data import augmentation, digits
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
dataset = open_dataset(DataConfig(name="digits", dir={str(digits_root)!r}))
next(train_batches(dataset.train, seed=0, batch_size=8, rows=np.arange(8), read_threads=3, prefetch_batches=8))
next(evaluation_batches(dataset.evaluation, batch_size=8, rows=np.arange(8), read_threads=3))
print(sorted(name for name in sys.modules if name.partition(".")[0] == "tensorflow"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


# Any set in `data.dir`


def test_set_that_was_written_once_is_read(tmp_path):
    write_small(tmp_path)
    dataset = open_dataset(config(tmp_path))
    assert (len(dataset.train), len(dataset.evaluation), dataset.image_size) == (10, 5, 8)
    assert dataset.label_names == ("class0", "class1", "class2")
    images, labels = read_all(dataset.train)
    numbers = images[:, 0, 0, 0] // 10
    assert sorted(numbers) == list(range(10))
    assert (labels == numbers % 3).all()
    swapped = open_dataset(config(tmp_path, train_split="validation", eval_split="train"))
    assert (len(swapped.train), len(swapped.evaluation)) == (5, 10)


def test_gray_jpegs_become_rgb(tmp_path):
    def gray(value):
        return simplejpeg.encode_jpeg(np.full((8, 8, 1), value, np.uint8), 95, "GRAY", "Gray")

    write_small(tmp_path, image=gray)
    images, _ = read_all(open_dataset(config(tmp_path)).train)
    assert sorted(images[:, 4, 4].tolist()) == [[10 * i] * 3 for i in range(10)]


def test_newest_version_is_read_and_others_on_request(tmp_path):
    write_small(tmp_path, version="2.0.0", labels=4)
    write_small(tmp_path, version="10.0.0", labels=5)
    assert open_dataset(config(tmp_path)).num_classes == 5
    assert open_dataset(config(tmp_path, "small/2.0.0")).num_classes == 4


def test_one_config_is_read_and_of_several_one_must_be_chosen(tmp_path):
    shutil.copytree(write_small(tmp_path / "made"), tmp_path / "small" / "gray" / "1.0.0")
    assert open_dataset(config(tmp_path)).num_classes == 3
    shutil.copytree(tmp_path / "small" / "gray", tmp_path / "small" / "color")
    with pytest.raises(UserError, match="several configs; choose one of small/color, small/gray"):
        open_dataset(config(tmp_path))
    assert open_dataset(config(tmp_path, "small/color")).num_classes == 3


def test_the_folder_is_by_default_that_of_tfds(tmp_path, monkeypatch):
    def default_folder():
        return runpy.run_path(str(REPOSITORY / "alexnet_jax" / "config.py"))["Config"]().data.dir

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert default_folder() == str(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    assert default_folder() == "~/tensorflow_datasets"
    assert "data.dir" not in (REPOSITORY / "configs" / "imagenet.py").read_text()  # nor in those that start from it


# What can be wrong


def test_missing_set_names_the_command_that_makes_it(tmp_path):
    command = f"python -m alexnet_jax.prepare --dataset=imagenet2012 --source=PATH --data_dir={tmp_path}"
    with pytest.raises(UserError) as caught:
        open_dataset(config(tmp_path, "imagenet2012"))
    assert command in str(caught.value)


@pytest.mark.parametrize("field", ["train_split", "eval_split"])
def test_unknown_split_lists_the_splits(tmp_path, field):
    write_small(tmp_path)
    with pytest.raises(UserError, match=r"no split 'test'; it has train, validation"):
        open_dataset(dataclasses.replace(config(tmp_path), **{field: "test"}))


def test_set_without_statistics(tmp_path):
    write_small(tmp_path, statistics=False, size=None)
    with pytest.raises(UserError, match=r"has images of different sizes.*alexnet_jax\.prepare --dataset=folder"):
        open_dataset(config(tmp_path))


def test_missing_shard_is_named(tmp_path):
    (shard,) = write_small(tmp_path).glob("*train*")
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing"):
        open_dataset(config(tmp_path))


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_cut_shard_is_named(tmp_path, kept):
    (shard,) = write_small(tmp_path).glob("*validation*")
    size = shard.stat().st_size
    os.truncate(shard, int(kept * size) if isinstance(kept, float) else kept % size)
    with pytest.raises(UserError, match=rf"{shard.name} is damaged: it should hold 5 records and 0 can be read"):
        open_dataset(config(tmp_path))


def test_shard_of_another_preparation_is_named(tmp_path):
    directory = write_small(tmp_path)
    (train,), (validation,) = directory.glob("*train*"), directory.glob("*validation*")
    shutil.copy(validation, train)
    with pytest.raises(UserError, match=rf"{train.name} is damaged: it should hold 10 records and 5 can be read"):
        open_dataset(config(tmp_path))


def test_damaged_description(tmp_path):
    path = write_small(tmp_path) / "dataset_info.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="can't be read as a TFDS data set"):
        open_dataset(config(tmp_path))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("features.json", '"label"', '"kind"', r"has the features \['image', 'kind'\]; it must have an `image` and a"),
        ("dataset_info.json", '"array_record"', '"riegeli"', r"is stored as riegeli; only array_record can be read"),
    ],
)
def test_a_set_of_another_kind(tmp_path, file, old, new, message):
    path = write_small(tmp_path) / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        open_dataset(config(tmp_path))


def test_a_split_without_labels(tmp_path):
    """As TFDS has test splits whose labels are secret."""
    splits = {name: lambda: [("0", {"image": jpeg(0), "label": -1})] for name in ("train", "validation")}
    about = {"name": "small", "version": "1.0.0", "description": "", "label_names": ["a", "b"], "metadata": {}}
    write_tfds(tmp_path, splits=splits, image_size=8, **about)
    with pytest.raises(UserError, match=r"has label -1; labels are 0 to 1: a split without labels can be neither"):
        open_dataset(config(tmp_path))


def test_an_empty_split(tmp_path):
    splits = {"train": lambda: [], "validation": lambda: [("0", {"image": jpeg(0), "label": 0})]}
    about = {"name": "small", "version": "1.0.0", "description": "", "label_names": ["a", "b"], "metadata": {}}
    write_tfds(tmp_path, splits=splits, image_size=8, **about)
    with pytest.raises(UserError, match=r"split 'train' of .*1.0.0 is empty"):
        open_dataset(config(tmp_path))


def test_damaged_records(tmp_path):
    """Bytes changed in the middle of a shard: noticed when the record is read, by its checksum."""
    (shard,) = write_small(tmp_path).glob("*train*")
    content = bytearray(shard.read_bytes())
    first = content.index(b"\xff\xd8\xff")
    content[first + 100 : first + 110] = bytes(10)
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"record \d of split 'train' of .*small.* can't be read"):
        read_all(open_dataset(config(tmp_path)).train)


BROKEN_IMAGES = {
    "truncated": lambda value: jpeg(value)[:-20] if value == 30 else jpeg(value),
    "empty": lambda value: b"" if value == 30 else jpeg(value),
    "not a JPEG": lambda value: b"\x89PNG\r\n\x1a\n" + bytes(100) if value == 30 else jpeg(value),
    "smaller": lambda value: jpeg(value, 6) if value == 30 else jpeg(value),
    "larger": lambda value: jpeg(value, 10) if value == 30 else jpeg(value),
}


@pytest.mark.parametrize("image", BROKEN_IMAGES.values(), ids=BROKEN_IMAGES.keys())
def test_broken_image_names_its_record(tmp_path, image):
    write_small(tmp_path, image=image)
    source = open_dataset(config(tmp_path)).train
    with pytest.raises(UserError, match=r"record \d of split 'train' of .*small.* can't be read as an image of 8x8"):
        read_all(source)
    batches = train_batches(source, seed=0, batch_size=5, rows=np.arange(5))
    with pytest.raises(UserError, match=r"record \d of split 'train'"):
        list(zip(batches, range(2), strict=False))
    batches.close()


# Sets that others prepared, or that TFDS knows


class PhotosForTests(tfds.core.GeneratorBasedBuilder):
    """What a data set of TFDS looks like; defining it makes its name known to TFDS."""

    VERSION = tfds.core.Version("1.2.0")
    pkg_dir_path = None
    failure: Exception | None = None

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        if self.failure:
            raise self.failure
        return {"train": self._generate_examples(30), "validation": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": jpeg(5 * i), "label": i % 2}


def test_set_of_tfds_is_downloaded_once_and_its_statistics_are_computed(tmp_path, capsys):
    opened = open_dataset(config(tmp_path, "photos_for_tests"))
    assert "Downloading photos_for_tests to" in capsys.readouterr().out
    assert (len(opened.train), len(opened.evaluation), opened.label_names) == (30, 4, ("a", "b"))
    images, labels = read_all(opened.train)
    numbers = images[:, 0, 0, 0] // 5
    assert sorted(numbers) == list(range(30))
    assert (labels == numbers % 2).all()
    np.testing.assert_allclose(opened.statistics.mean_image, images.mean(axis=0), rtol=1e-6)
    again = open_dataset(config(tmp_path, "photos_for_tests"))
    np.testing.assert_array_equal(again.statistics.mean_image, opened.statistics.mean_image)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            ConnectionError("Failed to resolve 'example.org'\n..."),
            r"can't be downloaded to .* resolve 'example.org'\); c",
        ),
        (tfds.download.DownloadError("status 404"), r"can't be downloaded to .*\(status 404\); connect to the network"),
        (
            ModuleNotFoundError("No module", name="tensorflow"),
            "needs the package tensorflow .* `tfds build photos_for_",
        ),
    ],
)
def test_set_of_tfds_that_cannot_be_downloaded(tmp_path, monkeypatch, failure, message):
    monkeypatch.setattr(PhotosForTests, "failure", failure)
    with pytest.raises(UserError, match=message):
        open_dataset(config(tmp_path, "photos_for_tests"))
    monkeypatch.undo()
    assert len(open_dataset(config(tmp_path, "photos_for_tests")).train) == 30


def test_set_that_nobody_knows_is_an_image_folder_to_be_prepared(tmp_path):
    with pytest.raises(UserError, match=r"prepare --dataset=folder --name=my_photos --source=PATH"):
        open_dataset(config(tmp_path, "my_photos"))


def test_set_that_must_be_downloaded_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(PhotosForTests, "MANUAL_DOWNLOAD_INSTRUCTIONS", "Sign up and download.")
    with pytest.raises(UserError, match=r"no data set in .*--dataset=folder --name=photos_for_tests"):
        open_dataset(config(tmp_path, "photos_for_tests"))


def test_statistics_of_gray_images_stored_as_png(tmp_path):
    """As MNIST's: one channel, without loss."""
    directory = write_small(
        tmp_path, image=lambda value: cv2.imencode(".png", np.full((8, 8), value, np.uint8))[1].tobytes()
    )
    (directory / "statistics.npz").unlink()
    opened = open_dataset(config(tmp_path))
    np.testing.assert_allclose(opened.statistics.mean_image, np.full((8, 8, 3), 45), rtol=1e-6)
    np.testing.assert_allclose(opened.statistics.color_std, [0, 0, np.sqrt(3) * np.std(10 * np.arange(10))], rtol=1e-5)


def test_statistics_are_computed_once_for_all_who_open_the_set(tmp_path, capsys):
    write_small(tmp_path, statistics=False)
    with ThreadPoolExecutor(3) as threads:
        first, *others = threads.map(lambda _: open_dataset(config(tmp_path)), range(3))
    assert capsys.readouterr().out.count("Computing the mean image") == 1
    for other in others:
        np.testing.assert_array_equal(other.statistics.mean_image, first.statistics.mean_image)


def test_statistics_that_cannot_be_written(tmp_path, monkeypatch):
    write_small(tmp_path, statistics=False)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(datasets, "save_statistics", refuse)
    with pytest.raises(UserError, match=r"data\.dir=.*small.*statistics\.npz can't be written \(Permission denied\)"):
        open_dataset(config(tmp_path))
    assert not list(tmp_path.rglob(".statistics-*"))
