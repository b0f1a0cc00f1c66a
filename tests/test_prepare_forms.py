"""ImageNet in every form in which people keep it: the same images, names and labels from all of them."""

import json
import pickle
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import imagenet_forms as forms
import numpy as np
import prepare_sources as sources
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from alexnet_jax.config import DataConfig
from alexnet_jax.data.builder import write_tfds
from alexnet_jax.data.class_names import imagenet_classes
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.forms import tfds_sets
from alexnet_jax.prepare.units import Recipe
from alexnet_jax.prepare.workflow import prepare_dataset
from alexnet_jax.train import train_and_evaluate

IDS = forms.IDS
WRITTEN_BY_TFDS = Path(__file__).parent / "data" / "tfds_tfrecord"


@pytest.fixture(scope="module")
def images() -> dict[str, forms.Images]:
    return forms.contents()


def read(source: Path, dataset: str = "imagenet2012", **options: object) -> dict[str, forms.Images]:
    """Return what a preparation reads, sorted by name."""
    data = open_source(dataset, source, None, 0.25, **options)
    found: dict[str, forms.Images] = {split: [] for split in data.num_images}
    position = 0
    for image in data.images():
        found[image.split].append((image.name, image.label, image.load()))
        assert position <= image.position <= data.num_bytes
        position = image.position
    return {split: sorted(members) for split, members in found.items()}


@pytest.mark.parametrize("form", forms.FORMS)
def test_every_form_has_the_same_names_labels_and_bytes(form, images, tmp_path):
    """What follows depends on these alone: records, their order and the statistics."""
    source = forms.FORMS[form](tmp_path / "source", images)
    assert read(source) == {split: sorted(members) for split, members in images.items()}


@pytest.mark.parametrize("form", [name for name in forms.FORMS if "kaggle_" not in name or "zip" in name])
def test_every_form_resumes(form, images, tmp_path):
    """A second look finds the same source; images of finished units are passed over unread, the rest is as before."""
    source = forms.FORMS[form](tmp_path / "source", images)
    one, other = (open_source("imagenet2012", source, None, 0.1) for _ in range(2))
    assert one.identity == other.identity
    expected = {name: data for members in images.values() for name, _, data in members}
    loaded = {image.name: image.load() for number, image in enumerate(other.images()) if number >= 517}
    assert len(loaded) == len(expected) - 517
    assert all(expected[name] == data for name, data in loaded.items())


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory) -> Path:
    """What is made of the official archives."""
    root = tmp_path_factory.mktemp("official")
    forms.official(root / "source", images)
    return sources.prepare_here("imagenet2012", root)


def written(directory: Path) -> dict[str, object]:
    """Return the records in their order, and all that does not name the source."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    builder = tfds.builder_from_directory(directory)
    records = {split: list(builder.as_data_source(split, deserialize_method=raw)) for split in ("train", "validation")}
    names = ("statistics.npz", "dataset_info.json", "features.json", "label.labels.txt")
    counts = [json.loads((directory / "prepare_report.json").read_text())[key] for key in ("odd", "broken")]
    return records | {name: (directory / name).read_bytes() for name in names} | {"counts": counts}


@pytest.mark.parametrize("form", [name for name in forms.FORMS if name != "official"])
def test_every_form_becomes_the_same_records_and_statistics(form, images, prepared, tmp_path):
    """TFDS is the judge: it reads names, labels and pixels."""
    source = forms.FORMS[form](tmp_path / "source", images)
    data = open_source("imagenet2012", source, None, 0.1)
    recipe = Recipe(32, 95, 0, False, data.name_feature)
    found = written(prepare_dataset(data, recipe, tmp_path / "data", max_broken=0, num_threads=2))
    assert [len(found["train"]), len(found["validation"])] == [1000, forms.NUM_VALIDATION]
    assert found == written(prepared)


def test_tfds_reads_what_was_prepared(images, prepared):
    builder = tfds.builder_from_directory(prepared)
    assert builder.info.features["label"].names == list(IDS)
    labels = {name.encode(): label for name, label, _ in images["validation"]}
    found = {record["file_name"]: record for record in builder.as_data_source("validation")}
    assert {name: record["label"] for name, record in found.items()} == labels
    assert all(record["image"].shape == (32, 32, 3) for record in found.values())


def test_a_short_training_on_one_of_them(images, tiny_config, tmp_path):
    """On parquet; ten of the classes, so that the net is that of other tests, which is compiled already."""
    labels = sorted({label for _, label, _ in images["validation"]})[:10]
    train = [(f"{IDS[label]}_{n}.JPEG", label, sources.jpeg(label)) for label in labels for n in range(24)]
    validation = [image for image in images["validation"] if image[1] in labels]
    source = forms.parquet(tmp_path / "source", {"train": train, "validation": validation})
    (tmp_path / "classes").write_text("\n".join(IDS[label] for label in labels))
    data = open_source("imagenet2012", source, None, 0.1, classes=tmp_path / "classes")
    recipe = Recipe(72, 95, 0, False, data.name_feature)
    prepare_dataset(data, recipe, tmp_path / "data", max_broken=0, num_threads=2)
    config = tiny_config
    config.data.name, config.data.dir = "imagenet2012_10", str(tmp_path / "data")
    train_and_evaluate(config, tmp_path / "net")
    lines = [json.loads(line) for line in (tmp_path / "net" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == 4
    assert np.abs(np.array(losses) - np.log(10)).max() < 1


def test_a_set_that_tfds_wrote_with_tensorflow():
    """Made once by TFDS 4.9.10 with TensorFlow 2.21: six training, two validation, two unlabeled test images."""
    data = open_source("imagenet2012", WRITTEN_BY_TFDS, None, 0.1)
    assert data.num_images == {"train": 6, "validation": 2}
    assert data.left_out == {"test images, which have no labels": 2}
    found = {image.name: image for image in data.images()}
    assert sorted(found)[:2] == ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]
    for number, name in enumerate(sorted(found)[2:]):
        assert found[name].label == IDS.index(name[:9])
        assert sources.decoded(found[name].load()).shape[0] == 20, number


def test_part_of_the_classes(images, tmp_path):
    """Labels then count only those, in the order of the WordNet ids."""
    wanted = sorted({IDS[label] for _, label, _ in images["validation"]})[:5]
    (tmp_path / "classes.txt").write_text("".join(f"{wordnet_id} some name\n" for wordnet_id in wanted[::-1]))
    expected = {
        split: sorted((name, wanted.index(IDS[label]), data) for name, label, data in members if IDS[label] in wanted)
        for split, members in images.items()
    }
    for form in (forms.official, forms.unpacked_once, forms.kaggle_folder, forms.parquet, forms.tfds_tfrecord):
        source = form(tmp_path / form.__name__, images)
        assert read(source, classes=tmp_path / "classes.txt") == expected
    data = open_source("imagenet2012", tmp_path / "parquet", None, 0.1, classes=tmp_path / "classes.txt")
    assert data.num_images["train"] == len(expected["train"])
    assert (data.name, data.label_names) == ("imagenet2012_5", tuple(wanted))
    (tmp_path / "classes.txt").write_text("n01440764\nn1\n")
    with pytest.raises(UserError, match=r"classes.txt, line 2: 'n1' is not one of the 1000 classes"):
        read(tmp_path / "parquet", classes=tmp_path / "classes.txt")


def downsampled(folder: Path, size: int = 16) -> np.ndarray:
    """Write two batches of training images and one of validation images; return the pixels."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (1030, size, size, 3), dtype=np.uint8)
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    labels = [*range(1, 1001), *range(1000, 970, -1)]
    for name, part in (
        *(("train_data_batch_1", slice(600)), ("train_data_batch_2", slice(600, 1000))),
        ("val_data", slice(1000, 1030)),
    ):
        np.savez_compressed(folder / f"{name}.npz", data=rows[part], labels=labels[part], mean=rows.mean(0))
    return pixels


def test_downsampled_imagenet(tmp_path):
    """Exact pixels; the labels, numbered as in the development kit, become those of the WordNet ids."""
    pixels = downsampled(tmp_path / "source")
    data = open_source("imagenet2012", tmp_path / "source", None, 0.1)
    assert (data.name, data.size, data.num_images) == ("imagenet16", 16, {"train": 1000, "validation": 30})
    kit = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt").read_text().split()
    found = list(data.images())
    assert [IDS[image.label] for image in found] == [*kit, *kit[:969:-1]]
    np.testing.assert_array_equal([image.load() for image in data.images()], pixels)
    builder = tfds.builder_from_directory(sources.prepare_here("imagenet2012", tmp_path))
    records = {record["file_name"].decode(): record["image"] for record in builder.as_data_source("validation")}
    np.testing.assert_array_equal(records["val_data_000029"], pixels[-1])
    (tmp_path / "source" / "train_data_batch_1.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"train_data_batch_1\.npz is not a batch of downsampled ImageNet"):
        open_source("imagenet2012", tmp_path / "source", None, 0.1)


def test_the_command_of_the_docs_for_pickles(tmp_path):
    pixels = downsampled(tmp_path)
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as arrays:
            content = {"data": arrays["data"], "labels": arrays["labels"].tolist(), "mean": arrays["mean"]}
        path.with_suffix("").write_bytes(pickle.dumps(content))
        path.unlink()
    text = (sources.REPOSITORY / "docs" / "prepare.md").read_text()
    command = text[text.index('python -c "import numpy, pickle') :].split("\n\n")[0].replace("\n    ", "\n")
    subprocess.run(command.replace("python", shlex.quote(sys.executable), 1), shell=True, cwd=tmp_path, check=True)
    data = open_source("imagenet2012", tmp_path, None, 0.1)
    np.testing.assert_array_equal([image.load() for image in data.images()], pixels)


# Other data sets in these forms


def few(images: dict[str, forms.Images]) -> dict[str, forms.Images]:
    """Return images of two classes."""
    return {split: [(name, label % 2, data) for name, label, data in members[:8]] for split, members in images.items()}


def test_numbers_need_names(images, tmp_path):
    source = forms.webdataset(tmp_path / "set", few(images))
    with pytest.raises(UserError, match=r"has numbers for labels, not names; give the names with classes=FILE"):
        read(source, "folder")
    (tmp_path / "names").write_text("cat\ndog\n")
    found = read(source, "folder", classes=tmp_path / "names")
    assert found["validation"] == sorted(few(images)["validation"])
    assert found["train"] == [(name.replace("JPEG", "jpg"), *rest) for name, *rest in sorted(few(images)["train"])]
    (tmp_path / "names").write_text("cat\ndog\neel\n")
    with pytest.raises(UserError, match=r"names names 3 classes, and .*set \(WebDataset shards\) has 2"):
        read(source, "folder", classes=tmp_path / "names")


def tiny_imagenet(folder: Path) -> Path:
    for wordnet_id in IDS[:3]:
        for number in range(2):
            forms.write(folder / "train" / wordnet_id / "images" / f"{wordnet_id}_{number}.JPEG", sources.jpeg(number))
    lines = []
    for number in range(3):
        forms.write(folder / "val" / "images" / f"val_{number}.JPEG", sources.jpeg(10 + number))
        lines.append(f"val_{number}.JPEG\t{IDS[2 - number]}\t0\t0\t9\t9\n")
    forms.write(folder / "test" / "images" / "test_0.JPEG", sources.jpeg(20))
    forms.write(folder / "val" / "val_annotations.txt", "".join(lines).encode())
    return folder


def test_tiny_imagenet(tmp_path):
    """Its folder, and a zip and a tar of it; the labels of val/ are in a list, test/ has none."""
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    archives = [
        shutil.make_archive(str(tmp_path / "t"), kind, tmp_path, "tiny-imagenet-200") for kind in ("zip", "tar")
    ]
    for source in (tmp_path / "tiny-imagenet-200", *map(Path, archives)):
        data = open_source("folder", source, "tiny", 0.1)
        assert data.num_images == {"train": 6, "validation": 3}
        assert list(data.left_out.values()) == [1, 1]  # the list itself, and
        assert "images without a label in val_annotations.txt, such as " in str(data.left_out)
        with pytest.raises(UserError, match=r"another data set.* prepare it with dataset=folder"):
            open_source("imagenet2012", source, None, 0.1)
        for image in data.images():
            number = int(Path(image.name).stem.split("_")[1])
            expected = IDS[2 - number] if image.split == "validation" else Path(image.name).name[:9]
            assert data.label_names[image.label] == expected
            np.testing.assert_array_equal(image.load(), sources.jpeg(number + 10 * (image.split == "validation")))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_of_class_folders(mode, tmp_path):
    """A quarter of each class, at least one image, is held out, always the same ones."""
    names = [f"101/{name}/{number}.jpg" for number in range(8) for name in ("cat", "dog")]
    (tmp_path / "101.tar").write_bytes(sources.tar([(name, name.encode()) for name in [*names, "101/cat/x.txt"]], mode))
    data = open_source("folder", tmp_path / "101.tar", None, 0.25)
    assert (data.name, data.label_names) == ("101", ("cat", "dog"))
    found = read(tmp_path / "101.tar", "folder")
    assert {split: len(members) for split, members in found.items()} == {"train": 12, "validation": 4}
    assert sorted(name for members in found.values() for name, _, _ in members) == sorted(names)
    assert all(name.encode() == data and label == ("dog" in name) for m in found.values() for name, label, data in m)


def test_a_list_says_split_and_label(tmp_path):
    """As the lists of CUB, Flowers and Food can be written; the archive's own folder may be left out."""
    files = {f"flowers/jpg/{number}.jpg": bytes([number]) for number in range(6)}
    (tmp_path / "flowers.tgz").write_bytes(sources.tar(files.items(), "w:gz"))
    rows = ["path,label,split", "jpg/0.jpg,rose,train", "jpg/1.jpg,tulip,train", "flowers/jpg/2.jpg,rose,val", ""]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    data = open_source("folder", tmp_path / "flowers.tgz", None, 0.1, image_list=tmp_path / "list.csv")
    assert data.left_out == {"images that list.csv doesn't name, such as flowers/jpg/3.jpg": 3}
    assert [(image.split, image.name, image.label) for image in data.images()] == [
        ("train", "flowers/jpg/0.jpg", 0), ("train", "flowers/jpg/1.jpg", 1), ("validation", "flowers/jpg/2.jpg", 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpg/0.jpg rose\njpg/1.jpg\n", r"list, line 2: 'jpg/1.jpg' is not `path,label` or `path,label,split`"),
        ("jpg/0.jpg rose\njpg/0.jpg tulip\n", "line 2: jpg/0.jpg is in the list twice"),
        ("jpg/0.jpg rose\njpg/7.jpg tulip\n", r"lacks 1 of the 2 images in .*list, such as jpg/7.jpg"),
        ("jpg/0.jpg rose dev\n", r"'jpg/0.jpg rose dev' is not .* a split is one of train, "),
        ("jpg/0.jpg rose\n", "has training images of 1 classes"),
    ],
)
def test_a_list_with_a_fault(text, message, tmp_path):
    forms.write(tmp_path / "flowers" / "jpg" / "0.jpg", sources.jpeg(0))
    (tmp_path / "list").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source("folder", tmp_path / "flowers", None, 0.1, image_list=tmp_path / "list")


# Archives are searched like folders


ODD = {  # by name: what is taken, and what is left out
    **{name: sources.jpeg(number) for number, name in enumerate(("cat/0.jpg", "cat/1.jfif", "cat/2", "dog/3.ppm"))},
    "dog/4": sources.encode(sources.pixels(4), "PNG"),
    **{"cat/notes": b"BMW is no picture", "dog/labels.txt": b"P6 1 1 is none either"},
    **{"cat/.ipynb_checkpoints/0.jpg": b"x", "__MACOSX/cat/0.jpg": b"x", "dog/@eaDir/0.jpg": b"x", "cat/._0.jpg": b"x"},
}
LEFT_OUT = {"files that are not": 2, "hidden files and folders": 4, "links, pipes and devices": 1}


def archive_of(kind: str, files: dict[str, bytes], path: Path) -> Path:
    """Write a zip or tar of files and one link."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            link = zipfile.ZipInfo("cat/gone.jpg")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "nowhere")
        return path
    path.write_bytes(sources.tar(files.items(), kind))
    with tarfile.open(path, kind.replace("w", "a")) as archive:
        link = tarfile.TarInfo("cat/gone.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
        archive.addfile(link)
    return path


@pytest.mark.parametrize("kind", ["zip", "w"])
def test_in_archives_too_files_are_known_by_their_content_and_nothing_is_left_out_silently(kind, tmp_path):
    path = archive_of(kind, ODD, tmp_path / "pets")
    data = open_source("folder", path, None, 0)
    assert {image.name: image.load() for image in data.images()} == dict(list(ODD.items())[:5])
    assert {group: count for group in LEFT_OUT for what, count in data.left_out.items() if group in what} == LEFT_OUT
    assert len(data.left_out) == len(LEFT_OUT)


def flat_validation(folder: Path) -> Path:
    """Write images whose classes only a list says, as of Kaggle, and the list."""
    for number, name in enumerate(("train/cat/0", "train/dog/1", "val/2", "val/3")):
        forms.write(folder / f"{name}.jpg", sources.jpeg(number))
    rows = ["train/cat/0.jpg,cat", "train/dog/1.jpg,dog", "val/2.jpg,dog,val", "val/3.jpg,cat,val"]
    (folder.parent / "list.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_flat_validation_split_is_refused_before_work_and_the_list_that_is_named_helps(kind, tmp_path):
    source = flat_validation(tmp_path / "pets")
    if kind != "folder":
        source = Path(shutil.make_archive(str(tmp_path / "archive"), kind, source))
    with pytest.raises(UserError, match=r"val.* image_list=FILE"):
        open_source("folder", source, None, 0.1)
    data = open_source("folder", source, None, 0.1, image_list=tmp_path / "list.csv")
    labels = {Path(image.name).stem: (image.split, image.label) for image in data.images()}
    assert labels == {"0": ("train", 0), "1": ("train", 1), "2": ("validation", 1), "3": ("validation", 0)}


def test_links_to_folders_are_followed_but_not_in_circles(images, tmp_path):
    """People choose classes of ImageNet by links to their folders."""
    forms.pytorch(tmp_path / "all", images)
    for split in ("train", "val"):
        (tmp_path / "some" / split).mkdir(parents=True)
        for wordnet_id in sorted(path.name for path in (tmp_path / "all" / "val").iterdir())[:3]:
            (tmp_path / "some" / split / wordnet_id).symlink_to(tmp_path / "all" / split / wordnet_id)
    (tmp_path / "some" / "train" / "again").symlink_to(tmp_path / "some")
    (tmp_path / "classes").write_text("\n".join(path.name for path in (tmp_path / "some" / "val").iterdir()))
    data = open_source("imagenet2012", tmp_path / "some", None, 0.1, classes=tmp_path / "classes")
    assert data.num_images["train"] == 3
    assert data.left_out == {f"links to a folder above, such as {tmp_path}/some/train/again": 1}
    assert (data.folder, data.any_order) == (tmp_path / "some", True)


def test_a_class_of_one_image_is_not_held_out(images, tmp_path):
    """With numbers that are known beforehand, the error comes before work; the counts are then exact."""
    (tmp_path / "names").write_text("cat\ndog\n")
    members = few(images)["train"]
    forms.webdataset(tmp_path / "pets", {"train": members[:3], "validation": []})
    (tmp_path / "pets" / "imagenet1k-validation-0000.tar").unlink()
    options = {"classes": tmp_path / "names"}
    with pytest.raises(UserError, match=r"class dog of .*pets contains one image; .* with validation_fraction=0"):
        open_source("folder", tmp_path / "pets", None, 0.1, **options)
    assert open_source("folder", tmp_path / "pets", None, 0, **options).num_images == {"train": 3}
    forms.webdataset(tmp_path / "more", {"train": members, "validation": []})
    (tmp_path / "more" / "imagenet1k-validation-0000.tar").unlink()
    data = open_source("folder", tmp_path / "more", None, 0.5, **options)
    found = Counter(image.split for image in data.images())
    assert data.num_images == found == {"train": 4, "validation": 4}


# Memory


def test_parquet_takes_the_memory_of_one_row_group(tmp_path):
    """Also while images of others wait for a thread, which here they do for ever."""
    noise = np.random.default_rng(0)
    rows = [{"bytes": noise.bytes(1 << 18), "path": f"{number}.JPEG"} for number in range(40)]
    table = pa.table({"image": rows, "label": [0, 1] * 20})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=8)
    del rows, table
    (tmp_path / "names").write_text("cat\ndog\n")
    data = open_source("folder", tmp_path / "x.parquet", "x", 0, classes=tmp_path / "names")
    before, peak, waiting = pa.total_allocated_bytes(), 0, []
    for image in data.images():
        waiting.append((image, len(image.load())))
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert [(image.name, size) for image, size in waiting] == [(f"{number}.JPEG", 1 << 18) for number in range(40)]
    assert all(1 << 18 <= image.size < 1.1 * (1 << 18) for image, _ in waiting)
    assert peak < 4 * 8 * (1 << 18)


def test_preparing_does_without_jax():
    """It would take 145 MB and three seconds."""
    program = "import sys, alexnet_jax.prepare.archives, alexnet_jax.prepare.workflow; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=sources.REPOSITORY, check=False).returncode == 0


# Nothing is written into the source, whatever its form


@pytest.mark.parametrize("form", ["parquet", "webdataset", "tfds_array_record"])
def test_the_default_name_never_leads_into_the_source(form, images, tmp_path):
    """A folder of TFDS is named by its data set, not its version."""
    source = forms.FORMS[form](tmp_path / "pets", images)
    options = {}
    if form == "webdataset":
        (tmp_path / "names").write_text("\n".join(IDS))
        options = {"classes": tmp_path / "names"}
    if form == "tfds_array_record":
        source = source / "5.1.0"
    data = open_source("folder", source, None, 0.1, **options)
    assert data.name == ("imagenet2012" if form == "tfds_array_record" else "pets")
    data_dir = tmp_path / "pets" if form == "tfds_array_record" else tmp_path
    if form == "tfds_array_record":
        (data_dir / data.name / "1.0.0").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"is in the source, .*; choose another name or data_dir"):
        prepare_dataset(data, Recipe(32, 95, 0, False, "file_name"), data_dir, max_broken=0, num_threads=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_source_of_tfds_is_not_overwritten(images, tmp_path):
    """Its own folder has the name and version that the result would have."""
    source = forms.tfds_array_record(tmp_path, images)
    data = open_source("imagenet2012", source, None, 0.1)
    with pytest.raises(UserError, match=r"imagenet2012/5.1.0 is in the source, .*; choose another name or data_dir"):
        prepare_dataset(data, Recipe(32, 95, 0, False, "file_name"), tmp_path, max_broken=0, num_threads=1)


# Bad input: a sentence that names the file, before work where it can be seen before


def cut(path: Path, kept: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])


def edited(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def wrong_order(images: dict[str, forms.Images]) -> dict[str, forms.Images]:
    return {split: [(name, (label + 1) % 1000, data) for name, label, data in m] for split, m in images.items()}


BEFORE_WORK = {
    "half a zip": (forms.kaggle_zip, lambda s: cut(s, 0.5), r"challenge.zip can't be read as a zip \(.*download"),
    "parquet shard missing": (
        forms.parquet,
        lambda s: (s / "data" / "train-00001-of-00003.parquet").unlink(),
        r"data lacks 1 of its files, first train-00001-of-00003.parquet",
    ),
    "parquet shard cut": (
        forms.parquet,
        lambda s: cut(s / "data" / "train-00001-of-00003.parquet", 0.5),
        "train-00001-of-00003.parquet can't be read as a parquet file",
    ),
    "parquet with classes in another order": (
        lambda folder, images: forms.parquet(folder, images, list(imagenet_classes().values())[::-1]),
        lambda s: None,
        r"has 1000 classes \(toilet tissue, .*\), which are not those of ImageNet in the order of the WordNet ids",
    ),
    "WebDataset shard missing": (
        forms.webdataset,
        lambda s: (s / "imagenet1k-train-0002.tar").unlink(),
        "lacks 1 of its files, first imagenet1k-train-0002.tar",
    ),
    "WebDataset shard cut": (
        forms.webdataset, lambda s: cut(s / "imagenet1k-train-0002.tar", 0.5), r"train-0002.tar is truncated at byte"
    ),
    "WebDataset label missing": (
        forms.webdataset,
        lambda s: forms.write(s / "imagenet1k-train-0001.tar", sources.tar([("a.jpg", b"x"), ("b.jpg", b"x")])),
        r"imagenet1k-train-0001.tar, a has no label \(.cls, or a .json with `label`\); every example needs both",
    ),
    "Hugging Face's tar missing": (
        forms.hugging_face_tars,
        lambda s: (s / "data" / "train_images_3.tar.gz").unlink(),
        "data lacks 1 of its files, first train_images_3.tar.gz",
    ),
    "TFDS file missing": (
        forms.tfds_tfrecord,
        lambda s: next(s.rglob("*train.tfrecord-00001*")).unlink(),
        "imagenet2012-train.tfrecord-00001-of-00002 is missing",
    ),
    "TFDS file cut": (
        forms.tfds_tfrecord,
        lambda s: cut(next(s.rglob("*train.tfrecord-00001*")), 0.5),
        r"imagenet2012-train.tfrecord-00001-of-00002 is truncated: the record at byte [\d,]+ is not complete",
    ),
    "unknown id in Kaggle's list": (
        forms.kaggle_folder,
        lambda s: edited(s / "LOC_val_solution.csv", b"00000003,n0", b"00000003,n9"),
        r"LOC_val_solution.csv, line \d+: 'n9\d+' is not one of the 1000 classes",
    ),
    "image that Kaggle's list lacks": (
        forms.kaggle_folder,
        lambda s: edited(s / "LOC_val_solution.csv", b"val_00000003,", b"val_00000333,"),
        r"ILSVRC2012_val_00000003.JPEG, an image without a class: LOC_val_solution.csv has no line for it",
    ),
    "two forms, archive and folder": (
        forms.official,
        lambda s: forms.pytorch(s, {"train": forms.contents()["train"], "validation": []}),
        r"source has train images twice, in ILSVRC2012_img_train.tar and in train; move one of them elsewhere",
    ),
    "two forms, parquet and folder": (
        forms.parquet,
        lambda s: forms.pytorch(s, forms.contents()),
        r"source has train images twice, in data/.*parquet and in train",
    ),
    "class folder missing": (
        forms.pytorch,
        lambda s: shutil.rmtree(s / "train" / IDS[7]),
        rf"has no images of 1 of its 1000 classes \({IDS[7]}\); add images, or prepare a part of the classes with",
    ),
    "class tar missing": (
        forms.unpacked_once,
        lambda s: (s / f"{IDS[7]}.tar").unlink(),
        rf"has no images of 1 of its 1000 classes \({IDS[7]}\)",
    ),
    "class tar cut": (
        forms.unpacked_once, lambda s: cut(s / f"{IDS[7]}.tar", 0.2), rf"{IDS[7]}.tar is truncated: the end of a tar is"
    ),
    "folder of another class": (
        forms.pytorch,
        lambda s: forms.write(s / "train" / "n99999999" / "a.JPEG", b"x"),
        r"contains train/n99999999/a.JPEG: n99999999 is not one of the 1000 classes of ILSVRC-2012",
    ),
    "no validation images": (
        forms.pytorch, lambda s: shutil.rmtree(s / "val"), "source does not contain ILSVRC2012_img_val.tar"
    ),
    "image without a class": (
        forms.pytorch,
        lambda s: forms.write(s / "train" / "a.JPEG", b"x"),
        r"contains train/a.JPEG, an image without a class: neither name nor folder tells it",
    ),
}  # fmt: skip

WHILE_READING = {
    "wrong CRC": (
        forms.tfds_tfrecord,
        lambda s: edited(next(s.rglob("*validation.tfrecord-00001*")), b"val_00000020", b"val_00000021"),
        r"validation.tfrecord-00001-of-00002 is damaged: the checksum \(CRC-32C\) of the record at byte [\d,]+ is",
    ),
    "damaged member of a zip": (
        forms.kaggle_zip,
        lambda s: edited(s, s.read_bytes()[2000:2010], bytes(10)),
        r"challenge.zip, ILSVRC/.*JPEG is damaged \(.*\); download the zip again",
    ),
    "labels in another order": (
        lambda folder, images: forms.webdataset(folder, wrong_order(images)),
        lambda s: None,
        r"n01440764_0.jpg has the label 1, which is not that of its WordNet id; labels must be in the order",
    ),
    "gzipped tar cut": (
        forms.hugging_face_tars,
        lambda s: cut(s / "data" / "train_images_3.tar.gz", 0.5),
        r"train_images_3.tar.gz can't be read as a tar archive",
    ),
}


@pytest.mark.parametrize(("form", "damage", "message"), BEFORE_WORK.values(), ids=BEFORE_WORK.keys())
def test_bad_input_is_seen_before_work(form, damage, message, images, tmp_path):
    source = form(tmp_path / "source", images)
    damage(source)
    with pytest.raises(UserError, match=message):
        open_source("imagenet2012", source, None, 0.1)


@pytest.mark.parametrize(("form", "damage", "message"), WHILE_READING.values(), ids=WHILE_READING.keys())
def test_bad_input_is_seen_in_the_work(form, damage, message, images, tmp_path):
    source = form(tmp_path / "source", images)
    damage(source)
    data = open_source("imagenet2012", source, None, 0.1)
    with pytest.raises(UserError, match=message):
        [image.load() for image in data.images()]


@pytest.mark.parametrize("form", ["parquet", "webdataset", "tfds_array_record"])
def test_two_forms_of_a_users_own_images(form, images, tmp_path):
    """Shards beside folders of classes."""
    source = forms.FORMS[form](tmp_path / "pets", images)
    forms.write(source / "zebra" / "0.jpg", sources.jpeg(0))
    with pytest.raises(UserError, match=r"pets.* has images in two forms, .* and .*/zebra; move one of them elsewhere"):
        open_source("folder", source, None, 0.1)


def test_shards_without_training_images(images, tmp_path):
    """What a folder above is called says nothing."""
    forms.parquet(tmp_path / "test_drive", {split: members[:6] for split, members in few(images).items()}, ["a", "b"])
    shards = sorted((tmp_path / "test_drive" / "data").iterdir())
    shards[1].rename(tmp_path / "test_drive" / "x.parquet")
    options = {"classes": tmp_path / "names"}
    (tmp_path / "names").write_text("cat\ndog\n")
    assert open_source("folder", tmp_path / "test_drive" / "x.parquet", None, 0, **options).num_images == {"train": 2}
    with pytest.raises(
        UserError, match=r"validation.*parquet \(parquet shards\) has no training images, only validation"
    ):
        open_source("folder", shards[-1], None, 0, **options)


@pytest.mark.parametrize("length", [7, 20])
def test_a_truncated_tfrecord(length, tmp_path):
    (tmp_path / "x").write_bytes(forms.tfrecord([b"12345678"])[:length])
    with pytest.raises(UserError, match="x is truncated: the record at byte 0 is not complete"):
        list(tfds_sets.tfrecords(tmp_path / "x"))


# A set that training can't read: the sentence names a command that makes it readable


@pytest.mark.parametrize("kind", ["tfrecord", "mixed sizes"])
def test_the_command_that_makes_a_set_readable(kind, images, tmp_path):
    members = {split: members[::5] for split, members in few(images).items()}
    if kind == "tfrecord":
        forms.tfds_tfrecord(tmp_path, members, "pets", ("cat", "dog"))
    else:
        splits = {s: lambda m=m: [(n, {"image": d, "label": label}) for n, label, d in m] for s, m in members.items()}
        about = {"label_names": ["cat", "dog"], "description": "", "metadata": {}}
        write_tfds(tmp_path, name="pets", version="1.0.0", splits=splits, image_size=None, **about)
    with pytest.raises(UserError, match=r"different sizes|is stored as tfrecord") as raised:
        open_dataset(DataConfig(name="pets", dir=str(tmp_path)))
    command = shlex.split(str(raised.value).split("`")[1])
    run = subprocess.run(
        [sys.executable, *command[1:], "--size=32"], cwd=sources.REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "taken for: a data set of TFDS" in run.stdout
    dataset = open_dataset(DataConfig(name="pets", dir=f"{tmp_path}_prepared"))
    assert (len(dataset.train), len(dataset.evaluation)) == (2, 2)
