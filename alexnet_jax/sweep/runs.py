"""The runs of a sweep: their names and folders, whether their configs are right, and how far each has come."""

import collections
import copy
import dataclasses
import hashlib
import json
import os
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax import validation
from alexnet_jax.cli import check_python_file
from alexnet_jax.config import Config, field_types, set_field
from alexnet_jax.errors import EXIT_DIVERGED, UserError
from alexnet_jax.metrics import read_records
from alexnet_jax.sweep.space import Overrides

OUTCOME = "outcome.json"
CONSOLE = "console.log"
_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: `number` in the sweep, from 0; `name` after its overrides; the `folder` it trains in."""

    number: int
    name: str
    overrides: Overrides
    config: Config
    folder: Path

    @property
    def flags(self) -> list[str]:
        """The overrides as flags of `alexnet_jax.main`."""
        return override_flags(self.overrides)

    def outcome(self) -> dict[str, Any] | None:
        """How its process ended: "status", its exit status, and "error", what it said last. None: it has not."""
        try:
            found = json.loads((self.folder / OUTCOME).read_text())
            return {"status": int(found["status"]), "error": str(found["error"])}
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    @property
    def finished(self) -> bool:
        """Whether running it again would change nothing: it came to its end, or diverged."""
        outcome = self.outcome()
        return outcome is not None and outcome["status"] in (0, EXIT_DIVERGED)

    def note_outcome(self, status: int) -> None:
        """Writes down how its process ended."""
        lines = (self.folder / CONSOLE).read_text(errors="replace").splitlines()
        error = next((line for line in reversed(lines) if line.strip()), "") if status else ""
        new = self.folder / f"{OUTCOME}.tmp"
        new.write_text(json.dumps({"status": status, "error": error.removeprefix("error: ")}) + "\n")
        os.replace(new, self.folder / OUTCOME)

    def results(self) -> dict[str, Any]:
        """From its metrics so far: epochs, loss of training, errors of the last evaluation, and the best of them.

        Evaluations of another split, or by another number of views, that were made besides, don't count.
        """
        training: Mapping[str, Any] = {}
        evaluations = []
        wanted = {"split": self.config.data.eval_split, "views": self.config.eval.views}
        for record in read_records(self.folder):
            if record.get("views") is None:
                training = record
            elif wanted.items() <= record.items():
                evaluations.append(record)
        last: Mapping[str, Any] = max(reversed(evaluations), key=lambda record: record["step"], default={})
        errors = [record["top1_error"] for record in evaluations if record.get("top1_error") is not None]
        return {
            "epoch": training.get("epoch"),
            "train_loss": training.get("loss"),
            "top1_error": last.get("top1_error"),
            "top5_error": last.get("top5_error"),
            "best_top1_error": min(errors, default=None),
        }


def override_flags(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as flags: {"seed": 1} -> ["--config.seed=1"]."""
    return [f"--config.{field}={_as_flag(value)}" for field, value in overrides.items()]


def read_sweep(path: Path) -> list[Overrides]:
    """The runs that the sweep file's `get_sweep` lists; UserError if it is no such file."""
    check_python_file(f"--sweep={path}", path, "get_sweep", Path("configs/sweeps/learning_rate.py"))
    runs = runpy.run_path(str(path))["get_sweep"]()
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, Mapping) for run in runs):
        raise UserError(f"get_sweep() of --sweep={path} must return a list of overrides, {{'seed': 1}} for example.")
    return [dict(run) for run in runs]


def plan(base: Config, sweep: Sequence[Overrides], folder: Path) -> list[Run]:
    """The runs, checked as far as that goes without data or devices.

    Raises:
      UserError: with every fault of every run, one a line; or two runs are the same.
    """
    names = [_name(overrides, sweep) for overrides in sweep]
    faults = [
        f"runs {names.index(name)} and {number} of the sweep are the same ({name}); leave one out."
        for number, name in enumerate(names)
        if names.index(name) < number
    ]
    runs = []
    for number, (name, overrides) in enumerate(zip(names, sweep, strict=True)):
        config = copy.deepcopy(base)
        wrong = [validation.unknown_field(field) for field in overrides if field not in field_types()]
        if not wrong:
            for field, value in overrides.items():
                set_field(config, field, value)
            wrong = validation.faults(config)
        faults += [f"run {number} of the sweep ({name}): {fault}" for fault in wrong]
        runs.append(Run(number, name, overrides, config, folder / name))
    if faults:
        raise UserError("\n".join(faults))
    return runs


def check_folders(planned: Sequence[Run]) -> None:
    """UserError if folders hold runs with other configs, whose results would pass for those of these; a line each."""
    from alexnet_jax.run.workdir import check_same_run

    faults = []
    for run in planned:
        try:
            check_same_run(run.folder, run.config)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def pick(planned: Sequence[Run], index: int | None) -> Sequence[Run]:
    """All runs, or only the one of this number; UserError if there is none."""
    if index is None:
        return planned
    if index >= len(planned):
        raise UserError(f"--index={index}, but the sweep has {len(planned)} runs, 0 to {len(planned) - 1}.")
    return [planned[index]]


def _name(overrides: Overrides, sweep: Sequence[Overrides]) -> str:
    """A name that is a folder's too: `learning_rate=0.01+seed=0`, whole names of fields that end alike."""
    last_parts = collections.Counter(field.rsplit(".", 1)[-1] for field in {f for run in sweep for f in run})
    parts = []
    for field, value in overrides.items():
        last = field.rsplit(".", 1)[-1]
        parts.append(f"{last if last_parts[last] == 1 else field}={_as_flag(value)}")
    name = re.sub(r"[^\w.=+-]+", "_", "+".join(parts)) or "base"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _as_flag(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + "".join(f"{item!r}," for item in value) + ")"
    return str(value)
