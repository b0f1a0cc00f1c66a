"""Errors in a source: one sentence with the file's name, exit status 2, no folder that looks complete."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prepare_sources as sources
import pytest
from test_bad_input import assert_refused, run

from alexnet_jax.errors import UserError
from alexnet_jax.prepare import cifar, devkit
from alexnet_jax.prepare.archives import open_source

IDS = list(devkit.without_kit().wordnet_ids)


# Sources with one fault each: a function that writes the source, and the error that must match.


def imagenet(root: Path, **parts) -> Path:
    train = {wordnet_id: [(f"{wordnet_id}_1.JPEG", sources.jpeg(1))] for wordnet_id in IDS}
    train |= parts.get("train", {})
    validation = parts.get("validation", [(f"ILSVRC2012_val_{i:08d}.JPEG", sources.jpeg(i)) for i in (1, 2, 3)])
    return sources.imagenet2012(root, train, validation, parts.get("devkit"))


def cifar10(root: Path, **replaced: bytes) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    return sources.cifar10(root, images, [i % 10 for i in range(24)], **replaced)


def batch(labels: list[int], num_bytes: int) -> bytes:
    return sources.python2_pickle({b"labels": labels, b"data": np.zeros((len(labels), num_bytes), np.uint8)})


def edited(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


def twice(root: Path) -> None:
    classes = [(f"{wordnet_id}.tar", sources.tar([("a.JPEG", sources.jpeg(1))])) for wordnet_id in [*IDS, IDS[5]]]
    (imagenet(root) / "ILSVRC2012_img_train.tar").write_bytes(sources.tar(classes))


KIT_OF_THREE = sources.kit(2012, IDS, [1] * 3)
TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
IMAGENET = {
    "no train tar": (lambda s: (imagenet(s) / TRAIN).unlink(), f"source does not contain {TRAIN}; register at https://image-net.org/"),
    "no tar at all": (lambda s: s.mkdir(), f"source does not contain {TRAIN} or {VAL}; register"),
    "train tar cut within a class": (
        lambda s: edited(imagenet(s) / TRAIN, lambda d: d[: len(d) // 2]),
        rf"{TRAIN} can't be read as a tar archive.*the official archive has 147,897,477,120",
    ),
    "train tar cut between classes": (
        lambda s: edited(imagenet(s) / TRAIN, lambda d: d[: d.index(b"n02085620.tar")]),
        rf"{TRAIN} is truncated at byte [\d,]+: the end of a tar is missing.*official archive",
    ),
    "train tar damaged": (
        lambda s: edited(imagenet(s) / TRAIN, lambda d: d.replace(b"n02085620.tar", b"n02085621.tar")),
        rf"{TRAIN} is damaged at byte",
    ),
    "class tar cut": (
        lambda s: imagenet(s, train={IDS[7]: []}) and write_cut_class(s),
        rf"{TRAIN}, {IDS[7]}.tar is truncated at byte",
    ),
    "val tar in place of the train tar": (
        lambda s: edited(imagenet(s) / TRAIN, lambda d: (s / VAL).read_bytes()),
        rf"{TRAIN} contains ILSVRC2012_val_00000001.JPEG, but should contain tars of classes",
    ),
    "train tar in place of the val tar": (
        lambda s: edited(imagenet(s) / VAL, lambda d: (s / TRAIN).read_bytes()),
        rf"{VAL} contains n01440764.tar, but should contain numbered images",
    ),
    "a web page in place of the val tar": (
        lambda s: edited(imagenet(s) / VAL, lambda d: b"<html>" * 1000),
        rf"{VAL} can't be read as a tar archive",
    ),
    "empty val tar": (lambda s: edited(imagenet(s) / VAL, lambda d: b""), rf"{VAL} can't be read as a tar archive"),
    "class missing": (
        lambda s: (imagenet(s) / TRAIN).write_bytes(sources.tar([("n01440764.tar", sources.tar([]))])),
        rf"{TRAIN} has no images of 999 of its 1000 classes \(n01443537",
    ),
    "class twice": (twice, rf"{TRAIN} contains {IDS[5]}.tar twice"),
    "unknown class": (
        lambda s: imagenet(s, train={"n99999999": [("n99999999_1.JPEG", sources.jpeg(1))]}),
        rf"{TRAIN} contains n99999999.tar, which is not one of the 1000 classes",
    ),
    "empty class": (lambda s: imagenet(s, train={IDS[3]: []}), rf"{TRAIN}, {IDS[3]}.tar contains no images"),
    "class of broken images": (
        lambda s: imagenet(s, train={IDS[3]: [("x.JPEG", b"no image")]}),
        rf"the training split of imagenet2012 has no images of 1 of its 1000 classes \({IDS[3]}\)",
    ),
    "validation image without a label": (
        lambda s: imagenet(s, validation=[("ILSVRC2012_val_00000004.JPEG", b"x")], devkit=KIT_OF_THREE),
        "contains ILSVRC2012_val_00000004.JPEG, but only images 1 to 3 have labels",
    ),
    "label that is not a class": (
        lambda s: imagenet(s, devkit=bad_kit(lambda text: b"1001\n")),
        rf"{KIT}, ILSVRC2012_validation_ground_truth.txt, line 1: '1001' is not a class; they are numbered 1 to 1000",
    ),
    "validation image twice": (
        lambda s: imagenet(s, validation=[("ILSVRC2012_val_00000001.JPEG", sources.jpeg(1))] * 2),
        rf"{VAL} contains ILSVRC2012_val_00000001.JPEG twice",
    ),
    "kit with another table": (
        lambda s: imagenet(s, devkit=sources.tar([("meta.mat", b"MATLAB"), (TRUTH, b"1")], "w:gz")),
        rf"{KIT}: meta.mat has no table of synsets as in ILSVRC-2012 \(",
    ),
    "kit with a class twice": (
        lambda s: imagenet(s, devkit=sources.kit(2012, [*IDS[:999], IDS[0]], [1])),
        rf"{KIT}: meta.mat has 999 different classes, not 1000",
    ),
    "kit cut": (
        lambda s: imagenet(s, devkit=KIT_OF_THREE[:-500]), rf"{KIT} can't be read as a tar archive"
    ),
    "kit without its table": (
        lambda s: imagenet(s, devkit=sources.tar([("readme", b"")], "w:gz")),
        rf"{KIT} does not contain meta.mat; it must be the development kit of ILSVRC-2012",
    ),
    "too many broken": (
        lambda s: imagenet(s, train={IDS[3]: [(f"{i}.JPEG", b"x" if i else sources.jpeg(1)) for i in range(12)]}),
        r"11 images can't be decoded, but max_broken=10 \(1.JPEG: .*prepare_report.json lists them",
    ),
}  # fmt: skip


def write_cut_class(root: Path) -> None:
    classes = [(f"{wordnet_id}.tar", sources.tar([(f"{wordnet_id}_1.JPEG", sources.jpeg(1))])) for wordnet_id in IDS]
    name, data = classes[7]
    classes[7] = (name, data[: data.rindex(b"\xff\xd9") // 512 * 512 + 512])  # whole blocks, but no end
    (root / TRAIN).write_bytes(sources.tar(classes))


def bad_kit(truth: Callable[[bytes], bytes]) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(KIT_OF_THREE)) as kit:
        files = [(member.name, kit.extractfile(member).read()) for member in kit]
    return sources.tar([(name, truth(data) if name.endswith("truth.txt") else data) for name, data in files], "w:gz")


def flat(split: Path) -> None:
    """Move the images out of their class folders, as in Kaggle's val/ and test/."""
    for number, path in enumerate(sorted(split.rglob("*.jpg"))):
        path.rename(split / f"{number}.jpg")
    for path in split.glob("*/"):
        path.rmdir()


class Hostile:
    """Loaded in the usual way, its pickle makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("hostile",)


OTHERS = {
    "folder missing": ("folder", lambda s: None, "source is not a folder"),
    "folder of one class": ("folder", lambda s: sources.folder(s, ("cat",)), "train contains 1 folders; .* at least 2"),
    "empty class folder": (
        "folder",
        lambda s: (sources.folder(s) / "train" / "empty").mkdir(),
        r"train has no images of 1 of its 3 classes \(empty\)",
    ),
    "two classes with one name": (
        "folder",
        lambda s: sources.folder(s, ("Café", "Cafe\u0301")),
        "two classes with one name, 'Cafe\u0301' and 'Café'",
    ),
    "class that training doesn't have": (
        "folder",
        lambda s: sources.folder(sources.folder(s), ("bird",), ("val",)),
        r"val/bird is not a class of train/ \(cat, dog\)",
    ),
    "class beside train": (
        "folder",
        lambda s: sources.folder(s, splits=("train", "other")),
        "contains train/ and other/",
    ),
    "val beside validation": (
        "folder",
        lambda s: sources.folder(s, splits=("train", "val", "validation")),
        "contains both val/ and validation/; keep one of them",
    ),
    "class of one image": (
        "folder",
        lambda s: sources.folder(s, splits=(".",), images=1),
        "cat contains one image; a class needs at least 2 .* with validation_fraction=0",
    ),
    "class name of two lines": (
        "folder",
        lambda s: sources.folder(s, ("a\nb", "dog")),
        r"train has a class named 'a\\nb'; a name is one line of text: rename it",
    ),
    "class name without a letter": ("folder", lambda s: sources.folder(s, (" ", "dog")), "a class named ' '"),
    "split without class folders": (
        "folder",
        lambda s: flat(sources.folder(s) / "val"),
        "val contains no folders of classes; sort its images into such folders, name all .* in image_list=FILE",
    ),
    "folders that may be splits": (
        "folder",
        lambda s: sources.folder(s, splits=("seg_test", "seg_train")),
        "contains seg_test/ and seg_train/, which look like splits, not classes; rename them to test/ and train/",
    ),
    "no training split": (
        "folder",
        lambda s: sources.folder(s, splits=("Test", "Val")),
        "source contains Test/ and Val/ but no train/; add it",
    ),
    "split twice": (
        "folder",
        lambda s: sources.folder(s, splits=("Train", "training", "val")),
        "source contains both Train/ and training/; keep one of them",
    ),
    "one folder with the classes": (
        "folder",
        lambda s: sources.folder(s / "pets", splits=(".",)),
        "source contains 1 folders; .* If the classes are in .*source/pets, give that folder",
    ),
    "split of broken images": (
        "folder",
        lambda s: [path.write_bytes(b"x") for path in (sources.folder(s) / "val").rglob("*.jpg")],
        "the source of source has no images for split 'validation'",
    ),
    "file name that is not UTF-8": (
        "folder",
        lambda s: (sources.folder(s) / "train" / "cat" / "0.jpg").rename(s / "train" / "cat" / "caf\udce9.jpg"),
        r"contains 'cat/caf\\udce9.jpg', a file name that is not UTF-8; rename it",
    ),
    "imagenette archive missing": (
        "imagenette", lambda s: None, "source does not exist; download imagenette2.tgz from"
    ),
    "no imagenette": ("imagenette", lambda s: s.mkdir(), "contains none of imagenette2.tgz, .* https://github.com/fastai"),
    "other archive as imagenette": (
        "imagenette",
        lambda s: s.write_bytes(sources.tar([("imagewoof2/train/n02086240/a.JPEG", b"x")], "w:gz")),
        "contains imagewoof2/train/n02086240/a.JPEG, but Imagenette has",
    ),
    "imagenette cut": (
        "imagenette",
        lambda s: s.write_bytes(sources.tar([("i/train/n01440764/a.JPEG", sources.jpeg(1))], "w:gz")[:-900]),
        "source can't be read as a tar archive",
    ),
    "no cifar": ("cifar10", lambda s: s.mkdir(), "cifar-10-python.tar.gz does not exist; download"),
    "cifar without a batch": (
        "cifar10",
        lambda s: s.write_bytes(sources.tar([("batches.meta", sources.python2_pickle({b"label_names": []}))], "w:gz")),
        "source does not contain data_batch_1",
    ),
    "cifar without names": (
        "cifar10",
        lambda s: cifar10(s, **{"batches.meta": sources.python2_pickle({b"num_vis": 3072})}),
        "batches.meta: there are no label names; it must be",
    ),
    "cifar label beyond the classes": (
        "cifar10",
        lambda s: cifar10(s, data_batch_2=batch([10], 3072)),
        "data_batch_2 has the label 10; labels are 0 to 9",
    ),
    "cifar batch of another shape": (
        "cifar10",
        lambda s: cifar10(s, test_batch=batch([1], 3000)),
        "test_batch is not a batch of CIFAR-10",
    ),
    "cifar batch that is not a pickle": (
        "cifar10", lambda s: cifar10(s, test_batch=b"garbage"), "test_batch can't be read as a batch of CIFAR-10"
    ),
    "hostile pickle": (
        "cifar10", lambda s: cifar10(s, data_batch_1=pickle.dumps({b"data": Hostile()})), "it asks for posix.mkdir"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("write", "message"), IMAGENET.values(), ids=IMAGENET.keys())
def test_wrong_imagenet(tmp_path, write, message):
    write(tmp_path / "source")
    with pytest.raises(UserError, match=message) as caught:
        sources.prepare_here("imagenet2012", tmp_path)
    assert caught.value.exit_status == 2
    assert not sources.looks_whole(tmp_path)


@pytest.mark.parametrize(("dataset", "write", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_wrong_source(tmp_path, monkeypatch, dataset, write, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "source")
    with pytest.raises(UserError, match=message) as caught:
        sources.prepare_here(dataset, tmp_path)
    assert caught.value.exit_status == 2
    assert not sources.looks_whole(tmp_path)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "my set", "digits"])
def test_names_that_no_data_set_can_have(tmp_path, name):
    with pytest.raises(UserError, match=f"name='{name}' can't be the name of a data set; use letters"):
        open_source("folder", sources.folder(tmp_path), name, 0.1)


def test_an_image_that_is_gone_is_named(tmp_path):
    data = open_source("folder", sources.folder(tmp_path), "pets", 0.1)
    (tmp_path / "train" / "cat" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"cat/0\.jpg can't be read \(No such file"):
        next(data.images()).load()


FLAGS = {
    "no dataset": (["--dataset="], "--dataset="),
    "unknown dataset": (["--dataset=imagenet"], "imagenet2012"),
    "no source": (["--source="], "--source is empty; give a path"),
    "no data_dir": (["--data_dir="], "--data_dir is empty; give a path"),
    "name of a published set": (["--dataset=cifar10", "--name=x"], "--name=x is only for --dataset=folder"),
    "classes of a published set": (
        ["--dataset=cifar10", "--classes=x"],
        "--classes=x is only for --dataset=imagenet2012 and --dataset=folder",
    ),
    "list that is missing": (["--list=x"], "x can't be read (No such file or directory)"),
    "originals that are not files": (
        ["--dataset=cifar10", "--keep_originals"],
        "--keep_originals: the images of cifar10",
    ),
    "quality": (["--quality=101"], "quality"),
    "stray argument": (["imagenet2012"], "unexpected argument 'imagenet2012'"),
}


@pytest.mark.parametrize(("flags", "message"), FLAGS.values(), ids=FLAGS.keys())
def test_wrong_flags(tmp_path, flags, message):
    cifar10(tmp_path / "source")
    done = sources.command("folder", tmp_path, "--size=64", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not sources.looks_whole(tmp_path)


def test_the_command_needs_a_data_set():
    assert_refused(run("prepare"), "--dataset is missing: give one of imagenet2012, imagenet2010, cifar10, imagenette,")


# Pickles


def test_pickle_of_python_2_is_read_and_nothing_of_it_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2], b"name": b"batch"}
    found = cifar.load_pickle(sources.python2_pickle(content), "x")
    np.testing.assert_array_equal(found[b"data"], content[b"data"])
    assert (found[b"labels"], found[b"name"]) == ([1, 2], b"batch")
    for protocol in range(6):
        with pytest.raises(UserError, match=r"x can't be read .*asks for posix.mkdir"):
            cifar.load_pickle(pickle.dumps(Hostile(), protocol), "x")
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "exec", "__import__"])
def test_pickle_may_not_import_builtins(name):
    with pytest.raises(UserError, match=f"asks for builtins.{name}"):
        cifar.load_pickle(f"cbuiltins\n{name}\n.".encode(), "x")
