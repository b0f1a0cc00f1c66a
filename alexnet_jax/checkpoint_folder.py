"""The folder of a run's checkpoints: which of them are complete, sound and kept.

    checkpoints/
      1200/              a complete checkpoint, named after its step
        manifest.json    step, metrics, the arrays' shapes, and size and CRC-32 of every file
        state/...        the arrays, in Orbax's own layout
      1600.saving/       being written: complete once it has its manifest, then renamed
      800.removing/      being removed

A kill at any moment leaves complete checkpoints, and leftovers with telltale names that the next save clears.
"""

import math
import re
import shutil
from pathlib import Path
from typing import Any

from absl import logging

from alexnet_jax import manifest
from alexnet_jax.errors import UserError, printable

_LEFTOVER = re.compile(r"\d+\.(saving|removing)(\..+)?")  # Orbax first writes into 1600.saving.orbax-checkpoint-tmp


class CheckpointFolder:
    """Keeps the last `keep_last` checkpoints and the `keep_best` ones with the lowest `top1_error`."""

    def __init__(self, path: Path, *, keep_last: int, keep_best: int):
        self.path = path
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._damaged: set[int] = set()  # skipped by newest_sound; removed once a newer one is complete

    def complete(self) -> dict[int, Path]:
        """Return the complete checkpoints: {step: folder}."""
        try:
            paths = sorted(self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"{self.path} can't be read ({error.strerror}).") from error
        # 1600 sorts before 1600.saving: of two complete ones, the one that replaces the other wins.
        return {
            int(path.stem): path for path in paths if (path.name.isdecimal() and path.is_dir()) or _is_unnamed(path)
        }

    def newest_sound(self) -> dict[str, Any]:
        """Return the manifest of the newest sound checkpoint, {} if there is none; UserError if all are damaged."""
        reasons = []
        for step, path in sorted(self.complete().items(), reverse=True):
            try:
                return _check(step, path)
            except manifest.DamagedError as damage:
                reasons.append(f"{step}: {damage}")
                self._damaged.add(step)
                logging.warning("Checkpoint %s is damaged (%s); trying the previous one", path, printable(str(damage)))
        if reasons:
            raise UserError(
                f"No checkpoint in {self.path} can be used ({'; '.join(reasons)}); put back a copy of one, or remove "
                "the folder to start from the beginning."
            )
        return {}

    def sound(self, step: int) -> dict[str, Any]:
        """Return the manifest of one checkpoint; UserError if it doesn't exist or is damaged."""
        complete = self.complete()
        if step not in complete:
            others = f"it has {', '.join(map(str, sorted(complete)))}" if complete else "it has none"
            raise UserError(f"{self.path} has no checkpoint of step {step}; {others}.")
        try:
            return _check(step, complete[step])
        except manifest.DamagedError as damage:
            raise UserError(f"Checkpoint {complete[step]} is damaged ({damage}); use another step.") from damage

    def finish(self, unfinished: Path, content: dict[str, Any]) -> None:
        """Complete the folder of a checkpoint with its manifest and its name, and remove old checkpoints."""
        manifest.write(unfinished, content)
        self._damaged.discard(content["step"])
        self.tidy_up()
        complete = self.complete()
        sound = [step for step in sorted(complete) if step not in self._damaged]
        kept = {*sound[-self._keep_last :], *_best_first(sound, complete)[: self._keep_best]}
        for step in complete.keys() - kept:
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


def _is_unnamed(path: Path) -> bool:
    """Return whether a folder is a complete checkpoint that has not been renamed yet."""
    return path.suffix == ".saving" and path.stem.isdecimal() and (path / manifest.NAME).exists()


def _check(step: int, path: Path) -> dict[str, Any]:
    """Return the manifest of a sound checkpoint of this step; DamagedError if it isn't one."""
    content = manifest.read_and_check(path)
    if content.get("step") != step:
        raise manifest.DamagedError(f"it is of step {content.get('step')}")
    if not isinstance(content.get("arrays"), dict):
        raise manifest.DamagedError("its manifest lists no arrays")
    return content


def _best_first(steps: list[int], complete: dict[int, Path]) -> list[int]:
    """Return the steps that were evaluated, lowest `top1_error` first; of equals the later one first."""
    errors = {}
    for step in steps:
        try:
            error = float(manifest.read(complete[step])["metrics"].get("top1_error", math.nan))
        except (manifest.DamagedError, KeyError, AttributeError, TypeError, ValueError, OverflowError):
            continue
        if not math.isnan(error):
            errors[step] = error
    return sorted(errors, key=lambda step: (errors[step], -step))


def _remove(path: Path) -> None:
    shutil.rmtree(path.rename(path.with_name(f"{path.name}.removing")))
