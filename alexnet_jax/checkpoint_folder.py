"""The folder of a run's checkpoints: which of them are complete, sound and kept.

    checkpoints/
      1200/              a complete checkpoint, named after its step
        manifest.json    step, metrics, the arrays' shapes, and size and CRC-32 of every other file
        state/...        the arrays, in Orbax's own layout
      1600.saving/       being written: complete once it has its manifest, then renamed
      800.removing/      being removed

A kill at any moment leaves complete checkpoints, and leftovers with telltale names that the next save clears. The
checksums are there because Orbax (0.12.8, tried) reads flipped bits back without a complaint.
"""

import contextlib
import errno
import functools
import json
import math
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

from absl import logging

from alexnet_jax.errors import UserError, printable
from alexnet_jax.files import reading, write_atomically

MANIFEST = "manifest.json"
LATEST, BEST = "latest", "best"  # which checkpoint, other than by its step
_LEFTOVER = re.compile(r"\d+\.(saving|removing)(\..+)?")  # Orbax first writes into 1600.saving.orbax-checkpoint-tmp


class DamagedError(Exception):
    """A checkpoint can't be used; the message says what is wrong with it."""


class RemovedError(Exception):
    """A checkpoint was removed, or replaced, while it was read: the training that writes them has a newer one."""


class CheckpointFolder:
    """Keeps the last `keep_last` checkpoints and the `keep_best` with the lowest `top1_error`, of equals the first."""

    def __init__(self, path: Path, *, keep_last: int, keep_best: int):
        self.path = path
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._damaged: set[int] = set()  # skipped as the latest; removed once a newer one is complete

    def complete(self) -> dict[int, Path]:
        """Return the complete checkpoints: {step: folder}."""
        with reading(str(self.path)):
            paths = sorted(self.path.iterdir()) if self.path.is_dir() else []
        # 1600 sorts before 1600.saving: of two complete ones, the one that replaces the other wins.
        return {
            int(path.stem): path for path in paths if (path.name.isdecimal() and path.is_dir()) or _is_unnamed(path)
        }

    def find(self, which: int | str) -> dict[str, Any]:
        """Return the manifest of a sound checkpoint: that of a step, LATEST (skipping damaged ones) or BEST.

        {} if `which` is LATEST and there is none at all. A training may meanwhile remove what is being read: then the
        folder is read again.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or for LATEST all are.
        """
        searches = {LATEST: self._newest_sound, BEST: self._best_sound}
        search = searches[which] if isinstance(which, str) else functools.partial(self._sound, which)
        while True:
            with contextlib.suppress(RemovedError):
                return search()

    def has(self, content: dict[str, Any]) -> bool:
        """Tell whether the checkpoint with this manifest is still there."""
        with contextlib.suppress(KeyError, DamagedError):
            manifest = read_manifest(self.complete()[content["step"]])
            return _crc32_of({name: manifest[name] for name in content}) == _crc32_of(content)  # with NaNs in both
        return False

    def is_among_best(self, error: float) -> bool:
        """Tell whether a state with this top-1 error, now, would be one of the `keep_best`."""
        earlier = [earlier for earlier in self._errors().values() if earlier <= error]
        return not math.isnan(error) and len(earlier) < self._keep_best

    def _newest_sound(self) -> dict[str, Any]:
        reasons = []
        for step, path in sorted(self.complete().items(), reverse=True):
            try:
                return _check(path, step)
            except DamagedError as damage:
                reasons.append(f"{step}: {damage}")
                self._damaged.add(step)
                logging.warning("Checkpoint %s is damaged (%s); trying the previous one", path, printable(str(damage)))
        if reasons:
            raise UserError(
                f"No checkpoint in {self.path} can be used ({'; '.join(reasons)}); put back a copy of one, or remove "
                "the folder to start from the beginning."
            )
        return {}

    def _best_sound(self) -> dict[str, Any]:
        complete, errors = self.complete(), self._errors()
        damaged = [path for path in complete.values() if not _has_manifest(path)]
        if complete != self.complete():
            raise RemovedError
        if damaged:
            logging.warning("Checkpoint %s is damaged; it may have been the best", damaged[0])
        if not errors:
            raise UserError(
                f"{self.path} has no best checkpoint, because the training evaluated none; use another step: "
                f"{self._steps_in_words(complete)}."
            )
        return self._sound(min(errors, key=lambda step: (errors[step], step)))

    def _sound(self, step: int) -> dict[str, Any]:
        complete = self.complete()
        if step not in complete:
            raise UserError(f"{self.path} has no checkpoint of step {step}; {self._steps_in_words(complete)}.")
        try:
            return _check(complete[step], step)
        except DamagedError as damage:
            raise UserError(f"Checkpoint {complete[step]} is damaged ({damage}); use another step.") from damage

    def _errors(self) -> dict[int, float]:
        """Return the top-1 error of each checkpoint that was evaluated and isn't known to be damaged."""
        complete = self.complete()
        errors = {step: _top1_error(complete[step]) for step in complete.keys() - self._damaged}
        return {step: error for step, error in errors.items() if not math.isnan(error)}

    def _steps_in_words(self, complete: dict[int, Path]) -> str:
        return f"it has {', '.join(map(str, sorted(complete)))}" if complete else "it has none"

    def finish(self, unfinished: Path, content: dict[str, Any]) -> None:
        """Complete the folder of a checkpoint with its manifest and its name, and remove old checkpoints."""
        write_manifest(unfinished, content)
        self._damaged.discard(content["step"])
        self.tidy_up()
        complete = self.complete()
        sound = [step for step in sorted(complete) if step not in self._damaged]
        errors = self._errors()
        best = sorted(errors, key=lambda step: (errors[step], step))
        for step in complete.keys() - {*sound[-self._keep_last :], *best[: self._keep_best]}:
            _remove(complete[step])

    def tidy_up(self) -> None:
        """Remove what an interrupted save or removal left, and rename complete checkpoints that have no name yet."""
        for path in list(self.path.iterdir()):
            if _LEFTOVER.fullmatch(path.name) and not _is_unnamed(path):
                shutil.rmtree(path)
        for path in list(filter(_is_unnamed, self.path.iterdir())):
            named = path.with_name(path.stem)
            if named.exists():
                _remove(named)
            path.rename(named)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Complete a checkpoint: add the manifest with `content`, which is JSON, and the checksums of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = content | {"files": {str(path.relative_to(folder)): _checksum(path) for path in files}}
    write_atomically(folder / MANIFEST, json.dumps({"crc32": _crc32_of(content), "content": content}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of the manifest; DamagedError if it is missing or not as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        content, crc = manifest["content"], manifest["crc32"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} can't be read") from error
    except OSError as error:
        raise _damage(error, MANIFEST) from error
    if crc != _crc32_of(content):
        raise DamagedError(f"{MANIFEST} has changed since it was written")
    return content


def read_and_check(folder: Path) -> dict[str, Any]:
    """Read every file, and return the content of the manifest; DamagedError if a file is not as it was written."""
    content = read_manifest(folder)
    try:
        files = {str(name): (int(size), int(crc)) for name, (size, crc) in content.pop("files").items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{MANIFEST} lists no files") from error
    for name, (size, crc) in files.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DamagedError(f"{MANIFEST} lists {name!r}, which is outside the folder")
        try:
            actual_size, actual_crc = _checksum(folder / name)
        except OSError as error:
            raise _damage(error, name) from error
        if actual_size != size:
            raise DamagedError(f"{name} has {actual_size} of {size} bytes")
        if actual_crc != crc:
            raise DamagedError(f"{name} has changed since it was written")
    return content


def _check(folder: Path, step: int) -> dict[str, Any]:
    """Return the manifest of a sound checkpoint of this step; DamagedError if it isn't one, or RemovedError."""
    before = _inode(folder)
    try:
        content = read_and_check(folder)
        if content.get("step") != step:
            raise DamagedError(f"it is of step {content.get('step')}")
        if not isinstance(content.get("arrays"), dict):
            raise DamagedError("its manifest lists no arrays")
    except DamagedError as damage:
        if _inode(folder) != before or before is None:
            raise RemovedError from damage
        raise
    return content


def _inode(folder: Path) -> int | None:
    """Return what tells a folder from another of the same name; None if there is none."""
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


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


def _top1_error(folder: Path) -> float:
    """Return the error of a checkpoint's evaluation; NaN if there was none, or its manifest is damaged."""
    try:
        return float(read_manifest(folder)["metrics"].get("top1_error", math.nan))
    except (DamagedError, KeyError, AttributeError, TypeError, ValueError, OverflowError):
        return math.nan


def _has_manifest(folder: Path) -> bool:
    """Tell whether a checkpoint has a manifest as it was written."""
    try:
        read_manifest(folder)
    except DamagedError:
        return False
    return True


def _is_unnamed(path: Path) -> bool:
    """Return whether a folder is a complete checkpoint that has not been renamed yet."""
    return path.suffix == ".saving" and path.stem.isdecimal() and (path / MANIFEST).exists()


def _remove(path: Path) -> None:
    shutil.rmtree(path.rename(path.with_name(f"{path.name}.removing")))
