"""Decode an image of any kind, resize its shorter side to S, crop the central S x S, and encode it again.

Source: paper section 2; the details are from the author's make-data/pyext/src/pyext.cpp (cuda-convnet2): OpenCV's area
averaging for shrinking, cubic interpolation for enlarging, sizes rounded, the crop rounded to the top left.
"""

import contextlib
import functools
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, TiffImagePlugin

SUBSAMPLING = "420"  # of the colors, as in the author's files, which OpenCV wrote
MAX_PIXELS = 1 << 27  # larger images are refused: a bomb, or 400 MB for an image that ends as 256 x 256
MAX_ASPECT = 32  # only the central part of longer images is resized: an image one pixel wide becomes 8,192 high
MAX_SCANS = 100  # of a JPEG: each costs time for all pixels, however few its bytes; encoders write about ten
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # that are decoded, whatever the file's name
MAGIC_BYTES = 64  # at the start of a file, which tell whether it is an image
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP|"
    rb"P[1-6]\s+(?:#[^\n]*\s+)*\d+\s",  # PBM, PGM and PPM: the width, perhaps after comments
    re.DOTALL,
)
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # those with a length, and the end marker
_END_OF_IMAGE, _START_OF_SCAN = b"\xd9", b"\xda"


class BrokenImageError(Exception):
    """An image that can't be decoded; the message says why."""


class Decoded(NamedTuple):
    """pixels: uint8 [H, W, 3] RGB. oddities: unusual properties of the file, as named in the report."""

    pixels: np.ndarray
    oddities: tuple[str, ...]


def decode(data: bytes, buffer: np.ndarray | None = None) -> Decoded:
    """Decode an image of one of the FORMATS; BrokenImageError if it is truncated, damaged or too large.

    Of a JPEG, only the end marker may be missing. Gray and CMYK become RGB, 16 bits become 8, transparency is dropped,
    the first frame of an animation is taken, and EXIF orientations are ignored, as by the author's version of OpenCV.
    The pixels may be stored in `buffer`, flat bytes: allocating new memory for each image takes a third more time.
    """
    if data[:2] == b"\x1f\x8b":  # ILSVRC-2010 has a gzipped JPEG
        decoded = decode(_gunzip(data), buffer)
        return decoded._replace(oddities=("gzipped", *decoded.oddities))
    is_turned = b"Exif\0\0" in data[:256] and orientation_in(data) != 1  # of a JPEG
    oddities = ("EXIF orientation ignored",) if is_turned else ()
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        _check_scans(data)
        if colors in ("YCbCr", "RGB", "Gray"):
            fits = buffer is not None and buffer.size >= 3 * width * height
            decode_jpeg = functools.partial(simplejpeg.decode_jpeg, colorspace="RGB", buffer=buffer if fits else None)
            try:
                pixels = decode_jpeg(data)
            except ValueError:
                if not _has_one_whole_scan(data, 1 if colors == "Gray" else 3):
                    raise
                pixels = decode_jpeg(data + b"\xff" + _END_OF_IMAGE)  # still an error if the scan itself was cut
                oddities = (*oddities, "JPEG without its end marker")
            return Decoded(pixels, (*oddities, "gray") if colors == "Gray" else oddities)
    except ValueError:
        pass  # not a JPEG, or an imperfect one: Pillow knows more formats, and accepts JPEGs with errors but no gaps
    decoded = _decode_with_pillow(data)
    return decoded._replace(oddities=(*oddities, *decoded.oddities))


def _decode_with_pillow(data: bytes) -> Decoded:
    with _pillow_errors(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        is_jpeg, has_16_bits = image.format in ("JPEG", "MPO"), image.mode.startswith("I;16")
        if is_jpeg:
            _check_scans(data)
        oddities = {
            image.format or "": not is_jpeg,
            "EXIF orientation ignored": not is_jpeg and orientation_of(image) != 1,
            "animated": image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
            "CMYK": image.mode == "CMYK",
            "gray": image.mode in ("L", "LA", "1") or has_16_bits,
            "16 bits": has_16_bits,
        }
        names = tuple(name for name, applies in oddities.items() if applies)
        if image.format == "TIFF":
            image.getexif().pop(ExifTags.Base.Orientation, None)  # with the tag, Pillow would turn it
        return Decoded(to_rgb(image), names or ("JPEG with errors",))


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image of any mode, uint8 [H, W, 3]; BrokenImageError if they can't be decoded."""
    if image.mode in ("I", "F"):
        raise BrokenImageError(f"pixels of mode {image.mode} have no fixed range")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_planes(image)
    with _pillow_errors():
        if not image.mode.startswith("I;16"):
            return np.asarray(image.convert("RGB"))
        gray = (np.asarray(image) >> 8).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


@contextlib.contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turn all errors into BrokenImageError: on untrusted bytes, Pillow's decoders raise any type, such as IndexError.

    None may end a preparation of hours; its report lists them all.
    """
    try:
        yield
    except BrokenImageError:
        raise
    except Exception as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}".split(" <_io")[0]) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")


def _check_planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise BrokenImageError if the colors of a TIFF are in separate planes that Pillow 13.0 would decode to noise."""
    in_planes = image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    is_compressed, bits = image.info["compression"] != "raw", image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if in_planes and (len(bits) > 3 if is_compressed else max(bits) > 8):
        raise BrokenImageError("its colors are in separate planes of a kind that can't be read; save it interleaved")


def _scans(data: bytes) -> Iterator[int]:
    """Yield the position after the marker of each scan of a JPEG, except in segments (a thumbnail) or after its end."""
    position = 0
    while (marker := _JPEG_MARKER.search(data, position)) and marker[1] != _END_OF_IMAGE:
        if marker[1] == _START_OF_SCAN:
            yield marker.end()
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])


def _check_scans(data: bytes) -> None:
    """Raise BrokenImageError if a JPEG has more than MAX_SCANS."""
    if data.count(b"\xff" + _START_OF_SCAN) > MAX_SCANS and any(itertools.islice(_scans(data), MAX_SCANS, None)):
        raise BrokenImageError(f"it has more than {MAX_SCANS} scans")


def _has_one_whole_scan(data: bytes, num_colors: int) -> bool:
    """Tell whether a JPEG has just one scan, with coefficients 0 to 63 of all colors (ITU-T T.81, section B.2.3)."""
    scans = list(itertools.islice(_scans(data), 2))
    if len(scans) != 1:
        return False
    # The header: its length (2 bytes), the number of colors (1), each color (2), the first coefficient and the last.
    header = data[scans[0] : scans[0] + 5 + 2 * num_colors]
    return header[2:3] == bytes([num_colors]) and header[-2:] == bytes([0, 63])


def _gunzip(data: bytes) -> bytes:
    try:
        unzipped = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_PIXELS)
    except zlib.error as error:
        raise BrokenImageError(f"gzipped and damaged: {error}") from error
    if unzipped[:2] == b"\x1f\x8b":
        raise BrokenImageError("gzipped twice")
    return unzipped


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1, upright, if there is none or the EXIF data are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of any type; damaged EXIF data do no harm to the pixels
        return 1


def orientation_in(data: bytes) -> int:
    """Return the EXIF orientation of an image file; 1 if Pillow can't open it, for example because it is gzipped."""
    try:
        with _pillow_errors(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return orientation_of(image)
    except BrokenImageError:
        return 1


def is_image(head: bytes) -> bool:
    """Tell whether a file whose first MAGIC_BYTES are `head` is an image of one of the FORMATS."""
    return _MAGIC.match(head) is not None


def resize_and_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 [H, W, 3] so that the shorter side is `size`, and return a copy of the central [size, size, 3]."""
    pixels = longest_used(pixels)
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    if scale != 1:
        new_size = (int(scale * width + 0.5), int(scale * height + 0.5))
        pixels = cv2.resize(pixels, new_size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    return central(pixels, size, size).copy()


def longest_used(pixels: np.ndarray) -> np.ndarray:
    """Return the part of [H, W, 3] that is resized: all, or the center if it is longer than MAX_ASPECT allows."""
    return central(pixels, *(min(side, MAX_ASPECT * min(pixels.shape[:2])) for side in pixels.shape[:2]))


def central(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the center, [H, W, 3] -> [height, width, 3], rounded to the top left."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def encode(pixels: np.ndarray, quality: int | None) -> bytes:
    """Encode uint8 [S, S, 3] RGB as a JPEG of quality 1 to 100, or for None losslessly as a PNG."""
    if quality is None:
        return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", SUBSAMPLING)
