"""ImageNet from the official archives of ILSVRC-2012 and ILSVRC-2010, read without unpacking.

The training archive is a tar of 1000 tars, one per class, named by WordNet id; the others are plain tars of numbered
images.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.prepare import devkit, tars
from alexnet_jax.prepare.devkit import Classes
from alexnet_jax.prepare.source import SourceData, SourceImage, check_no_class_is_empty

HOMEPAGE = "https://image-net.org/"
_KIT_2012 = "ILSVRC2012_devkit_t12.tar.gz"
_TRAIN_2012, _VALIDATION_2012 = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_KIT_2010 = "ILSVRC2010_devkit-1.0.tar.gz"
_TRAIN_2010, _VALIDATION_2010 = "ILSVRC2010_images_train.tar", "ILSVRC2010_images_val.tar"
_TEST_2010, _TEST_TRUTH_2010 = "ILSVRC2010_images_test.tar", "ILSVRC2010_test_ground_truth.txt"
_PATCHES_2010 = "patch_images.tar"  # replaces images that say "not available", in train/, val/ and test/
_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_NUMBERED = re.compile(r"ILSVRC20\d\d_(?:val|test)_(\d{8})\.JPEG", re.IGNORECASE)
_OFFICIAL_BYTES = {_TRAIN_2012: 147_897_477_120, _VALIDATION_2012: 6_744_924_160}
_NUM_IMAGES = {  # as published
    2012: {"train": 1_281_167, "validation": 50_000},
    2010: {"train": 1_261_406, "validation": 50_000, "test": 150_000},
}


def imagenet2012(source: Path) -> SourceData:
    """Open ILSVRC-2012: two archives and, if present, the development kit; UserError if an archive is missing.

    Without the kit, classes and validation labels are those that TFDS includes. Name, version and features are those
    of TFDS's own builder.
    """
    _require(source, (_TRAIN_2012, _VALIDATION_2012), "Training images (task 1 & 2) and Validation images (all tasks)")
    kit = source / _KIT_2012
    classes = devkit.read_kit(kit, 2012) if kit.exists() else devkit.without_kit()
    numbered = {"validation": (source / _VALIDATION_2012, classes.validation)}
    return _source_data(2012, "5.1.0", classes, source / _TRAIN_2012, numbered, [kit])


def imagenet2010(source: Path) -> SourceData:
    """Open ILSVRC-2010, on which the paper's section 6 reports: training, validation and, if present, test images.

    Images in `patch_images.tar` replace others. UserError if an archive or the development kit is missing.
    """
    _require(source, (_TRAIN_2010, _VALIDATION_2010, _KIT_2010), "the files of ILSVRC-2010")
    kit, truth, patches = source / _KIT_2010, source / _TEST_TRUTH_2010, source / _PATCHES_2010
    classes = devkit.read_kit(kit, 2010)
    numbered = {"validation": (source / _VALIDATION_2010, classes.validation)}
    if (source / _TEST_2010).exists():
        _require(source, (_TEST_TRUTH_2010,), "the labels of the test images")
        labels = devkit.parse_ground_truth(truth.read_bytes(), classes.labels_by_id, str(truth))
        numbered["test"] = (source / _TEST_2010, labels)
    data = _source_data(2010, "1.0.0", classes, source / _TRAIN_2010, numbered, [kit, truth, patches])
    return dataclasses.replace(data, images=lambda: _patched(data.images(), patches)) if patches.exists() else data


def _source_data(
    year: int,
    version: str,
    classes: Classes,
    train: Path,
    numbered: Mapping[str, tuple[Path, Sequence[int]]],
    other_files: Sequence[Path],
) -> SourceData:
    """Check the archives and describe the data set.

    `train` is the archive of training images; `numbered` has the archive and the labels of each other split. Labels
    and images also depend on the `other_files` that exist.
    """
    wordnet_ids = _check_members(train, lambda member: _class_of(member, train, classes.wordnet_ids))
    check_no_class_is_empty(classes.wordnet_ids, dict.fromkeys(wordnet_ids, 1), train)
    for archive, labels in numbered.values():
        _check_members(archive, functools.partial(_number_of, archive=archive, labels=labels))
    archives = [train, *(archive for archive, _ in numbered.values())]

    def images() -> Iterator[SourceImage]:
        yield from _training_images(train, classes.wordnet_ids)
        start = train.stat().st_size
        for split, (archive, labels) in numbered.items():
            yield from _numbered_images(archive, split, labels, start)
            start += archive.stat().st_size

    class_names = {"class_names": list(classes.words)} if classes.words else {}
    return SourceData(
        name=f"imagenet{year}",
        version=version,
        description=f"ILSVRC-{year}: images of 1000 classes of ImageNet.",
        homepage=HOMEPAGE,
        label_names=classes.wordnet_ids,
        num_images={split: _NUM_IMAGES[year][split] for split in ("train", *numbered)},
        num_bytes=sum(archive.stat().st_size for archive in archives),
        identity={path.name: path.stat().st_size for path in (*archives, *other_files) if path.exists()},
        images=images,
        metadata={"wordnet_ids": list(classes.wordnet_ids), **class_names},
    )


def _require(source: Path, names: Sequence[str], title: str) -> None:
    """Raise UserError if a file is missing; `title` is how the website lists the files."""
    if missing := [name for name in names if not (source / name).is_file()]:
        names = " or ".join(missing)
        raise UserError(f"{source} does not contain {names}; register at {HOMEPAGE} and download {title}.")


# Checks of the archives' contents, before hours of work


def _check_members(archive: Path, identify: Callable[[tars.TarFile], Any]) -> set[Any]:
    """Identify all members; UserError if that fails, or if two members are the same. Reads only headers."""
    identities: set[Any] = set()
    try:
        for member in tars.walk(archive):
            if (identity := identify(member)) in identities:
                raise UserError(f"{archive} contains {member.path} twice; download it again.")
            identities.add(identity)
    except UserError as error:
        size, official_size = archive.stat().st_size, _OFFICIAL_BYTES.get(archive.name, 0)
        if size >= official_size:
            raise
        raise UserError(f"{error} It has {size:,} bytes; the official archive has {official_size:,}.") from error
    return identities


def _class_of(member: tars.TarFile, archive: Path, wordnet_ids: Sequence[str]) -> str:
    """Return the WordNet id of a class tar."""
    if not (match := _CLASS_TAR.fullmatch(member.path.name)):
        raise _unexpected(member, archive, "but should contain tars of classes, such as n01440764.tar")
    if match[1] not in wordnet_ids:
        raise _unexpected(member, archive, f"which is not one of the {len(wordnet_ids)} classes")
    return match[1]


def _number_of(member: tars.TarFile, archive: Path, labels: Sequence[int]) -> int:
    """Return the number of an image, from 1."""
    if not (match := _NUMBERED.fullmatch(member.path.name)):
        raise _unexpected(member, archive, "but should contain numbered images, such as ILSVRC2012_val_00000001.JPEG")
    if not 1 <= (number := int(match[1])) <= len(labels):
        raise _unexpected(member, archive, f"but only images 1 to {len(labels)} have labels")
    return number


def _unexpected(member: tars.TarFile, archive: Path, problem: str) -> UserError:
    return UserError(f"{archive} contains {member.path}, {problem}; check that it is the right archive.")


# The images


def _training_images(archive: Path, wordnet_ids: Sequence[str]) -> Iterator[SourceImage]:
    for class_tar in tars.walk(archive):
        label = wordnet_ids.index(_class_of(class_tar, archive, wordnet_ids))
        where = f"{archive}, {class_tar.path}"
        is_empty = True
        for member in tars.walk_inner(class_tar, where):
            if member.path.suffix.lower() in tars.JPEG_SUFFIXES:
                is_empty = False
                load = functools.partial(tars.read, member, where)
                yield SourceImage("train", member.path.name, label, load, class_tar.position + member.position)
        if is_empty:
            raise UserError(f"{where} contains no images, and every class needs one; download it again.")


def _numbered_images(archive: Path, split: str, labels: Sequence[int], start: int) -> Iterator[SourceImage]:
    """Yield the images of a split whose archive begins at byte `start` of the source."""
    for member in tars.walk(archive):
        label = labels[_number_of(member, archive, labels) - 1]
        load = functools.partial(tars.read, member, archive)
        yield SourceImage(split, member.path.name, label, load, start + member.position)


def _patched(images: Iterator[SourceImage], archive: Path) -> Iterator[SourceImage]:
    """Replace the images that are also in the archive, under train/, val/ or test/."""
    patches = {
        (member.path.parent.name, member.path.name): tars.read(member, archive)
        for member in tars.walk(archive)
        if member.path.suffix.lower() in tars.JPEG_SUFFIXES
    }
    for image in images:
        folder = "val" if image.split == "validation" else image.split
        data = patches.get((folder, image.name))
        yield image if data is None else image._replace(load=functools.partial(bytes, data))
