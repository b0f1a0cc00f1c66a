"""ImageNet (ILSVRC-2012 in any form that people keep it in, ILSVRC-2010 from its archives), read without unpacking."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.class_names import imagenet_classes
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare import devkit, tars
from alexnet_jax.prepare.devkit import Classes
from alexnet_jax.prepare.folders import SPLIT_FOLDERS
from alexnet_jax.prepare.forms import files, named, official, parquet, tfds_sets, webdataset
from alexnet_jax.prepare.forms.shard_names import check_complete
from alexnet_jax.prepare.source import Part, SourceData, SourceImage, check_no_class_is_empty, join

HOMEPAGE = "https://image-net.org/"
_KIT_2012 = "ILSVRC2012_devkit_t12.tar.gz"
_KIT_2010 = "ILSVRC2010_devkit-1.0.tar.gz"
_TRAIN_2010, _VALIDATION_2010 = "ILSVRC2010_images_train.tar", "ILSVRC2010_images_val.tar"
_TEST_2010, _TEST_TRUTH_2010 = "ILSVRC2010_images_test.tar", "ILSVRC2010_test_ground_truth.txt"
_PATCHES_2010 = "patch_images.tar"  # replaces images that say "not available", in train/, val/ and test/
_KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # of the images, in what Kaggle's zip unpacks to
_HUGGING_FACE_TARS = re.compile(r"(train_images_\d+|val_images)\.tar\.gz")
_SPLITS = ("train", "validation")  # that every form must have
_NUM_HUGGING_FACE_TARS = 5  # of training images
_NUM_IMAGES = {  # as published
    2012: {"train": 1_281_167, "validation": 50_000},
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
        found = _find(source, classes, labels)
    _check_found(source, found)
    part = join([_with_wordnet_ids(piece.open(), labels, piece.path) for piece in found])
    if lacking := [split for split in _SPLITS if not part.num_images.get(split)]:
        raise UserError(f"{source} ({part.form}) has no {lacking[0]} images of the {len(wanted)} classes; add some.")
    if part.train_labels:
        counts = {wordnet_id: part.train_labels.get(label, 0) for label, wordnet_id in enumerate(wanted)}
        remedy = "add images, or give a file with the WordNet ids of the classes that you have as classes"
        check_no_class_is_empty(wanted, counts, f"{source} ({part.form})", remedy)
    data = _source_data(2012, "5.1.0", classes, part, [kit])
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
    return SourceData(
        name=f"imagenet{year}",
        version=version,
        description=f"ILSVRC-{year}: images of 1000 classes of ImageNet.",
        homepage=HOMEPAGE,
        label_names=classes.wordnet_ids,
        num_images={split: part.num_images[split] for split in _NUM_IMAGES[year] if split in part.num_images},
        num_bytes=part.num_bytes,
        identity={**part.identity, **others},
        images=part.images,
        left_out=part.left_out,
        metadata={"wordnet_ids": list(classes.wordnet_ids), **class_names},
        form=part.form,
    )


def _require(source: Path, names: Sequence[str], title: str) -> None:
    """Raise UserError if a file is missing; `title` is how the website lists the files."""
    if missing := [name for name in names if not (source / name).is_file()]:
        names = " or ".join(missing)
        raise UserError(f"{source} does not contain {names}; register at {HOMEPAGE} and download {title}.")


# The forms of ILSVRC-2012


class _Piece(NamedTuple):
    """Something in the source that has images of these splits. path: what the user would move away."""

    splits: tuple[str, ...]
    path: Path
    open: Callable[[], Part]


_RECORDS = (  # forms that carry their labels
    (parquet.find, parquet.open_parquet),
    (tfds_sets.find, tfds_sets.open_tfds),
    (webdataset.find, webdataset.open_webdataset),
)


def _find(source: Path, classes: Classes, labels: named.Labels) -> list[_Piece]:
    """Return what the source has, in all forms; nothing is opened but the first bytes of files."""
    if source.is_file():
        return _find_in_file(source, classes, labels)
    if not source.is_dir():
        return []
    pieces = []
    for find, open_found in _RECORDS:
        if paths := find(source):
            pieces.append(_Piece(_SPLITS, paths[0], functools.partial(open_found, paths)))
    for folder in (source, source / "data"):
        if archives := sorted(path for path in _children(folder) if _HUGGING_FACE_TARS.fullmatch(path.name)):
            pieces.append(_Piece(_SPLITS, archives[0], functools.partial(_hugging_face_tars, archives, labels)))
    for path in _children(source):
        if path.suffix == ".zip" and "imagenet" in path.name.lower():  # to list a zip of this size takes long
            pieces.append(_Piece(_SPLITS, path, functools.partial(_zip, path, labels)))
    if (archive := source / official.TRAIN_2012).is_file():
        pieces.append(_train_archive(archive, classes))
    for folder in (source, source / "train"):
        if archives := sorted(path for path in _children(folder) if official.CLASS_TAR.fullmatch(path.name)):
            numbers = _NUM_IMAGES[2012]["train"]
            opened = functools.partial(official.class_archives, archives, labels.wordnet_ids, labels.wanted, numbers)
            pieces.append(_Piece(("train",), archives[0], opened))
    if (archive := source / official.VALIDATION_2012).is_file():
        pieces.append(_validation_archive(archive, classes))
    return sorted([*pieces, *_find_folders(source, labels)], key=lambda piece: "train" not in piece.splits)


def _find_in_file(source: Path, classes: Classes, labels: named.Labels) -> list[_Piece]:
    for find, open_found in _RECORDS:
        if paths := find(source):
            return [_Piece(_SPLITS, source, functools.partial(open_found, paths))]
    kind = files.kind(source)
    if kind == "zip":
        return [_Piece(_SPLITS, source, functools.partial(_zip, source, labels))]
    if kind == "tar" and official.CLASS_TAR.fullmatch(next(tars.walk(source)).path.name):
        validation = source.with_name(official.VALIDATION_2012)
        pieces = [_train_archive(source, classes)]
        return [*pieces, _validation_archive(validation, classes)] if validation.is_file() else pieces
    if kind:
        form = "a tar of ImageNet's files"
        return [_Piece(_SPLITS, source, lambda: named.named_images(form, [source], labels, _NUM_IMAGES[2012]))]
    return []


def _train_archive(archive: Path, classes: Classes) -> _Piece:
    numbers = _NUM_IMAGES[2012]["train"]
    return _Piece(("train",), archive, lambda: official.train_archive(archive, classes.wordnet_ids, numbers))


def _validation_archive(archive: Path, classes: Classes) -> _Piece:
    numbers = _NUM_IMAGES[2012]["validation"]
    opened = functools.partial(
        official.numbered_archive, archive, "validation", classes.wordnet_ids, classes.validation, numbers
    )
    return _Piece(("validation",), archive, opened)


def _hugging_face_tars(archives: list[Path], labels: named.Labels) -> Part:
    check_complete([path for path in archives if path.name.startswith("train")], _NUM_HUGGING_FACE_TARS)
    train_first = sorted(archives, key=lambda path: (path.name.startswith("val"), path.name))
    return named.named_images("Hugging Face's tars", train_first, labels, _NUM_IMAGES[2012])


def _zip(path: Path, labels: named.Labels) -> Part:
    """Open Kaggle's zip, or another one of ImageNet's files."""
    if found := files.read_named(path, named.SOLUTION):
        solution = named.read_solution(found[1], f"{path}, {found[0]}", labels.known)
        labels = dataclasses.replace(labels, solution=solution)
    return named.named_images("a zip of ImageNet's files, as Kaggle's", [path], labels, {})


def _find_folders(source: Path, labels: named.Labels) -> list[_Piece]:
    """Return the folders of classes, as for PyTorch or from Kaggle, and folders of numbered validation images."""
    root = next((source / name for name in _KAGGLE_FOLDERS if (source / name).is_dir()), source)
    folders = {}
    for path in _children(root):
        split = SPLIT_FOLDERS.get(path.name.lower())
        if split and path.is_dir() and any(map(named.is_named, path.iterdir())):
            folders[split] = path
    if any(named.WORDNET_ID.fullmatch(path.name) and path.is_dir() for path in _children(root)):
        folders.setdefault("train", root)
    if not folders:
        return []
    above = root.resolve().parents[:3] if root.resolve().name == "CLS-LOC" else ()
    solution = next(filter(Path.is_file, (folder / named.SOLUTION for folder in (root, *above))), None)
    if solution:
        with reading(str(solution)):
            rows = named.read_solution(solution.read_bytes(), str(solution), labels.known)
        labels = dataclasses.replace(labels, solution=rows)
    form = "ImageNet's images in folders, as for PyTorch" if root == source and not solution else "Kaggle's folder"
    opened = functools.partial(named.named_images, form, [root], labels, {})
    return [_Piece(tuple(folders), next(iter(folders.values())), opened)]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _relative(path: Path, source: Path) -> str:
    return str(path.relative_to(source)) if path.is_relative_to(source) and path != source else path.name


def _check_found(source: Path, found: Sequence[_Piece]) -> None:
    """Raise UserError if the source has a split twice or not at all."""
    for split in _SPLITS:
        if len(paths := [_relative(piece.path, source) for piece in found if split in piece.splits]) > 1:
            raise UserError(
                f"{source} has {split} images twice, in {paths[0]} and in {paths[1]}; move one of them elsewhere."
            )
    archives = {"train": official.TRAIN_2012, "validation": official.VALIDATION_2012}
    if lacking := [split for split in _SPLITS if not any(split in piece.splits for piece in found)]:
        names = " or ".join(archives[split] for split in lacking)
        where = source if source.is_dir() or not source.exists() else f"the folder of {source}"
        others = "" if found else ", or give ImageNet in another form that docs/prepare.md lists"
        raise UserError(
            f"{where} does not contain {names}; register at {HOMEPAGE} and download Training images (task 1 & 2) and "
            f"Validation images (all tasks){others}."
        )


# Labels and names as in the official archives

_MAX_RENAMED = 20  # classes whose name is also that of another one, such as crane


def _with_wordnet_ids(part: Part, labels: named.Labels, path: Path) -> Part:
    """Return the images of the wanted classes, with labels and names as from the official archives.

    UserError if the part's classes are others.
    """
    ids = _ids_of_labels(part.label_names, labels.wordnet_ids, path)
    new_labels = {wordnet_id: label for label, wordnet_id in enumerate(labels.wanted)}

    def images() -> Iterator[SourceImage]:
        for image in part.images():
            match = named.official_stem(image.name)
            wordnet_id = ids[image.label] if image.label < len(ids) else None
            known = match and (match["id"] or match["train"])
            if wordnet_id is None or (known and wordnet_id != known):
                raise UserError(
                    f"{path}: {image.name} has the label {image.label}, which is not that of its WordNet id; labels "
                    "must be in the order of the WordNet ids."
                )
            if wordnet_id in new_labels:
                name = f"{match['stem']}.JPEG" if match else image.name
                yield image._replace(label=new_labels[wordnet_id], name=name)

    train_labels = {new_labels[ids[n]]: count for n, count in part.train_labels.items() if ids[n] in new_labels}
    return dataclasses.replace(part, label_names=labels.wanted, images=images, train_labels=train_labels)


def _ids_of_labels(names: Sequence[str], wordnet_ids: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Return the WordNet id of each of a form's labels; UserError if they are other classes or in another order.

    The form's names are WordNet ids, or English as on Hugging Face, or missing.
    """
    if not names:
        return wordnet_ids
    if all(named.WORDNET_ID.fullmatch(name) for name in names):
        if unknown := [name for name in names if name not in wordnet_ids]:
            raise UserError(f"{path} has the class {unknown[0]}, which is not one of the {len(wordnet_ids)}.")
        return tuple(names)
    ours = [name.lower() for name in imagenet_classes().values()]
    theirs = [name.split(",")[0].strip().lower() for name in names]
    moved = [name for name, own in zip(theirs, ours, strict=False) if name != own and name in ours]
    if len(theirs) != len(ours) or len(moved) > _MAX_RENAMED:
        raise UserError(
            f"{path} has {len(names)} classes ({', '.join(theirs[:3])}, ...), which are not those of ImageNet in the "
            "order of the WordNet ids; prepare it with dataset=folder."
        )
    return wordnet_ids


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
