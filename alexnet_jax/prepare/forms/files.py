"""The images in a folder, a zip or a tar, one after the other and never unpacked."""

import functools
import hashlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.data.image_codec import MAGIC_BYTES, is_image
from alexnet_jax.data.image_files import (
    ENDINGS,
    HIDDEN,
    MAX_BYTES,
    NOT_IMAGES,
    TOO_LARGE,
    LeaveOut,
    images_below,
    is_hidden,
)
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare import tars

_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
_TEXTS = (".csv", ".json", ".mat", ".txt", ".xml")  # never opened: Kaggle's zip has half a million annotations


class File(NamedTuple):
    """A file in a container, at byte `position` of it. path: inside the container. load: as in `SourceImage`.

    head: returns its first bytes, enough to tell whether it is an image.
    """

    path: PurePosixPath
    size: int
    load: Callable[[], bytes]
    head: Callable[[], bytes]
    position: int


def kind(path: Path) -> str:
    """Return "folder", "zip", "tar" or "tar.gz", as the content says; "" for anything else."""
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return ""
    with reading(str(path)), path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "tar.gz"
    return "tar" if head[257:262] == b"ustar" else ""


def walk(container: Path, leave_out: LeaveOut = tars.forget) -> Iterator[File]:
    """Yield the images in a folder (by name, links followed), a zip or a tar, and report the rest to `leave_out`.

    Images are known as in `image_files.images_below`. UserError if the container can't be read.
    """
    if container.is_dir():
        return _walk_folder(container, leave_out)
    return (file for file in members(container, leave_out) if _is_image(file, leave_out))


def members(archive: Path, leave_out: LeaveOut = tars.forget) -> Iterator[File]:
    """Yield all files of a zip or a tar, and report links; UserError if it can't be read."""
    return _walk_zip(archive, leave_out) if kind(archive) == "zip" else _walk_tar(archive, leave_out)


def read_named(archive: Path, name: str) -> tuple[PurePosixPath, bytes] | None:
    """Return path and content of the first file of this name in a zip or a tar; None if there is none."""
    return next(((file.path, file.load()) for file in members(archive) if file.path.name == name), None)


def _is_image(file: File, leave_out: LeaveOut) -> bool:
    suffix = file.path.suffix.lower()
    if any(map(is_hidden, file.path.parts)):
        reason = HIDDEN
    elif file.size > MAX_BYTES:
        reason = TOO_LARGE
    elif suffix in ENDINGS or (suffix not in _TEXTS and is_image(file.head())):
        return True
    else:
        reason = NOT_IMAGES
    leave_out(reason, file.path.as_posix())
    return False


class Fingerprint:
    """Distinguishes two lists of files by their paths and sizes, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, path: PurePosixPath, size: int) -> None:
        """Count a file in."""
        self._hash.update(f"{path.as_posix()}\0{size}\n".encode(errors="surrogateescape"))

    def __str__(self) -> str:
        return self._hash.hexdigest()[:16]


def _walk_folder(root: Path, leave_out: LeaveOut) -> Iterator[File]:
    position = 0
    with reading(str(root)):
        for file in images_below(root, leave_out, follow_links=True):
            position += file.size
            load = functools.partial(_read, root / file.name)
            yield File(PurePosixPath(file.name), file.size, load, load, position)


def _read(path: Path) -> bytes:
    with reading(str(path)):
        return path.read_bytes()


def _walk_zip(path: Path, leave_out: LeaveOut) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_FAULTS as error:
        raise UserError(
            f"{path} can't be read as a zip ({error}); it is damaged, or its end is missing: download it again."
        ) from error
    with archive:
        for member in archive.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                leave_out(tars.LINKS, member.filename)
            elif not member.is_dir():
                read = functools.partial(_read_member, archive, member, path)
                head = functools.partial(read, MAGIC_BYTES)
                yield File(PurePosixPath(member.filename), member.file_size, read, head, member.header_offset)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, num_bytes: int = -1) -> bytes:
    if member.file_size > MAX_BYTES:
        raise UserError(f"{path}, {member.filename} has {member.file_size:,} bytes; {MAX_BYTES:,} are allowed.")
    try:
        with archive.open(member) as file:
            return file.read(num_bytes)  # at the end of the file, checks the CRC-32
    except _ZIP_FAULTS as error:
        raise UserError(f"{path}, {member.filename} is damaged ({error}); download the zip again.") from error


def _walk_tar(path: Path, leave_out: LeaveOut) -> Iterator[File]:
    for member in tars.walk(path, leave_out):
        read = functools.partial(tars.read, member, path)
        yield File(member.path, member.size, read, functools.partial(read, MAGIC_BYTES), member.position)
