"""Statistics of a training set that augmentation needs: the mean image and the principal components of the colors."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from alexnet_jax.arrays import load_arrays
from alexnet_jax.errors import UserError
from alexnet_jax.files import atomic

FILE_NAME = "statistics.npz"
_BLOCK = 257  # images: a sum of 257 bytes fits in 16 bits, the fastest integers to add


class Statistics(NamedTuple):
    """Mean image and color PCA of a training set, on the scale of its pixels (0 to 255). A JAX pytree.

    mean_image: float32 [S, S, 3], the mean of every pixel and channel.
    color_std: float32 [3], standard deviations along the principal axes of the RGB values of all pixels: the square
      roots of the eigenvalues of their covariance, ascending.
    color_axes: float32 [3, 3], these axes as columns; rows are R, G, B.
    """

    mean_image: np.ndarray
    color_std: np.ndarray
    color_axes: np.ndarray

    @property
    def image_size(self) -> int:
        """The side S of the images, in pixels."""
        return self.mean_image.shape[0]


# ImageNet (ILSVRC-2012), as published by the paper's author: cuda-convnet2, make-data/input_meta. Of the mean image
# only its mean over the pixels is repeated here.
IMAGENET_CHANNEL_MEAN = (127.305, 119.715, 104.913)
IMAGENET_COLOR_STD = (19.7208, 37.0939, 121.7801)
IMAGENET_COLOR_AXES = (
    (0.41796, -0.71258, -0.56351),
    (-0.81698, -0.02354, -0.57618),
    (0.39731, 0.70120, -0.59200),
)


class Sums(NamedTuple):
    """Integer sums over images, from which statistics follow: in any order of the images, and without rounding.

    num_images: the number of images.
    pixels: int64 [S, S, 3], the sum of each pixel and channel.
    products: int64 [3, 3], the sum of the products of two channels over all pixels. One image may add at most 2^53
      (S <= 256: 2^32) and all together at most 2^63: 2 million images of 256 x 256 stay 1,000 times below.
    """

    num_images: int
    pixels: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, images: Iterable[np.ndarray]) -> "Sums":
        """Sum over images, each uint8 [S, S, 3]; zeros if there are none."""
        num_images = 0
        pixels: np.ndarray = np.zeros((), np.int64)
        block: np.ndarray = np.zeros((), np.uint16)
        products = np.zeros((3, 3), np.int64)
        for image in images:
            if num_images % _BLOCK == 0:
                pixels = pixels + block
                block = np.zeros(image.shape, np.uint16)
            num_images += 1
            block += image
            products += color_products(image)
        return cls(num_images, pixels + block, products)

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        """Return the sums over the images of both."""
        return Sums(self.num_images + other.num_images, self.pixels + other.pixels, self.products + other.products)

    def statistics(self) -> Statistics:
        """Return the mean image and the principal components of the colors; ValueError if there are no images.

        The covariance over n pixels is (n * products - sums sums^T) / n^2; Python's integers hold the numerator without
        error. An axis may point either way: its largest component is made positive. Variances that are only rounding
        errors (gray images, whose colors are on a line) are set to zero.
        """
        if self.num_images == 0:
            raise ValueError("there are no images to compute statistics from")
        num_pixels = self.num_images * self.pixels[..., 0].size
        sums = self.pixels.sum(axis=(0, 1)).astype(object)
        covariance = (num_pixels * self.products.astype(object) - np.outer(sums, sums)) / num_pixels**2
        variances, axes = np.linalg.eigh(covariance.astype(np.float64))
        variances = np.where(variances > 1e-12 * variances[-1], variances, 0.0)
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
        return Statistics(
            mean_image=(self.pixels / self.num_images).astype(np.float32),
            color_std=np.sqrt(variances).astype(np.float32),
            color_axes=(axes * np.sign(largest)).astype(np.float32),
        )


def color_products(image: np.ndarray) -> np.ndarray:
    """Sum the products of every two channels over all pixels, exactly: uint8 [S, S, 3] -> int64 [3, 3].

    xy = (x^2 + y^2 - (x - y)^2) / 2: OpenCV sums squares of bytes, and of differences of bytes, in integers, six times
    faster than a matrix product in float64.
    """
    channels = cv2.split(image)
    # Rounded, because OpenCV takes a root and squares it again; a sum below 2^50 comes back to within 1/2.
    squares = [round(cv2.norm(channel, cv2.NORM_L2SQR)) for channel in channels]
    products = np.diag(np.array(squares, np.int64))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = round(cv2.norm(channels[i], channels[j], cv2.NORM_L2SQR))
        products[i, j] = products[j, i] = (squares[i] + squares[j] - difference) // 2
    return products


def compute_statistics(images: Iterable[np.ndarray]) -> Statistics:
    """Compute the statistics of images, each uint8 [S, S, 3], in one pass; ValueError if there are none."""
    return Sums.of(images).statistics()


def save_statistics(statistics: Statistics, directory: Path) -> None:
    """Write `statistics.npz` into a folder, whole or not at all; OSError if that fails."""
    with atomic(directory / FILE_NAME) as unfinished:
        np.savez(unfinished, **statistics._asdict())


def read_statistics(file: Path | BinaryIO) -> Statistics:
    """Read what `save_statistics` wrote; ValueError or KeyError if it is damaged, OSError if it can't be read."""
    arrays = load_arrays(file)
    statistics = Statistics(*(arrays[name] for name in Statistics._fields))
    size = statistics.mean_image.shape[:1]
    shapes = tuple(array.shape for array in statistics)
    finite = all(array.dtype.kind == "f" and np.isfinite(array).all() for array in statistics)
    if shapes != ((*size, *size, 3), (3,), (3, 3)) or 0 in size or not finite:
        raise ValueError(f"arrays of shapes {shapes}, or values that are not finite numbers")
    return statistics


def load_statistics(directory: Path) -> Statistics:
    """Read `statistics.npz` from the folder of a data set; UserError if it is missing or damaged."""
    path = directory / FILE_NAME
    try:
        return read_statistics(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, which has the mean image and color statistics that training needs; "
            "`python -m alexnet_jax.prepare` makes a data set that has it, with images of one size."
        ) from error
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the data set's folder and prepare it again.") from error
