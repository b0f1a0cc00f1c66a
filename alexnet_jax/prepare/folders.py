"""Image folders: one folder per class, or `train/` and `val/` (or `validation/`, `test/`) with such folders."""

import functools
import hashlib
import heapq
import re
import stat
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.image_files import images_below, list_folder
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare.search import Search
from alexnet_jax.prepare.source import (
    SourceData,
    SourceImage,
    check_can_hold_out,
    check_class_names,
    check_no_class_is_empty,
)

SPLIT_FOLDERS = {  # names of folders, in lower case, and the splits they hold
    **{"train": "train", "training": "train"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
    **{"test": "test", "testing": "test"},
}
_LIKE_A_SPLIT = re.compile(r"(?:.*[\W_])?(train|val|test)(?:ing|id|idation)?(?:[\W_\d].*)?", re.IGNORECASE)


class _ClassFiles(NamedTuple):
    """The images of a class in one split: their names within its folder, and sizes in bytes. About 90 bytes each."""

    folder: Path
    label: int
    names: Sequence[str]
    sizes: array

    def only(self, indices: Sequence[int]) -> "_ClassFiles":
        """Return some of the images."""
        sizes = array("q", (self.sizes[index] for index in indices))
        return self._replace(names=[self.names[index] for index in indices], sizes=sizes)


def image_folder(source: Path, *, name: str, validation_fraction: float) -> SourceData:
    """Open a folder of images; without any but training images, part of each class is held out for validation.

    UserError if a class or a split has no images, or two classes have the same name.
    """
    with Search() as search:
        classes, splits = _find_splits(source, search)
    if list(splits) == ["train"] and validation_fraction > 0:
        splits = _hold_out(splits["train"], validation_fraction)
    num_images = {split: sum(len(part.names) for part in parts) for split, parts in splits.items()}
    num_bytes = sum(sum(part.sizes) for parts in splits.values() for part in parts)
    return SourceData(
        name=name,
        description=f"The images of the folder {source.name}, {len(classes)} classes.",
        form="folders of classes",
        label_names=tuple(classes),
        num_images=num_images,
        num_bytes=num_bytes,
        identity={f"{split} files": count for split, count in num_images.items()}
        | {"bytes": num_bytes, "names, classes and sizes": _fingerprint(classes, splits)},
        images=functools.partial(_images, splits),
        left_out=search.left_out(),
        folder=source,
        any_order=True,
    )


def _images(splits: dict[str, list[_ClassFiles]]) -> Iterator[SourceImage]:
    position = 0
    for split, parts in splits.items():
        for folder, label, names, sizes in parts:
            for name, size in zip(names, sizes, strict=True):
                position += size
                load = functools.partial(_load, folder, name)
                yield SourceImage(split, f"{folder.name}/{name}", label, load, position, size)


def _fingerprint(classes: list[str], splits: dict[str, list[_ClassFiles]]) -> str:
    """Return a hash of the text of `(classes, [(split, name, label), ...], [size, ...])`, which is never made whole."""
    digest = hashlib.sha256(f"({classes!r}, [".encode())
    for number, image in enumerate(_images(splits)):
        digest.update(f"{', ' if number else ''}{(image.split, image.name, image.label)!r}".encode())
    digest.update(b"], [")
    for number, image in enumerate(_images(splits)):
        digest.update(f"{', ' if number else ''}{image.size}".encode())
    digest.update(b"])")
    return digest.hexdigest()[:16]


def _find_splits(source: Path, search: Search) -> tuple[list[str], dict[str, list[_ClassFiles]]]:
    """Return the names of the classes and the files of each split, only "train" for a folder of class folders."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; give one that contains a folder of images for each class.")
    names = _subfolders(source, search)
    folders = _split_folders(source, names)
    if not folders:
        _check_classes(source, names)
        return names, {"train": _files(source, names, names, search)}
    in_folders = {split: _subfolders(source / folder, search) for split, folder in folders.items()}
    classes = in_folders["train"]
    _check_classes(source / folders["train"], classes)
    for split, names in in_folders.items():
        path = source / folders[split]
        if not names:
            raise UserError(
                f"{path} contains no folders of classes; sort its images into such folders, name all images with their "
                "labels in image_list=FILE, or remove it. dataset=imagenet2012 knows the labels of ImageNet's."
            )
        if unknown := [name for name in names if name not in classes]:
            known = f"{folders['train']}/ ({', '.join(classes[:20])})"
            raise UserError(f"{path / unknown[0]} is not a class of {known}; sort its images into those, or remove it.")
    splits = {split: _files(source / folders[split], names, classes, search) for split, names in in_folders.items()}
    return classes, splits


def _split_folders(source: Path, names: list[str]) -> dict[str, str]:
    """Return the name of the folder of each split, training first; {} if the folders are classes."""
    folders: dict[str, str] = {}
    for name in names:
        split = SPLIT_FOLDERS.get(name.casefold())
        if split in folders:
            raise UserError(f"{source} contains both {folders[split]}/ and {name}/; keep one of them.")
        if split:
            folders[split] = name
    if "train" in folders:
        if others := [name for name in names if name not in folders.values()]:
            problem = f"{folders['train']}/ and {others[0]}/; only val/ and test/ may be beside train/"
            raise UserError(f"{source} contains {problem}.")
        return {split: folders[split] for split in ("train", "validation", "test") if split in folders}
    alike = {match[1].lower(): name for name in names if (match := _LIKE_A_SPLIT.fullmatch(name))}
    if "train" in alike and len(alike) > 1 and _contains_folders(source / alike["train"]):
        shown, known = (" and ".join(f"{name}/" for name in side) for side in (alike.values(), alike))
        raise UserError(
            f"{source} contains {shown}, which look like splits, not classes; rename them to {known}, or give a folder "
            "with links of these names to them."
        )
    if folders and len(folders) == len(names):
        raise UserError(f"{source} contains {' and '.join(f'{name}/' for name in names)} but no train/; add it.")
    return {}


def _subfolders(path: Path, search: Search) -> list[str]:
    """Return the names of the folders in a folder of class folders."""
    names = []
    with reading(str(path)):
        for name, place, status in list_folder(path, search.leave_out):
            if stat.S_ISDIR(status.st_mode):
                names.append(name)
            else:
                search.leave_out("files outside class folders", place)
    return names


def _contains_folders(path: Path) -> bool:
    with reading(str(path)):
        return any(child.is_dir() for child in path.iterdir())


def _check_classes(path: Path, names: list[str]) -> None:
    """Raise UserError if the folders in a folder can't be classes."""
    if len(names) < 2:
        hint = f" If the classes are in {path / names[0]}, give that folder." if names else ""
        raise UserError(f"{path} contains {len(names)} folders; a data set needs at least 2, one for each class.{hint}")
    check_class_names(names, path)


def _files(path: Path, names: list[str], classes: list[str], search: Search) -> list[_ClassFiles]:
    """Return the images in the class folders `names` of a split; UserError if one is empty.

    A class may be missing from validation, but its folder may not be empty.
    """
    labels = {name: label for label, name in enumerate(classes)}
    parts = [_class_files(path / name, labels[name], search) for name in names]
    check_no_class_is_empty(names, {part.folder.name: len(part.names) for part in parts}, path)
    return parts


def _class_files(folder: Path, label: int, search: Search) -> _ClassFiles:
    """Return the images below the folder of a class."""
    names, sizes = [], array("q")
    with reading(str(folder)):
        for file in images_below(folder, search.leave_out):
            _check_encoding(folder.name, file.name)
            names.append(file.name)
            sizes.append(file.size)
            search.found()
    return _ClassFiles(folder, label, names, sizes)


def _check_encoding(class_name: str, name: str) -> None:
    """Raise UserError if the bytes of a name are not UTF-8, as after unpacking some archives."""
    try:
        f"{class_name}{name}".encode()
    except UnicodeEncodeError:
        path = f"{class_name}/{name}"
        raise UserError(f"the source contains {path!r}, a file name that is not UTF-8; rename it.") from None


def _load(folder: Path, name: str) -> bytes:
    path = folder / name
    with reading(str(path)):
        return path.read_bytes()


def _hold_out(parts: list[_ClassFiles], fraction: float) -> dict[str, list[_ClassFiles]]:
    """Split each class: the files whose names have the smallest hashes, at least one, are for validation."""
    splits: dict[str, list[_ClassFiles]] = {"train": [], "validation": []}
    for part in parts:
        indices = range(len(part.names))
        check_can_hold_out(len(indices), part.folder)

        def rank(index: int, part: _ClassFiles = part) -> bytes:
            return hashlib.sha256(f"{part.folder.name}/{part.names[index]}".encode()).digest()

        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held_out = set(heapq.nsmallest(count, indices, key=rank))
        splits["train"].append(part.only([index for index in indices if index not in held_out]))
        splits["validation"].append(part.only([index for index in indices if index in held_out]))
    return splits
