"""The manifest of a checkpoint folder: what it holds, and how to tell whether all of it is still there.

`manifest.json` is written last, so a folder that has one is complete. Beside its content it lists size and CRC-32 of
every other file: Orbax (0.12.8, tried) reads flipped bits back without a complaint.
"""

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError

NAME = "manifest.json"


class DamagedError(Exception):
    """A checkpoint can't be used; the message says what is wrong with it."""


def write(folder: Path, content: dict[str, Any]) -> None:
    """Makes a folder complete: adds the manifest with `content`, which is JSON, and the checksums of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = content | {"files": {str(path.relative_to(folder)): _checksum(path) for path in files}}
    partial = folder / f"{NAME}.partial"
    with open(partial, "w") as file:
        json.dump({"crc32": _crc32_of(content), "content": content}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / NAME)


def read(folder: Path) -> dict[str, Any]:
    """The content of the manifest. Raises DamagedError if it is missing or not as it was written."""
    try:
        manifest = json.loads((folder / NAME).read_bytes())
        content, crc = manifest["content"], manifest["crc32"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{NAME} can't be read") from error
    except OSError as error:
        raise _damage(error, NAME) from error
    if crc != _crc32_of(content):
        raise DamagedError(f"{NAME} has changed since it was written")
    return content


def read_and_check(folder: Path) -> dict[str, Any]:
    """The content, once every file was read and found to be as it was written. Raises DamagedError if one is not."""
    content = read(folder)
    try:
        files = {str(name): (int(size), int(crc)) for name, (size, crc) in content.pop("files").items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{NAME} lists no files") from error
    for name, (size, crc) in files.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DamagedError(f"{NAME} lists {name!r}, which lies elsewhere")
        try:
            found_size, found_crc = _checksum(folder / name)
        except OSError as error:
            raise _damage(error, name) from error
        if found_size != size:
            raise DamagedError(f"{name} has {found_size} of {size} bytes")
        if found_crc != crc:
            raise DamagedError(f"{name} has changed since it was written")
    return content


def _crc32_of(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _damage(error: OSError, name: str) -> Exception:
    """Damage, if another try would fail too; else (permissions, too many open files) something to mend first."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO):
        return DamagedError(f"{name}: {error.strerror}")
    return UserError(f"Checkpoint file {error.filename} can't be read: {error.strerror}.")
