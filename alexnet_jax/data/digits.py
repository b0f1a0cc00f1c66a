"""The built-in data set: the 1,797 handwritten digits that come with scikit-learn.

They are stored as ImageNet is: JPEGs in a TFDS data set of ArrayRecord files, with statistics beside them.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), its test set.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from alexnet_jax.data import DIGITS
from alexnet_jax.data.builder import Example, write_tfds
from alexnet_jax.data.statistics import compute_statistics, save_statistics
from alexnet_jax.files import removed_at_end, writing

VERSION = "1.0.0"
IMAGE_SIZE = 72  # 9 times the 8 x 8 of the original, for random crops of 64
JPEG_QUALITY = 95


def prepare(root: Path) -> Path:
    """Write the set to `root`/digits/VERSION unless it exists, and return that folder; UserError if that fails.

    The set is written to a temporary folder first, which is then renamed: the result is always complete, even after a
    process was killed or if several processes prepare it at the same time.
    """
    target = root / DIGITS / VERSION
    if not target.is_dir():
        with writing(f"data.dir={root}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with removed_at_end(Path(tempfile.mkdtemp(prefix=".preparing-", dir=target.parent))) as scratch:
                finished = _write(scratch)
                try:
                    finished.rename(target)
                except OSError:
                    if not target.is_dir():  # otherwise another process was first
                        raise
    return target


def _write(directory: Path) -> Path:
    from sklearn.datasets import load_digits  # takes a second to import, which only the first use needs

    pixels, labels = load_digits(return_X_y=True)
    images = [enlarge(image) for image in pixels.reshape(-1, 8, 8)]
    jpegs = [simplejpeg.encode_jpeg(image, JPEG_QUALITY, "RGB", "444") for image in images]
    # Every fifth digit in the order of classes: 360, a fifth of each class.
    by_class = np.argsort(labels, kind="stable")
    validation = by_class[::5]
    train = np.setdiff1d(by_class, validation)

    def examples(indices: np.ndarray) -> Iterator[Example]:
        for index in indices:
            yield f"{index:04d}", {"image": jpegs[index], "label": int(labels[index]), "file_name": f"{index:04d}"}

    finished = write_tfds(
        directory,
        name=DIGITS,
        version=VERSION,
        description=f"The 1,797 handwritten digits of scikit-learn, enlarged to {IMAGE_SIZE} x {IMAGE_SIZE} pixels.",
        homepage="https://archive.ics.uci.edu/dataset/80",
        label_names=[str(digit) for digit in range(10)],
        splits={"train": lambda: examples(train), "validation": lambda: examples(validation)},
        image_size=IMAGE_SIZE,
        metadata={"jpeg_quality": JPEG_QUALITY, "resampling": "cubic"},
        file_names=True,
    )
    save_statistics(compute_statistics(simplejpeg.decode_jpeg(jpegs[index], "RGB") for index in train), finished)
    return finished


def enlarge(image: np.ndarray) -> np.ndarray:
    """Enlarge a digit by cubic interpolation: [8, 8] of gray levels 0 to 16 -> uint8 [72, 72, 3] of 0 to 255."""
    gray = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(gray.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB"))
