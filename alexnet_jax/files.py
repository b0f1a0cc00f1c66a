"""Files and folders: paths as users write them, errors in a sentence, writes that are whole or not there, and locks."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from alexnet_jax.errors import UserError

_unfinished: set[Path] = set()


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """Return the path with the home folder for `~`.

    Args:
      path: as the user wrote it.
      name: the flag or field that gives it, for the message.

    Raises:
      UserError: the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        where = f"{name}={path}" if name else path
        raise UserError(f"{where}: the home folder that '~' stands for is unknown; write the path out.") from error


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn an OSError inside into a UserError; `source` is the file or folder, or the flag that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{source} can't be read ({error.strerror or error}).") from error


@contextlib.contextmanager
def writing(output: str) -> Iterator[None]:
    """Turn an OSError inside into a UserError; `output` names the flag and where it points, "--output=x.npz"."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{output} can't be written ({error.strerror or error}); choose a writable folder, or free some space."
        ) from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`, with its suffix, that is renamed to it at the end, and removed after an error."""
    with removed_at_end(path.with_name(f".unfinished-{path.name}")) as unfinished:
        yield unfinished
        unfinished.replace(path)


@contextlib.contextmanager
def removed_at_end(path: Path) -> Iterator[Path]:
    """Yield a path whose file or folder is removed at the end, unless it was renamed, also if a signal is the end."""
    _unfinished.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Remove what `removed_at_end` has yet to remove: before the process ends without leaving its contexts."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all, on disk before it has its name; OSError if that fails."""
    with atomic(path) as unfinished, open(unfinished, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process is in here with this lock file; OSError if it can't be made.

    A process that ends, however it does, lets the next one in. The file stays, empty.
    """
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file until it is closed or the process ends; None if another process holds it.

    OSError if the file can't be made, or its file system has no locks.
    """
    file = open(path, "a+")  # noqa: SIM115 - stays open as long as the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file
