"""Writes images and labels as a TFDS data set that anyone can read, without TensorFlow.

The images are stored as encoded bytes in ArrayRecord files: random access, and readable with plain
`tfds.builder_from_directory(...).as_data_source(...)`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

Example = tuple[str, dict[str, Any]]  # a key, unique within its split, and the record: features by name


class WrittenSplit(NamedTuple):
    """What TFDS has to know of a split: the number of records of each of its files, and their bytes."""

    shard_lengths: list[int]
    num_bytes: int


def write_tfds(
    directory: Path,
    *,
    name: str,
    version: str,
    description: str,
    label_names: Sequence[str],
    splits: Mapping[str, Callable[[], Iterable[Example]]],
    image_size: int | None,
    metadata: Mapping[str, Any],
    file_names: bool = False,
    homepage: str = "",
) -> Path:
    """Writes a data set that fits in memory to `directory`/`name`/`version` and returns that folder.

    Each split is a function that yields its examples: {"image": JPEG bytes, "label": index into `label_names`}, and
    "file_name" too if `file_names`. They are stored in an order drawn from their keys, the same each time.
    `image_size`: the side of the images in pixels, or None where they differ. `metadata`: what else should be known
    of the set (JSON values), kept in its `metadata.json`. OSError if it can't be written.
    """
    finished = directory / name / version
    finished.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, examples in splits.items():
        shuffled = sorted((shuffle_key(0, split, key), serialize(features)) for key, features in examples())
        records = [record for _, record in shuffled]
        write_records(shard_path(finished, name, split, 0, 1), records)
        written[split] = WrittenSplit([len(records)], sum(map(len, records)))
    write_info(
        finished,
        name=name,
        version=version,
        description=description,
        homepage=homepage,
        features=features_dict(label_names, image_size, text_features=("file_name",) if file_names else ()),
        splits=written,
        metadata=metadata,
    )
    return finished


def shuffle_key(seed: int, split: str, key: str) -> int:
    """A number from 0 to 2^64 - 1 for an example; records are stored in the order of these numbers.

    So the order depends on the seed and on the names of the examples, and on nothing else: not on the order in which
    they are read, nor on who reads them. TFDS shuffles this way too.
    """
    digest = hashlib.blake2b(f"{split}/{key}".encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


def serialize(features: Mapping[str, Any]) -> bytes:
    """A record as TFDS stores it: a tf.train.Example of bytes, text and whole numbers."""
    example = tf_example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    return example.SerializeToString(deterministic=True)


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes an ArrayRecord file; OSError if it can't be written. What has the name is whole."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        # One record a group, as TFDS, for random access; encoded images can't be compressed further.
        writer = array_record_module.ArrayRecordWriter(str(unfinished), "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:  # a full disk, for example: only the text says which error it was
        unfinished.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    unfinished.replace(path)


def shard_path(directory: Path, name: str, split: str, index: int, num_shards: int) -> Path:
    """The name that TFDS gives to a file of a split."""
    return Path(_template(directory, name, split).sharded_filepath(shard_index=index, num_shards=num_shards))


def features_dict(
    label_names: Sequence[str],
    image_size: int | None,
    encoding: Literal["jpeg", "png"] = "jpeg",
    text_features: Sequence[str] = (),
) -> tfds.features.FeaturesDict:
    """The features of a record: "image", "label", and text or other bytes."""
    features: dict[str, Any] = {
        "image": tfds.features.Image(shape=(image_size, image_size, 3), encoding_format=encoding),
        "label": tfds.features.ClassLabel(names=list(label_names)),
    }
    return tfds.features.FeaturesDict(features | {name: tfds.features.Text() for name in text_features})


def write_info(
    directory: Path,
    *,
    name: str,
    version: str,
    description: str,
    homepage: str,
    features: tfds.features.FeaturesDict,
    splits: Mapping[str, WrittenSplit],
    metadata: Mapping[str, Any],
) -> None:
    """Writes the files beside the records that make a folder a TFDS data set; the last is `dataset_info.json`."""
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version=tfds.core.Version(version), data_dir=str(directory), module_name=""
        ),
        description=description,
        homepage=homepage,
        features=features,
        supervised_keys=("image", "label"),
        metadata=tfds.core.MetadataDict(metadata),
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=written.shard_lengths,
            num_bytes=written.num_bytes,
            filename_template=_template(directory, name, split),
        )
        for split, written in splits.items()
    ]
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(directory)


def _template(directory: Path, name: str, split: str) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=name, split=split, filetype_suffix="array_record"
    )
