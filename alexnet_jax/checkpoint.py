"""Checkpoints of a run: written while training continues, checked before they are trusted.

Orbax reads and writes the arrays; this is the only module that imports it. Which checkpoints exist, are sound and are
kept is decided in `checkpoint_folder`, because (tried with Orbax 0.12.8) a bit flipped in the data is read back without
a complaint, one damaged metrics file stops `training.Checkpointer` from opening the folder at all, and a step that
can't be saved is dropped silently.

If there are several processes, all of them call every method. Orbax reads and writes in parallel; process 0 alone
chooses, checks, completes and removes checkpoints.
"""

import concurrent.futures
import functools
import json
import logging as standard_logging
import numbers
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from alexnet_jax.checkpoint_folder import BEST, LATEST, CheckpointFolder
from alexnet_jax.cluster.agreement import gather, on_process_0
from alexnet_jax.errors import OLDER_VERSION, UserError

Step = int | str  # which checkpoint: a step, "latest" or "best" (the lowest top-1 error when the training evaluated it)


class Restored(NamedTuple):
    """The content of a checkpoint.

    `state`: the train state. `step`: the number of steps done, which is the position in the data. `metrics`: those of
    the state's evaluation, {} if there was none.
    """

    state: Any
    step: int
    metrics: dict[str, float]


class Checkpoints:
    """The checkpoints of one run in `directory`: the last `keep_last` and the `keep_best` lowest `top1_error`.

    Of equal errors the earlier one is kept.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep_last: int, keep_best: int):
        path = Path(directory).expanduser().absolute()
        self._folder = CheckpointFolder(path, keep_last=keep_last, keep_best=keep_best)
        self._last_step: int | None = None  # restored last, or saved completely since
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None
        self._orbax = ocp.Context()
        # Weights hardly compress: 7 % smaller for 7 times the time, taken from the cores that feed the training.
        self._orbax.array.saving.use_compression = False
        # Otherwise, if the folder can't be created, Orbax's threads wait for it for 20 minutes.
        self._orbax.asynchronous.create_directories_asynchronously = False
        logging.get_absl_logger().addFilter(_is_worth_reading)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        """Wait as `wait` does, then end the background thread."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Start to save, and return as soon as the state is copied: its buffers may be donated immediately.

        Waits for the previous save first. An existing checkpoint of this step is replaced once the new one is complete.
        `metrics`, those of the state's evaluation, are the same in all processes.

        Raises:
          UserError: the previous save failed, or this one can't start (disk full, read-only folder).
          ValueError: `step` is before the checkpoint that was saved or restored last.
        """
        self.wait()
        last = max(self.steps(), default=step) if self._last_step is None else self._last_step
        if step < last:
            raise ValueError(f"step {step} can't be saved after step {last} in {self._folder.path}")
        content = {"step": step, "metrics": metrics or {}, "arrays": _arrays(state)}
        content = json.loads(json.dumps(content))  # as it will be read back; anything that is not JSON fails here
        unfinished = self._folder.path / f"{step}.saving"
        try:
            if jax.process_index() == 0:
                self._folder.path.mkdir(parents=True, exist_ok=True)
                self._folder.tidy_up()
            with self._orbax:
                response = ocp.save_async(unfinished, state)
        except OSError as error:
            raise self._cannot_write(step, error) from error
        self._pending = step, self._worker.submit(self._finish, response, unfinished, content)

    def wait(self) -> None:
        """Wait until everything is on disk; UserError if the last save could not be written."""
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

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in ascending order."""
        return sorted(self._folder.complete())

    def latest_step(self) -> int | None:
        """Return the step of the checkpoint that this object restored last, or has saved completely since."""
        if self._pending is not None and self._pending[1].done() and self._pending[1].exception() is None:
            return self._pending[0]
        return self._last_step

    def is_among_best(self, metrics: dict[str, float]) -> bool:
        """Tell whether a state with this evaluation, saved now, would be one of the `keep_best`."""
        self.wait()
        return on_process_0(lambda: self._folder.is_among_best(metrics["top1_error"]))

    def restore_latest(self, abstract_state: Any, only: str | None = None) -> Restored | None:
        """Return the newest sound checkpoint, or None if there is none at all; skip damaged ones with a warning.

        `abstract_state` is a tree of `jax.ShapeDtypeStruct` with the shardings of this run, whatever mesh wrote the
        checkpoint. With `only`, the name of one field of the state, it describes that field, and only that is read: the
        parameters without the optimizer's state are half as many bytes. UserError if all checkpoints are damaged, or
        the newest sound one is of another model.
        """
        restored = self._restore(LATEST, abstract_state, only)
        self._last_step = restored.step if restored else None
        return restored

    def restore(self, step: Step, abstract_state: Any, only: str | None = None) -> Restored:
        """Return one checkpoint; UserError if it doesn't exist, is damaged or is of another model."""
        if step not in (LATEST, BEST) and not isinstance(step, numbers.Integral):
            raise UserError(f"step={step!r} is not allowed; it must be the number of a step, 'latest' or 'best'.")
        restored = self._restore(step, abstract_state, only)
        if restored is None:
            raise UserError(
                f"{self._folder.path} has no checkpoint yet; start the training or wait for its first checkpoint."
            )
        return restored

    def _restore(self, step: Step, abstract_state: Any, only: str | None) -> Restored | None:
        """Find and read a checkpoint, again if it was removed meanwhile; None for the latest where there is none."""
        self.wait()
        while content := on_process_0(lambda: self._folder.find(step)):
            failure = None
            try:
                restored = self._load(content, abstract_state, only)
            except UserError as error:
                failure = error
            if not any(gather(failure is not None)):
                return restored
            if on_process_0(functools.partial(self._folder.has, content)):
                raise failure or UserError("Another process can't read the checkpoint; its message says why.")
        return None

    def _load(self, content: dict[str, Any], abstract_state: Any, only: str | None) -> Restored:
        """Read the arrays of a checkpoint whose manifest is `content`."""
        path = self._folder.complete().get(content["step"], self._folder.path / str(content["step"]))
        abstract_state = {only: abstract_state} if only else abstract_state
        saved = {name: array for name, array in content["arrays"].items() if not only or name.startswith(f"{only}/")}
        _check_same_arrays(path, saved, _arrays(abstract_state))
        context = ocp.Context(self._orbax)
        context.pytree.loading.partial_load = only is not None
        try:
            with context:
                state = ocp.load(path, abstract_state)
        except jax.errors.JaxRuntimeError:  # for one, the device is out of memory
            raise
        # The checksums were right, so the files were forged, or written by another Orbax. Then Orbax raises anything
        # that its code runs into, for example a KeyError.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
            raise UserError(
                f"Checkpoint {path} can't be read by Orbax ({reason}); use the version of Orbax that wrote it, or "
                "another checkpoint."
            ) from error
        return Restored(state[only] if only else state, content["step"], content.get("metrics", {}))

    def _finish(self, response: ocp.AsyncResponse, unfinished: Path, content: dict[str, Any]) -> None:
        """Wait for Orbax, in the background, and complete the checkpoint."""
        response.result()
        if jax.process_index() == 0:
            self._folder.finish(unfinished, content)

    def _cannot_write(self, step: int, error: OSError) -> UserError:
        return UserError(
            f"The checkpoint of step {step} can't be written to {self._folder.path} ({error.strerror or error}); "
            "earlier checkpoints are intact: free some space or make it writable, and run the same command again."
        )


def _arrays(state: Any) -> dict[str, str]:
    """Return the names of all arrays of a tree, with type and shape: {"params/fc8/kernel": "float32[4096, 1000]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def _check_same_arrays(path: Path, saved: dict[str, str], expected: dict[str, str]) -> None:
    """Raise UserError that names the first array in which a checkpoint differs from the state to restore."""
    names = [name for name in {**saved, **expected} if saved.get(name) != expected.get(name)]
    if not names:
        return
    was_older = any(name.startswith("opt_state/velocity/") for name in saved)
    if was_older and all(name.startswith("opt_state/") for name in names):
        raise UserError(f"Checkpoint {path} {OLDER_VERSION}")
    name, more = names[0], f" ({len(names) - 1} more differ)" if len(names) > 1 else ""
    raise UserError(
        f"Checkpoint {path} is of another model: its {name} is {saved.get(name, 'missing')}, that of this config is "
        f"{expected.get(name, 'missing')}{more}; use the config that it was trained with, or another workdir."
    )


def _disk_error(error: Exception) -> OSError | None:
    """Return the system's error behind one of Orbax's: TensorStore passes it on as a number in a ValueError."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _is_worth_reading(record: standard_logging.LogRecord) -> bool:
    """Return whether to log a record: not Orbax's running commentary, nor its tracebacks of errors raised anyway."""
    from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    return not from_orbax or (record.levelno >= standard_logging.WARNING and record.module != "future")
