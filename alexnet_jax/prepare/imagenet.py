"""ImageNet (ILSVRC-2012 in any form that people keep it in, ILSVRC-2010 from its archives), read without unpacking."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare import devkit, tars
from alexnet_jax.prepare.devkit import Classes
from alexnet_jax.prepare.forms import ilsvrc2012, named, official
from alexnet_jax.prepare.source import Part, SourceData, SourceImage, check_no_class_is_empty, join

_KIT_2012 = "ILSVRC2012_devkit_t12.tar.gz"
_KIT_2010 = "ILSVRC2010_devkit-1.0.tar.gz"
_TRAIN_2010, _VALIDATION_2010 = "ILSVRC2010_images_train.tar", "ILSVRC2010_images_val.tar"
_TEST_2010, _TEST_TRUTH_2010 = "ILSVRC2010_images_test.tar", "ILSVRC2010_test_ground_truth.txt"
_PATCHES_2010 = "patch_images.tar"  # replaces images that say "not available", in train/, val/ and test/
_NUM_IMAGES = {  # as published
    2012: ilsvrc2012.NUM_IMAGES,
    2010: {"train": 1_261_406, "validation": 50_000, "test": 150_000},
}


def imagenet2012(source: Path, classes_file: Path | None = None) -> SourceData:
    """Open ILSVRC-2012 in one of the forms of docs/prepare.md, found out by looking.

    Without the development kit, classes and validation labels are those that TFDS includes. Name, version and features
    are those of TFDS's own builder; labels and file names are those of the official archives, whatever the form. With
    `classes_file`, which has a WordNet id in each line, only those classes are taken, and labels count only those.

    Raises:
      UserError: images of a split or of a class are missing or damaged, or there are two forms in one folder.
    """
    kit = (source if source.is_dir() else source.parent) / _KIT_2012
    classes = devkit.read_kit(kit, 2012) if kit.exists() else devkit.without_kit()
    wanted = _read_classes(classes_file, classes.wordnet_ids) if classes_file else classes.wordnet_ids
    validation = [classes.wordnet_ids[label] for label in classes.validation]
    labels = named.Labels(classes.wordnet_ids, wanted, validation)
    with reading(str(source)):
        found = ilsvrc2012.find_pieces(source, classes, labels)
    ilsvrc2012.check_pieces(source, found)
    part = join([ilsvrc2012.with_wordnet_ids(piece.open(), labels, piece.path) for piece in found])
    if lacking := [split for split in ilsvrc2012.SPLITS if not part.num_images.get(split)]:
        raise UserError(f"{source} ({part.form}) has no {lacking[0]} images of the {len(wanted)} classes; add some.")
    if part.train_labels:
        counts = {wordnet_id: part.train_labels.get(label, 0) for label, wordnet_id in enumerate(wanted)}
        remedy = "add images, or prepare a part of the classes with classes=FILE, a file of their WordNet ids"
        check_no_class_is_empty(wanted, counts, f"{source} ({part.form})", remedy)
    data = _source_data(2012, "5.1.0", classes, part, [kit])
    if part.size:
        data = dataclasses.replace(data, name=f"imagenet{part.size}")
    return _subset(data, wanted, classes) if classes_file else data


def _read_classes(path: Path, wordnet_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the WordNet ids with which the lines of a file begin, in order; UserError if one is unknown."""
    with reading(str(path)):
        lines = [(number, line.split()) for number, line in enumerate(path.read_text().splitlines(), 1)]
    for number, words in lines:
        if words and words[0] not in wordnet_ids:
            raise UserError(f"{path}, line {number}: {words[0][:20]!r} is not one of the {len(wordnet_ids)} classes.")
    found = tuple(sorted({words[0] for _, words in lines if words}))
    if len(found) < 2:
        raise UserError(f"{path} names {len(found)} classes; a data set needs at least 2.")
    return found


def _subset(data: SourceData, wanted: tuple[str, ...], classes: Classes) -> SourceData:
    """Return the description of a part of the classes, with a name of its own."""
    words = [word for wordnet_id, word in zip(classes.wordnet_ids, classes.words, strict=False) if wordnet_id in wanted]
    return dataclasses.replace(
        data,
        name=f"{data.name}_{len(wanted)}",
        description=f"{len(wanted)} classes of ILSVRC-2012.",
        label_names=wanted,
        identity={**data.identity, "classes": " ".join(wanted)},
        metadata={"wordnet_ids": list(wanted), **({"class_names": words} if words else {})},
    )


def imagenet2010(source: Path) -> SourceData:
    """Open ILSVRC-2010, on which the paper's section 6 reports: training, validation and, if present, test images.

    Images in `patch_images.tar` replace others. UserError if an archive or the development kit is missing.
    """
    _require(source, (_TRAIN_2010, _VALIDATION_2010, _KIT_2010), "the files of ILSVRC-2010")
    kit, truth, patches = source / _KIT_2010, source / _TEST_TRUTH_2010, source / _PATCHES_2010
    classes, num_images = devkit.read_kit(kit, 2010), _NUM_IMAGES[2010]
    numbered = {"validation": (source / _VALIDATION_2010, classes.validation)}
    if (source / _TEST_2010).exists():
        _require(source, (_TEST_TRUTH_2010,), "the labels of the test images")
        labels = devkit.parse_ground_truth(truth.read_bytes(), classes.labels_by_id, str(truth))
        numbered["test"] = (source / _TEST_2010, labels)
    parts = [official.train_archive(source / _TRAIN_2010, classes.wordnet_ids, num_images["train"])]
    for split, (archive, labels) in numbered.items():
        parts.append(official.numbered_archive(archive, split, classes.wordnet_ids, labels, num_images[split]))
    data = _source_data(2010, "1.0.0", classes, join(parts), [kit, truth, patches])
    return dataclasses.replace(data, images=lambda: _patched(data.images(), patches)) if patches.exists() else data


def _source_data(year: int, version: str, classes: Classes, part: Part, other_files: Sequence[Path]) -> SourceData:
    """Describe the data set; labels and images also depend on the `other_files` that exist."""
    class_names = {"class_names": list(classes.words)} if classes.words else {}
    others = {path.name: path.stat().st_size for path in other_files if path.exists()}
    num_images = {split: part.num_images[split] for split in _NUM_IMAGES[year] if split in part.num_images}
    identity = {**part.identity, **others}
    return SourceData(
        **vars(dataclasses.replace(part, label_names=classes.wordnet_ids, num_images=num_images, identity=identity)),
        name=f"imagenet{year}",
        version=version,
        description=f"ILSVRC-{year}: images of 1000 classes of ImageNet.",
        homepage=ilsvrc2012.HOMEPAGE,
        metadata={"wordnet_ids": list(classes.wordnet_ids), **class_names},
    )


def _require(source: Path, names: Sequence[str], title: str) -> None:
    """Raise UserError if a file is missing; `title` is how the website lists the files."""
    if missing := [name for name in names if not (source / name).is_file()]:
        names = " or ".join(missing)
        raise UserError(f"{source} does not contain {names}; register at {ilsvrc2012.HOMEPAGE} and download {title}.")


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
