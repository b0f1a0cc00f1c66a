"""Where single examples come from: random access to decoded images and labels."""

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
        """How many examples the split has."""
        ...

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        """Writes the examples of these indices into images (uint8 [n, S, S, 3]) and labels (int32 [n])."""
        ...


class JpegSource:
    """A split of a TFDS data set in ArrayRecord whose images are JPEGs (or PNGs) of one size."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, image_size: int):
        """Opens the split; UserError if the set has none of that name or if one of its files is missing or cut."""
        splits = {name: info for name, info in builder.info.splits.items() if name != "all"}
        if split not in splits:
            raise UserError(
                f"the data set in {builder.data_dir} has no split {split!r}; it has {', '.join(sorted(splits))} "
                "(data.train_split, data.eval_split)."
            )
        _check_shards(splits[split])
        self.num_files = len(splits[split].filepaths)  # which stay open once they were read from
        self.image_size = image_size
        self.directory, self.split = Path(builder.data_dir), split
        # What tells the records of this split from those of another preparation.
        self.identity = {"records": list(splits[split].shard_lengths), "bytes": splits[split].num_bytes}
        self._name = f"split {split!r} of {builder.data_dir}"
        self._num_classes = builder.info.features["label"].num_classes
        # The records unparsed: TFDS's own parsing takes 80 us an image, a third of what decoding a 256-pixel JPEG does.
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._records = builder.as_data_source(split, deserialize_method=raw)

    def __len__(self) -> int:
        """How many examples the split has."""
        return len(self._records)

    def read(self, indices: Sequence[int], images: np.ndarray, labels: np.ndarray) -> None:
        """Decodes the examples of these indices; UserError, which names the record, if one can't be.

        images: uint8 [n, S, S, 3], labels: int32 [n], both C-contiguous and overwritten.
        """
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
    """Decodes a JPEG or PNG into image, uint8 [S, S, 3] RGB; ValueError for a broken one or one of another size.

    simplejpeg (libjpeg-turbo) is the fastest of the libraries that decode straight into the batch, and the only one
    that takes a truncated image as an error instead of filling it up with gray. Small images are stored as PNG.
    """
    if data.startswith(_PNG_MAGIC):
        width, height = (int.from_bytes(data[place : place + 4]) for place in (16, 20))  # OpenCV would make room first
        _check_shape(height, width, image)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if decoded is None:
            raise ValueError("the PNG is broken")
        image[:] = decoded
    else:
        decoded = simplejpeg.decode_jpeg(data, "RGB", buffer=image)
        _check_shape(decoded.shape[0], decoded.shape[1], image)


def _check_shape(height: int, width: int, image: np.ndarray) -> None:
    if (height, width) != image.shape[:2]:
        raise ValueError(f"it has {width}x{height} pixels")


def _check_shards(split: tfds.core.SplitInfo) -> None:
    """UserError if a file of the split is missing, or doesn't hold as many records as `dataset_info.json` says."""
    if split.num_examples == 0:
        raise UserError(
            f"split {split.name!r} of {Path(split.filename_template.data_dir)} is empty; prepare the data set with "
            "images in it, or name another split (data.train_split, data.eval_split)."
        )
    with ThreadPoolExecutor(16) as threads:  # a thousand shards on a network file system are a thousand waits
        found = threads.map(_num_records, split.filepaths)
    for path, num_expected, num_found in zip(split.filepaths, split.shard_lengths, found, strict=True):
        if num_found is None:
            raise UserError(f"{path} is missing; restore it, or delete its folder and prepare the data set again.")
        if num_found != num_expected:
            raise UserError(
                f"{path} is damaged: it should hold {num_expected} records and {num_found} can be read; "
                "restore it, or delete its folder and prepare the data set again."
            )


def _num_records(path: Path) -> int | None:
    """How many records an ArrayRecord file has: None if there is no file, 0 if it is cut (the index is at its end)."""
    if not Path(path).is_file():
        return None
    reader = array_record_module.ArrayRecordReader(str(path))
    if not reader.ok():  # closing it would raise, without a message
        return 0
    num_records = reader.num_records()
    reader.close()
    return num_records
