"""Which classes a net confuses, and which it knows worst."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import BLUE, Section, Table, as_png, in_figure

TITLE = "Confusion and the worst classes"
MAX_CLASSES = 20  # a larger matrix would be illegible
NUM_WORST = 20


class WorstClass(NamedTuple):
    """A class, the number of its images, its top-1 error, and the class that it is most often taken for."""

    number: int
    images: int
    error: float  # percent
    taken_for: int | None
    taken_for_share: float  # percent of the class's images


def confusion_section(labels: np.ndarray, guesses: np.ndarray, class_names: Sequence[str], details: str) -> Section:
    """Compare the label and the best guess of each image, int [n]; `details` is a sentence on which images they are."""
    counts = confusion_matrix(labels, guesses, len(class_names))
    worst = worst_classes(counts)[:NUM_WORST]
    error = float(100 * (1 - np.trace(counts) / counts.sum()))
    classes = f"{np.count_nonzero(counts.sum(axis=1))} of {len(counts)} classes occur."
    text = [f"{details} Top-1 error {error:.2f} %, by the center view alone. {classes}"]
    if len(counts) <= MAX_CLASSES:
        text.append("Rows are the classes, columns the net's guesses; the numbers are images.")
        figure = _draw_matrix(counts, class_names)
    else:
        text.append(f"{len(counts)} classes are too many for a matrix: these are the {len(worst)} worst.")
        figure = _draw_worst(worst, class_names)
    table = _table(worst, class_names)
    return Section(TITLE, text, "confusion", figure, table, {"top1_error": error, "images": len(labels)})


def confusion_matrix(labels: np.ndarray, guesses: np.ndarray, num_classes: int) -> np.ndarray:
    """Count how many images of each class (row) were taken for each class (column), int64 [classes, classes]."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, guesses), 1)
    return counts


def worst_classes(counts: np.ndarray) -> list[WorstClass]:
    """Return the classes that occur, from the highest error down; ties go to the class with more images."""
    images = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    classes = []
    for number in np.flatnonzero(images).tolist():
        error, share = (float(100 * count / images[number]) for count in (wrong[number].sum(), wrong[number].max()))
        taken_for = int(wrong[number].argmax()) if error else None
        classes.append(WorstClass(number, int(images[number]), error, taken_for, share))
    return sorted(classes, key=lambda worst: (-worst.error, -worst.images, worst.number))


def _table(worst: Sequence[WorstClass], class_names: Sequence[str]) -> Table:
    rows = []
    for number, images, error, taken_for, share in worst:
        confusion = "-" if taken_for is None else f"{class_names[taken_for]} ({share:.1f} %)"
        rows.append((class_names[number], f"{images:,}", f"{error:.1f} %", confusion))
    return Table(("class", "images", "top-1 error", "most often taken for"), rows)


@as_png
def _draw_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    side = 2.0 + 0.42 * len(counts)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [in_figure(name, 18) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="taken for", ylabel="class")
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    return figure


@as_png
def _draw_worst(worst: Sequence[WorstClass], class_names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(9, 0.5 + 0.25 * len(worst)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(worst)), [one.error for one in worst], color=BLUE, alpha=0.55)
    for place, one in enumerate(worst):
        if one.taken_for is not None:
            taken_for = f"{in_figure(class_names[one.taken_for], 40)}, {one.taken_for_share:.0f} %"
            axes.text(1, place, taken_for, va="center", fontsize=8)
    axes.set_yticks(range(len(worst)), [in_figure(class_names[one.number], 30) for one in worst])
    label = "top-1 error (%), and what the class is most often taken for"
    axes.set(xlabel=label, xlim=(0, 100), ylim=(len(worst) - 0.5, -0.5))
    return figure
