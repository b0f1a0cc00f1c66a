"""Single images: every odd and broken file, and resizing compared with the author's code."""

import struct

import cv2
import numpy as np
import prepare_sources as sources
import pytest
import simplejpeg
from conftest import SHARED_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.data.image_codec import BrokenImageError, decode, encode, resize_and_crop
from alexnet_jax.data.sources import decode_image

# The seeds of the odd files of prepare_sources.
ORIGINALS = {"gray": 1, "CMYK": 2, "PNG": 3, "animated": 4, "EXIF orientation ignored": 6, "gzipped": 7}
ORIGINALS |= {"JPEG with errors": 8, "16 bits": 1}


@pytest.mark.parametrize("kind", sources.odd_files())
def test_odd_files_are_decoded_and_named(kind):
    """The pixels are those of the image as stored, up to the error of JPEG (and of a GIF's 256 colors)."""
    decoded = decode(sources.odd_files()[kind])
    assert kind in decoded.oddities
    expected = sources.pixels(ORIGINALS[kind])
    if kind in ("gray", "16 bits"):
        expected = np.repeat(np.asarray(Image.fromarray(expected).convert("L"))[..., None], 3, axis=-1)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == expected.shape
    assert np.abs(decoded.pixels.astype(int) - expected).mean() < (8 if kind == "animated" else 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_orientation_is_ignored_in_every_format(kind):
    """Pillow would turn TIFFs."""
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(sources.encode(sources.pixels(1), kind, exif=exif))
    assert "EXIF orientation ignored" in decoded.oddities
    assert decoded.pixels.shape == sources.pixels(1).shape
    assert np.abs(decoded.pixels.astype(int) - sources.pixels(1)).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_no_harm_to_the_pixels(kind):
    """Its header is garbage, as in reports 4676 and 5528 of Pillow, whose `getexif` raises an error."""
    data = sources.encode(sources.pixels(1), kind, exif=b"Exif\0\0garbage")
    decoded = decode(data)
    assert not any("orientation" in oddity for oddity in decoded.oddities)
    assert np.abs(decoded.pixels.astype(int) - sources.pixels(1)).mean() < 4


@pytest.mark.parametrize("image", [sources.pixels(1), sources.pixels(1)[..., 0]], ids=["RGB", "gray"])
def test_of_a_jpeg_only_the_end_marker_may_be_missing(image):
    """Its pixels are then those of the whole file; any other cut is refused."""
    data = sources.encode(image, quality=95)
    whole = decode(data).pixels
    for missing in (1, 2):
        decoded = decode(data[:-missing])
        assert "JPEG without its end marker" in decoded.oddities
        np.testing.assert_array_equal(decoded.pixels, whole)
    for missing in range(3, len(data) - data.index(b"\xff\xda")):
        with pytest.raises(BrokenImageError):
            decode(data[:-missing])


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    """Cut between two scans, it decodes without any error, to a coarser image."""
    data = sources.encode(sources.pixels(1), quality=95, progressive=True)
    starts = [index for index in range(len(data)) if data[index : index + 2] == b"\xff\xda"]
    assert len(starts) > 3
    for cut in [len(data) - 2, *starts[1:], *(data.rindex(b"\xff\xc4", 0, start) for start in starts[1:])]:
        with pytest.raises(BrokenImageError):
            decode(data[:cut])


def tiff(image: np.ndarray, planes: bool) -> bytes:
    """Make an uncompressed TIFF of uint8 or uint16 [H, W, 3], whose colors are in planes or interleaved."""
    height, width, colors = image.shape
    strips = [plane.tobytes() for plane in np.moveaxis(image, -1, 0)] if planes else [image.tobytes()]
    tags = {256: [width], 257: [height], 258: [8 * image.itemsize] * colors, 259: [1], 262: [2], 273: [0] * len(strips)}
    tags |= {277: [colors], 278: [height], 279: [len(strip) for strip in strips], 284: [2 if planes else 1]}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = [start + sum(map(len, strips[:index])) for index in range(len(strips))]
    long_values, entries = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            long_values += packed
            packed = struct.pack("<I", start + sum(map(len, strips)) + len(long_values) - len(packed))
        entries += struct.pack("<HHI", tag, 4, len(values)) + packed
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + b"".join(strips) + long_values


def test_a_tiff_that_pillow_decodes_to_noise_is_refused():
    image = sources.pixels(1)
    deep = image.astype("<u2") << 8
    for data in (tiff(image, planes=False), tiff(image, planes=True), tiff(deep, planes=False)):
        np.testing.assert_array_equal(decode(data).pixels, image)
    with pytest.raises(BrokenImageError, match="separate planes of a kind that can't be read; save it interleaved"):
        decode(tiff(deep, planes=True))


@pytest.mark.parametrize("kind", sources.broken_files())
def test_broken_files_are_refused_with_a_reason(kind):
    with pytest.raises(BrokenImageError, match=r"\w+"):
        decode(sources.broken_files()[kind])


@pytest.mark.parametrize("kind", ["a PNG bomb", "a JPEG bomb"])
def test_bombs_are_refused_before_they_are_decoded(kind):
    """60,000 x 60,000 pixels would need 11 GB."""
    with pytest.raises(BrokenImageError, match=r"60000 x 60000 pixels are more|3600000000 pixels\) exceeds limit"):
        decode(sources.broken_files()[kind])


@settings(max_examples=60)
@given(st.data())
def test_any_damage_is_either_decoded_or_refused(data):
    """No bytes cause any error but BrokenImageError."""
    kinds = [*sources.odd_files().values(), sources.jpeg(1)]
    content = bytearray(data.draw(st.sampled_from(kinds)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        pixels = decode(bytes(content)).pixels
    except BrokenImageError:
        return
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8


def test_buffer_does_not_change_the_pixels():
    buffer = np.full(40 * 48 * 3, 7, np.uint8)
    for too_small_by in (0, 1):
        for seed in range(3):
            found = decode(sources.jpeg(seed), buffer[too_small_by:]).pixels
            np.testing.assert_array_equal(found, decode(sources.jpeg(seed)).pixels)


# Resizing


@pytest.mark.parametrize(
    ("height", "width"), [(300, 400), (400, 300), (31, 47), (47, 31), (64, 64), (65, 64), (512, 7)]
)
def test_shorter_side_and_central_crop(height, width):
    """Compare with the steps of make-data/pyext/src/pyext.cpp: scale, round, resize, crop."""
    image = sources.pixels(0, height, width)
    scale = 64 / min(height, width)
    new_width, new_height = int(np.floor(scale * width + 0.5)), int(np.floor(scale * height + 0.5))
    kind = cv2.INTER_LINEAR if scale == 1 else cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(image, (new_width, new_height), interpolation=kind)
    left, top = (new_width - 64) // 2, (new_height - 64) // 2
    found = resize_and_crop(image, 64)
    if max(height, width) <= 32 * min(height, width):
        np.testing.assert_array_equal(found, resized[top : top + 64, left : left + 64])
    else:  # only the middle of a very long image is resized
        assert np.abs(found.astype(int) - resized[top : top + 64, left : left + 64]).mean() < 2
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, image)  # that memory is soon reused for the next image


def test_shrinking_by_a_whole_factor_is_the_mean_of_the_pixels():
    image = sources.pixels(3, 96, 96)
    mean = image.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(resize_and_crop(image, 32) - mean).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("height", "width"), [(1, 500), (500, 1), (1, 1), (2, 30_000)])
def test_thin_images_become_squares(height, width):
    image = np.broadcast_to(np.uint8([200, 100, 50]), (height, width, 3))
    assert (resize_and_crop(image, 256) == [200, 100, 50]).all()


def test_png_is_exact_and_jpeg_is_near():
    image = sources.pixels(5, 32, 32)
    found = np.empty_like(image)
    decode_image(encode(image, None), found)
    np.testing.assert_array_equal(found, image)
    decode_image(encode(image, 95), found)
    assert np.abs(found.astype(int) - image).mean() < 3
    _, _, colors, subsampling = simplejpeg.decode_jpeg_header(encode(image, 95))
    assert (colors, subsampling) == ("YCbCr", "420")


def test_real_imagenet_files():
    """Of 100, some gray, one with an EXIF orientation: all decode as with Pillow, none is turned."""
    files = sorted((SHARED_DATA / "imagenet_originals").glob("*.JPEG"))
    if not files:
        pytest.skip(f"{SHARED_DATA / 'imagenet_originals'} is not there")
    oddities = []
    for file in files[::4] + [path for path in files if "can_opener" in path.name]:
        decoded = decode(file.read_bytes())
        oddities += decoded.oddities
        with Image.open(file) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decoded.pixels, expected)
    assert oddities.count("EXIF orientation ignored") == 1
    assert "gray" in oddities
