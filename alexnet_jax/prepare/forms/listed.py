"""Images in a folder, a zip or a tar whose classes are their folders' names, or are in a list.

Folders: `.../train/cat/1.jpg` or `.../cat/1.jpg`. A list has the path, the class and perhaps the split of each image.
Tiny ImageNet has both: folders for training images, `val/val_annotations.txt` for the others.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare.folders import SPLIT_FOLDERS
from alexnet_jax.prepare.forms import files
from alexnet_jax.prepare.search import Search
from alexnet_jax.prepare.source import Part, SourceImage, check_class_names, check_no_class_is_empty

ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet: name, WordNet id and box of each validation image
_HEADER = ["path", "label"]


class _Known(NamedTuple):
    """What is known of an image; class_name: None if it isn't to be taken."""

    split: str
    class_name: str | None


_Labeling = Callable[[PurePosixPath], _Known]


def find_annotations(source: Path) -> list[Path]:
    """Return the source if it is Tiny ImageNet: its folder, or a zip or tar of it."""
    if source.is_dir():
        return [source] if (source / "val" / ANNOTATIONS).is_file() else []
    if files.kind(source) not in ("zip", "tar"):  # to list a gzipped tar is to decompress it
        return []
    return [source] if any(file.path.name == ANNOTATIONS for file in files.members(source)) else []


def open_annotated(paths: list[Path]) -> Part:
    """Open Tiny ImageNet; UserError if an image has no class."""
    (source,) = paths
    if source.is_dir():
        with reading(str(source)):
            text = (source / "val" / ANNOTATIONS).read_bytes()
    else:
        _, text = files.read_named(source, ANNOTATIONS) or ("", b"")
    rows = (line.split("\t") for line in text.decode(errors="replace").splitlines())
    classes = {row[0]: row[1] for row in rows if len(row) > 1}

    def label(path: PurePosixPath) -> _Known:
        known = _by_folder(path)
        if known.split != "validation":
            return known if known.split == "train" else _Known(known.split, None)
        if path.name not in classes:
            raise UserError(f"{source}: {ANNOTATIONS} has no line for {path.name}; download it again.")
        return _Known("validation", classes[path.name])

    return _part("Tiny ImageNet", source, label, _search(source, label, f"images without a label in {ANNOTATIONS}"))


def open_archive(paths: list[Path]) -> Part:
    """Open a zip or tar of class folders; UserError if a class has no training images, or a split no classes."""
    (source,) = paths

    def label(path: PurePosixPath) -> _Known:
        known = _by_folder(path)
        if known.split != "train" and known.class_name is None:
            raise UserError(
                f"{source} contains {path}, which is in no folder of a class; sort the images of that folder into such "
                "folders, or name those to take, with their labels, in image_list=FILE."
            )
        return known

    listing = _search(source, label, "images outside class folders")
    return _part(f"a {files.kind(source)} of class folders", source, _by_folder, listing)


def open_list(source: Path, list_file: Path) -> Part:
    """Open the images in a folder, zip or tar that a list names; UserError if one of them is missing.

    Lines are `path,label` or `path,label,split`, with commas, tabs or spaces; paths begin below the source, with or
    without the folder that a whole archive is in.
    """
    rows = _read_list(list_file)
    found = set()

    def label(path: PurePosixPath) -> _Known:
        for key in (path.as_posix(), PurePosixPath(*path.parts[1:]).as_posix()):
            if key in rows:
                found.add(key)
                return rows[key]
        return _Known("train", None)

    listing = _search(source, label, f"images that {list_file.name} doesn't name")
    if missing := [path for path in rows if path not in found]:
        raise UserError(
            f"{source} lacks {len(missing):,} of the {len(rows):,} images in {list_file}, such as {missing[0]}; paths "
            "in the list must begin below the source."
        )
    part = _part(f"the images that {list_file.name} names", source, label, listing)
    identity = {**part.identity, list_file.name: list_file.stat().st_size}
    return dataclasses.replace(part, identity=identity)


def _read_list(path: Path) -> dict[str, _Known]:
    """Return what a list says of each path; UserError if a line is not one of a list."""
    rows: dict[str, _Known] = {}
    with reading(str(path)):
        lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        row = [entry.strip() for entry in line.split("\t" if "\t" in line else "," if "," in line else None)]
        if not row or (number == 1 and row[:2] == _HEADER):
            continue
        split = SPLIT_FOLDERS.get(row[2].lower()) if len(row) == 3 else "train"
        if len(row) not in (2, 3) or not split:
            raise UserError(
                f"{path}, line {number}: {line[:60]!r} is not `path,label` or `path,label,split`; a split is one of "
                f"{', '.join(SPLIT_FOLDERS)}."
            )
        if row[0] in rows:
            raise UserError(f"{path}, line {number}: {row[0]} is in the list twice.")
        rows[row[0]] = _Known(split, row[1])
    return rows


def _by_folder(path: PurePosixPath) -> _Known:
    """Take the nearest folder as the class, but `images` of Tiny ImageNet, and the split from a folder above it."""
    folders = [part for part in path.parts[:-1] if part != "images"]
    split = next((SPLIT_FOLDERS[part.lower()] for part in folders[:-1] if part.lower() in SPLIT_FOLDERS), None)
    if split is None and folders and folders[-1].lower() in SPLIT_FOLDERS:
        return _Known(SPLIT_FOLDERS[folders[-1].lower()], None)
    return _Known(split or "train", folders[-1] if folders else None)


class _Listing(NamedTuple):
    """What a search has found. counts: images by split and class. num_bytes: of all images, also those left out."""

    counts: Counter[tuple[str, str]]
    left_out: Mapping[str, int]
    num_bytes: int
    fingerprint: str


def _search(source: Path, label: _Labeling, why_left_out: str) -> _Listing:
    """List all images without reading them."""
    counts, num_bytes, fingerprint = Counter[tuple[str, str]](), 0, files.Fingerprint()
    with Search() as search:
        for file in files.walk(source, search.leave_out):
            split, class_name = label(file.path)
            fingerprint.add(file.path, file.size)
            num_bytes += file.size
            if class_name is None:
                search.leave_out(why_left_out, file.path.as_posix())
            else:
                search.found()
                counts[split, class_name] += 1
    return _Listing(counts, search.left_out(), num_bytes, str(fingerprint))


def _part(form: str, source: Path, label: _Labeling, listing: _Listing) -> Part:
    """Return the images that have a class; UserError if one has no training images."""
    in_training = {name: count for (split, name), count in listing.counts.items() if split == "train"}
    names = tuple(sorted(in_training))
    check_class_names(names, source)
    if len(names) < 2:
        raise UserError(f"{source} ({form}) has training images of {len(names)} classes; a data set needs at least 2.")
    check_no_class_is_empty(
        sorted({name for _, name in listing.counts}), in_training, f"the training split of {source}"
    )
    labels = {name: number for number, name in enumerate(names)}
    totals = Counter[str]()
    for (split, _), count in listing.counts.items():
        totals[split] += count
    num_images = {split: totals[split] for split in ("train", "validation", "test") if totals[split]}
    images = functools.partial(_images, source, label, labels, list(num_images), listing.num_bytes)
    classes = hashlib.sha256(repr(sorted(listing.counts.items())).encode()).hexdigest()[:16]
    identity: dict[str, int | str] = {"names and sizes": listing.fingerprint, "splits and classes": classes}
    if source.is_file():
        identity[source.name] = source.stat().st_size
    return Part(
        form=form,
        label_names=names,
        num_images=num_images,
        num_bytes=len(num_images) * listing.num_bytes,
        identity=identity,
        images=images,
        left_out=listing.left_out,
        train_labels={labels[name]: count for name, count in in_training.items()},
        folder=source if source.is_dir() else None,
        any_order=source.is_dir(),
    )


def _images(
    source: Path, label: _Labeling, labels: Mapping[str, int], splits: list[str], num_bytes: int
) -> Iterator[SourceImage]:
    """Yield the images of each split in a pass of its own: in archives the splits may alternate."""
    for number, split in enumerate(splits):
        position = number * num_bytes
        for file in files.walk(source):
            position += file.size
            known = label(file.path)
            if known.split == split and known.class_name is not None:
                yield SourceImage(split, file.path.as_posix(), labels[known.class_name], file.load, position, file.size)
