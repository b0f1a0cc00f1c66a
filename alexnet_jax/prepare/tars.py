"""Reads tar archives from their first byte to their last, and notices what is missing.

Nothing is ever written to disk, so an archive's member can't reach anything. Python's `tarfile` takes an archive that
is cut between two members as whole; here the zero block that ends every tar must be found. It also believes what a
header says: how much of the archive belongs to it, which may be all that a gzipped one unpacks to, and where the next
member begins, which may be behind. Here headers have a limit, and so has a member that is read at once.
"""

import contextlib
import gzip
import math
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from alexnet_jax.errors import UserError

_BLOCK = 512  # bytes of a tar header
_HEADERS = 1 << 16  # bytes that the headers of a member may have: long names, attributes, the map of a sparse file
MAX_BYTES = 1 << 29  # of a member that is read at once: no image, batch or table that is known is larger
_GZIP_MAGIC = b"\x1f\x8b"
# What damaged archives may raise; `tarfile` lets through what goes wrong with the numbers in its headers.
_FAULTS = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OSError),
    *(ValueError, IndexError, OverflowError, MemoryError),
)


class TarFile(NamedTuple):
    """A regular file in a tar. `open` is valid until the next one is asked for; `position` bytes lie before it."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]
    position: int


def walk(path: Path) -> Iterator[TarFile]:
    """The regular files of a tar, gzipped or not, in order; UserError if it is cut, damaged or no tar at all."""
    with _named(str(path)), path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if zipped:
            with gzip.open(file) as unzipped:
                yield from _walk(cast(IO[bytes], unzipped), str(path), file.tell)
                while unzipped.read(1 << 20):  # to the checksum at the end, which a cut file doesn't have
                    pass
        else:
            end = yield from _walk(file, str(path), file.tell)
            _check_end(file, end, str(path))


def walk_inner(file: IO[bytes], where: str) -> Iterator[TarFile]:
    """The regular files of a tar that lies in another one, at `where`; UserError as `walk`."""
    with _named(where):
        end = yield from _walk(file, where, file.tell)
        _check_end(file, end, where)


def read(member: TarFile, where: object) -> bytes:
    """The bytes of a member; UserError if the archive `where` is cut or damaged there, or has more than MAX_BYTES."""
    with _named(str(where)), member.open() as file:
        if member.size > MAX_BYTES:
            raise tarfile.ReadError(f"{member.path} has {member.size:,} bytes, and {MAX_BYTES:,} are allowed")
        return file.read()


class _Metered:
    """A file of which at most `allowed` more bytes are read."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.allowed: float = _HEADERS
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int) -> bytes:
        """So many bytes; ReadError if there are more, or less than none."""
        if not 0 <= size <= self.allowed:
            raise tarfile.ReadError(f"a member has more than {_HEADERS:,} bytes of headers")
        self.allowed -= size
        return self._file.read(size)


def _walk(file: IO[bytes], where: str, position: Callable[[], int]) -> Generator[TarFile, None, int]:
    """Yields the regular files; returns the offset at which it found no more."""
    metered = _Metered(file)
    with tarfile.open(fileobj=cast(IO[bytes], metered), mode="r:") as tar:
        before = 0
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember all 1.28 million
            if tar.offset <= before:
                raise tarfile.ReadError(f"the member at byte {member.offset:,} ends before it begins")
            before, metered.allowed = tar.offset, math.inf
            path = PurePosixPath(member.name)
            if member.isreg() and not path.name.startswith("._"):  # "._name": what macOS adds to archives

                def open_member(member: tarfile.TarInfo = member) -> IO[bytes]:
                    with _named(where):
                        opened = tar.extractfile(member)
                    assert opened is not None
                    return opened

                yield TarFile(path, member.size, open_member, position())
            metered.allowed = _HEADERS
        return tar.offset


def _check_end(file: IO[bytes], offset: int, where: str) -> None:
    """UserError unless the block at `offset` is the one of zeros that ends every tar."""
    file.seek(offset)
    if (block := file.read(_BLOCK)) != bytes(_BLOCK):
        what = "it is damaged" if len(block) == _BLOCK else "it is cut"
        raise UserError(f"{where}: {what} at byte {offset:,}: no end of a tar archive there; download it again.")


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Gives the errors of tarfile and gzip the name of the archive."""
    try:
        yield
    except _FAULTS as error:
        raise UserError(
            f"{where} can't be read as a tar archive ({error}): it is cut, damaged or another kind of file; "
            "download it again."
        ) from error
