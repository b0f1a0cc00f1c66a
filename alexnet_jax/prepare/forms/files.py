"""The files in a folder, a zip or a tar, one after the other and never unpacked."""

import functools
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare import tars

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


class File(NamedTuple):
    """A file in a container, at byte `position` of it. path: inside the container. load: as in `SourceImage`."""

    path: PurePosixPath
    size: int
    load: Callable[[], bytes]
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


def walk(container: Path) -> Iterator[File]:
    """Yield all files of a folder (by name, links followed), a zip or a tar; UserError if one can't be read.

    Hidden files and folders are skipped: those that begin with a dot, and what macOS and network drives add.
    """
    match kind(container):
        case "folder":
            files = _walk_folder(container)
        case "zip":
            files = _walk_zip(container)
        case _:
            files = _walk_tar(container)
    return (file for file in files if not is_hidden(file.path))


def read_named(container: Path, name: str) -> tuple[PurePosixPath, bytes] | None:
    """Return path and content of the first file of this name; None if there is none."""
    return next(((file.path, file.load()) for file in walk(container) if file.path.name == name), None)


def is_hidden(path: PurePosixPath) -> bool:
    """Return whether a file, or a folder above it, is not the user's own."""
    return any(map(_is_hidden_name, path.parts))


def _is_hidden_name(name: str) -> bool:
    return name.startswith(".") or name in ("@eaDir", "__MACOSX")


class Fingerprint:
    """Distinguishes two lists of files by their paths and sizes, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, file: File) -> None:
        """Count a file in."""
        self._hash.update(f"{file.path.as_posix()}\0{file.size}\n".encode(errors="surrogateescape"))

    def __str__(self) -> str:
        return self._hash.hexdigest()[:16]


def _walk_folder(root: Path) -> Iterator[File]:
    position = 0
    folders = [root]
    while folders:
        folder = folders.pop()
        with reading(str(folder)), os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
            folders += [
                Path(entry) for entry in reversed(entries) if entry.is_dir() and not _is_hidden_name(entry.name)
            ]
        for entry in entries:
            if not entry.is_dir():
                with reading(entry.path):  # a link that leads nowhere, for example
                    size = entry.stat().st_size
                position += size
                path = Path(entry)
                yield File(PurePosixPath(path.relative_to(root)), size, functools.partial(_read, path), position)


def _read(path: Path) -> bytes:
    with reading(str(path)):
        return path.read_bytes()


def _walk_zip(path: Path) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_FAULTS as error:
        raise UserError(
            f"{path} can't be read as a zip ({error}); it is damaged, or its end is missing: download it again."
        ) from error
    with archive:
        for member in archive.infolist():
            if not member.is_dir():
                load = functools.partial(_read_member, archive, member, path)
                yield File(PurePosixPath(member.filename), member.file_size, load, member.header_offset)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> bytes:
    if member.file_size > tars.MAX_BYTES:
        raise UserError(f"{path}, {member.filename} has {member.file_size:,} bytes; {tars.MAX_BYTES:,} are allowed.")
    try:
        return archive.read(member)  # checks the CRC-32
    except _ZIP_FAULTS as error:
        raise UserError(f"{path}, {member.filename} is damaged ({error}); download the zip again.") from error


def _walk_tar(path: Path) -> Iterator[File]:
    for member in tars.walk(path):
        yield File(member.path, member.size, functools.partial(tars.read, member, path), member.position)
