"""Figure 4 of the paper: best guesses (left; released code, `shownet.py`), nearest images (right; `findsimilar.py`)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.report.outputs import Examples
from alexnet_jax.report.section import BLUE, GRAY, PINK, Section, as_png, in_figure, show_image

PREDICTIONS, NEIGHBORS = "Predictions", "Nearest neighbors"  # the titles
NUM_IMAGES, _COLUMNS = 8, 4  # a grid of 2 x 4, as in shownet.py
NUM_GUESSES = 5
NUM_QUERIES, NUM_NEIGHBORS = 5, 6


def predictions_section(examples: Examples, probabilities: np.ndarray, class_names: Sequence[str]) -> Section:
    """Show the examples with the net's probabilities [n, classes]."""
    text = (
        "Evaluation images (center view) with the net's best guesses. Bars are probabilities. The correct class is "
        "named under its image, and its bar is pink if it is among the guesses."
    )
    return Section(PREDICTIONS, [text], "predictions", _draw_predictions(examples, probabilities, class_names))


def best_guesses(probabilities: np.ndarray) -> np.ndarray:
    """Return the 5 most probable classes, best first, [classes] -> [5]; ties go to the smaller class number."""
    return np.argsort(-probabilities, kind="stable")[:NUM_GUESSES]


@as_png
def _draw_predictions(examples: Examples, probabilities: np.ndarray, class_names: Sequence[str]) -> Figure:
    rows = -(-len(examples.labels) // _COLUMNS)
    figure = Figure(figsize=(9, 3.6 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, _COLUMNS, squeeze=False, height_ratios=[2.0, 1.2] * rows)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (image, label) in enumerate(zip(*examples, strict=True)):
        row, column = 2 * (number // _COLUMNS), number % _COLUMNS
        show_image(grid[row, column], image)
        grid[row, column].set_title(in_figure(class_names[label], 26), y=-0.14, fontweight="bold")
        _draw_bars(grid[row + 1, column], label, probabilities[number], class_names)
    return figure


def _draw_bars(axes: Axes, label: int, probabilities: np.ndarray, class_names: Sequence[str]) -> None:
    """Draw horizontal bars of probability, the best guess on top, with the classes' names written over them."""
    axes.set_axis_on()
    guesses = best_guesses(probabilities)
    colors = [PINK if guess == label else BLUE for guess in guesses]
    axes.barh(range(len(guesses)), probabilities[guesses], color=colors, alpha=0.55, height=0.85)
    for place, guess in enumerate(guesses):
        axes.text(0.02, place, in_figure(class_names[guess], 30), va="center", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(NUM_GUESSES - 0.5, -0.5), yticks=[])
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)


def neighbors_section(
    queries: Examples, neighbors: Sequence[Examples], distances: np.ndarray, class_names: Sequence[str], details: str
) -> Section:
    """Show each query with its neighbors, nearest first, and their distances [queries, neighbors].

    `details` is a sentence on the features that are compared and the images that were searched.
    """
    agreement = float(np.mean([found.labels == label for found, label in zip(neighbors, queries.labels, strict=True)]))
    text = (
        "Left, evaluation images; right of each, the training images with the nearest features, by Euclidean distance "
        f"(the number above). {details} {agreement:.0%} of the neighbors shown are of their query's class."
    )
    figure = _draw_neighbors(queries, neighbors, distances, class_names)
    return Section(NEIGHBORS, [text], "neighbors", figure, numbers={"share_of_same_class": agreement})


@as_png
def _draw_neighbors(
    queries: Examples, neighbors: Sequence[Examples], distances: np.ndarray, names: Sequence[str]
) -> Figure:
    figure = Figure(figsize=(9, 1.55 * len(neighbors)), layout="constrained")
    ratios = [1, 0.15] + [1] * distances.shape[1]
    grid = figure.subplots(len(neighbors), len(ratios), squeeze=False, width_ratios=ratios)
    for row, (left, gap, *cells) in enumerate(grid):
        query_label = queries.labels[row]
        show_image(left, queries.images[row])
        left.set_title(in_figure(names[query_label], 20), fontsize=7, fontweight="bold")
        gap.set_axis_off()
        for cell, image, label, distance in zip(cells, *neighbors[row], distances[row], strict=True):
            show_image(cell, image)
            title = f"{in_figure(names[label], 14)}  {distance:.3g}"
            cell.set_title(title, fontsize=7, color="black" if label == query_label else GRAY)
    return figure
