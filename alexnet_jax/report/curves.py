"""Learning curves, from the records in `metrics.jsonl` of a finished, stopped or running training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import BLUE, GRAY, Section, as_png, in_figure

TITLE = "Learning curves"
PANELS = (
    ("loss", "loss (nats)"),
    ("top1_error", "top-1 error (%)"),
    ("top5_error", "top-5 error (%)"),
    ("learning_rate", "learning rate of the kernels"),
)
_NEEDED = ("split", "step", "epoch")  # to place a record on a line
_BINS = 150  # a line with more points than this is drawn as means of consecutive points
_COLORS = ("#d95f02", "#1b9e77", "#7570b3", "#a6761d")

Record = Mapping[str, Any]


def curves_section(records: Iterable[Record]) -> Section:
    """Show loss, errors and learning rate by epoch; one line for training and one per evaluated split and views."""
    series = group_records(record for record in records if all(record.get(key) is not None for key in _NEEDED))
    if not series:
        return Section(TITLE, ["metrics.jsonl holds no records yet: the run has not reported its first step."])
    return Section(TITLE, [_in_words(series)], "curves", _draw(series))


def group_records(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group records by line, in the order of steps; of several evaluations of one step the last counts."""
    series: dict[str, dict[int, Record]] = {}
    for record in records:
        name = record["split"]
        if record.get("views") is not None:
            name += f", {record['views']} view{'s' if record['views'] > 1 else ''}"
        series.setdefault(name, {})[record["step"]] = record
    in_order = sorted(series.items(), key=lambda item: (item[0] != "train", item[0]))
    return {name: [by_step[step] for step in sorted(by_step)] for name, by_step in in_order}


def curve(records: Sequence[Record], key: str) -> np.ndarray:
    """Return the epochs and values of one quantity, float64 [2, n], without records that lack it."""
    points = [(record["epoch"], record[key]) for record in records if record.get(key) is not None]
    return np.array(points, np.float64).reshape(-1, 2).T


def smoothed(points: np.ndarray, bins: int = _BINS) -> np.ndarray:
    """Return the means of consecutive points, [2, n] -> [2, at most bins]; bins have nearly equal numbers of points."""
    groups = np.array_split(points, min(bins, points.shape[1]), axis=1)
    return np.array([group.mean(axis=1) for group in groups]).T


def _in_words(series: Mapping[str, Sequence[Record]]) -> str:
    epoch = max(records[-1]["epoch"] for records in series.values())
    evaluations = []
    for name, (*_, last) in series.items():
        top1, top5, loss = (last.get(key) for key in ("top1_error", "top5_error", "loss"))
        if name != "train" and top1 is not None:
            errors = f"top-1 error {top1:.2f} %" + (f", top-5 error {top5:.2f} %" if top5 is not None else "")
            loss = "not a number" if loss is None else f"{loss:.4f}"
            evaluations.append(f"{name}: {errors}, loss {loss} (epoch {last['epoch']:.2f})")
    return f"Up to epoch {epoch:.2f}. {'; '.join(evaluations) or 'Not evaluated yet'}."


@as_png
def _draw(series: Mapping[str, Sequence[Record]]) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        colors = iter(_COLORS * len(series))
        lines = {name: points for name, records in series.items() if (points := curve(records, key)).size}
        if not lines:  # the top-5 error of at most five classes
            axes.set_axis_off()
            continue
        for name, points in lines.items():
            if key == "learning_rate":
                axes.plot(*points, color=BLUE, linewidth=1.2, drawstyle="steps-pre")
            elif name == "train":
                if points.shape[1] > _BINS:
                    axes.plot(*points, color=GRAY, alpha=0.25, linewidth=0.5)
                axes.plot(*smoothed(points), color=BLUE, linewidth=1.2, label=name)
            else:
                style = {"color": next(colors), "linewidth": 1.2, "marker": "o", "markersize": 3}
                axes.plot(*points, **style, label=in_figure(name, 40))
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.25)
        if key == "learning_rate":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
            axes.legend()
    return figure
