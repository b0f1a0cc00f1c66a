"""The training images nearest to a few evaluation images (paper figure 4, right; released code, `findsimilar.py`)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.outputs import Examples
from alexnet_jax.report.section import GRAY, Section, as_png, in_figure, show_image

TITLE = "Nearest neighbors"
NUM_QUERIES = 5
NUM_NEIGHBORS = 6


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
    figure = _draw(queries, neighbors, distances, class_names)
    return Section(TITLE, [text], "neighbors", figure, numbers={"share_of_same_class": agreement})


@as_png
def _draw(queries: Examples, neighbors: Sequence[Examples], distances: np.ndarray, names: Sequence[str]) -> Figure:
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
