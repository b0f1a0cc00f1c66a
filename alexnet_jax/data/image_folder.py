"""Original image files with labels, for nets whose pictures are prepared in another way than those of a data set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.data.image_codec import BrokenImageError
from alexnet_jax.data.image_files import find_images, in_a_sentence, load_image
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.data.sources import ImageSource
from alexnet_jax.errors import UserError


class ImageFolder(ImageSource):
    """All images below a folder that has one folder per class, like torchvision's `ImageFolder`, prepared for a net."""

    def __init__(self, folder: Path, label_names: Sequence[str], prepare: Preparation):
        """Find the images; UserError if there are none, or a folder is not named like one of the classes."""
        if folder.is_file():
            raise UserError(f"{folder} is a file; give a folder that has one folder of images per class.")
        self.image_size = prepare.size
        self._files = find_images([folder])
        numbers = {name: number for number, name in enumerate(label_names)}
        classes = [path.relative_to(folder).parts[0] for path in self._files]
        if unknown := sorted(set(classes) - set(numbers)):
            raise UserError(
                f"{folder / unknown[0]} is not the folder of a class; each class needs a folder with the name that the "
                f"net's dataset.json has among its label_names, such as {label_names[0]}, with its images inside."
            )
        self._labels = [numbers[name] for name in classes]
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        for row, index in enumerate(indices):
            try:
                images[row] = load_image(self._files[index], self._prepare)
            except BrokenImageError as error:
                raise UserError(in_a_sentence(self._files[index], error)) from error
            labels[row] = self._labels[index]
