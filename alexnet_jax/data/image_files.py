"""Image files of any kind, prepared for a trained net: found, decoded in threads, turned upright, resized and cropped.

Size and crop are those of `prepare` (`image_codec.py`). Unlike the author's data, photographs are turned as their EXIF
orientation says, and animations are refused rather than judged by their first frame: no one looks at these images
before the results are used.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from alexnet_jax import runtime
from alexnet_jax.data import image_codec
from alexnet_jax.data.image_codec import EXTENSIONS, BrokenImageError
from alexnet_jax.data.threads import map_ahead
from alexnet_jax.errors import UserError
from alexnet_jax.files import expanded, reading

MIN_SIDE = 8  # pixels; a line or a dot shows nothing, however much it is enlarged
MAX_BYTES = 1 << 29  # of a file; no image of at most `image_codec.MAX_PIXELS` pixels is larger


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the given files and, for each folder, all images below it, sorted; UserError if there are none."""
    images: list[Path] = []
    for path in map(expanded, paths):
        with reading(str(path)):
            if path.is_file():
                images.append(path)
                continue
            if not path.is_dir():
                raise UserError(f"{path}: there is no such file or folder; give images, or folders of images.")
            if not (inside := images_below(path)):
                raise UserError(f"{path} contains no images; files in a folder must end in {', '.join(EXTENSIONS)}.")
            images += inside
    return images


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted; "._name" is what macOS adds to archives.

    OSError if one of the folders can't be read.
    """

    def fail(error: OSError) -> None:
        raise error

    walk = os.walk(folder, onerror=fail)
    files = (Path(parent, name) for parent, _, names in walk for name in names if not name.startswith("._"))
    return sorted(file for file in files if file.suffix.lower() in EXTENSIONS and file.is_file())


def load_image(path: Path, size: int) -> np.ndarray:
    """Return uint8 [size, size, 3] RGB; BrokenImageError with the reason if the image can't be used."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenImageError(f"the file has more than {MAX_BYTES:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error
    if not data:
        raise BrokenImageError("the file is empty")
    decoded = image_codec.decode(data)
    if "animated" in decoded.oddities:
        raise BrokenImageError("it is animated; save the frame that you need")
    return _finish(decoded.pixels, image_codec.orientation_in(data), size)


def cut_picture(image: Image.Image, size: int) -> np.ndarray:
    """Return uint8 [size, size, 3] RGB of an image that Pillow has opened or made; BrokenImageError as above."""
    pixels = image_codec.to_rgb(image)
    return _finish(pixels, image_codec.orientation_of(image), size)  # after decoding: that turns a TIFF, drops its tag


def load_images(paths: Sequence[Path], size: int) -> Iterator[tuple[Path, np.ndarray | BrokenImageError]]:
    """Yield each file in order with uint8 [size, size, 3] or the error, loaded by one thread per core."""

    def load(path: Path) -> tuple[Path, np.ndarray | BrokenImageError]:
        try:
            return path, load_image(path, size)
        except BrokenImageError as error:
            return path, error

    num_threads = len(runtime.cores())
    yield from map_ahead(load, paths, num_threads, 64 + num_threads)  # reads a batch while the previous one is computed


def in_a_sentence(name: Path | str, error: BrokenImageError) -> str:
    """Return an error message for the user of an image."""
    return f"{name} can't be read as an image: {error}."


def _finish(pixels: np.ndarray, orientation: int, size: int) -> np.ndarray:
    """Turn uint8 [H, W, 3] upright and return [size, size, 3]; BrokenImageError if the image is too small."""
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise BrokenImageError(f"{width} x {height} pixels are too few; each side needs at least {MIN_SIDE}")
    if orientation != 1:
        image = Image.fromarray(pixels)
        image.getexif()[ExifTags.Base.Orientation] = orientation
        pixels = np.asarray(ImageOps.exif_transpose(image))
    return image_codec.resize_and_crop(pixels, size)
