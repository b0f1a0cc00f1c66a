"""Image folders: a folder for each class; or `train/` and `val/` (or `validation/`, `test/`) with such folders."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.data.image_codec import EXTENSIONS
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.source import SourceData, SourceImage, check_class_names, check_no_class_is_empty

SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}

_Files = list[tuple[str, int, Path]]  # name, label, path


def folder(source: Path, *, name: str, validation_fraction: float) -> SourceData:
    """The images of a folder; where it has none but to train on, a part of each class is held out for validation.

    UserError if there is no image, a class is empty, or two classes have one name.
    """
    if not source.is_dir():
        raise UserError(f"--source={source} is no folder; give one that holds a folder of images for each class.")
    split_folders = {path.name: path for path in _subfolders(source) if path.name in SPLIT_FOLDERS}
    if "train" in split_folders:
        if others := [path.name for path in _subfolders(source) if path.name not in SPLIT_FOLDERS]:
            raise UserError(f"{source} holds train/ and also {others[0]}/; beside train/ only val/ and test/ may lie.")
        classes = _class_names(split_folders["train"])
        splits: dict[str, _Files] = {}
        for folder_name, split in SPLIT_FOLDERS.items():
            if folder_name not in split_folders:
                continue
            if split in splits:
                raise UserError(f"{source} holds both val/ and validation/; keep one of them.")
            splits[split] = _files(split_folders[folder_name], classes)
    else:
        classes = _class_names(source)
        splits = {"train": _files(source, classes)}
    if list(splits) == ["train"]:
        splits = _hold_out(splits["train"], validation_fraction)
    sizes = [path.stat().st_size for files in splits.values() for _, _, path in files]
    everything = [(split, *file[:2]) for split, files in splits.items() for file in files]
    fingerprint = hashlib.sha256(repr((classes, everything, sizes)).encode()).hexdigest()[:16]

    def images() -> Iterator[SourceImage]:
        position = 0
        remaining = iter(sizes)
        for split, files in splits.items():
            for file_name, label, path in files:
                position += next(remaining)
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


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _class_names(path: Path) -> list[str]:
    names = [child.name for child in _subfolders(path)]
    if len(names) < 2:
        raise UserError(f"{path} holds {len(names)} folders; a data set needs at least 2, one for each class.")
    check_class_names(names, path)
    return names


def _files(path: Path, classes: list[str]) -> _Files:
    """All images below the class folders, in the order of their names; UserError if a class is unknown or empty."""
    for child in _subfolders(path):
        if child.name not in classes:
            raise UserError(f"{child} is a class that train/ doesn't have; its classes are {', '.join(classes[:20])}.")
    found: _Files = []
    counts: dict[str, int] = {}
    for label, name in enumerate(classes):
        if not (path / name).is_dir():
            continue  # a class may be missing from validation, not be empty
        paths = sorted(file for file in (path / name).rglob("*") if _is_image(file))
        counts[name] = len(paths)
        found += [(_in_utf8(file.relative_to(path)), label, file) for file in paths]
    check_no_class_is_empty(list(counts), counts, path)
    return found


def _in_utf8(path: Path) -> str:
    """The path as it is stored with the image; UserError if its bytes are none of UTF-8, as some archives make them."""
    name = path.as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"--source holds {name!r}, a file name that is not UTF-8; rename it.") from None
    return name


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); make it readable, or remove it.") from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith("._") and path.is_file()


def _hold_out(files: _Files, fraction: float) -> dict[str, _Files]:
    """Divides each class: the files whose names have the smallest hashes are for validation, at least one of them."""
    by_label: dict[int, _Files] = {}
    for file in files:
        by_label.setdefault(file[1], []).append(file)
    held_out: set[str] = set()
    for of_class in by_label.values():
        ranked = sorted(of_class, key=lambda file: hashlib.sha256(file[0].encode()).digest())
        if len(ranked) < 2:
            raise UserError(
                f"{ranked[0][2].parent} holds one image; a class needs at least 2, one to train on and one to validate."
            )
        count = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
        held_out.update(file[0] for file in ranked[:count])
    return {
        "train": [file for file in files if file[0] not in held_out],
        "validation": [file for file in files if file[0] in held_out],
    }
