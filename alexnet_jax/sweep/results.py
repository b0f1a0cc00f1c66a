"""What came of the runs of a sweep: a table for the console, CSV, Markdown, and TensorBoard's table of parameters."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import EXIT_DIVERGED
from alexnet_jax.run.tensorboard import SummaryWriter
from alexnet_jax.sweep.runs import Run

RESULTS = ("epoch", "train_loss", "top1_error", "top5_error", "best_top1_error")


def table(runs: Sequence[Run], running: Collection[int] = ()) -> list[dict[str, Any]]:
    """A row for each run: number, status, its overrides by field, results, and what it said if it failed."""
    fields = list(dict.fromkeys(field for run in runs for field in run.overrides))
    return [
        {
            "run": run.number,
            "status": _status(run, running),
            **{field: run.overrides.get(field, "") for field in fields},
            **run.results(),
            "error": (run.outcome() or {"error": ""})["error"],
        }
        for run in runs
    ]


def _status(run: Run, running: Collection[int]) -> str:
    outcome = run.outcome()
    if run.number in running:
        return "running"
    if outcome is None:
        return "stopped" if (run.folder / "config.json").exists() else "waiting"
    return {0: "done", EXIT_DIVERGED: "diverged"}.get(outcome["status"], "failed")


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows in columns, below their names; columns in which all are empty are left out."""
    columns = [name for name in rows[0] if any(_text(row[name]) for row in rows)]
    cells = [columns, *([_text(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def write(runs: Sequence[Run], folder: Path) -> None:
    """Writes `results.csv`, `results.md` and, for TensorBoard, `hparams/`; OSError if the folder can't be written."""
    rows = table(runs)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    markdown = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    markdown += [" | ".join(_text(value).replace("|", r"\|") for value in row.values()) for row in rows]
    (folder / "results.md").write_text("".join(f"| {line} |\n" for line in markdown))
    _write_hparams(runs, rows, folder / "hparams")


def _write_hparams(runs: Sequence[Run], rows: Sequence[dict[str, Any]], folder: Path) -> None:
    for run, row in zip(runs, rows, strict=True):
        if not run.finished or (folder / run.name).exists():
            continue
        parameters = {
            field: value if isinstance(value, int | float | bool | str) else str(value)
            for field, value in run.overrides.items()
        }
        measured = {name: row[name] for name in RESULTS if row[name] is not None}
        with SummaryWriter(str(folder)) as writer:
            writer.add_hparams(parameters, measured, name=run.name, global_step=0)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
