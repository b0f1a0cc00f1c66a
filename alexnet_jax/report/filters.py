"""The kernels that see the image, towers apart (paper figure 3; released code, `shownet.py`)."""

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.section import Section, png, show_image, style

TITLE = "Kernels of conv1"
PER_ROW = 16  # at most, as in shownet.py
_UNTRAINED = 2 / 3  # expected share of independent random weights: two of three directions lie off the gray axis


def filters_section(kernels: np.ndarray, towers: int) -> Section:
    """conv1's kernels [kh, kw, 3, features], those of the first tower first."""
    per_tower = np.split(np.asarray(kernels, np.float32), towers, axis=-1)
    text = [
        "All kernels on one scale, from the smallest weight (black) to the largest (white), as the released code draws "
        "them. A kernel's color is the share of its energy (sum of squared weights) off the gray axis, where red, "
        f"green and blue are equal: 0 is blind to color, 1 sees nothing but color, random weights have "
        f"{_UNTRAINED:.2f}. In the paper's figure 3 one tower is largely color-agnostic and the other color-specific."
        if towers > 1
        else "All kernels on one scale, from the smallest weight (black) to the largest (white). A kernel's color is "
        "the share of its energy (sum of squared weights) off the gray axis: 0 is blind to color, random weights have "
        f"{_UNTRAINED:.2f}.",
        " ".join(f"{_title(number, towers)}: {colors_in_words(tower)}." for number, tower in enumerate(per_tower)),
    ]
    numbers = {
        "color_of_all_energy": [color_share_of_all(tower) for tower in per_tower],
        "color_in_the_mean": [float(color_shares(tower).mean()) for tower in per_tower],
    }
    with style():
        return Section(TITLE, text, "filters", png(_draw(per_tower)), numbers=numbers)


def color_shares(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that lies off the gray axis, [kh, kw, 3, features] -> [features], 0 to 1.

    Each pixel of a kernel is a vector of three weights; its part along (1, 1, 1) answers to brightness, the rest to
    color. NaN for a kernel of zeros.
    """
    return _energies(kernels - kernels.mean(axis=2, keepdims=True)) / _energies(kernels)


def color_share_of_all(kernels: np.ndarray) -> float:
    """The same share of the energy of all kernels together: kernels that have not learned, and are small, hardly count.

    kernels: [kh, kw, 3, features].
    """
    return float(_energies(kernels - kernels.mean(axis=2, keepdims=True)).sum() / _energies(kernels).sum())


def colors_in_words(kernels: np.ndarray) -> str:
    """Both shares of a tower's kernels."""
    return (
        f"color {color_share_of_all(kernels):.2f} of all energy, {color_shares(kernels).mean():.2f} in the mean over "
        "its kernels"
    )


def mosaic(kernels: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Kernels [kh, kw, 3, features] in rows of 16 with a white pixel between, [H, W, 3] from 0 to 1.

    `lowest` and `highest` are the weights that become black and white.
    """
    height, width, channels, features = kernels.shape
    per_row = min(PER_ROW, features)
    rows = -(-features // per_row)
    scaled = (kernels - lowest) / (highest - lowest or 1.0)
    image = np.ones((rows * (height + 1) + 1, per_row * (width + 1) + 1, channels), np.float32)
    for number in range(features):
        top, left = (number // per_row) * (height + 1) + 1, (number % per_row) * (width + 1) + 1
        image[top : top + height, left : left + width] = scaled[..., number]
    return image


def _energies(kernels: np.ndarray) -> np.ndarray:
    return np.square(kernels, dtype=np.float64).sum(axis=(0, 1, 2))


def _title(number: int, towers: int) -> str:
    return f"Tower {number + 1}" if towers > 1 else "The net"


def _draw(per_tower: list[np.ndarray]) -> Figure:
    lowest, highest = min(map(np.min, per_tower)), max(map(np.max, per_tower))
    images = [mosaic(kernels, lowest, highest) for kernels in per_tower]
    heights = [image.shape[0] / image.shape[1] for image in images]
    figure = Figure(figsize=(9, 9 * sum(heights) + 0.3 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), 1, squeeze=False, height_ratios=heights)
    for number, (axes, image, kernels) in enumerate(zip(grid.flat, images, per_tower, strict=True)):
        show_image(axes, image)
        axes.set_title(f"{_title(number, len(images))}: {colors_in_words(kernels)}", loc="left")
    return figure
