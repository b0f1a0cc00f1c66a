"""The folder of a run: its config, numerics, data set's description, checkpoints, metrics and event files."""

import contextlib
import copy
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from alexnet_jax import validation
from alexnet_jax.checkpoint_folder import CheckpointFolder
from alexnet_jax.cluster.agreement import gather, on_process_0
from alexnet_jax.config import Config, differences, field_types, flatten, set_field, to_dict
from alexnet_jax.data.dataset_info import DatasetInfo, load_dataset_info, save_dataset_info
from alexnet_jax.errors import OLDER_VERSION, UserError
from alexnet_jax.files import reading, try_lock, write_atomically, writing
from alexnet_jax.plan import TIMES, fractions_kept, same_until

# What may change between two starts of the same run: none of these changes the parameters that come out.
MAY_CHANGE = (
    *("mesh.", "gradient_accumulation", "eval.", "checkpoint.", "log.", "profile"),
    *("data.dir", "data.feed", "data.read_threads", "data.prefetch_batches"),
)
# Of what `startup.numerics` returns, what only rounds otherwise: a run may resume after an update.
_ROUNDING = ("jax", "jaxlib", "XLA_FLAGS", "ALEXNET_JAX_TUNING")
_NUMERICS = "numerics.json"
_REMOVED_FIELDS = ("mesh.fully_connected", "mesh.shard_velocity")  # which configs of older versions have


def checkpoints_in(workdir: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return workdir / "checkpoints"


@contextlib.contextmanager
def opened_for_training(
    workdir: Path, config: Config, dataset_info: DatasetInfo, numerics: dict[str, Any]
) -> Iterator[None]:
    """Open the folder of this run and, inside the context, keep it locked for all processes of the group.

    Raises:
      UserError: as from `lock`, `check_numerics` and `open_for_training`, or the processes see different folders.
    """
    with contextlib.ExitStack() as stack:

        def lock_and_open() -> str:
            stack.enter_context(lock(workdir))  # first: another run may be using the files that are written next
            check_numerics(workdir, numerics)
            open_for_training(workdir, config, dataset_info)
            with writing(f"--workdir={workdir}"):
                write_atomically(workdir / _NUMERICS, json.dumps(numerics, indent=2) + "\n")
            return _owner(workdir)

        owner = on_process_0(lock_and_open)
        for process, seen in enumerate(gather(_owner(workdir))):
            if seen != owner:
                raise UserError(
                    f"--workdir={workdir} of process {process} is not the folder of process 0, where {owner} holds the "
                    "lock; choose a folder on a file system that all machines share."
                )
        yield


def open_for_training(workdir: Path, config: Config, dataset_info: DatasetInfo) -> None:
    """Write config and `dataset_info` into the folder, created if needed; UserError if it holds another run."""
    _check_utf_8(workdir)
    check_resumable(workdir, config)
    earlier = None
    with contextlib.suppress(UserError):  # missing or damaged: it is written again
        earlier = load_dataset_info(workdir)
    if earlier is not None:
        _check_unchanged_data(dataset_info, earlier, workdir)
    with writing(f"--workdir={workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
        if earlier is None:
            save_dataset_info(dataset_info, workdir)


def check_same_run(workdir: Path, config: Config) -> None:
    """Raise UserError with the fields that differ, if the folder holds a run with another config."""
    if changed := _changed(workdir, config):
        raise _another_config(workdir, changed)


def check_resumable(workdir: Path, config: Config) -> None:
    """Do as `check_same_run`, but let TIMES change if the steps that are done would be the same: a run may get longer.

    Raises:
      UserError: the folder holds a run with another config, or one whose steps would have been different.
    """
    changed = _changed(workdir, config)
    if not set(changed) <= set(TIMES):
        raise _another_config(workdir, changed)
    step = max(CheckpointFolder(checkpoints_in(workdir), keep_last=1, keep_best=0).complete(), default=0)
    if not changed or not step:
        return
    earlier, num_examples = read_config(workdir), load_dataset_info(workdir).num_examples
    if same_until(step, config, earlier, num_examples):
        return
    if config.num_epochs <= earlier.num_epochs:
        raise _another_config(workdir, changed)
    remedy = f"start from its net in a new workdir with --config.init_from={workdir}"
    kept = fractions_kept(earlier, config.num_epochs)
    as_before = copy.deepcopy(config)
    for name, value in kept.items():
        set_field(as_before, name, value)
    if same_until(step, as_before, earlier, num_examples):
        flags = " ".join(f"--config.{name}='{value}'".replace(" ", "") for name, value in kept.items())
        remedy = f"keep their times with {flags}, or {remedy}"
    raise UserError(
        f"--workdir={workdir} holds a run of {earlier.num_epochs:g} epochs, {step:,} steps of which are done; with "
        f"config.num_epochs={config.num_epochs:g} they would have been different, because times are fractions of the "
        f"training: {remedy}."
    )


def _changed(workdir: Path, config: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields that may not change and have, since the run in the folder started: name -> (now, then)."""
    with reading(f"--workdir={workdir}"):
        if not (workdir / "config.json").exists():
            return {}
    different = differences(config, read_config(workdir))
    return {name: values for name, values in different.items() if not name.startswith(MAY_CHANGE)}


def _another_config(workdir: Path, changed: dict[str, tuple[Any, Any]]) -> UserError:
    fields = ", ".join(f"config.{name}={now!r} (the run has {then!r})" for name, (now, then) in changed.items())
    return UserError(
        f"--workdir={workdir} holds a run with another config: {fields}; set these back to resume it, or choose "
        "another --workdir."
    )


def check_numerics(workdir: Path, numerics: dict[str, Any]) -> None:
    """Raise UserError if a setting changes the numbers of the run in the folder; warn if only rounding may differ."""
    earlier: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):  # missing or damaged: it is written again
        earlier = dict(json.loads((workdir / _NUMERICS).read_bytes()))
    for name, now in numerics.items():
        then = earlier.get(name, now)
        if now == then:
            continue
        if name not in _ROUNDING:
            raise UserError(
                f"{name}={now!r} changes the numbers of a training, and the run in --workdir={workdir} has {then!r}; "
                f"set {name} back, in the environment or in jax.config, or choose another --workdir."
            )
        logging.warning(
            "%s is %r, but was %r when the run in %s last started: from here on it is rounded in another way than an "
            "uninterrupted one; set it back to resume bit for bit.",
            name,
            now,
            then,
            workdir,
        )


def read_config(workdir: Path) -> Config:
    """Return the config of the run in this folder; UserError if it is missing, damaged, or of an older version."""
    path = workdir / "config.json"
    with reading(str(path)):
        if not path.exists():
            raise UserError(f"{workdir} holds no run: {path} is missing; give the folder of a training.")
        text = path.read_bytes()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(data, dict):
        raise _damaged(path, "it is not a JSON object")
    if any(name in _REMOVED_FIELDS and name not in field_types() for name, _ in flatten(data)):
        raise UserError(f"{path} {OLDER_VERSION}")
    config = validation.from_dict(data, str(path))
    if faults := validation.faults(config):
        raise _damaged(path, faults[0])
    return config


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} is damaged ({reason}); restore it, or train in a new folder.")


def lock(workdir: Path) -> contextlib.ExitStack:
    """Lock the folder, created if needed, until the result is closed or the process ends; UserError if that fails."""
    _check_utf_8(workdir)
    with writing(f"--workdir={workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
        held = try_lock(workdir / "lock")
        if held is None:
            owner = _owner(workdir) or "unknown"
            raise UserError(
                f"--workdir={workdir} is in use by process {owner}; wait for it, stop it, or choose another --workdir."
            )
        (workdir / "lock").write_text(f"{os.getpid()} on {socket.gethostname()}")
    return held


def _check_utf_8(workdir: Path) -> None:
    """Raise UserError for a path in which Orbax could not save the first checkpoint."""
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--workdir={workdir} is not UTF-8, which checkpoints need; choose another name.") from error


def _owner(workdir: Path) -> str:
    """Return process id and host of the last process that locked the folder; "" if there was none."""
    try:
        return (workdir / "lock").read_text().strip()
    except OSError:
        return ""


def _check_unchanged_data(dataset_info: DatasetInfo, earlier: DatasetInfo, workdir: Path) -> None:
    """Raise UserError that names the first fact in which the data differ from the data that the run started with."""
    then = earlier.fingerprint
    for name, value in dataset_info.fingerprint.items():
        if value != then.get(name):
            raise UserError(
                f"--workdir={workdir} holds a run on other data: {name} is {value!r} (the run has {then.get(name)!r}); "
                "set config.data.dir to the data that it started with, or choose another --workdir."
            )
