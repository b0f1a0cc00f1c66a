"""Which classes a net takes for which, and the ones it knows worst."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import BLUE, Section, Table, in_figure, png, style

TITLE = "Confusion and the worst classes"
MAX_CLASSES = 20  # a larger matrix could not be read
NUM_WORST = 20


class WorstClass(NamedTuple):
    """A class, how many images of it there are, how many of them (percent) are taken for others, and for which most."""

    number: int
    images: int
    error: float
    taken_for: int | None
    taken_for_share: float  # percent of the class' images


def confusion_section(labels: np.ndarray, guesses: np.ndarray, class_names: Sequence[str], where: str) -> Section:
    """From the labels and the best guess of each image, int [n]. `where` is a sentence that says which images."""
    counts = confusion_matrix(labels, guesses, len(class_names))
    worst = worst_classes(counts)[:NUM_WORST]
    seen = int((counts.sum(axis=1) > 0).sum())
    error = 100 * (1 - np.trace(counts) / counts.sum())
    text = [f"{where} Top-1 error {error:.2f} %, by the center view alone. {seen} of {len(counts)} classes occur."]
    with style():
        if len(counts) <= MAX_CLASSES:
            text.append("Rows are the classes, columns what the net says; the numbers are images.")
            figure = _draw_matrix(counts, class_names)
        else:
            text.append(f"{len(counts)} classes are too many for a matrix: these are the {len(worst)} worst.")
            figure = _draw_worst(worst, class_names)
        numbers = {"top1_error": float(error), "images": len(labels)}
        return Section(TITLE, text, "confusion", png(figure), _table(worst, class_names), numbers)


def confusion_matrix(labels: np.ndarray, guesses: np.ndarray, num_classes: int) -> np.ndarray:
    """How many images of each class (row) were taken for each class (column), int64 [classes, classes]."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, guesses), 1)
    return counts


def worst_classes(counts: np.ndarray) -> list[WorstClass]:
    """The classes that occur, from the highest error down; of equals the one with more images first."""
    found = []
    for number, row in enumerate(counts):
        images = int(row.sum())
        if images:
            wrong = np.where(np.arange(len(row)) == number, 0, row)
            taken_for = int(wrong.argmax()) if wrong.any() else None
            found.append(
                WorstClass(
                    number, images, float(100 * wrong.sum() / images), taken_for, float(100 * wrong.max() / images)
                )
            )
    return sorted(found, key=lambda one: (-one.error, -one.images, one.number))


def _table(worst: Sequence[WorstClass], class_names: Sequence[str]) -> Table:
    rows = [
        (
            class_names[one.number],
            f"{one.images:,}",
            f"{one.error:.1f} %",
            "-" if one.taken_for is None else f"{class_names[one.taken_for]} ({one.taken_for_share:.1f} %)",
        )
        for one in worst
    ]
    return Table(("class", "images", "top-1 error", "most often taken for"), rows)


def _draw_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    side = 2.0 + 0.42 * len(counts)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [in_figure(name, 18) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    return figure


def _draw_worst(worst: Sequence[WorstClass], class_names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(9, 0.5 + 0.25 * len(worst)), layout="constrained")
    axes = figure.subplots()
    places = range(len(worst))
    axes.barh(places, [one.error for one in worst], color=BLUE, alpha=0.55)
    for place, one in enumerate(worst):
        if one.taken_for is not None:
            taken_for = f"{in_figure(class_names[one.taken_for], 40)}, {one.taken_for_share:.0f} %"
            axes.text(1, place, taken_for, va="center", fontsize=8)
    axes.set_yticks(places, [in_figure(class_names[one.number], 30) for one in worst])
    axes.set_ylim(len(worst) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 error (%), and what the class is most often taken for")
    return figure
