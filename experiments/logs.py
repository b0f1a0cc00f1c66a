"""Measurements from the kept logs: `LOGS/TRAINING/SEED/metrics.jsonl`, and for measurements on trained nets
`LOGS/EXPERIMENT/ensemble.jsonl`, `LOGS/EXPERIMENT/report.json` or `LOGS/TRAINING/SEED/report.json`.

All our numbers in `docs/reproduction.md` are read from these.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.metrics import read_records

LOGS = Path(__file__).with_name("logs")
SWEEP_OF_FIGURE_1 = LOGS / "sweeps" / "figure_1"  # one folder per run of `configs/sweeps/figure_1.py`
ENSEMBLE = "ensemble.jsonl"  # the output of `evaluate --json`
REPORT = "report.json"  # written by `report`

Measure = Callable[[Path], str | None]


class Errors(NamedTuple):
    """Top-1 and top-5 error in percent."""

    top1: float
    top5: float


def runs_of(logs: Path, training: str) -> list[Path]:
    """Return the folders of a training's runs, by seed."""
    return sorted((path.parent for path in logs.glob(f"{training}/*/metrics.jsonl")), key=lambda run: int(run.name))


def final_errors(logs: Path, training: str, views: int) -> list[Errors]:
    """Return the errors of each run's last evaluation with this number of views; runs without one are left out.

    The last is the one of the highest step, and of several of that step the one made last.
    """
    errors = []
    for run in runs_of(logs, training):
        evaluations = [record for record in read_records(run) if record.get("views") == views]
        if evaluations:
            last = max(reversed(evaluations), key=lambda record: record["step"])
            errors.append(Errors(last["top1_error"], last["top5_error"]))
    return errors


def training_errors(records: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return the mean training error (percent) over each whole epoch: (1, 63.2), (2, 51.7), ...

    Records hold the errors of single batches. An epoch with at most half as many of them as the others, such as an
    incomplete one at the end, is not counted.
    """
    by_epoch: dict[int, list[float]] = {}
    for record in records:
        if record.get("views") is None and record["top1_error"] is not None:
            by_epoch.setdefault(math.ceil(record["epoch"]), []).append(record["top1_error"])
    most = max(map(len, by_epoch.values()), default=0)
    whole = {epoch: errors for epoch, errors in by_epoch.items() if 2 * len(errors) > most}
    return [(epoch, statistics.fmean(errors)) for epoch, errors in sorted(whole.items())]


def epochs_to(errors: Sequence[tuple[int, float]], error: float) -> float:
    """Return after how many epochs the training error reaches `error`; infinity if it never does.

    The mean of an epoch (`training_errors`) counts as the error at its end; between two ends it is interpolated.
    """
    before: tuple[int, float] | None = None
    for epoch, mean in errors:
        if mean <= error:
            if before is None:
                return float(epoch)
            return epoch - (epoch - before[0]) * (error - mean) / (before[1] - mean)
        before = epoch, mean
    return math.inf


def error_of(training: str, views: int) -> Measure:
    """Measure the errors of a training, mean and standard deviation over its seeds."""

    def measure(logs: Path) -> str | None:
        errors = final_errors(logs, training, views)
        return in_words(errors) if errors else None

    return measure


def difference(reference: str, changed: str, views: int) -> Measure:
    """Measure by how many percentage points the changed net is worse than the reference, in the mean over the seeds."""

    def measure(logs: Path) -> str | None:
        ours = final_errors(logs, reference, views), final_errors(logs, changed, views)
        if not all(ours):
            return None
        top1, top5 = (
            statistics.fmean(column[1]) - statistics.fmean(column[0])
            for column in zip(*(zip(*errors, strict=True) for errors in ours), strict=True)
        )
        return f"{top1:+.2f} / {top5:+.2f} (n = {len(ours[0])}, {len(ours[1])})"

    return measure


def gain_of_views(training: str) -> Measure:
    """Measure by how many percentage points one view is worse than ten, in the mean over the seeds."""

    def measure(logs: Path) -> str | None:
        one, ten = final_errors(logs, training, 1), final_errors(logs, training, 10)
        if not one or len(one) != len(ten):
            return None
        gains = [Errors(a.top1 - b.top1, a.top5 - b.top5) for a, b in zip(one, ten, strict=True)]
        return in_words(gains)

    return measure


def ensemble_error(name: str) -> Measure:
    """Measure the error of an ensemble."""

    def measure(logs: Path) -> str | None:
        path = logs / name / ENSEMBLE
        if not path.exists():
            return None
        record = json.loads(path.read_text().splitlines()[-1])
        return in_words([Errors(record["top1_error"], record["top5_error"])])

    return measure


def colors_of_towers(name: str) -> Measure:
    """Measure the share of the energy of each tower's first kernels off the gray axis (`report/filters.py`)."""

    def measure(logs: Path) -> str | None:
        shares = [report["filters"]["color_of_all_energy"] for report in _reports(logs / name)]
        return "; ".join(f"color {' and '.join(f'{share:.2f}' for share in towers)}" for towers in shares) or None

    return measure


def neighbors_of_one_class(name: str) -> Measure:
    """Measure how many of the neighbors in a report are of their query's class (`report/figure_4.py`)."""

    def measure(logs: Path) -> str | None:
        shares = [report["neighbors"]["share_of_same_class"] for report in _reports(logs / name)]
        return "; ".join(f"{100 * share:.0f} %" for share in shares) or None

    return measure


def _reports(folder: Path) -> list[Any]:
    """Read the report of an experiment, or those of a training's runs, by seed."""
    paths = [folder / REPORT, *(run / REPORT for run in runs_of(folder.parent, folder.name))]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def speed_up(reference: str, changed: str, error: float) -> Measure:
    """Measure how many times as many epochs the changed net needs to reach a training error (percent)."""

    def measure(logs: Path) -> str | None:
        means = []
        for training in (reference, changed):
            epochs = [epochs_to(training_errors(read_records(run)), error) for run in runs_of(logs, training)]
            if not epochs:
                return None
            means.append(statistics.fmean(epochs))
        if math.inf in means:
            return f"not reached ({means[0]:g} and {means[1]:g} epochs to {error:g} %)"
        return f"{means[1] / means[0]:.1f} ({means[0]:.3g} and {means[1]:.3g} epochs to {error:g} %)"

    return measure


def in_words(errors: Sequence[Errors]) -> str:
    """Return the mean, and for several runs their standard deviation and number."""
    columns = list(zip(*errors, strict=True))
    if len(errors) == 1:
        return " / ".join(f"{column[0]:.2f}" for column in columns)
    parts = [f"{statistics.fmean(column):.2f} ± {statistics.stdev(column):.2f}" for column in columns]
    return f"{' / '.join(parts)} (n = {len(errors)})"
