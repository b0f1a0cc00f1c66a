"""Read tar archives from the first byte to the last, and notice what is missing.

Nothing is written to disk, so a member can't overwrite any file. Python's `tarfile` accepts archives truncated between
two members; this module requires the block of zeros that ends every tar. `tarfile` also trusts the sizes of headers,
which in a gzipped archive may be endless, and the position of the next member, which may be an earlier one; this module
limits headers, and members that are read in one piece.
"""

import contextlib
import functools
import gzip
import math
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from alexnet_jax.data.image_files import HIDDEN, MAX_BYTES, LeaveOut
from alexnet_jax.errors import UserError

LINKS = "links, pipes and devices in archives"  # that are left out
JPEG_SUFFIXES = (".jpeg", ".jpg")  # of images in the archives of ImageNet and Imagenette
_BLOCK = 512  # bytes of a tar header
_MAX_HEADER_BYTES = 1 << 16  # of one member: long names, attributes, the map of a sparse file
_GZIP_MAGIC = b"\x1f\x8b"
# What damaged archives may raise; `tarfile` doesn't catch errors caused by the numbers in its headers.
_FAULTS = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OSError),
    *(ValueError, IndexError, OverflowError, MemoryError),
)


class TarFile(NamedTuple):
    """A regular file in a tar, at byte `position`. `open` is valid until the next file is requested.

    offset: where its bytes begin in the uncompressed tar, for readers that come back to it later.
    """

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]
    position: int
    offset: int


def forget(group: str, path: str) -> None:
    """Leave out what is not a regular file."""


def walk(path: Path, leave_out: LeaveOut = forget) -> Iterator[TarFile]:
    """Yield the regular files of a tar, gzipped or not, in order, and report others to `leave_out`.

    In a gzipped tar, positions count compressed bytes. UserError if it is truncated, damaged or not a tar.
    """
    with _naming(path), path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if not zipped:
            yield from _walk_to_end(file, path, leave_out)
            return
        with gzip.open(file) as unzipped:
            yield from _walk(cast(IO[bytes], unzipped), file.tell, leave_out)
            while unzipped.read(1 << 20):  # up to the checksum at the end, which a truncated file doesn't have
                pass


def walk_inner(outer: TarFile, where: str) -> Iterator[TarFile]:
    """Yield the regular files of a tar inside another one; `where` names it in errors, which are those of `walk`."""
    with _naming(where), outer.open() as file:
        yield from _walk_to_end(file, where, forget)


def check_end(path: Path) -> None:
    """Raise UserError if a tar that isn't gzipped lacks its end, a block of zeros. Reads nothing else."""
    with _naming(path), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(-min(size, _BLOCK), 2)
        if file.read() != bytes(_BLOCK):
            raise UserError(f"{path} is truncated: the end of a tar is missing; download it again.")


def read(member: TarFile, where: object, num_bytes: int = -1) -> bytes:
    """Read a member, or only `num_bytes` of it.

    UserError if the archive `where` is damaged there, or the member has more than MAX_BYTES: no known image, batch or
    table does.
    """
    with _naming(where), member.open() as file:
        if member.size > MAX_BYTES:
            raise tarfile.ReadError(f"{member.path} has {member.size:,} bytes, and {MAX_BYTES:,} are allowed")
        return file.read(num_bytes)


class _MeteredFile:
    """A file of which at most `allowed` more bytes can be read."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.allowed: float = _MAX_HEADER_BYTES
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int) -> bytes:
        """Read `size` bytes; ReadError if that exceeds the limit or is negative."""
        if not 0 <= size <= self.allowed:
            raise tarfile.ReadError(f"a member has more than {_MAX_HEADER_BYTES:,} bytes of headers")
        self.allowed -= size
        return self._file.read(size)


def _walk(file: IO[bytes], position: Callable[[], int], leave_out: LeaveOut) -> Generator[TarFile, None, int]:
    """Yield the regular files; return the offset at which there are no more."""
    metered = _MeteredFile(file)
    with tarfile.open(fileobj=cast(IO[bytes], metered), mode="r:") as tar:
        previous = 0
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all 1.28 million
            if tar.offset <= previous:
                raise tarfile.ReadError(f"the member at byte {member.offset:,} ends before it begins")
            previous, metered.allowed = tar.offset, math.inf
            path = PurePosixPath(member.name)
            if path.name.startswith("._"):  # what macOS adds to archives
                leave_out(HIDDEN, member.name)
            elif member.isreg():
                open_member = cast(Callable[[], IO[bytes]], functools.partial(tar.extractfile, member))
                yield TarFile(path, member.size, open_member, position(), member.offset_data)
            elif not member.isdir():
                leave_out(LINKS, member.name)
            metered.allowed = _MAX_HEADER_BYTES
        return tar.offset


def _walk_to_end(file: IO[bytes], where: object, leave_out: LeaveOut) -> Iterator[TarFile]:
    """Yield the regular files; UserError unless the block of zeros that ends every tar follows."""
    end = yield from _walk(file, file.tell, leave_out)
    file.seek(end)
    if (block := file.read(_BLOCK)) != bytes(_BLOCK):
        problem = "damaged" if len(block) == _BLOCK else "truncated"
        raise UserError(f"{where} is {problem} at byte {end:,}: the end of a tar is missing; download it again.")


@contextlib.contextmanager
def _naming(where: object) -> Iterator[None]:
    """Add the name of the archive to errors of tarfile and gzip."""
    try:
        yield
    except _FAULTS as error:
        raise UserError(f"{where} can't be read as a tar archive ({error}); download it again.") from error
