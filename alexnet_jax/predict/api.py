"""A trained net in Python: probabilities, features and gradients of images in many forms. See docs/use.md."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.feature_step import IMAGE, checked, feature_shape
from alexnet_jax.predict.batching import BatchedProgram, Values
from alexnet_jax.predict.inputs import OneImage, load_all
from alexnet_jax.run.restore import RestoredNet

Images = OneImage | Iterable[OneImage]
Unit = tuple[str, int | Sequence[int]]  # a layer, and a place in its output: (7,), or (row, column, channel)


class TrainedNet:
    """A trained net on this machine's devices.

    Images are files (paths, open files, or bytes with their content), folders (all images below them, by name), PIL
    images, or uint8 arrays of NumPy, JAX or PyTorch, [H, W, 3], gray [H, W] or with alpha [H, W, 4]: one, or several in
    any mixture; an array [N, H, W, C] is N images. All are resized and cropped as the net knows it; files and PIL
    images are also decoded and turned upright. An array of the size of the net's view is taken as it is, except for ten
    views. UserError if an image can't be read.
    """

    def __init__(self, restored: RestoredNet):
        self.restored = restored  # config, parameters, mesh and dataset_info, for what this class does not offer
        self._predictor = functools.cache(restored.predictor)  # compiled once each
        self._feature_extractor = functools.cache(restored.feature_extractor)
        self._gradient = functools.cache(restored.gradient)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes for people, in order."""
        return self.restored.dataset_info.class_names

    @property
    def label_names(self) -> tuple[str, ...]:
        """The data set's own names of the classes: WordNet ids for ImageNet."""
        return self.restored.dataset_info.label_names

    def view(self, image: OneImage) -> np.ndarray:
        """Return what the net sees of an image before the mean is subtracted: uint8 [S, S, 3], S = 224 or 227."""
        views = load_all(image, self.restored.preparation(), "image")
        if len(views) != 1:
            raise UserError(f"image stands for {len(views)} images; give one.")
        return views[0]

    def predict(self, images: Images, views: int = 1) -> np.ndarray:
        """Return probabilities, float32 [N, classes], of the central view or, with `views=10`, averaged over ten views.

        These are five if the net was trained without mirror images (`data.flip=False`).
        """
        if views not in (1, 10):
            raise UserError(f"views={views} is not allowed; it must be 1 or 10.")
        none = np.zeros((0, len(self.class_names)), np.float32)
        return np.exp(self._run(self._predictor(views), images, none, views))

    def features(self, images: Images, layer: str | Sequence[str] = "relu7") -> Any:
        """Return a layer's outputs for the central view, float32 [N, H, W, C] or [N, units]; "fc8" gives the logits.

        "fc7" is before its nonlinearity and "relu7" behind it. Several layers, computed in one pass, are returned as
        {name: outputs}. `alexnet_jax.summary` lists the layers; UserError for others.
        """
        layers = (layer,) if isinstance(layer, str) else tuple(layer)
        none = {name: np.zeros((0, *self._shape(name)), np.float32) for name in layers}
        found = self._run(self._feature_extractor(layers), images, none)
        return found[layer] if isinstance(layer, str) else found

    def gradient(self, images: Images, of: int | str | Unit, wrt: str = IMAGE) -> np.ndarray:
        """Return the gradient of a class's logit, or of another unit, with respect to the image or a layer.

        Args:
          images: as above; of each, the central view.
          of: a class, by its number or one of its names, or a unit, as in ("relu5", (6, 6, 12)) or ("fc7", 40).
          wrt: "image", the pixels of `view` on their scale of 0 to 255, or a layer below the unit.

        Returns:
          float32 [N, S, S, 3], or [N, *shape of the layer's output].

        Raises:
          UserError: an image can't be read, or there is no such class, unit or layer.
        """
        layer, unit = self._unit(of)
        program = self._gradient(layer, wrt)
        size = self.restored.config.model.image_size
        shape = (size, size, 3) if wrt == IMAGE else self._shape(wrt)
        return self._run(lambda pixels: program(unit, pixels), images, np.zeros((0, *shape), np.float32))

    def _shape(self, layer: str) -> tuple[int, ...]:
        return feature_shape(self.restored.config, self.restored.model.net, layer)

    def _unit(self, of: int | str | Unit) -> tuple[str, int]:
        """Return a unit's layer and its place in the layer's flat output; UserError if there is none."""
        if isinstance(of, tuple) and len(of) == 2:
            layer, index = of
            shape = self._shape(checked(self.restored.model.net, layer, "of"))
            place = (index,) if isinstance(index, int | np.integer) else tuple(index)
            if len(place) != len(shape) or not all(0 <= i < side for i, side in zip(place, shape, strict=True)):
                raise UserError(f"of={of} is not a unit: the outputs of {layer} are {list(shape)}, counted from 0.")
            return layer, int(np.ravel_multi_index(place, shape))
        number = of
        for names in (self.label_names, self.class_names):
            number = names.index(of) if isinstance(of, str) and of in names else number
        if not isinstance(number, int | np.integer) or not 0 <= number < len(self.class_names):
            raise UserError(
                f"of={of!r} is not a class of this net: give one of its {len(self.class_names)} class_names, its "
                "number from 0, or (layer, place) for another unit."
            )
        return self.restored.model.net.layers[-1].name, int(number)

    def _run(self, program: Callable[..., Any], images: Images, none: Values, views: int = 1) -> Any:
        """Return the program's outputs for all images; `none` is what it returns for no images."""
        pixels = load_all(images, self.restored.preparation(views))
        batched = BatchedProgram(self.restored, program, len(pixels), views)
        starts = range(0, len(pixels), batched.batch_size)
        outputs = [batched.run(np.stack(pixels[start : start + batched.batch_size])) for start in starts]
        return jax.tree.map(lambda *parts: np.concatenate(parts), none, *outputs)
