"""Image folders: one folder per class, or `train/` and `val/` (or `validation/`, `test/`) with such folders."""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.image_files import images_below
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare.source import SourceData, SourceImage, check_class_names, check_no_class_is_empty

SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class _File(NamedTuple):
    name: str  # including the folder of its class
    label: int
    path: Path


def image_folder(source: Path, *, name: str, validation_fraction: float) -> SourceData:
    """Open a folder of images; without any but training images, part of each class is held out for validation.

    UserError if there are no images, a class is empty, or two classes have the same name.
    """
    classes, splits = _find_splits(source)
    if list(splits) == ["train"]:
        splits = _hold_out(splits["train"], validation_fraction)
    all_files = [(split, *file) for split, files in splits.items() for file in files]
    sizes = [path.stat().st_size for *_, path in all_files]
    fingerprint = hashlib.sha256(repr((classes, [file[:3] for file in all_files], sizes)).encode()).hexdigest()[:16]

    def images() -> Iterator[SourceImage]:
        for (split, file_name, label, path), position in zip(all_files, itertools.accumulate(sizes), strict=True):
            yield SourceImage(split, file_name, label, functools.partial(_load, path), position)

    return SourceData(
        name=name,
        version="1.0.0",
        description=f"The images of the folder {source.name}, {len(classes)} classes.",
        homepage="",
        label_names=tuple(classes),
        num_images={split: len(files) for split, files in splits.items()},
        num_bytes=sum(sizes),
        identity={f"{split} files": len(files) for split, files in splits.items()}
        | {"bytes": sum(sizes), "names, classes and sizes": fingerprint},
        images=images,
    )


def _find_splits(source: Path) -> tuple[list[str], dict[str, list[_File]]]:
    """Return the names of the classes and the files of each split, only "train" for a folder of class folders."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; give one that contains a folder of images for each class.")
    folders = {path.name: path for path in _subfolders(source)}
    if "train" not in folders:
        classes = _class_names(source)
        return classes, {"train": _files(source, classes)}
    if others := sorted(folders.keys() - SPLIT_FOLDERS):
        raise UserError(f"{source} contains train/ and {others[0]}/; only val/ and test/ may be beside train/.")
    if {"val", "validation"} <= folders.keys():
        raise UserError(f"{source} contains both val/ and validation/; keep one of them.")
    classes = _class_names(folders["train"])
    present = [name for name in SPLIT_FOLDERS if name in folders]
    return classes, {SPLIT_FOLDERS[name]: _files(folders[name], classes) for name in present}


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _class_names(path: Path) -> list[str]:
    names = [child.name for child in _subfolders(path)]
    if len(names) < 2:
        raise UserError(f"{path} contains {len(names)} folders; a data set needs at least 2, one for each class.")
    check_class_names(names, path)
    return names


def _files(path: Path, classes: list[str]) -> list[_File]:
    """Return all images in the class folders, sorted; UserError if a class is unknown or empty.

    A class may be missing from validation, but its folder may not be empty.
    """
    names = [child.name for child in _subfolders(path)]
    labels = {name: label for label, name in enumerate(classes)}
    if unknown := [name for name in names if name not in labels]:
        raise UserError(f"{path / unknown[0]} is not a class of train/ ({', '.join(classes[:20])}); remove it.")
    by_class = {name: images_below(path / name) for name in names}
    check_no_class_is_empty(names, {name: len(images) for name, images in by_class.items()}, path)
    return [
        _File(_stored_name(image.relative_to(path)), labels[name], image)
        for name, images in by_class.items()
        for image in images
    ]


def _stored_name(path: Path) -> str:
    """Return the path as text; UserError if its bytes are not UTF-8, as after unpacking some archives."""
    name = path.as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the source contains {name!r}, a file name that is not UTF-8; rename it.") from None
    return name


def _load(path: Path) -> bytes:
    with reading(str(path)):
        return path.read_bytes()


def _hold_out(files: list[_File], fraction: float) -> dict[str, list[_File]]:
    """Split each class: the files whose names have the smallest hashes, at least one, are for validation."""
    held_out: set[str] = set()
    for _, class_files in itertools.groupby(files, key=lambda file: file.label):
        ranked = sorted(class_files, key=lambda file: hashlib.sha256(file.name.encode()).digest())
        if len(ranked) < 2:
            raise UserError(f"{ranked[0].path.parent} contains one image; a class needs at least 2 to hold one out.")
        count = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
        held_out.update(file.name for file in ranked[:count])
    return {
        "train": [file for file in files if file.name not in held_out],
        "validation": [file for file in files if file.name in held_out],
    }
