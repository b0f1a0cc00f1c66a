"""A contact sheet: images as they are stored, and as the net sees them, with their labels. To be looked at."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.data.augmentation import augment
from alexnet_jax.data.datasets import Dataset

FILE_NAME = "contact_sheet.png"
_ROWS = 8
_COLUMNS = (("as the code colors them", "original", 3), ("as the paper colors them", "paper", 3))
_LARGEST = 160  # side of an image on the sheet, in pixels
_MARGIN, _LINE = 6, 16


def draw_contact_sheet(dataset: Dataset, path: Path, seed: int = 0) -> None:
    """Draws the first training images and three random views each of both ways to shift colors, as a PNG.

    The views are those of training, 7/8 of the image as 224 of 256, with the mean put back so that they can be seen.
    The last row is the mean image, and the mean image as it is subtracted from a view.
    """
    count = min(_ROWS, len(dataset.train))
    images = np.empty((count, dataset.image_size, dataset.image_size, 3), np.uint8)
    labels = np.empty(count, np.int32)
    dataset.train.read(range(count), images, labels)
    view_size = dataset.image_size * 7 // 8
    start = (dataset.image_size - view_size) // 2
    mean = dataset.statistics.mean_image
    central_mean = mean[start : start + view_size, start : start + view_size]

    rows = [[image] for image in images]
    for number, (_, kind, num_views) in enumerate(_COLUMNS):
        for view in range(num_views):
            keys = jax.random.split(jax.random.key(seed + num_views * number + view), count)
            views = augment(
                jax.numpy.asarray(images),
                keys,
                dataset.statistics,
                image_size=view_size,
                crop="random",
                flip=True,
                color_noise=kind,
                mean="image",
            )
            for row, augmented in zip(rows, np.asarray(views), strict=True):
                row.append((augmented + central_mean).clip(0, 255).astype(np.uint8))
    rows.append([mean.astype(np.uint8), central_mean.astype(np.uint8)])
    captions = [dataset.class_names[label] for label in labels] + ["the mean image; the part of it that is subtracted"]
    _sheet(rows, captions, dataset.image_size).save(path)


def _sheet(rows: list[list[np.ndarray]], captions: list[str], image_size: int) -> Image.Image:
    scale = _LARGEST / image_size
    cell = _LARGEST + _MARGIN
    num_columns = max(map(len, rows))
    sheet = Image.new("RGB", (num_columns * cell + _MARGIN, len(rows) * (cell + _LINE) + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    column = 1
    draw.text((_MARGIN, _MARGIN), "stored", fill="black", font=font)
    for title, _, num_views in _COLUMNS:
        draw.text((column * cell + _MARGIN, _MARGIN), title, fill="black", font=font)
        column += num_views
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = number * (cell + _LINE) + 2 * _LINE
        draw.text((_MARGIN, top - 2), caption, fill="black", font=font)
        for place, image in enumerate(row):
            side = round(image.shape[0] * scale)
            resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(resized, (_MARGIN + place * cell, top + _LINE - 4))
    return sheet
