"""The net's best guesses for a few images (paper figure 4, left; released code, `shownet.py`)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.report.outputs import Examples
from alexnet_jax.report.section import BLUE, PINK, Section, as_png, in_figure, show_image

TITLE = "Predictions"
NUM_IMAGES = 8  # in a grid of 2 x 4, as in shownet.py
NUM_GUESSES = 5
_COLUMNS = 4


def predictions_section(examples: Examples, probabilities: np.ndarray, class_names: Sequence[str]) -> Section:
    """Show the examples with the net's probabilities [n, classes]."""
    text = (
        "Evaluation images (center view) with the net's best guesses. Bars are probabilities. The correct class is "
        "named under its image, and its bar is pink if it is among the guesses."
    )
    return Section(TITLE, [text], "predictions", _draw(examples, probabilities, class_names))


def best_guesses(probabilities: np.ndarray, count: int = NUM_GUESSES) -> np.ndarray:
    """Return the most probable classes, best first, [classes] -> [count]; ties go to the smaller class number."""
    return np.argsort(-probabilities, kind="stable")[:count]


@as_png
def _draw(examples: Examples, probabilities: np.ndarray, class_names: Sequence[str]) -> Figure:
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
