"""A trained net in Python: probabilities and features of images in many forms. See docs/use.md."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.data.image_codec import BrokenImageError, resize_and_crop
from alexnet_jax.data.image_files import cut_picture, find_images, in_a_sentence, load_image
from alexnet_jax.errors import UserError
from alexnet_jax.predict.batching import BatchedProgram
from alexnet_jax.predict_step import Predictor, feature_shape
from alexnet_jax.run.restore import RestoredNet

OneImage = str | os.PathLike[str] | Image.Image | np.ndarray
Images = OneImage | Iterable[OneImage]


class TrainedNet:
    """A trained net on this machine's devices.

    Images are files, folders (all images below them, by name), PIL images or uint8 RGB arrays [H, W, 3]: one, or
    several in any mixture; a uint8 array [N, H, W, 3] is N images. All are resized and cropped like the net's own data
    set; files and PIL images are also decoded and turned upright. UserError if an image can't be read.
    """

    def __init__(self, restored: RestoredNet):
        self.restored = restored  # config, parameters, mesh and dataset_info, for what this class does not offer
        self._predictor = functools.cache(restored.predictor)  # compiled once each
        self._feature_extractor = functools.cache(restored.feature_extractor)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes for people, in order."""
        return self.restored.dataset_info.class_names

    @property
    def label_names(self) -> tuple[str, ...]:
        """The data set's own names of the classes: WordNet ids for ImageNet."""
        return self.restored.dataset_info.label_names

    def predict(self, images: Images, views: int = 1) -> np.ndarray:
        """Return probabilities, float32 [N, classes], of the central view or, with `views=10`, averaged over ten views.

        These are five if the net was trained without mirror images (`data.flip=False`).
        """
        if views not in (1, 10):
            raise UserError(f"views={views} is not allowed; it must be 1 or 10.")
        return np.exp(self._run(self._predictor(views), images, (len(self.class_names),)))

    def features(self, images: Images, layer: str = "fc7") -> np.ndarray:
        """Return a layer's outputs for the central view, float32 [N, H, W, C] or [N, units]; "fc8" gives the logits.

        `alexnet_jax.summary` lists the layers, `predict_step.output_of` says what a name means; UserError for others.
        """
        shape = feature_shape(self.restored.config, self.restored.model.net, layer)
        return self._run(self._feature_extractor(layer), images, shape)

    def _run(self, predictor: Predictor, images: Images, output_shape: tuple[int, ...]) -> np.ndarray:
        """Return the predictor's outputs, float32 [N, *output_shape]."""
        pixels = _load_all(images, self.restored.dataset_info.statistics.image_size)
        program = BatchedProgram(self.restored, predictor, len(pixels))
        starts = range(0, len(pixels), program.batch_size)
        outputs = [program.run(np.stack(pixels[start : start + program.batch_size])) for start in starts]
        return np.concatenate(outputs) if outputs else np.zeros((0, *output_shape), np.float32)


def _load_all(images: Images, size: int) -> list[np.ndarray]:
    """Return each image as uint8 [size, size, 3]; UserError that names the unreadable ones."""
    if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        images = [images]
    loaded: list[np.ndarray] = []
    broken: list[str] = []
    for number, image in enumerate(images):
        for source in find_images([image]) if isinstance(image, str | os.PathLike) else [image]:
            try:
                loaded.append(_load(source, size))
            except BrokenImageError as error:
                broken.append(in_a_sentence(source if isinstance(source, Path) else f"images[{number}]", error))
    if broken:
        raise UserError("\n".join(broken))
    return loaded


def _load(source: Path | Image.Image | np.ndarray, size: int) -> np.ndarray:
    """Return one image as uint8 [size, size, 3]; BrokenImageError if it can't be read."""
    if isinstance(source, Path):
        return load_image(source, size)
    if isinstance(source, Image.Image):
        return cut_picture(source, size)
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[-1] != 3 or 0 in source.shape:
        raise UserError(
            f"an image is an array of {source.dtype} {list(source.shape)}; it must be uint8 [H, W, 3], RGB, 0 to 255."
        )
    return resize_and_crop(np.ascontiguousarray(source), size)
