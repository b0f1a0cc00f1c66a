"""The runs of a sweep: their names, folders and configs, and how far each has come."""

import collections
import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax import validation
from alexnet_jax.cli import call_function
from alexnet_jax.config import Config, field_types, num_views, set_field, unknown_field
from alexnet_jax.errors import EXIT_CRASHED, EXIT_DIVERGED, UserError
from alexnet_jax.files import write_atomically
from alexnet_jax.metrics import read_records
from alexnet_jax.sweep.space import Overrides

OUTCOME = "outcome.json"
CONSOLE = "console.log"
_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its `number` in the sweep, from 0, its `name`, made of its overrides, and its workdir, `folder`."""

    number: int
    name: str
    overrides: Overrides
    config: Config
    folder: Path

    def outcome(self) -> dict[str, Any] | None:
        """Return the exit "status" of its process and, as "error", its last line; None if it has not ended."""
        try:
            outcome = json.loads((self.folder / OUTCOME).read_text())
            return {"status": int(outcome["status"]), "error": str(outcome["error"])}
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    @property
    def finished(self) -> bool:
        """Whether running it again would change nothing, because it completed or diverged."""
        outcome = self.outcome()
        return outcome is not None and outcome["status"] in (0, EXIT_DIVERGED)

    def record_outcome(self, status: int) -> None:
        """Write down how its process ended: its exit status, or minus the signal, and the reason."""
        write_atomically(self.folder / OUTCOME, json.dumps({"status": status, "error": self._reason(status)}) + "\n")

    def _reason(self, status: int) -> str:
        """Return the signal, its last error message, or the last line of a traceback; "" for a success."""
        if status == 0:
            return ""
        if status < 0 or status > 128:
            return f"ended by signal {-status if status < 0 else status - 128}"
        lines = list(filter(str.strip, (self.folder / CONSOLE).read_text(errors="replace").splitlines()))
        if status != EXIT_CRASHED:  # progress may follow the message, if another process trains in this folder
            lines = [line for line in lines if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else ""

    def results(self) -> dict[str, Any]:
        """Return epoch and training loss so far, the errors of the last evaluation, and the best top-1 error.

        Evaluations of another split, or with another number of views, do not count.
        """
        records = list(read_records(self.folder))
        training: Mapping[str, Any] = next((r for r in reversed(records) if r.get("views") is None), {})
        views = num_views(self.config, self.config.eval.views)
        counted = {"split": self.config.data.eval_split, "views": views}.items()
        evaluations = [record for record in records if counted <= record.items()]
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
    """Return overrides as flags: {"seed": 1} -> ["--config.seed=1"]."""
    return [f"--config.{field}={value}" for field, value in overrides.items()]


def read_sweep(path: Path) -> list[Overrides]:
    """Return the runs that the sweep file's `get_sweep` lists; UserError if it is not a sweep file."""
    sweep = call_function(f"--sweep={path}", path, "get_sweep", Path("configs/sweeps/learning_rate.py"))
    if not isinstance(sweep, Sequence) or not sweep or not all(isinstance(run, Mapping) for run in sweep):
        raise UserError(f"get_sweep() of --sweep={path} must return a list of overrides, for example [{{'seed': 1}}].")
    return [dict(run) for run in sweep]


def plan(base: Config, sweep: Sequence[Overrides], folder: Path) -> list[Run]:
    """Return the runs, checked without data or devices; UserError lists all faults and repeated runs, one per line."""
    names = [_name(overrides, sweep) for overrides in sweep]
    runs, faults = [], []
    for number, (name, overrides) in enumerate(zip(names, sweep, strict=True)):
        if (first := names.index(name)) < number:
            faults.append(f"runs {first} and {number} of the sweep are the same ({name}); remove one.")
        config = copy.deepcopy(base)
        config_faults = [unknown_field(field) for field in overrides if field not in field_types()]
        if not config_faults:
            for field, value in overrides.items():
                set_field(config, field, value)
            config_faults = validation.faults(config)
        faults += [f"run {number} of the sweep ({name}): {fault}" for fault in config_faults]
        runs.append(Run(number, name, overrides, config, folder / name))
    if faults:
        raise UserError("\n".join(faults))
    return runs


def check_folders(planned: Sequence[Run]) -> None:
    """Raise a UserError, one line per folder, if folders hold runs with other configs, whose results are not these."""
    from alexnet_jax.run.workdir import check_same_run

    faults = []
    for run in planned:
        try:
            check_same_run(run.folder, run.config)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def select(planned: Sequence[Run], index: int | None) -> Sequence[Run]:
    """Return the run with this number, or all for None; UserError if there is no such run."""
    if index is not None and index >= len(planned):
        raise UserError(f"index={index} is out of range; the sweep has {len(planned)} runs, 0 to {len(planned) - 1}.")
    return planned if index is None else [planned[index]]


def _name(overrides: Overrides, sweep: Sequence[Overrides]) -> str:
    """Return a name that can be a folder's, `learning_rate=0.01+seed=0`, with sections where fields share a name."""
    last_parts = {field: field.rpartition(".")[2] for run in sweep for field in run}
    count = collections.Counter(last_parts.values())
    short = {field: last if count[last] == 1 else field for field, last in last_parts.items()}
    parts = (f"{short[field]}={value}" for field, value in overrides.items())
    name = re.sub(r"[^\w.=+-]+", "_", "+".join(parts)) or "base"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
