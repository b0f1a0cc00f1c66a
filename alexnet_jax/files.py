"""Files and folders: paths as users write them, errors in a sentence, writes that are whole or not there, and locks."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # of gs://bucket, from which pathlib makes gs:/bucket
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # as Lustre and NFS say it
_unfinished: set[Path] = set()  # what `removed_at_end` has yet to remove


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """Return the path with the home folder for `~`. Every path from a user comes through here.

    Args:
      path: as the user wrote it.
      name: the flag, field or argument that gives it, for the message.

    Raises:
      UserError: it is no path, empty or remote, or the home folder is unknown.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{name or 'a path'}={path!r} is not a path; give a text or a pathlib.Path.")
    if not os.fspath(path):
        raise UserError(f"{name or 'a path'} is empty; give a path, or leave it out.")
    if is_remote(path):
        where = f"{name}={path}" if name else path
        raise UserError(f"{where} is remote; copy it to this machine, or mount it and give the path of the mount.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        where = f"{name}={path}" if name else path
        raise UserError(f"{where}: the home folder that '~' stands for is unknown; write the path out.") from error


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is that of a bucket or a server, as in gs://bucket/folder."""
    return _SCHEME.match(os.fspath(path)) is not None


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
    """Wait until no other process is in here with this lock file. Raises as `try_lock`."""
    while not (lock := try_lock(path)):
        time.sleep(0.1)
    with lock:
        yield


def try_lock(path: Path) -> contextlib.ExitStack | None:
    """Lock a file, created if needed, until the result is closed; None if another process holds it.

    A process that ends, however it does, lets the next one in. The file stays. Where the file system has no locks,
    ALEXNET_JAX_LOCAL_LOCKS=1 in the environment takes one of the machine's instead, which other machines don't see.

    Raises:
      UserError: the file system has no locks.
      OSError: the file can't be made.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if sys.platform != "linux" or os.environ.get("ALEXNET_JAX_LOCAL_LOCKS") != "1":
                raise UserError(
                    f"{path.parent} can't be locked against other processes: its file system has no locks "
                    f"({error.strerror}); have them enabled (a mount option of Lustre and NFS), choose a folder "
                    "elsewhere, or, on Linux, set ALEXNET_JAX_LOCAL_LOCKS=1: that keeps out processes on this machine, "
                    "but not on others, so never use the folder from two machines at once."
                ) from error
            name = stack.enter_context(socket.socket(socket.AF_UNIX))
            if not _took_name(name, file.fileno()):
                return None
        return stack.pop_all()


def _took_name(name: socket.socket, file: int) -> bool:
    """Give a socket the name of an open file: no two have the same on one machine, and it ends with its process."""
    status = os.fstat(file)
    try:
        name.bind(f"\0alexnet_jax/{status.st_dev}/{status.st_ino}")  # \0: in no folder (man 7 unix, abstract)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
