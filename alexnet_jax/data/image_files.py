"""Image files of any kind, as a trained net wants them: found, decoded in threads, upright, cut like its data set.

Size and crop are those of `prepare` (`preparation/images.py`). Unlike the author's data, photographs are turned as
their EXIF orientation says, and an animation is refused rather than judged by its first picture: nobody looks through
what comes out here before it is believed.
"""

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from alexnet_jax import runtime
from alexnet_jax.data.image_codec import EXTENSIONS, BrokenImageError, decode, resize_and_crop, to_rgb
from alexnet_jax.errors import UserError
from alexnet_jax.files import expanded, reading

MIN_SIDE = 8  # pixels: a line or a dot shows nothing, however far it is enlarged
MAX_BYTES = 1 << 29  # of a file; no image of at most `preparation.images.MAX_PIXELS` pixels is larger

# What EXIF orientations 2 to 8 ask for, as operations on [H, W, 3] (Exif 2.3, tag 0x0112).
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are named, and of each folder all images below it, by name; UserError if there are none."""
    found: list[Path] = []
    for path in map(expanded, paths):
        with reading(str(path)):
            found += _images_at(path)
    return found


def _images_at(path: Path) -> list[Path]:
    """The file, or all images below the folder; UserError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: there is no such file or folder; give images, or folders of images.")
    inside = sorted(file for file in path.rglob("*") if _is_image(file))
    if not inside:
        raise UserError(f"{path} holds no image; files in a folder count if they end in {', '.join(EXTENSIONS)}.")
    return inside


def load_image(path: Path, size: int) -> np.ndarray:
    """uint8 [size, size, 3] RGB of a file; BrokenImageError, which says why, if it is none that can be judged."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenImageError(f"the file has more than {MAX_BYTES:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error
    if not data:
        raise BrokenImageError("the file is empty")
    decoded = decode(data)
    if "animated" in decoded.oddities:
        raise BrokenImageError("it is animated; save the picture that is meant")
    return _cut(decoded.pixels, _orientation_in(data), size)


def cut_picture(image: Image.Image, size: int) -> np.ndarray:
    """The same of a picture that Pillow has opened or made."""
    try:
        pixels = to_rgb(image)
    except BrokenImageError:
        raise
    except Exception as error:  # whatever Pillow's decoders run into: most decode only now
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    return _cut(pixels, _orientation(image), size)  # asked for now: from a TIFF, decoding takes it


def load_images(paths: Sequence[Path], size: int) -> Iterator[tuple[Path, np.ndarray | BrokenImageError]]:
    """Each file in order with its pixels, uint8 [size, size, 3], or with what is wrong with it; a thread a core."""
    num_threads = len(runtime.cores())
    ahead: deque[tuple[Path, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        try:
            for path in paths:
                ahead.append((path, threads.submit(load_image, path, size)))
                if len(ahead) > 64 + num_threads:  # a batch is read while the one before is computed
                    yield _result(*ahead.popleft())
            while ahead:
                yield _result(*ahead.popleft())
        finally:
            threads.shutdown(cancel_futures=True)


def _result(path: Path, future: Future[np.ndarray]) -> tuple[Path, np.ndarray | BrokenImageError]:
    try:
        return path, future.result()
    except BrokenImageError as error:
        return path, error


def in_a_sentence(name: Path | str, error: BrokenImageError) -> str:
    """What is wrong with an image, for its user."""
    return f"{name} can't be read as an image: {error}."


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith("._") and path.is_file()


def _cut(pixels: np.ndarray, orientation: int, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3], upright; BrokenImageError if it is too small."""
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise BrokenImageError(f"{width} x {height} pixels are too few; each side needs at least {MIN_SIDE}")
    turned = _UPRIGHT.get(orientation, lambda pixels: pixels)(pixels)
    return resize_and_crop(np.ascontiguousarray(turned), size)


def _orientation_in(data: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a file that was decoded; 1, upright, if Pillow can't open it."""
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:  # whatever Pillow runs into; a JPEG in gzip, for example
        return 1
    with image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    """The same of a picture; 1 if it has none that can be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the image itself was decoded: damaged EXIF does it no harm, whatever Pillow runs into
        return 1
