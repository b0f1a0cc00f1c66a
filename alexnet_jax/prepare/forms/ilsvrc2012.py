"""Find ILSVRC-2012 in all forms that people keep it in, with the labels and names of the official archives."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.class_names import imagenet_classes
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.devkit import Classes
from alexnet_jax.prepare.folders import SPLIT_FOLDERS
from alexnet_jax.prepare.forms import arrays, files, named, official, parquet, tfds_sets, webdataset
from alexnet_jax.prepare.forms.shard_names import check_complete
from alexnet_jax.prepare.source import Part, SourceImage

HOMEPAGE = "https://image-net.org/"
SPLITS = ("train", "validation")  # that every form must have
NUM_IMAGES = {"train": 1_281_167, "validation": 50_000}  # as published
_KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # of the images, in what Kaggle's zip unpacks to
_HUGGING_FACE_TARS = re.compile(r"(train_images_\d+|val_images)\.tar\.gz")
_NUM_HUGGING_FACE_TARS = 5  # of training images
_MAX_RENAMED = 20  # classes whose name is also that of another one, such as crane


class Piece(NamedTuple):
    """Something in the source that has images of these splits. path: what the user would move away."""

    splits: tuple[str, ...]
    path: Path
    open: Callable[[], Part]


_RECORDS = (  # forms that carry their labels
    (parquet.find, parquet.open_parquet),
    (tfds_sets.find, tfds_sets.open_tfds),
    (webdataset.find, webdataset.open_webdataset),
    (arrays.find, arrays.open_arrays),
)


def find_pieces(source: Path, classes: Classes, labels: named.Labels) -> list[Piece]:
    """Return what the source has, in all forms; nothing is opened but the first bytes of files."""
    if source.is_file():
        return _find_in_file(source, classes, labels)
    if not source.is_dir():
        return []
    pieces = []
    for find, open_found in _RECORDS:
        if paths := find(source):
            pieces.append(Piece(SPLITS, paths[0], functools.partial(open_found, paths)))
    for folder in (source, source / "data"):
        if archives := sorted(path for path in _children(folder) if _HUGGING_FACE_TARS.fullmatch(path.name)):
            pieces.append(Piece(SPLITS, archives[0], functools.partial(_hugging_face_tars, archives, labels)))
    for path in _children(source):
        if path.suffix == ".zip" and "imagenet" in path.name.lower():  # to list a zip of this size takes long
            pieces.append(Piece(SPLITS, path, functools.partial(_zip, path, labels)))
    if (archive := source / official.TRAIN_2012).is_file():
        pieces.append(_train_archive(archive, classes))
    for folder in (source, source / "train"):
        if archives := sorted(path for path in _children(folder) if official.CLASS_TAR.fullmatch(path.name)):
            numbers = NUM_IMAGES["train"]
            opened = functools.partial(official.class_archives, archives, labels.wordnet_ids, labels.wanted, numbers)
            pieces.append(Piece(("train",), archives[0], opened))
    if (archive := source / official.VALIDATION_2012).is_file():
        pieces.append(_validation_archive(archive, classes))
    return sorted([*pieces, *_find_folders(source, labels)], key=lambda piece: "train" not in piece.splits)


def _find_in_file(source: Path, classes: Classes, labels: named.Labels) -> list[Piece]:
    for find, open_found in _RECORDS:
        if paths := find(source):
            return [Piece(SPLITS, source, functools.partial(open_found, paths))]
    kind = files.kind(source)
    if kind == "zip":
        return [Piece(SPLITS, source, functools.partial(_zip, source, labels))]
    if kind == "tar" and official.CLASS_TAR.fullmatch(_first_name(source)):
        validation = source.with_name(official.VALIDATION_2012)
        pieces = [_train_archive(source, classes)]
        return [*pieces, _validation_archive(validation, classes)] if validation.is_file() else pieces
    if kind:
        form = "a tar of ImageNet's files"
        return [Piece(SPLITS, source, lambda: named.named_images(form, [source], labels, NUM_IMAGES))]
    return []


def _first_name(archive: Path) -> str:
    return next((member.path.name for member in tars.walk(archive)), "")


def _train_archive(archive: Path, classes: Classes) -> Piece:
    numbers = NUM_IMAGES["train"]
    return Piece(("train",), archive, lambda: official.train_archive(archive, classes.wordnet_ids, numbers))


def _validation_archive(archive: Path, classes: Classes) -> Piece:
    numbers = NUM_IMAGES["validation"]
    opened = functools.partial(
        official.numbered_archive, archive, "validation", classes.wordnet_ids, classes.validation, numbers
    )
    return Piece(("validation",), archive, opened)


def _hugging_face_tars(archives: list[Path], labels: named.Labels) -> Part:
    check_complete([path for path in archives if path.name.startswith("train")], _NUM_HUGGING_FACE_TARS)
    train_first = sorted(archives, key=lambda path: (path.name.startswith("val"), path.name))
    return named.named_images("Hugging Face's tars", train_first, labels, NUM_IMAGES)


def _zip(path: Path, labels: named.Labels) -> Part:
    """Open Kaggle's zip, or another one of ImageNet's files."""
    if found := files.read_named(path, named.SOLUTION):
        solution = named.read_solution(found[1], f"{path}, {found[0]}", labels.known)
        labels = dataclasses.replace(labels, solution=solution)
    return named.named_images("a zip of ImageNet's files, as Kaggle's", [path], labels, {})


def _find_folders(source: Path, labels: named.Labels) -> list[Piece]:
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
    return [Piece(tuple(folders), next(iter(folders.values())), opened)]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _relative(path: Path, source: Path) -> str:
    return str(path.relative_to(source)) if path.is_relative_to(source) and path != source else path.name


def check_pieces(source: Path, found: Sequence[Piece]) -> None:
    """Raise UserError if the source has a split twice or not at all."""
    for split in SPLITS:
        if len(paths := [_relative(piece.path, source) for piece in found if split in piece.splits]) > 1:
            raise UserError(
                f"{source} has {split} images twice, in {paths[0]} and in {paths[1]}; move one of them elsewhere."
            )
    archives = {"train": official.TRAIN_2012, "validation": official.VALIDATION_2012}
    if lacking := [split for split in SPLITS if not any(split in piece.splits for piece in found)]:
        names = " or ".join(archives[split] for split in lacking)
        where = source if source.is_dir() or not source.exists() else f"the folder of {source}"
        others = "" if found else ", or give ImageNet in another form that docs/prepare.md lists"
        raise UserError(
            f"{where} does not contain {names}; register at {HOMEPAGE} and download Training images (task 1 & 2) and "
            f"Validation images (all tasks){others}. If this is another data set, such as Tiny ImageNet, "
            "prepare it with dataset=folder."
        )


# Labels and names as in the official archives


def with_wordnet_ids(part: Part, labels: named.Labels, path: Path) -> Part:
    """Return the images of the wanted classes, with labels and names as from the official archives.

    UserError if the part's classes are others.
    """
    ids = _ids_of_labels(part.label_names, labels.wordnet_ids, path)
    if (last := max(part.train_labels, default=0)) >= len(ids):
        raise UserError(f"{path} ({part.form}) has the label {last}; ImageNet's are 0 to {len(ids) - 1}.")
    new_labels = {wordnet_id: label for label, wordnet_id in enumerate(labels.wanted)}

    def images() -> Iterator[SourceImage]:
        for image in part.images():
            match = named.official_stem(image.name)
            wordnet_id = ids[image.label]
            if match and (match["id"] or match["train"]) not in (None, wordnet_id):
                raise UserError(
                    f"{path}: {image.name} has the label {image.label}, which is not that of its WordNet id; labels "
                    "must be in the order of the WordNet ids."
                )
            if wordnet_id in new_labels:
                name = f"{match['stem']}.JPEG" if match else image.name
                yield image._replace(label=new_labels[wordnet_id], name=name)

    num_images = part.num_images
    train_labels = {new_labels[ids[n]]: count for n, count in part.train_labels.items() if ids[n] in new_labels}
    if len(ids) > len(new_labels):
        share = len(new_labels) / len(ids)  # about; the classes of ImageNet have 732 to 1300 images
        num_images = {split: max(1, round(share * count)) for split, count in num_images.items()}
        if train_labels:
            num_images["train"] = sum(train_labels.values())
    return dataclasses.replace(
        part, label_names=labels.wanted, num_images=num_images, images=images, train_labels=train_labels
    )


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
