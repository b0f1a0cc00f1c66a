"""The results of a sweep: a table for the console, CSV, Markdown, and TensorBoard's table of hyperparameters."""

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import EXIT_DIVERGED
from alexnet_jax.files import write_atomically
from alexnet_jax.run.metric_writer import SummaryWriter
from alexnet_jax.sweep.runs import Run
from alexnet_jax.tables import aligned


def table(runs: Sequence[Run], running: Collection[int] = ()) -> list[dict[str, Any]]:
    """Return one row per run: its number, status, overrides by field, results, and its last words if it failed."""
    fields = dict.fromkeys((field for run in runs for field in run.overrides), "")
    return [
        {
            "run": run.number,
            "status": _status(run, running),
            **fields,
            **run.overrides,
            **run.results(),
            "error": (run.outcome() or {"error": ""})["error"],
        }
        for run in runs
    ]


def _status(run: Run, running: Collection[int]) -> str:
    if run.number in running:
        return "running"
    if (outcome := run.outcome()) is None:
        return "stopped" if (run.folder / "config.json").exists() else "waiting"
    return {0: "done", EXIT_DIVERGED: "diverged"}.get(outcome["status"], "failed")


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows as aligned lines below a header, without the columns that are empty in all rows."""
    columns = [name for name in rows[0] if any(_text(row[name]) for row in rows)]
    return aligned([columns, *([_text(row[name]) for name in columns] for row in rows)])


def write(runs: Sequence[Run], folder: Path) -> None:
    """Write `results.csv`, `results.md` and, for TensorBoard, `hparams/`; OSError if the folder can't be written."""
    rows = table(runs)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "results.csv", text.getvalue())
    cells = [list(rows[0]), ["---"] * len(rows[0])]
    cells += [[_text(value).replace("|", r"\|") for value in row.values()] for row in rows]
    write_atomically(folder / "results.md", "".join(f"| {' | '.join(row)} |\n" for row in cells))
    for run in runs:
        if run.finished and not (folder / "hparams" / run.name).exists():
            _write_hparams(run, folder / "hparams")


def _write_hparams(run: Run, folder: Path) -> None:
    parameters = {
        field: value if isinstance(value, int | float | bool | str) else str(value)
        for field, value in run.overrides.items()
    }
    measured = {name: value for name, value in run.results().items() if value is not None}
    with SummaryWriter(str(folder)) as writer:
        writer.add_hparams(parameters, measured, name=run.name, global_step=0)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
