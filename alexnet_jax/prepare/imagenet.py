"""ImageNet from the official archives of ILSVRC-2012 and ILSVRC-2010, which are read as they are.

The training archive is a tar of 1000 tars, one a class, named after its WordNet id; the others are plain tars of
numbered images.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

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
_JPEG = (".jpeg", ".jpg")


def imagenet2012(source: Path) -> SourceData:
    """ILSVRC-2012 from its two archives and, if it is there, the development kit; UserError if one is missing.

    Without the kit, the classes and the validation labels are those that TFDS carries. Name, version and features are
    those of TFDS's own builder.
    """
    _require(source, (_TRAIN_2012, _VALIDATION_2012), "Training images (task 1 & 2) and Validation images (all tasks)")
    kit = source / _KIT_2012
    classes = devkit.read_kit(kit, 2012) if kit.exists() else devkit.without_kit()
    parts = {"train": source / _TRAIN_2012, "validation": source / _VALIDATION_2012}
    _check_class_tars(parts["train"], classes)
    _check_numbers(parts["validation"], classes.validation)

    def images() -> Iterator[SourceImage]:
        yield from _training_images(parts["train"], classes, {})
        yield from _numbered_images(parts["validation"], "validation", classes.validation, {}, _size(parts["train"]))

    counts = {"train": 1_281_167, "validation": 50_000}
    return _raw_data("imagenet2012", "5.1.0", classes, parts, [kit], counts, images)


def imagenet2010(source: Path) -> SourceData:
    """ILSVRC-2010, which the paper's section 6 reports on: training, validation and, if they are there, test images.

    UserError if an archive or the development kit is missing. Images in `patch_images.tar` replace others.
    """
    _require(source, (_TRAIN_2010, _VALIDATION_2010, _KIT_2010), "the files of ILSVRC-2010")
    classes = devkit.read_kit(source / _KIT_2010, 2010)
    parts = {"train": source / _TRAIN_2010, "validation": source / _VALIDATION_2010}
    counts = {"train": 1_261_406, "validation": 50_000}
    test_labels: tuple[int, ...] = ()
    if (source / _TEST_2010).exists():
        _require(source, (_TEST_TRUTH_2010,), "the labels of the test images")
        truth = source / _TEST_TRUTH_2010
        test_labels = devkit.parse_ground_truth(truth.read_bytes(), classes.labels_by_id, str(truth))
        parts["test"], counts["test"] = source / _TEST_2010, 150_000
        _check_numbers(parts["test"], test_labels)
    _check_class_tars(parts["train"], classes)
    _check_numbers(parts["validation"], classes.validation)

    def images() -> Iterator[SourceImage]:
        patches = _read_patches(source / _PATCHES_2010)
        yield from _training_images(parts["train"], classes, patches)
        before = _size(parts["train"])
        yield from _numbered_images(parts["validation"], "validation", classes.validation, patches, before)
        if "test" in parts:
            before += _size(parts["validation"])
            yield from _numbered_images(parts["test"], "test", test_labels, patches, before)

    others = [source / name for name in (_KIT_2010, _TEST_TRUTH_2010, _PATCHES_2010)]
    return _raw_data("imagenet2010", "1.0.0", classes, parts, others, counts, images)


def _raw_data(
    name: str,
    version: str,
    classes: Classes,
    parts: Mapping[str, Path],
    others: Sequence[Path],
    num_images: Mapping[str, int],
    images: Callable[[], Iterator[SourceImage]],
) -> SourceData:
    """`parts`: the archive of each split. `others`: what labels and images depend on besides, where it is there."""
    names = {"class_names": list(classes.words)} if classes.words else {}
    return SourceData(
        name=name,
        version=version,
        description=f"ILSVRC-{name[-4:]}: images of 1000 classes of ImageNet.",
        homepage=HOMEPAGE,
        label_names=classes.wordnet_ids,
        num_images=num_images,
        num_bytes=sum(map(_size, parts.values())),
        identity={path.name: _size(path) for path in (*parts.values(), *others) if path.exists()},
        images=images,
        metadata={"wordnet_ids": list(classes.wordnet_ids), **names},
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def _require(source: Path, names: Sequence[str], what: str) -> None:
    """UserError if one of the files is missing; it says which, and where they are to be had."""
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        raise UserError(
            f"--source={source} holds no {' and no '.join(missing)}; register at {HOMEPAGE} and download "
            f"{'it' if len(missing) == 1 else 'them'} there ({what})."
        )


# Before hours of work: do the archives hold what they should?


def _check_class_tars(archive: Path, classes: Classes) -> None:
    """UserError unless the training archive holds one tar for every class. Reads only 1000 headers."""
    found: set[str] = set()
    with _size_hint(archive):
        for member in tars.walk(archive):
            wordnet_id = _class_of(member, archive)
            if wordnet_id not in classes.wordnet_ids:
                raise UserError(
                    f"{archive} holds {member.path}, which is none of the {len(classes.wordnet_ids)} classes; is this "
                    "another archive under its name?"
                )
            if wordnet_id in found:
                raise UserError(
                    f"{archive} holds two classes with one name: {member.path} lies in it twice; download it again."
                )
            found.add(wordnet_id)
    check_no_class_is_empty(classes.wordnet_ids, dict.fromkeys(found, 1), archive)


def _class_of(member: tars.TarFile, archive: Path) -> str:
    if not (match := _CLASS_TAR.fullmatch(member.path.name)):
        raise UserError(
            f"{archive} holds {member.path} where tars of classes should be, such as n01440764.tar; is this another "
            "archive under its name?"
        )
    return match[1]


def _check_numbers(archive: Path, labels: Sequence[int]) -> None:
    """UserError unless the archive holds numbered images for which there are labels, each once. Reads only headers."""
    found: set[int] = set()
    with _size_hint(archive):
        for member in tars.walk(archive):
            if (number := _number_of(member, archive, labels)) in found:
                raise UserError(
                    f"{archive} holds image {number} twice, the second time as {member.path}; download it again."
                )
            found.add(number)


def _number_of(member: tars.TarFile, archive: Path, labels: Sequence[int]) -> int:
    """From 1."""
    if not (match := _NUMBERED.fullmatch(member.path.name)):
        raise UserError(
            f"{archive} holds {member.path} where numbered images should be, such as ILSVRC2012_val_00000001.JPEG; is "
            "this another archive under its name?"
        )
    if not 1 <= (number := int(match[1])) <= len(labels):
        raise UserError(
            f"{archive} holds {member.path}, but there are labels for images 1 to {len(labels)} only; take the "
            "development kit that belongs to it."
        )
    return number


@contextlib.contextmanager
def _size_hint(archive: Path) -> Iterator[None]:
    """Says how many bytes the official archive has, where one is wrong and has fewer."""
    try:
        yield
    except UserError as error:
        if (official := _OFFICIAL_BYTES.get(archive.name, 0)) > _size(archive):
            raise UserError(f"{error} It has {_size(archive):,} bytes, the official one {official:,}.") from error
        raise


# The images


def _training_images(
    archive: Path, classes: Classes, patches: Mapping[tuple[str, str], bytes]
) -> Iterator[SourceImage]:
    labels = {wordnet_id: label for label, wordnet_id in enumerate(classes.wordnet_ids)}
    for class_tar in tars.walk(archive):
        label = labels[_class_of(class_tar, archive)]
        where = f"{archive}, {class_tar.path}"
        num_images = 0
        for member in tars.walk_inner(class_tar.open(), where):
            if member.path.suffix.lower() in _JPEG:
                num_images += 1
                load = _loader(member, where, patches.get(("train", member.path.name)))
                yield SourceImage("train", member.path.name, label, load, class_tar.position + member.position)
        if not num_images:
            raise UserError(f"{where} holds no image; every class needs one.")


def _numbered_images(
    archive: Path, split: str, labels: Sequence[int], patches: Mapping[tuple[str, str], bytes], before: int
) -> Iterator[SourceImage]:
    """`before`: how many bytes of the source come before this archive."""
    patch_folder = "val" if split == "validation" else split
    for member in tars.walk(archive):
        name = member.path.name
        load = _loader(member, str(archive), patches.get((patch_folder, name)))
        yield SourceImage(split, name, labels[_number_of(member, archive, labels) - 1], load, before + member.position)


def _loader(member: tars.TarFile, where: str, patch: bytes | None) -> Callable[[], bytes]:
    return functools.partial(tars.read, member, where) if patch is None else lambda: patch


def _read_patches(archive: Path) -> dict[tuple[str, str], bytes]:
    """The images of `patch_images.tar` by folder (train, val, test) and file name; none if there is no such file."""
    if not archive.exists():
        return {}
    return {
        (member.path.parent.name, member.path.name): tars.read(member, archive)
        for member in tars.walk(archive)
        if member.path.suffix.lower() in _JPEG
    }
