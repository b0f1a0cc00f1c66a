"""Reads tar archives from their first byte to their last, and notices what is missing.

Nothing is ever written to disk, so an archive's member can't reach anything. Python's `tarfile` takes an archive that
is cut between two members as whole; here the zero block that ends every tar must be found.
"""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from alexnet_jax.errors import UserError

_BLOCK = 512  # bytes of a tar header
_GZIP_MAGIC = b"\x1f\x8b"
_FAULTS = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OSError)


class TarFile(NamedTuple):
    """A regular file in a tar. `open` is valid until the next one is asked for; `position` bytes lie before it."""

    path: PurePosixPath
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
    """The bytes of a member; UserError if the archive `where` is cut or damaged there."""
    with _named(str(where)), member.open() as file:
        return file.read()


def _walk(file: IO[bytes], where: str, position: Callable[[], int]) -> Generator[TarFile, None, int]:
    """Yields the regular files; returns the offset at which it found no more."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember all 1.28 million
            path = PurePosixPath(member.name)
            if member.isreg() and not path.name.startswith("._"):  # "._name": what macOS adds to archives

                def open_member(member: tarfile.TarInfo = member) -> IO[bytes]:
                    with _named(where):
                        opened = tar.extractfile(member)
                    assert opened is not None
                    return opened

                yield TarFile(path, open_member, position())
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
    except FileNotFoundError as error:
        raise UserError(f"{where} is missing.") from error
    except _FAULTS as error:
        raise UserError(
            f"{where} can't be read as a tar archive ({error}): it is cut, damaged or another kind of file; "
            "download it again."
        ) from error
