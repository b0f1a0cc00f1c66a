"""Whose way a picture becomes the square that a net sees: the paper's, torchvision's or Caffe's.

Each is a function of pixels, uint8 [H, W, 3], and two sides: `stored`, that pictures are brought to, 256 for the
published nets, and `size`, of the square that is cut from their center, once: uint8 [size, size, 3]. That is 224 or 227
for one view, and `stored` where several views are cut from the square.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from alexnet_jax.data.image_codec import central, longest_used, resize_and_crop


def paper(pixels: np.ndarray, stored: int, size: int) -> np.ndarray:
    """Bring the shorter side to `stored` by area averaging, and cut twice, as `prepare` and then evaluation do."""
    return central(resize_and_crop(pixels, stored), size, size)


def torchvision(pixels: np.ndarray, stored: int, size: int) -> np.ndarray:
    """Bring the shorter side to `stored` with Pillow's bilinear filter, which averages when it shrinks, and cut once.

    Source: torchvision, transforms/_presets.py (`ImageClassification`), and `resize` and `center_crop` of
    transforms/functional.py: the longer side is rounded down, the place of the crop to an even number of pixels.
    """
    pixels = longest_used(pixels)
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short != stored:
        new_size = (stored * width // short, stored * height // short)
        pixels = np.asarray(Image.fromarray(pixels).resize(new_size, Image.Resampling.BILINEAR))
    top, left = (round((side - size) / 2) for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def caffe(pixels: np.ndarray, stored: int, size: int) -> np.ndarray:
    """Squeeze to `stored` x `stored`, whatever the proportions, by OpenCV's bilinear interpolation, and cut once.

    Source: BVLC/caffe, examples/imagenet/create_imagenet.sh and `ReadImageToCVMat` in src/caffe/util/io.cpp, behind the
    published errors; the place of the crop is rounded down (src/caffe/data_transformer.cpp).
    """
    resized = cv2.resize(pixels, (stored, stored), interpolation=cv2.INTER_LINEAR)
    return central(resized, size, size)


_WAYS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]]
_WAYS = {"paper": paper, "torchvision": torchvision, "caffe": caffe}


class Preparation(NamedTuple):
    """How a net's pictures are prepared: whose `way` (`dataset_info.PREPROCESSING`), and its two sides in pixels."""

    way: str
    stored: int
    size: int

    @property
    def upright(self) -> bool:
        """Whether pictures are turned as their EXIF orientation says: OpenCV does, torchvision's loader does not."""
        return self.way != "torchvision"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Resize and cut a picture: uint8 [H, W, 3] -> [size, size, 3]."""
        return np.ascontiguousarray(_WAYS[self.way](pixels, self.stored, self.size))
