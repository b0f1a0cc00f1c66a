"""Checkpoints of a run: written while training goes on, checked before they are trusted.

    checkpoints/
      1200/              one complete checkpoint, named after its step
        manifest.json    step, metrics, the arrays' shapes, and size and CRC-32 of every file
        state/...        the arrays, in Orbax's own layout
      1600.saving/       being written: complete once its manifest is there, then it gets its plain name
      800.removing/      being removed

So a kill at any moment leaves complete checkpoints, and leftovers that give themselves away: the next save clears
those. The arrays are Orbax's business; which checkpoints exist, are sound and are kept is decided here, because (tried
with Orbax 0.12.8) a bit flipped in the data is read back without a complaint, one damaged metrics file stops
`training.Checkpointer` from opening the folder at all, and a step that can't be saved is dropped without a word.

In several processes every method is called by all of them. Orbax writes and reads in parallel; process 0 alone
chooses, checks, completes and removes. This is the only module that imports Orbax.
"""

import concurrent.futures
import json
import logging as standard_logging
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from alexnet_jax import manifest
from alexnet_jax.cluster.processes import on_process_0
from alexnet_jax.errors import UserError, printable

LEFTOVER = re.compile(r"\d+\.(saving|removing)(\..+)?")  # Orbax first writes into 1600.saving.orbax-checkpoint-tmp


class Restored(NamedTuple):
    """What a checkpoint holds: the train state and the number of steps taken, which is the position in the data too."""

    state: Any
    step: int


class Checkpoints:
    """The checkpoints of one run in `directory`: the last `keep_last` and the `keep_best` lowest `top1_error`."""

    def __init__(self, directory: str | os.PathLike[str], *, keep_last: int, keep_best: int):
        self._directory = Path(directory).expanduser().absolute()
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._last_step: int | None = None  # restored last, or saved completely since
        self._damaged: set[int] = set()  # passed over by restore_latest; removed once a newer one is complete
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None
        self._orbax = ocp.Context()
        # Weights hardly compress: 7 % smaller for 7 times the time, taken from the cores that feed the training.
        self._orbax.array.saving.use_compression = False
        # Otherwise a folder that can't be made leaves Orbax's threads waiting for it for 20 minutes.
        self._orbax.asynchronous.create_directories_asynchronously = False
        logging.get_absl_logger().addFilter(_worth_reading)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Starts to save and returns as soon as the state is copied: its buffers may be donated straight after.

        `metrics`, those of its evaluation, are the same in all processes. A save that is still under way is waited for
        first. An existing checkpoint of this step is replaced once the new one is complete.
        Raises UserError if the save before failed or this one can't begin (disk full, read-only folder), and
        ValueError if `step` lies before the checkpoint that was saved or restored last.
        """
        self.wait()
        last = max(self.steps(), default=step) if self._last_step is None else self._last_step
        if step < last:
            raise ValueError(f"step {step} can't be saved after step {last} in {self._directory}")
        content = {"step": step, "metrics": metrics or {}, "arrays": _arrays(state)}
        content = json.loads(json.dumps(content))  # as it will be read back; what is not JSON fails here
        unfinished = self._directory / f"{step}.saving"
        try:
            if jax.process_index() == 0:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._tidy_up()
            with self._orbax:
                response = ocp.save_async(unfinished, state)
        except OSError as error:
            raise self._cannot_write(step, error) from error
        self._pending = step, self._worker.submit(self._finish, response, unfinished, content)

    def wait(self) -> None:
        """Returns when everything is on the disk; raises UserError if the last save could not be written."""
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except Exception as error:
            if (disk_error := _disk_error(error)) is not None:
                raise self._cannot_write(step, disk_error) from error
            raise
        self._last_step = step

    def close(self) -> None:
        """Waits like `wait`, then ends the background thread."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in ascending order."""
        return sorted(self._complete())

    def latest_step(self) -> int | None:
        """Step of the checkpoint that this object restored last, or has saved completely since."""
        if self._pending is not None and self._pending[1].done() and self._pending[1].exception() is None:
            return self._pending[0]
        return self._last_step

    def restore_latest(self, abstract_state: Any, only: str | None = None) -> Restored | None:
        """The newest sound checkpoint, or None if there is none at all.

        `abstract_state` is a tree of `jax.ShapeDtypeStruct` with the shardings of this run, whatever mesh wrote the
        checkpoint. A damaged checkpoint is passed over with a warning. UserError if all of them are damaged, or if
        the checkpoint is of another model. With `only`, the name of one field of the state, `abstract_state` is of
        that field, and only that is read: without the velocity, parameters are half as many bytes.
        """
        self.wait()
        found = on_process_0(self._newest_sound)
        self._last_step = found["step"] if found else None
        return self._load(found, abstract_state, only) if found else None

    def restore(self, step: int, abstract_state: Any, only: str | None = None) -> Restored:
        """The checkpoint of one step; UserError if it doesn't exist, is damaged or is of another model."""
        self.wait()

        def check() -> dict[str, Any]:
            complete = self._complete()
            if step not in complete:
                there = f"it has {', '.join(map(str, sorted(complete)))}" if complete else "it has none"
                raise UserError(f"{self._directory} has no checkpoint of step {step}; {there}.")
            try:
                return _check(step, complete[step])
            except manifest.DamagedError as damage:
                raise UserError(f"Checkpoint {complete[step]} is damaged ({damage}); take another step.") from damage

        return self._load(on_process_0(check), abstract_state, only)

    def _complete(self) -> dict[int, Path]:
        """The complete checkpoints: {step: folder}."""
        try:
            paths = sorted(self._directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"{self._directory} can't be read ({error.strerror}).") from error
        complete = {}
        for path in paths:  # 1600 before 1600.saving: of two complete ones, that which replaces the other
            if (path.name.isdecimal() and path.is_dir()) or _is_unnamed(path):
                complete[int(path.stem)] = path
        return complete

    def _newest_sound(self) -> dict[str, Any]:
        reasons = []
        for step, path in sorted(self._complete().items(), reverse=True):
            try:
                return _check(step, path)
            except manifest.DamagedError as damage:
                reasons.append(f"{step}: {damage}")
                self._damaged.add(step)
                said = printable(str(damage))
                logging.warning("Checkpoint %s is damaged (%s); trying the one before", path, said)
        if reasons:
            raise UserError(
                f"No checkpoint in {self._directory} can be used ({'; '.join(reasons)}); put back a copy of one, "
                "or remove the folder to start from the beginning."
            )
        return {}

    def _load(self, content: dict[str, Any], abstract_state: Any, only: str | None) -> Restored:
        step = content["step"]
        path = self._complete()[step]
        abstract_state = {only: abstract_state} if only else abstract_state
        saved, wanted = content["arrays"], _arrays(abstract_state)
        if only:
            saved = {name: shape for name, shape in saved.items() if name.startswith(f"{only}/")}
        if saved != wanted:
            names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
            name, more = names[0], f" ({len(names) - 1} more differ)" if len(names) > 1 else ""
            raise UserError(
                f"Checkpoint {path} is of another model: {name} is {saved.get(name, 'missing')} there and "
                f"{wanted.get(name, 'missing')} here{more}; use the config that it was trained with or another workdir."
            )
        context = ocp.Context(self._orbax)
        context.pytree.loading.partial_load = only is not None
        try:
            with context:
                state = ocp.load(path, abstract_state)
        except jax.errors.JaxRuntimeError:  # the devices' memory, for one
            raise
        # The bytes are those that were written, so they were written to deceive, or by another Orbax: that raises
        # whatever its code runs into, a KeyError for example.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
            raise UserError(
                f"Checkpoint {path} can't be read by Orbax ({reason}); take the version of Orbax that wrote it, or "
                "another checkpoint."
            ) from error
        return Restored(state[only] if only else state, step)

    def _finish(self, response: ocp.AsyncResponse, unfinished: Path, content: dict[str, Any]) -> None:
        """In the background: waits for Orbax, adds the manifest, gives the folder its name, removes old ones."""
        response.result()
        if jax.process_index() != 0:
            return
        manifest.write(unfinished, content)
        self._damaged.discard(content["step"])
        self._tidy_up()
        self._remove_old()

    def _tidy_up(self) -> None:
        """Gives complete folders their plain names and removes what an interrupted save or removal left."""
        for path in list(self._directory.iterdir()):
            if LEFTOVER.fullmatch(path.name) and not _is_unnamed(path):
                shutil.rmtree(path)
        for path in list(filter(_is_unnamed, self._directory.iterdir())):
            plain = path.with_name(path.stem)
            if plain.exists():
                self._remove(plain)
            path.rename(plain)

    def _remove_old(self) -> None:
        complete = self._complete()
        sound = [step for step in sorted(complete) if step not in self._damaged]
        kept = {*sound[-self._keep_last :], *self._by_error(sound)[: self._keep_best]}
        for step in complete.keys() - kept:
            self._remove(complete[step])

    def _remove(self, path: Path) -> None:
        shutil.rmtree(path.rename(path.with_name(f"{path.name}.removing")))

    def _by_error(self, steps: list[int]) -> list[int]:
        """The steps that were evaluated, lowest `top1_error` first; of equals the later one."""
        errors = {}
        complete = self._complete()
        for step in steps:
            try:
                error = float(manifest.read(complete[step])["metrics"].get("top1_error", math.nan))
            except (manifest.DamagedError, KeyError, AttributeError, TypeError, ValueError, OverflowError):
                continue
            if not math.isnan(error):
                errors[step] = error
        return sorted(errors, key=lambda step: (errors[step], -step))

    def _cannot_write(self, step: int, error: OSError) -> UserError:
        return UserError(
            f"The checkpoint of step {step} can't be written to {self._directory} ({error.strerror or error}); "
            "earlier checkpoints are unharmed: make room or allow writing, and run the same command again."
        )


def _arrays(state: Any) -> dict[str, str]:
    """Names of all arrays of a tree with shape and type: {"params/fc8/kernel": "float32[4096, 1000]"}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _check(step: int, path: Path) -> dict[str, Any]:
    """The manifest of a sound checkpoint of this step; DamagedError if it isn't one."""
    content = manifest.read_and_check(path)
    if content.get("step") != step:
        raise manifest.DamagedError(f"it holds step {content.get('step')}")
    if not isinstance(content.get("arrays"), dict):
        raise manifest.DamagedError("its manifest lists no arrays")
    return content


def _is_unnamed(path: Path) -> bool:
    """Whether a folder holds a complete checkpoint that didn't get its plain name yet."""
    return path.suffix == ".saving" and path.stem.isdecimal() and (path / manifest.NAME).exists()


def _disk_error(error: Exception) -> OSError | None:
    """The operating system's error behind one of Orbax's: TensorStore hands it on as a number in a ValueError."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _worth_reading(record: standard_logging.LogRecord) -> bool:
    """Keeps Orbax's running commentary out of the log, and its tracebacks of errors that reach us anyway."""
    if f"{os.sep}orbax{os.sep}" not in record.pathname:
        return True
    return record.levelno >= standard_logging.WARNING and record.module != "future"
