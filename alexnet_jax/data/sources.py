"""Random access to the examples of a split: decoded images and labels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.errors import UserError

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class ImageSource(Protocol):
    """The examples of one split. `read` is called from several threads at once."""

    image_size: int

    def __len__(self) -> int:
        """Return the number of examples."""

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        """Write the examples of these indices into images (uint8 [n, S, S, 3]) and labels (int32 [n]), C-contiguous.

        UserError names a record that can't be decoded, or has no valid label.
        """


class JpegSource(ImageSource):
    """A split of a TFDS data set in ArrayRecord whose images are JPEGs (or PNGs) of one size."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, image_size: int):
        """Open the split; UserError if it does not exist or one of its files is missing or damaged."""
        splits = {name: info for name, info in builder.info.splits.items() if name != "all"}
        if split not in splits:
            raise UserError(
                f"the data set in {builder.data_dir} has no split {split!r}; it has {', '.join(sorted(splits))} "
                "(data.train_split, data.eval_split)."
            )
        _check_shards(splits[split])
        self.num_files = len(splits[split].filepaths)  # each stays open after its first read
        self.image_size = image_size
        self.directory, self.split = Path(builder.data_dir), split
        # Distinguishes the records of this split from those of another preparation.
        self.identity = {"records": list(splits[split].shard_lengths), "bytes": splits[split].num_bytes}
        self._name = f"split {split!r} of {builder.data_dir}"
        self._num_classes = builder.info.features["label"].num_classes
        # Unparsed records: TFDS's own parsing takes 80 us per image, a third of the time to decode a 256-pixel JPEG.
        self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        for row, index in enumerate(indices):
            try:
                features = tf_example_pb2.Example.FromString(self._records[index]).features.feature
                decode_image(features["image"].bytes_list.value[0], images[row])
                labels[row] = features["label"].int64_list.value[0]
            except (ValueError, IndexError, RuntimeError, DecodeError) as error:
                raise UserError(
                    f"record {index} of {self._name} can't be read as an image of {self.image_size}x"
                    f"{self.image_size} pixels ({error}); delete that folder and prepare the data set again."
                ) from error
            if not 0 <= labels[row] < self._num_classes:
                raise UserError(
                    f"record {index} of {self._name} has label {labels[row]}; labels are 0 to {self._num_classes - 1}: "
                    "a split without labels can be neither trained on nor evaluated."
                )


def decode_image(data: bytes, image: np.ndarray) -> None:
    """Decode a JPEG or PNG into image, uint8 [S, S, 3] RGB; ValueError if it is broken or has another size.

    simplejpeg (libjpeg-turbo) is the fastest library that decodes straight into the batch, and the only one for which
    a truncated image is an error; others fill it with gray. Small images are stored as PNG.
    """
    is_png = data.startswith(_PNG_MAGIC)
    if is_png:  # the size in its header, before OpenCV allocates memory for it
        width, height = (int.from_bytes(data[offset : offset + 4]) for offset in (16, 20))
    else:
        height, width, _ = simplejpeg.decode_jpeg(data, "RGB", buffer=image).shape
    if (height, width) != image.shape[:2]:
        raise ValueError(f"it has {width}x{height} pixels")
    if is_png:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if decoded is None:
            raise ValueError("the PNG is broken")
        image[:] = decoded


def _check_shards(split: tfds.core.SplitInfo) -> None:
    """Raise UserError if a file is missing, or has not as many records as `dataset_info.json` says."""
    if split.num_examples == 0:
        raise UserError(
            f"split {split.name!r} of {Path(split.filename_template.data_dir)} is empty; prepare the data set with "
            "images in it, or choose another split (data.train_split, data.eval_split)."
        )
    with ThreadPoolExecutor(16) as threads:  # a thousand shards on a network file system take a thousand waits
        actual_lengths = threads.map(_num_records, split.filepaths)
    for path, expected, actual in zip(split.filepaths, split.shard_lengths, actual_lengths, strict=True):
        if actual != expected:
            damage = f"damaged: it should hold {expected} records and {actual} can be read"
            problem = "missing" if actual is None else damage
            raise UserError(f"{path} is {problem}; restore it, or delete its folder and prepare the data set again.")


def _num_records(path: Path) -> int | None:
    """Count the records of an ArrayRecord file: None without a file, 0 if it is cut (the index is at its end)."""
    if not Path(path).is_file():
        return None
    reader = array_record_module.ArrayRecordReader(str(path))
    if not reader.ok():  # closing it would raise an error without a message
        return 0
    num_records = reader.num_records()
    reader.close()
    return num_records
