"""The manifest of a checkpoint folder: what the folder holds, and how to tell whether all of it is still intact.

`manifest.json` is written last, so a folder that has one is complete. It lists the size and CRC-32 of every other file,
because Orbax (0.12.8, tried) reads flipped bits back without a complaint.
"""

import errno
import json
import zlib
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.files import write_atomically

NAME = "manifest.json"


class DamagedError(Exception):
    """A checkpoint can't be used; the message says what is wrong with it."""


def write(folder: Path, content: dict[str, Any]) -> None:
    """Complete a folder: add the manifest with `content`, which is JSON, and the checksums of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = content | {"files": {str(path.relative_to(folder)): _checksum(path) for path in files}}
    write_atomically(folder / NAME, json.dumps({"crc32": _crc32_of(content), "content": content}))


def read(folder: Path) -> dict[str, Any]:
    """Return the content of the manifest; DamagedError if it is missing or not as it was written."""
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
    """Read every file, and return the content; DamagedError if a file is not as it was written."""
    content = read(folder)
    try:
        files = {str(name): (int(size), int(crc)) for name, (size, crc) in content.pop("files").items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{NAME} lists no files") from error
    for name, (size, crc) in files.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DamagedError(f"{NAME} lists {name!r}, which is outside the folder")
        try:
            actual_size, actual_crc = _checksum(folder / name)
        except OSError as error:
            raise _damage(error, name) from error
        if actual_size != size:
            raise DamagedError(f"{name} has {actual_size} of {size} bytes")
        if actual_crc != crc:
            raise DamagedError(f"{name} has changed since it was written")
    return content


def _crc32_of(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _checksum(path: Path) -> tuple[int, int]:
    """Return size in bytes and CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _damage(error: OSError, name: str) -> Exception:
    """Return a DamagedError if another try would fail too; else (too many open files) a UserError to fix first."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO):
        return DamagedError(f"{name}: {error.strerror}")
    return UserError(f"Checkpoint file {error.filename} can't be read: {error.strerror}.")
