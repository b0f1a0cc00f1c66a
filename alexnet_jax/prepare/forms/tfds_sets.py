"""A data set that TFDS has prepared, as TFRecord or ArrayRecord, with images of any size; read without TensorFlow.

A record in a TFRecord file is its length (8 bytes), the masked CRC-32C of the length (4), the bytes, and their masked
CRC-32C (4), all little-endian. Source: tensorflow.org/tutorials/load_data/tfrecord.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data.datasets import check_image_features, open_builder
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare.source import Part, SourceImage

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_MAX_BYTES = 1 << 29  # of a record
_NAMES = ("file_name", "filename", "id")  # features that name an image
_SPLITS = {"val": "validation"}
_MASK = 0xA282EAD8


def find(source: Path) -> list[Path]:
    """Return the folder with the set's description: the source, or one in it, such as `5.1.0`.

    Of TFDS's own folder, in which all sets are, only ImageNet is looked for.

    UserError if there are several.
    """
    for pattern in ("", "*/", "imagenet2012/*/"):
        if found := sorted(path.parent for path in source.glob(f"{pattern}dataset_info.json")):
            if len(found) > 1:
                raise UserError(f"{source} has several data sets of TFDS; choose one: {', '.join(map(str, found))}.")
            return found
    return []


def open_tfds(paths: list[Path]) -> Part:
    """Open a set; UserError if a file is missing or truncated, or the set has no images or labels."""
    (directory,) = paths
    builder, _ = open_builder(directory)
    check_image_features(directory, builder.info)
    kind = builder.info.file_format.value
    if kind not in _READERS:
        raise UserError(f"{directory} is stored as {kind}; only {' and '.join(_READERS)} can be read.")
    name_feature = next((name for name in _NAMES if name in builder.info.features), None)
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    left_out: dict[str, int] = {}
    for split, info in builder.info.splits.items():
        if split == "all" or not info.num_examples:
            continue
        files = _existing(info)
        if _is_unlabeled(files, kind):
            left_out[f"{split} images, which have no labels"] = info.num_examples
            continue
        counts[split] = info.num_examples
        sizes |= {path.name: path.stat().st_size for path in files}
        if kind == "tfrecord":
            _check_sizes(files, info)

    def images() -> Iterator[SourceImage]:
        start = 0
        for split in counts:
            row = 0
            for path in _existing(builder.info.splits[split]):
                for record in _READERS[kind](path):
                    yield _image(record, _SPLITS.get(split, split), row, name_feature, path, start)
                    start += len(record)
                    row += 1

    return Part(
        form=f"a data set of TFDS, {kind}",
        label_names=tuple(builder.info.features["label"].names),
        num_images={_SPLITS.get(split, split): count for split, count in counts.items()},
        num_bytes=sum(sizes.values()),
        identity=sizes,
        images=images,
        left_out=left_out,
        folder=directory,
    )


def _existing(info: tfds.core.SplitInfo) -> list[Path]:
    files = [Path(path) for path in info.filepaths]
    if missing := [path for path in files if not path.is_file()]:
        raise UserError(f"{missing[0]} is missing, one of {len(files)} files of {info.name}; copy it again.")
    return files


def _is_unlabeled(files: list[Path], kind: str) -> bool:
    """Return whether the first image of a split has the label -1, as ImageNet's test images."""
    record = next(_READERS[kind](files[0]), None)
    return record is not None and _example(record, files[0])["label"].int64_list.value[:] == [-1]


def _check_sizes(files: list[Path], info: tfds.core.SplitInfo) -> None:
    """Raise UserError if a file is truncated: then together they are smaller than their description says."""
    overhead = info.num_examples * (_HEADER.size + _FOOTER.size)
    if sum(path.stat().st_size for path in files) >= info.num_bytes + overhead:
        return
    for path, length in zip(files, info.shard_lengths, strict=True):
        if (found := sum(1 for _ in tfrecords(path, load=False))) != length:
            raise UserError(f"{path} has {found:,} records, and should have {length:,}; copy it again.")


def _example(record: bytes, path: Path) -> dict[str, Any]:
    try:
        return dict(tf_example_pb2.Example.FromString(record).features.feature)
    except DecodeError as error:
        raise UserError(f"{path} has a record that is not a tf.train.Example; copy it again.") from error


def _image(record: bytes, split: str, row: int, name_feature: str | None, path: Path, position: int) -> SourceImage:
    example = _example(record, path)
    labels, images = example["label"].int64_list.value, example["image"].bytes_list.value
    if len(labels) != 1 or len(images) != 1 or labels[0] < 0:
        raise UserError(f"{path}: record {row:,} of {split} has no image or no label; prepare that set again.")
    names = example[name_feature].bytes_list.value if name_feature else ()
    name = names[0].decode(errors="replace") if names else f"{split}_{row:07d}"
    return SourceImage(split, name, labels[0], functools.partial(bytes, images[0]), position, len(images[0]))


# Files of records


def tfrecords(path: Path, load: bool = True) -> Iterator[bytes]:
    """Yield the records of a TFRecord file, or empty ones where they need not be loaded; UserError if it is damaged."""
    with reading(str(path)), path.open("rb") as file:
        size = path.stat().st_size
        while header := file.read(_HEADER.size):
            position = file.tell() - len(header)
            if len(header) < _HEADER.size:
                raise _truncated(path, position)
            length, crc = _HEADER.unpack(header)
            if crc != _masked_crc(header[:8]) or length > _MAX_BYTES:
                raise _damaged(path, position)
            if file.tell() + length + _FOOTER.size > size:
                raise _truncated(path, position)
            if not load:
                file.seek(length + _FOOTER.size, 1)
                yield b""
                continue
            record = file.read(length)
            if _FOOTER.unpack(file.read(_FOOTER.size))[0] != _masked_crc(record):
                raise _damaged(path, position)
            yield record


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _damaged(path: Path, position: int) -> UserError:
    return UserError(
        f"{path} is damaged: the checksum (CRC-32C) of the record at byte {position:,} is wrong; copy it again."
    )


def _truncated(path: Path, position: int) -> UserError:
    return UserError(f"{path} is truncated: the record at byte {position:,} is not complete; copy it again.")


def _array_records(path: Path) -> Iterator[bytes]:
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        try:
            for index in range(reader.num_records()):
                yield reader.read([index])[0]
        finally:
            reader.close()
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(f"{path} can't be read as an ArrayRecord file ({error}); copy it again.") from error


_READERS = {"tfrecord": tfrecords, "array_record": _array_records}
