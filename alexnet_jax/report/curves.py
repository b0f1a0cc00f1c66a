"""Learning curves, from the records in `metrics.jsonl`: for finished, stopped and running trainings alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import BLUE, GRAY, Section, in_figure, png, style

TITLE = "Learning curves"
PANELS = (
    ("loss", "loss (nats)"),
    ("top1_error", "top-1 error (%)"),
    ("top5_error", "top-5 error (%)"),
    ("learning_rate", "learning rate of the kernels"),
)
_NEEDED = ("split", "step", "epoch")  # to have a place on a line
_BINS = 150  # more points than that on a line are drawn as means of their neighbors
_COLORS = ("#d95f02", "#1b9e77", "#7570b3", "#a6761d")

Record = Mapping[str, Any]
Curve = tuple[np.ndarray, np.ndarray]  # epochs, values


def curves_section(records: Iterable[Record]) -> Section:
    """Loss, errors and rate by epoch; a line for the training and one for each split and number of views evaluated."""
    series = group_records(record for record in records if all(record.get(key) is not None for key in _NEEDED))
    if not series:
        return Section(TITLE, ["metrics.jsonl holds no records yet: the run has not reported its first step."])
    with style():
        return Section(TITLE, [_in_words(series)], "curves", png(_draw(series)))


def group_records(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each line that is drawn, by epoch; of several evaluations of the same step the last one counts."""
    series: dict[str, dict[int, Record]] = {}
    for record in records:
        name = record["split"]
        if record.get("views") is not None:
            name += f", {record['views']} view{'s' if record['views'] > 1 else ''}"
        series.setdefault(name, {})[record["step"]] = record
    in_order = sorted(series.items(), key=lambda item: (item[0] != "train", item[0]))
    return {name: [by_step[step] for step in sorted(by_step)] for name, by_step in in_order}


def curve(records: Sequence[Record], key: str) -> Curve:
    """The epochs and values of one quantity, float64 [n] each; without records that lack it or hold no number."""
    points = [(record["epoch"], record[key]) for record in records if record.get(key) is not None]
    epochs, values = np.array(points, np.float64).reshape(-1, 2).T
    return epochs, values


def smoothed(epochs: np.ndarray, values: np.ndarray, bins: int = _BINS) -> Curve:
    """The means of consecutive points, about as many to each of `bins`; with fewer points, the points themselves."""
    parts = min(bins, len(epochs))
    return tuple(np.array([part.mean() for part in np.array_split(row, parts)]) for row in (epochs, values))  # type: ignore[return-value]


def _in_words(series: Mapping[str, Sequence[Record]]) -> str:
    last = {name: records[-1] for name, records in series.items()}
    epoch = max(record["epoch"] for record in last.values())
    parts = [
        f"{name}: top-1 error {record['top1_error']:.2f} %, top-5 error {record['top5_error']:.2f} %, "
        f"loss {_number(record.get('loss'))} (epoch {record['epoch']:.2f})"
        for name, record in last.items()
        if name != "train" and record.get("top1_error") is not None and record.get("top5_error") is not None
    ]
    return f"Up to epoch {epoch:.2f}. {'; '.join(parts) or 'Not evaluated yet'}."


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"


def _draw(series: Mapping[str, Sequence[Record]]) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        colors = iter(_COLORS * len(series))
        for name, records in series.items():
            epochs, values = curve(records, key)
            if not len(epochs):
                continue
            if key == "learning_rate":
                axes.plot(epochs, values, color=BLUE, linewidth=1.2, drawstyle="steps-pre")
            elif name == "train":
                if len(epochs) > _BINS:
                    axes.plot(epochs, values, color=GRAY, alpha=0.25, linewidth=0.5)
                axes.plot(*smoothed(epochs, values), color=BLUE, linewidth=1.2, label=name)
            else:
                shown = in_figure(name, 40)
                axes.plot(epochs, values, color=next(colors), linewidth=1.2, marker="o", markersize=3, label=shown)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        if key == "learning_rate":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
            axes.legend()
    return figure
