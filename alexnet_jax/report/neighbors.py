"""Training images that a net sees as near to a few evaluation images (paper figure 4, right; `findsimilar.py`)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import GRAY, Section, in_figure, png, show_image, style

TITLE = "Nearest neighbors"
NUM_QUERIES = 5
NUM_NEIGHBORS = 6


def neighbors_section(
    queries: np.ndarray,
    query_labels: np.ndarray,
    neighbors: np.ndarray,
    neighbor_labels: np.ndarray,
    distances: np.ndarray,
    class_names: Sequence[str],
    where: str,
) -> Section:
    """Queries uint8 [q, S, S, 3], labels [q]; neighbors [q, n, S, S, 3], labels and distances [q, n], nearest first.

    `where`: a sentence that says which layer's features are compared, and how many training images were searched.
    """
    agree = np.mean(neighbor_labels == query_labels[:, None])
    text = [
        "Left, evaluation images; right of each, the training images whose features are nearest, by Euclidean "
        f"distance (the number above). {where} {agree:.0%} of the neighbors shown are of their query's class."
    ]
    with style():
        figure = Figure(figsize=(9, 1.55 * len(queries)), layout="constrained")
        ratios = [1, 0.15] + [1] * neighbors.shape[1]
        grid = figure.subplots(len(queries), len(ratios), squeeze=False, width_ratios=ratios)
        for row, axes in enumerate(grid):
            axes[1].set_axis_off()  # a gap
            show_image(axes[0], queries[row])
            axes[0].set_title(in_figure(class_names[query_labels[row]], 20), fontsize=7, fontweight="bold")
            for column, cell in enumerate(axes[2:]):
                show_image(cell, neighbors[row, column])
                name = in_figure(class_names[neighbor_labels[row, column]], 14)
                same = neighbor_labels[row, column] == query_labels[row]
                cell.set_title(f"{name}  {distances[row, column]:.3g}", fontsize=7, color="black" if same else GRAY)
        return Section(TITLE, text, "neighbors", png(figure), numbers={"share_of_same_class": float(agree)})
