"""A trained net in Python: probabilities and features of images, whatever they come as. See docs/use.md."""

import os
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from alexnet_jax.data.image_codec import BrokenImageError, resize_and_crop
from alexnet_jax.data.image_files import cut_picture, find_images, in_a_sentence, load_image
from alexnet_jax.errors import UserError
from alexnet_jax.files import expanded
from alexnet_jax.predict import batching
from alexnet_jax.predict_step import create_feature_step, create_predict_step, feature_shape
from alexnet_jax.restore import RestoredNet, restore

OneImage = str | os.PathLike[str] | Image.Image | np.ndarray
Images = OneImage | Iterable[OneImage]


class TrainedNet:
    """A trained net on this machine's devices.

    Images are files, folders (all images below, by name), PIL images, or arrays uint8 [H, W, 3] RGB, alone or several
    of them; an array uint8 [N, H, W, 3] is N images. They are resized and cropped like the net's own data set, PIL
    images also decoded and turned upright like files.
    """

    def __init__(self, restored: RestoredNet):
        self.restored = restored  # config, parameters, mesh and facts of the data, for what is not offered here
        self._programs: dict[tuple, Callable] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """What people call the classes, in their order."""
        return self.restored.dataset_info.class_names

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the data set calls the classes: WordNet ids for ImageNet."""
        return self.restored.dataset_info.label_names

    def predict(self, images: Images, views: int = 1) -> np.ndarray:
        """Probabilities, float32 [N, classes], of the central view or averaged over ten; UserError if one is broken."""
        if views not in (1, 10):
            raise UserError(f"views={views} is not allowed; it must be 1 or 10.")
        return np.exp(self._run(images, ("views", views), (len(self.class_names),)))

    def features(self, images: Images, layer: str = "fc7") -> np.ndarray:
        """A layer's outputs for the central view, float32 [N, H, W, C] or [N, units]; "fc8" gives class scores.

        The layers are those of `alexnet_jax.summary`; which output a name means says `predict_step.output_of`.
        UserError if there is no such layer, or an image is broken.
        """
        return self._run(images, ("layer", layer), feature_shape(self.restored.config, layer))

    def _run(self, images: Images, what: tuple, shape: tuple[int, ...]) -> np.ndarray:
        net = self.restored
        pixels = _pixels(images, net.dataset_info.statistics.image_size)
        if what not in self._programs:
            create = create_predict_step if what[0] == "views" else create_feature_step
            self._programs[what] = net.predictor(create(net.config, net.mesh, what[1]))
        batch_size = batching.batch_size_for(len(pixels), net.mesh)
        rows = [
            batching.run(self._programs[what], net.mesh, batch, batch_size)
            for batch in batching.in_batches(pixels, batch_size)
        ]
        return np.concatenate(rows) if rows else np.zeros((0, *shape), np.float32)


def load(workdir: str | os.PathLike[str], step: int | None = None) -> TrainedNet:
    """The net of a workdir; `step` names a checkpoint, by default the latest. UserError if there is none."""
    return TrainedNet(restore(expanded(workdir), step))


def _pixels(images: Images, size: int) -> list[np.ndarray]:
    """Each image as uint8 [size, size, 3]; UserError that names those that can't be read."""
    if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        images = [images]
    found: list[np.ndarray] = []
    broken: list[str] = []
    for number, image in enumerate(images):
        if isinstance(image, Image.Image):
            try:
                found.append(cut_picture(image, size))
            except BrokenImageError as error:
                broken.append(in_a_sentence(f"images[{number}]", error))
        elif isinstance(image, np.ndarray):
            found.append(resize_and_crop(_checked(image), size))
        else:
            for path in find_images([image]):
                try:
                    found.append(load_image(path, size))
                except BrokenImageError as error:
                    broken.append(in_a_sentence(path, error))
    if broken:
        raise UserError("\n".join(broken))
    return found


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise UserError(
            f"an image is an array of {image.dtype} {list(image.shape)}; it must be uint8 [H, W, 3], with the colors "
            "red, green and blue from 0 to 255."
        )
    return np.ascontiguousarray(image)
