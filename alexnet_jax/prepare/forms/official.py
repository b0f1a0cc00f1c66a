"""The archives of ILSVRC-2012 and ILSVRC-2010 as image-net.org publishes them.

The training archive is a tar of 1000 tars, one per class, named by WordNet id; many unpack it once, to those 1000. The
others are plain tars of numbered images.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.source import Part, SourceImage, check_no_class_is_empty

TRAIN_2012, VALIDATION_2012 = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_NUMBERED = re.compile(r"ILSVRC20\d\d_(?:val|test)_(\d{8})\.JPEG", re.IGNORECASE)
_OFFICIAL_BYTES = {TRAIN_2012: 147_897_477_120, VALIDATION_2012: 6_744_924_160}


def train_archive(archive: Path, wordnet_ids: Sequence[str], num_images: int) -> Part:
    """Open the training archive; UserError if it is damaged or lacks a class. `num_images` is the published number."""
    found = _check_members(archive, lambda member: _class_of(member, archive, wordnet_ids))
    check_no_class_is_empty(wordnet_ids, dict.fromkeys(found, 1), archive)

    def images() -> Iterator[SourceImage]:
        for class_tar in tars.walk(archive):
            wordnet_id = _class_of(class_tar, archive, wordnet_ids)
            where = f"{archive}, {class_tar.path}"
            members = tars.walk_inner(class_tar, where)
            yield from _class_images(members, where, wordnet_ids.index(wordnet_id), class_tar.position)

    form = "the official training archive"
    return Part(form, tuple(wordnet_ids), {"train": num_images}, archive.stat().st_size, _identity(archive), images)


def class_archives(
    archives: Sequence[Path], wordnet_ids: Sequence[str], wanted: Sequence[str], num_images: int
) -> Part:
    """Open the tars of the `wanted` classes; UserError if one is unknown or truncated."""
    for archive in archives:
        if archive.stem not in wordnet_ids:
            raise UserError(f"{archive} is not one of the {len(wordnet_ids)} classes; check that it belongs here.")
        tars.check_end(archive)
    archives = [archive for archive in archives if archive.stem in wanted]

    def images() -> Iterator[SourceImage]:
        start = 0
        for archive in archives:
            yield from _class_images(tars.walk(archive), archive, wanted.index(archive.stem), start)
            start += archive.stat().st_size

    form = "the tars of the classes"
    num_images = num_images * len(archives) // len(wordnet_ids)
    sizes = {archive.name: archive.stat().st_size for archive in archives}
    labels = {wanted.index(archive.stem): 1 for archive in archives}  # each has images, or reading it is an error
    return Part(form, tuple(wanted), {"train": num_images}, sum(sizes.values()), sizes, images, {}, labels)


def numbered_archive(
    archive: Path, split: str, wordnet_ids: Sequence[str], labels: Sequence[int], num_images: int
) -> Part:
    """Open an archive of numbered images with their labels, by number; UserError if it is damaged or another one."""
    _check_members(archive, functools.partial(_number_of, archive=archive, labels=labels))

    def images() -> Iterator[SourceImage]:
        for member in tars.walk(archive):
            label = labels[_number_of(member, archive, labels) - 1]
            yield SourceImage(
                split,
                member.path.name,
                label,
                functools.partial(tars.read, member, archive),
                member.position,
                member.size,
            )

    form = f"the official {split} archive"
    return Part(form, tuple(wordnet_ids), {split: num_images}, archive.stat().st_size, _identity(archive), images)


def _identity(archive: Path) -> dict[str, int]:
    return {archive.name: archive.stat().st_size}


def _class_images(members: Iterator[tars.TarFile], where: object, label: int, start: int) -> Iterator[SourceImage]:
    """Yield the images of a class whose tar begins at byte `start` of the part; UserError if there are none."""
    is_empty = True
    for member in members:
        if member.path.suffix.lower() in tars.JPEG_SUFFIXES:
            is_empty = False
            load = functools.partial(tars.read, member, where)
            yield SourceImage("train", member.path.name, label, load, start + member.position, member.size)
    if is_empty:
        raise UserError(f"{where} contains no images, and every class needs one; download it again.")


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
    if not (match := CLASS_TAR.fullmatch(member.path.name)):
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
