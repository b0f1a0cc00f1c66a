"""Image files of any kind, prepared for a trained net: found, decoded in threads, turned upright, resized and cropped.

How, `preprocessing.py` says. Unlike in the author's data, photographs are turned as their EXIF orientation says (but
not for torchvision's nets), and animations are refused rather than judged by their first frame: no one looks at these
images before the results are used.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from alexnet_jax import runtime
from alexnet_jax.data import image_codec
from alexnet_jax.data.image_codec import FORMATS, BrokenImageError
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.data.threads import map_ahead
from alexnet_jax.errors import UserError
from alexnet_jax.files import expanded, reading

MIN_SIDE = 8  # pixels; a line or a dot shows nothing, however much it is enlarged
MAX_BYTES = 1 << 29  # of a file; no image of at most `image_codec.MAX_PIXELS` pixels is larger
ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")  # that say what a file is meant to be
_HIDDEN = ("@eaDir", "__MACOSX")  # folders of thumbnails and attributes that Synology and macOS add
# Reasons to leave something out.
HIDDEN = "hidden files and folders"
NOT_IMAGES = f"files that are not {', '.join(FORMATS)}"
TOO_LARGE = f"files of more than {MAX_BYTES:,} bytes"
_UNREADABLE = "files and folders without permission"

LeaveOut = Callable[[str, str], None]  # receives why something is left out, as the name of a group, and its path


class ImageFile(NamedTuple):
    """An image file in a folder that was searched. name: its path from there, with `/`. size: in bytes."""

    name: str
    size: int


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
            if not (inside := _images_or_unreadable(path)):
                raise UserError(f"{path} contains no images; {', '.join(FORMATS)} are known.")
            images += inside
    return images


def _images_or_unreadable(folder: Path) -> list[Path]:
    """Return all images below a folder, and what may not be read there, so that `load_image` reports it; sorted."""
    unreadable: list[Path] = []

    def leave_out(group: str, path: str) -> None:
        if group == _UNREADABLE:
            unreadable.append(Path(path))

    return sorted([folder / file.name for file in images_below(folder, leave_out)] + unreadable)


def images_below(folder: Path, leave_out: LeaveOut, *, follow_links: bool = False) -> Iterator[ImageFile]:
    """Yield the images in a folder and its subfolders, always in the same order, and report the rest to `leave_out`.

    A file is known by its content, unless its name says that it is meant to be an image: then it may be a damaged one.
    `follow_links` also takes links to folders. OSError if the folder itself can't be read.
    """
    # Folders, each with its identity and those of the folders above.
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (_identity(os.stat(folder)),))]
    while pending:
        prefix, above = pending.pop()
        subfolders = []
        try:
            for name, path, status in list_folder(folder / prefix, leave_out):
                if stat.S_ISDIR(status.st_mode):
                    if not follow_links and os.path.islink(path):
                        leave_out("links to folders in class folders", path)
                    elif _identity(status) in above:
                        leave_out("links to a folder above", path)
                    else:
                        subfolders.append((f"{prefix}{name}/", (*above, _identity(status))))
                elif reason := _why_not_an_image(path, status):
                    leave_out(reason, path)
                else:
                    yield ImageFile(prefix + name, status.st_size)
        except OSError:
            if not prefix:
                raise
            leave_out(_UNREADABLE, str(folder / prefix))
        pending += reversed(subfolders)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def list_folder(folder: Path, leave_out: LeaveOut) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield the name, path and status of everything in a folder, sorted, but what is hidden or can't be reached."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if is_hidden(name):
            leave_out(HIDDEN, path)
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            leave_out("dangling links" if error.errno in (errno.ENOENT, errno.ELOOP) else _UNREADABLE, path)
            continue
        yield name, path, status


def is_hidden(name: str) -> bool:
    """Return whether the name of a file or folder says that it is not the user's own."""
    return name.startswith(".") or name in _HIDDEN


def _why_not_an_image(path: str, status: os.stat_result) -> str | None:
    """Return the reason to leave a file out; None for an image, also a damaged one."""
    if not stat.S_ISREG(status.st_mode):
        return "pipes, sockets and devices"  # opening one may wait forever
    if status.st_size > MAX_BYTES:
        return TOO_LARGE
    if not os.access(path, os.R_OK):
        return _UNREADABLE
    if path.lower().endswith(ENDINGS):
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(image_codec.MAGIC_BYTES)
    except OSError:
        return _UNREADABLE
    return None if image_codec.is_image(head) else NOT_IMAGES


def load_image(path: Path, prepare: Preparation) -> np.ndarray:
    """Return uint8 [size, size, 3] RGB; BrokenImageError with the reason if the image can't be used."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenImageError(f"the file has more than {MAX_BYTES:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error
    return load_bytes(data, prepare)


def load_bytes(data: bytes, prepare: Preparation) -> np.ndarray:
    """Return uint8 [size, size, 3] RGB of what an image file holds; BrokenImageError as above."""
    if not data:
        raise BrokenImageError("the file is empty")
    decoded = image_codec.decode(data)
    if "animated" in decoded.oddities:
        raise BrokenImageError("it is animated; save the frame that you need")
    return prepare_pixels(decoded.pixels, prepare, image_codec.orientation_in(data))


def load_picture(image: Image.Image, prepare: Preparation) -> np.ndarray:
    """Return uint8 [size, size, 3] RGB of an image that Pillow has opened or made; BrokenImageError as above."""
    pixels = image_codec.to_rgb(image)
    # The orientation after decoding: that turns a TIFF and drops its tag.
    return prepare_pixels(pixels, prepare, image_codec.orientation_of(image))


def load_images(paths: Sequence[Path], prepare: Preparation) -> Iterator[tuple[Path, np.ndarray | BrokenImageError]]:
    """Yield each file in order with uint8 [size, size, 3] or the error, loaded by one thread per core."""

    def load(path: Path) -> tuple[Path, np.ndarray | BrokenImageError]:
        try:
            return path, load_image(path, prepare)
        except BrokenImageError as error:
            return path, error

    num_threads = len(runtime.cores())
    yield from map_ahead(load, paths, num_threads, 64 + num_threads)  # reads a batch while the previous one is computed


def in_a_sentence(name: Path | str, error: BrokenImageError) -> str:
    """Return an error message for the user of an image."""
    return f"{name} can't be read as an image: {error}."


def prepare_pixels(pixels: np.ndarray, prepare: Preparation, orientation: int = 1) -> np.ndarray:
    """Turn uint8 [H, W, 3] upright and return [size, size, 3]; BrokenImageError if the image is too small."""
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise BrokenImageError(f"{width} x {height} pixels are too few; each side needs at least {MIN_SIDE}")
    if orientation != 1 and prepare.upright:
        image = Image.fromarray(pixels)
        image.getexif()[ExifTags.Base.Orientation] = orientation
        pixels = np.asarray(ImageOps.exif_transpose(image))
    return prepare(pixels)
