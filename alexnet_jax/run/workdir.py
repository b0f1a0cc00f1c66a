"""The folder of a run: `config.json`, dataset_info of its data, `checkpoints/`, `metrics.jsonl`, event files."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from alexnet_jax import validation
from alexnet_jax.cluster.processes import gather, on_process_0
from alexnet_jax.config import Config, differences, to_dict
from alexnet_jax.data.dataset_info import DatasetInfo, load_dataset_info, save_dataset_info
from alexnet_jax.errors import UserError
from alexnet_jax.files import writing

# What may change between two starts of the same run: nothing here alters the parameters that come out.
MAY_CHANGE = (
    *("mesh.", "gradient_accumulation", "eval.", "checkpoint.", "log.", "profile"),
    *("data.dir", "data.feed", "data.read_threads", "data.prefetch_batches"),
)


def checkpoints_in(workdir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return workdir / "checkpoints"


@contextlib.contextmanager
def opened_for_training(workdir: Path, config: Config, dataset_info: DatasetInfo) -> Iterator[None]:
    """The folder of this run, opened and locked by process 0 for all processes of the group, while inside.

    Raises:
      UserError: the folder can't be written, is in use, holds a run with another config or on other data, or is not
        the same folder on every machine.
    """
    with contextlib.ExitStack() as stack:

        def take() -> str:
            stack.enter_context(lock(workdir))  # first: what is written below may be another's who trains here
            open_for_training(workdir, config, dataset_info)
            return _owner(workdir)

        owner = on_process_0(take)
        for process, seen in enumerate(gather(_owner(workdir))):
            if seen != owner:
                raise UserError(
                    f"--workdir={workdir} of process {process} is not that of process 0, where {owner} holds the lock; "
                    "put it on a file system that all machines share."
                )
        yield


def open_for_training(workdir: Path, config: Config, dataset_info: DatasetInfo) -> None:
    """Makes the folder, or checks that what is in it belongs to the same run, and writes config and dataset_info down.

    Raises:
      UserError: the folder can't be written, or holds a run with another config or on other data.
    """
    check_same_run(workdir, config)
    earlier = _readable_dataset_info(workdir)
    if earlier is not None:
        _check_same_data(dataset_info, earlier, workdir)
    with writing(f"--workdir={workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
        new = workdir / "config.json.tmp"
        new.write_text(json.dumps(to_dict(config), indent=2) + "\n")
        os.replace(new, workdir / "config.json")
        if earlier is None:
            save_dataset_info(dataset_info, workdir)


def check_same_run(workdir: Path, config: Config) -> None:
    """UserError if the folder holds a run with another config; it names the fields that differ."""
    if not (workdir / "config.json").exists():
        return
    found = differences(config, read_config(workdir)).items()
    if changed := {name: values for name, values in found if not name.startswith(MAY_CHANGE)}:
        fields = ", ".join(f"config.{name}={now!r} (there: {then!r})" for name, (now, then) in changed.items())
        raise UserError(
            f"--workdir={workdir} holds a run with another config: {fields}; "
            "put these back to go on with it, or choose another --workdir."
        )


def read_config(workdir: Path) -> Config:
    """The config of the run in this folder.

    Raises:
      UserError: there is none, or `config.json` is damaged or describes no run that can be.
    """
    path = workdir / "config.json"
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"--workdir={workdir} holds no run: {path} is missing; give the folder that training wrote to."
        ) from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or train into a new folder.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged (it holds no object); restore it or train into a new folder.")
    config = validation.from_dict(data, str(path))
    if faults := validation.faults(config):
        raise UserError(f"{path} is damaged ({faults[0]}); restore it or train into a new folder.")
    return config


def lock(workdir: Path) -> IO[str]:
    """Takes the folder, made if need be, for this process until the file is closed or the process ends, however.

    Raises:
      UserError: another process trains in it, or it can't be written.
    """
    with writing(f"--workdir={workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / "lock", "a+")  # noqa: SIM115 - stays open as long as the run
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        owner = _owner(workdir) or "unknown"
        raise UserError(
            f"--workdir={workdir} is in use by process {owner}; wait for it, stop it, or choose another --workdir."
        ) from None
    with writing(f"--workdir={workdir}"):
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file


def _owner(workdir: Path) -> str:
    """Who took the folder last: process id and host; empty if nobody did."""
    try:
        return (workdir / "lock").read_text().strip()
    except OSError:
        return ""


def _readable_dataset_info(workdir: Path) -> DatasetInfo | None:
    """The dataset_info of the run in this folder; None if they are missing or damaged, for going on mends them."""
    try:
        return load_dataset_info(workdir)
    except UserError:
        return None


def _check_same_data(dataset_info: DatasetInfo, earlier: DatasetInfo, workdir: Path) -> None:
    """UserError that names the first fact in which the data differ from those that the folder's run began with."""
    then = earlier.fingerprint
    for name, value in dataset_info.fingerprint.items():
        if value != then.get(name):
            raise UserError(
                f"--workdir={workdir} holds a run on other data: {name} is {value!r} (there: {then.get(name)!r}); set "
                "config.data.dir to the data that it began with, or choose another --workdir."
            )
