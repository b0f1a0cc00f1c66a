"""The folder of a run: `config.json`, facts of its data, `checkpoints/`, `metrics.jsonl`, event files."""

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from alexnet_jax import validation
from alexnet_jax.config import Config, differences, to_dict
from alexnet_jax.data.facts import DataFacts, save_facts
from alexnet_jax.errors import UserError

# What may change between two starts of the same run: nothing here alters the parameters that come out.
MAY_CHANGE = (
    *("mesh.", "eval.", "checkpoint.", "log."),
    *("data.dir", "data.feed", "data.read_threads", "data.prefetch_batches"),
)


def checkpoints_in(workdir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return workdir / "checkpoints"


def open_for_training(workdir: Path, config: Config, facts: DataFacts) -> None:
    """Makes the folder, or checks that what is in it belongs to the same run, and writes config and facts down.

    Raises:
      UserError: the folder can't be written, or holds a run with another config.
    """
    path = workdir / "config.json"
    if path.exists():
        _check_same_run(config, read_config(workdir), workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        new = workdir / "config.json.tmp"
        new.write_text(json.dumps(to_dict(config), indent=2) + "\n")
        os.replace(new, path)
        save_facts(facts, workdir)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} can't be written ({error.strerror}); choose a folder that can, or free some space."
        ) from error


def read_config(workdir: Path) -> Config:
    """The config of the run in this folder.

    Raises:
      UserError: there is none, or `config.json` is damaged.
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
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or train into a new folder.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged (it holds no object); restore it or train into a new folder.")
    return validation.from_dict(data, str(path))


def lock(workdir: Path) -> IO[str]:
    """Takes the folder for this process until the returned file is closed or the process ends, however it ends.

    Raises:
      UserError: another process trains in it.
    """
    file = open(workdir / "lock", "a+")  # noqa: SIM115 - stays open as long as the run
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"--workdir={workdir} is in use by process {owner}; wait for it, stop it, or choose another --workdir."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _check_same_run(config: Config, earlier: Config, workdir: Path) -> None:
    """UserError that names the fields in which a run differs from the one that the folder holds."""
    changed = {name: values for name, values in differences(config, earlier).items() if not name.startswith(MAY_CHANGE)}
    if changed:
        fields = ", ".join(f"config.{name}={now!r} (there: {then!r})" for name, (now, then) in changed.items())
        raise UserError(
            f"--workdir={workdir} holds a run with another config: {fields}; "
            "put these back to go on with it, or choose another --workdir."
        )
