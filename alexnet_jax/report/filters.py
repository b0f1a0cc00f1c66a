"""The kernels of conv1, by tower (paper figure 3; released code, `shownet.py`)."""

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import Section, as_png, show_image

TITLE = "Kernels of conv1"
PER_ROW = 16  # at most, as in shownet.py
PER_KERNEL = (0, 1, 2)  # the axes of a kernel's weights
_UNTRAINED = 2 / 3  # expected share of independent random weights: two of three directions are off the gray axis


def filters_section(kernels: np.ndarray, towers: int) -> Section:
    """Show conv1's kernels [kh, kw, 3, features], those of the first tower first."""
    per_tower = np.split(np.asarray(kernels, np.float32), towers, axis=-1)
    text = (
        "All kernels on one scale, from the smallest weight (black) to the largest (white), as the released code draws "
        "them. A kernel's color is the share of its energy (sum of squared weights) off the gray axis, where red, "
        "green and blue are equal: 0 is blind to color, 1 sees nothing but color, random weights have "
        f"{_UNTRAINED:.2f}."
    )
    if towers > 1:
        text += " In the paper's figure 3 one tower is largely color-agnostic and the other color-specific."
    of_all = [float(color_share(kernels)) for kernels in per_tower]
    in_mean = [float(color_share(kernels, PER_KERNEL).mean()) for kernels in per_tower]
    captions = [
        f"{f'Tower {number + 1}' if towers > 1 else 'The net'}: color {of_all[number]:.2f} of all energy, "
        f"{in_mean[number]:.2f} in the mean over its kernels"
        for number in range(towers)
    ]
    numbers = {"color_of_all_energy": of_all, "color_in_the_mean": in_mean}
    text_of_towers = " ".join(f"{caption}." for caption in captions)
    return Section(TITLE, [text, text_of_towers], "filters", _draw(per_tower, captions), numbers=numbers)


def color_share(kernels: np.ndarray, axis: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the share of the energy of kernels [kh, kw, 3, features] off the gray axis, from 0 to 1.

    The share is that of all kernels together, where those that are small, as before learning, hardly count, or with
    `axis=PER_KERNEL` that of each, [features]; NaN for a kernel of zeros. Each pixel is a vector of three weights: its
    component along (1, 1, 1) responds to brightness, the rest to color.
    """
    color = kernels - kernels.mean(axis=2, keepdims=True)
    return np.square(color, dtype=np.float64).sum(axis) / np.square(kernels, dtype=np.float64).sum(axis)


def mosaic(kernels: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Lay kernels [kh, kw, 3, features] out in rows of 16, [H, W, 3]; `lowest` is 0 (black), `highest` and gaps 1."""
    height, width, channels, features = kernels.shape
    per_row = min(PER_ROW, features)
    rows = -(-features // per_row)
    scaled = (kernels - lowest) / (highest - lowest or 1.0)
    padding = ((1, 0), (1, 0), (0, 0), (0, rows * per_row - features))
    cells = np.pad(scaled, padding, constant_values=1).reshape(height + 1, width + 1, channels, rows, per_row)
    image = cells.transpose(3, 0, 4, 1, 2).reshape(rows * (height + 1), per_row * (width + 1), channels)
    return np.pad(image, ((0, 1), (0, 1), (0, 0)), constant_values=1)


@as_png
def _draw(per_tower: list[np.ndarray], captions: list[str]) -> Figure:
    lowest, highest = min(map(np.min, per_tower)), max(map(np.max, per_tower))
    images = [mosaic(kernels, lowest, highest) for kernels in per_tower]
    heights = [image.shape[0] / image.shape[1] for image in images]
    figure = Figure(figsize=(9, 9 * sum(heights) + 0.3 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), 1, squeeze=False, height_ratios=heights)
    for axes, image, caption in zip(grid.flat, images, captions, strict=True):
        show_image(axes, image)
        axes.set_title(caption, loc="left")
    return figure
