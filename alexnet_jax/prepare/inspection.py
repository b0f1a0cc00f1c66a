"""A contact sheet to look at: images as stored and as the network sees them, with their labels."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.data.augmentation import augment, mean_to_subtract
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.pipeline import consecutive_batches
from alexnet_jax.rng import GENERATOR

FILE_NAME = "contact_sheet.png"
_NUM_IMAGES, _NUM_VIEWS = 8, 3  # views per image and kind of color noise
_COLOR_NOISE = {"original": "as the code colors them", "paper": "as the paper colors them"}
_SIDE, _MARGIN, _LINE = 160, 6, 16  # of an image, between images, of text, in pixels


def draw_contact_sheet(dataset: Dataset, path: Path) -> None:
    """Draw the first training images, each with random views for both kinds of color noise, as a PNG.

    The views are those of training, 7/8 of the image as in 224 of 256, with the mean added again to make them visible.
    The last row shows the mean image, and the part of it that is subtracted from a view.
    """
    count = min(_NUM_IMAGES, len(dataset.train))
    (batch,) = consecutive_batches(dataset.train, 0, count, batch_size=count, read_threads=0)
    images, statistics = jax.numpy.asarray(batch["image"]), dataset.statistics
    view_size = dataset.image_size * 7 // 8
    central_mean = np.asarray(mean_to_subtract(statistics, "image", view_size))

    rows = [[image] for image in batch["image"]]
    for number, noise in enumerate(np.repeat(list(_COLOR_NOISE), _NUM_VIEWS)):
        keys = jax.random.split(jax.random.key(number, impl=GENERATOR), count)
        views = augment(
            images, keys, statistics, image_size=view_size, crop="random", flip=True, color_noise=noise, mean="image"
        )
        for row, view in zip(rows, np.asarray(views), strict=True):
            row.append((view + central_mean).clip(0, 255).astype(np.uint8))
    rows.append([statistics.mean_image.astype(np.uint8), central_mean.astype(np.uint8)])
    captions = [dataset.class_names[label] for label in batch["label"]]
    captions.append("the mean image; the part of it that is subtracted")
    _sheet(rows, captions, _SIDE / dataset.image_size).save(path)


def _sheet(rows: list[list[np.ndarray]], captions: list[str], scale: float) -> Image.Image:
    cell = _SIDE + _MARGIN
    sheet = Image.new("RGB", (len(rows[0]) * cell + _MARGIN, len(rows) * (cell + _LINE) + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    draw.text((_MARGIN, _MARGIN), "stored", fill="black", font=font)
    for number, title in enumerate(_COLOR_NOISE.values()):
        draw.text(((1 + number * _NUM_VIEWS) * cell + _MARGIN, _MARGIN), title, fill="black", font=font)
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = number * (cell + _LINE) + 2 * _LINE
        draw.text((_MARGIN, top - 2), caption, fill="black", font=font)
        for column, image in enumerate(row):
            side = round(image.shape[0] * scale)
            resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(resized, (_MARGIN + column * cell, top + _LINE - 4))
    return sheet
