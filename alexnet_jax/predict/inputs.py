"""What users of the Python interface call an image: files, open files, bytes, PIL images and arrays of any library."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.data.image_codec import BrokenImageError
from alexnet_jax.data.image_files import (
    find_images,
    in_a_sentence,
    load_bytes,
    load_image,
    load_picture,
    prepare_pixels,
)
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.errors import UserError

OneImage = Any  # a path, an open file, bytes, a PIL image, or an array of NumPy, JAX or PyTorch
_FORMS = (
    "an image is a file's name, an open file, its bytes, a PIL image, or a uint8 array [H, W, 3], [H, W, 4], or gray "
    "[H, W]"
)


def load_all(images: OneImage, prepare: Preparation, name: str = "images") -> list[np.ndarray]:
    """Return each image of one or several as uint8 [size, size, 3]; UserError that names the unreadable ones.

    `name` is the argument that gives the images; several are "images[0]", "images[1]", ...
    """
    loaded: list[np.ndarray] = []
    broken: list[str] = []
    for place, image in _one_by_one(images, name):
        for source in find_images([image]) if isinstance(image, str | os.PathLike) else [image]:
            try:
                loaded.append(_load(source, prepare, place))
            except BrokenImageError as error:
                broken.append(in_a_sentence(source if isinstance(source, Path) else place, error))
    if broken:
        raise UserError("\n".join(broken))
    return loaded


def _one_by_one(images: OneImage, name: str) -> Iterator[tuple[str, OneImage]]:
    """Yield each image with the words for it in a message; UserError if it is neither an image nor several."""
    is_stack = _is_array(images) and images.ndim == 4
    if not is_stack and (_is_array(images) or _is_file(images) or isinstance(images, _WHOLE)):
        yield name, images
    elif isinstance(images, Iterable):
        for number, image in enumerate(images):
            yield f"{name}[{number}]", image
    else:
        raise UserError(f"{name}={images!r} is not an image: {_FORMS}.")


_WHOLE = (str, os.PathLike, Image.Image, bytes, bytearray, memoryview)


def _is_array(image: Any) -> bool:
    """Tell whether this is an array of numbers, of whatever library."""
    return hasattr(image, "dtype") and hasattr(image, "ndim") and getattr(image.dtype, "kind", "") not in ("O", "U")


def _is_file(image: Any) -> bool:
    return hasattr(image, "read")


def _load(source: OneImage, prepare: Preparation, name: str) -> np.ndarray:
    """Return one image as uint8 [size, size, 3]; BrokenImageError if it can't be read, UserError if it is none."""
    if isinstance(source, Path):
        return load_image(source, prepare)
    if isinstance(source, Image.Image):
        return load_picture(source, prepare)
    if _is_file(source):
        source = _content(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return load_bytes(bytes(source), prepare)
    if not _is_array(source):
        raise UserError(f"{name}={source!r} is not an image: {_FORMS}.")
    pixels = _rgb(source, name)
    if pixels.shape[:2] == (prepare.size, prepare.size):  # cut already
        return pixels
    return prepare_pixels(pixels, prepare)


def _content(file: Any, name: str) -> bytes:
    """Read an open file from where it is; UserError if it is open as text, or can't be read."""
    try:
        data = file.read()
    except (ValueError, OSError) as error:  # ValueError: it is closed, or text in another encoding
        raise UserError(f"{name} is a file that can't be read ({error}); open it with mode 'rb'.") from error
    if not isinstance(data, bytes):
        raise UserError(f"{name} is a file that is open as text; open it with mode 'rb'.")
    return data


def _rgb(array: Any, name: str) -> np.ndarray:
    """Return an array of whatever library as uint8 [H, W, 3]; gray is repeated, alpha dropped; UserError otherwise."""
    dtype, shape = str(array.dtype).rpartition(".")[2], tuple(array.shape)  # PyTorch says torch.uint8
    gray, channels_last = len(shape) == 2, len(shape) == 3 and shape[-1] in (1, 3, 4)
    if dtype != "uint8" or not (gray or channels_last) or 0 in shape:
        hint = "; put its channels last" if len(shape) == 3 and shape[0] in (1, 3, 4) and not channels_last else ""
        raise UserError(
            f"{name} is an array of {dtype} {list(shape)}; it must be uint8, 0 to 255, [H, W, 3] in the order red, "
            f"green, blue, or [H, W, 4] with alpha, or gray [H, W]{hint}."
        )
    on_host = array.detach().cpu() if hasattr(array, "detach") else array  # a PyTorch tensor may be on a GPU
    pixels = np.asarray(on_host).reshape(*shape[:2], -1)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3])
