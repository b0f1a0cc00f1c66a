"""The built-in data set: the 1,797 handwritten digits that scikit-learn carries.

They take the road that ImageNet takes: JPEGs in a TFDS data set of ArrayRecord files, with statistics beside them.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), its test set.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from alexnet_jax.data.builder import Example, write_tfds
from alexnet_jax.data.statistics import compute_statistics, save_statistics
from alexnet_jax.errors import UserError

NAME = "digits"
VERSION = "1.0.0"
IMAGE_SIZE = 72  # 9 times the 8 x 8 of the original, for random crops of 64
JPEG_QUALITY = 95


def prepare(root: Path) -> Path:
    """Writes the set to `root`/digits/VERSION unless it is there, and returns that folder; UserError if it can't.

    The set is written into a folder of its own first, and becomes visible in one renaming: what is there is whole,
    even if a process was killed, and of several processes that prepare it at the same time one wins.
    """
    target = root / NAME / VERSION
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=target.parent) as scratch:
            _publish(_write(Path(scratch)), target)
    except OSError as error:
        raise UserError(
            f"data.dir: the digits can't be written to {target} ({error.strerror or error}); "
            "set data.dir to a folder that can be written to and has 20 MB to spare."
        ) from error
    return target


def _publish(finished: Path, target: Path) -> None:
    """Renames the folder; leaves `target` as it is if another process was first."""
    try:
        finished.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(finished)


def _write(directory: Path) -> Path:
    from sklearn.datasets import load_digits  # a second of importing that only the first use needs

    pixels, labels = load_digits(return_X_y=True)
    images = [enlarge(image) for image in pixels.reshape(-1, 8, 8)]
    jpegs = [simplejpeg.encode_jpeg(image, JPEG_QUALITY, "RGB", "444") for image in images]
    # Every fifth of the digits in the order of their class: 360, a fifth of each class.
    by_class = np.argsort(labels, kind="stable")
    validation = by_class[::5]
    train = np.setdiff1d(by_class, validation)

    def examples(indices: np.ndarray) -> Iterator[Example]:
        for index in indices:
            yield f"{index:04d}", {"image": jpegs[index], "label": int(labels[index]), "file_name": f"{index:04d}"}

    finished = write_tfds(
        directory,
        name=NAME,
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
    """An 8 x 8 digit of gray levels 0 to 16 -> uint8 [72, 72, 3], 0 to 255, by cubic interpolation."""
    gray = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(gray.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB"))
