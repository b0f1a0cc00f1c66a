"""One image: decoded whatever it is, shorter side to S, the central S x S, encoded again.

Source: paper section 2, and for how it was done the author's make-data/pyext/src/pyext.cpp (cuda-convnet2): OpenCV's
area averaging when shrinking, cubic interpolation when enlarging, sizes rounded, the crop rounded to the top left.
"""

import io
import re
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

SUBSAMPLING = "420"  # of the colors, as in the author's files: what OpenCV wrote
MAX_PIXELS = 1 << 27  # an image of more is refused: a bomb, or 400 MB for a picture that ends at 256 x 256
MAX_ASPECT = 32  # of an image longer than that, only the central part is resized: one pixel wide is 8,192 high then
MAX_SCANS = 100  # of a JPEG: each costs time for all its pixels, whatever its bytes; encoders write about ten
EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")  # of image files in folders
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # that an image may have, whatever its name says
_ORIENTATION = 0x0112  # the EXIF tag
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # those that have a length, and the end
_IMAGE_ENDS, _SCAN_BEGINS = b"\xd9", b"\xda"


class BrokenImageError(Exception):
    """An image that can't be decoded; the message says why."""


class Decoded(NamedTuple):
    """pixels: uint8 [H, W, 3] RGB. oddities: what is unusual about the file, in words for the report."""

    pixels: np.ndarray
    oddities: tuple[str, ...]


def decode(data: bytes, buffer: np.ndarray | None = None) -> Decoded:
    """Decodes a JPEG, PNG, GIF, BMP, TIFF or WebP; BrokenImageError if it is cut, damaged or too large.

    Gray and CMYK become RGB, 16 bits become 8, transparency is dropped, of an animation the first picture is taken,
    and an EXIF orientation is ignored: the author's OpenCV knew none. `buffer`, flat bytes, is where the pixels may
    lie afterwards: fresh memory for each image would cost a third more time.
    """
    if data[:2] == b"\x1f\x8b":  # ILSVRC-2010 has a gzipped JPEG
        decoded = decode(_gunzip(data), buffer)
        return decoded._replace(oddities=("gzipped", *decoded.oddities))
    oddities = ("EXIF orientation ignored",) if _is_turned(data) else ()
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        _check_scans(data)
        if colors in ("YCbCr", "RGB", "Gray"):
            fits = buffer is not None and buffer.size >= 3 * width * height
            pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer if fits else None)
            return Decoded(pixels, (*oddities, "gray") if colors == "Gray" else oddities)
    except ValueError:
        pass  # no JPEG, or not a perfect one: Pillow knows more kinds, and takes what is damaged but complete
    decoded = _decode_with_pillow(data)
    return decoded._replace(oddities=(*oddities, *decoded.oddities))


def _decode_with_pillow(data: bytes) -> Decoded:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size)
            oddities = []
            if image.format in ("JPEG", "MPO"):
                _check_scans(data)
            else:
                oddities.append(image.format or "")
                # Pillow would turn a TIFF by itself, if it found the tag.
                if image.getexif().pop(_ORIENTATION, 1) != 1:
                    oddities.append("EXIF orientation ignored")
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                oddities.append("animated")
            if image.mode == "CMYK":
                oddities.append("CMYK")
            elif image.mode in ("L", "LA", "1") or image.mode.startswith("I;16"):
                oddities.append("gray")
            if image.mode.startswith("I;16"):
                oddities.append("16 bits")
            return Decoded(to_rgb(image), tuple(oddities) or ("JPEG with errors",))
    except BrokenImageError:
        raise
    # On the bytes of strangers Pillow's decoders raise whatever their code runs into, an IndexError for example; none
    # of it may end a preparation of hours, and all of it is listed.
    except Exception as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}".split(" <_io")[0]) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a picture of any mode, uint8 [H, W, 3]; BrokenImageError if they have no fixed range.

    Whatever Pillow raises while it decodes them passes through.
    """
    if image.mode in ("I", "F"):
        raise BrokenImageError(f"pixels of mode {image.mode} have no fixed range")
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")


def _check_scans(data: bytes) -> None:
    """BrokenImageError if a JPEG has more than MAX_SCANS.

    What lies before the first (a thumbnail) and behind the end (a video) may look like some.
    """
    if data.count(b"\xff" + _SCAN_BEGINS) <= MAX_SCANS:
        return
    scans = position = 0
    while (marker := _JPEG_MARKER.search(data, position)) and marker[1] != _IMAGE_ENDS:
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        scans += marker[1] == _SCAN_BEGINS
        if scans > MAX_SCANS:
            raise BrokenImageError(f"it has more than {MAX_SCANS} scans")


def _gunzip(data: bytes) -> bytes:
    try:
        unzipped = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_PIXELS)
    except zlib.error as error:
        raise BrokenImageError(f"gzipped and damaged: {error}") from error
    if unzipped[:2] == b"\x1f\x8b":
        raise BrokenImageError("gzipped twice")
    return unzipped


def _is_turned(data: bytes) -> bool:
    """Whether a JPEG has an EXIF orientation other than upright."""
    if b"Exif\0\0" not in data[:256]:
        return False
    exif = Image.Exif()
    start = data.index(b"Exif\0\0")
    try:
        exif.load(data[start : start + 65536])
        return exif.get(_ORIENTATION, 1) != 1
    except Exception:  # as above; damaged EXIF does no harm to the image
        return False


def resize_and_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3]: the shorter side becomes `size`, and of the longer one the middle is kept.

    The result lies in memory of its own, whatever size the image had.
    """
    pixels = _central(pixels, *(min(side, MAX_ASPECT * min(pixels.shape[:2])) for side in pixels.shape[:2]))
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    if scale != 1:
        new_size = (int(scale * width + 0.5), int(scale * height + 0.5))
        pixels = cv2.resize(pixels, new_size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    return _central(pixels, size, size).copy()


def _central(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """uint8 [S, S, 3] RGB -> JPEG of quality 1 to 100."""
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", SUBSAMPLING)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [S, S, 3] RGB -> PNG, without loss."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
