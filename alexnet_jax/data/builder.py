"""Write images and labels as a TFDS data set, without TensorFlow.

The images are stored as encoded bytes in ArrayRecord files, which have random access. Any program can read them with
plain `tfds.builder_from_directory(...).as_data_source(...)`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.files import atomic

Example = tuple[str, dict[str, Any]]  # a key, unique within its split, and the record: features by name


def write_tfds(
    directory: Path,
    *,
    name: str,
    version: str,
    label_names: Sequence[str],
    splits: Mapping[str, Callable[[], Iterable[Example]]],
    image_size: int | None,
    file_names: bool = False,
    **about: Any,
) -> Path:
    """Write a data set that fits in memory to `directory`/`name`/`version` and return that folder.

    Each split is a function that yields its examples: {"image": JPEG bytes, "label": index into `label_names`}, and
    "file_name" if `file_names`. They are stored in an order drawn from their keys, the same each time. `image_size` is
    the side of the images in pixels, or None if they differ. `about`: see `write_info`. OSError if writing fails.
    """
    finished = directory / name / version
    finished.mkdir(parents=True, exist_ok=True)
    infos = []
    for split, examples in splits.items():
        shuffled = sorted((shuffle_key(0, split, key), serialize(features)) for key, features in examples())
        records = [record for _, record in shuffled]
        template = file_template(finished, name, split)
        write_records(Path(template.sharded_filepath(shard_index=0, num_shards=1)), records)
        infos.append(tfds.core.SplitInfo(split, [len(records)], sum(map(len, records)), template))
    features = features_dict(label_names, image_size, "jpeg", ["file_name"] if file_names else [])
    write_info(finished, name=name, version=version, features=features, splits=infos, **about)
    return finished


def shuffle_key(seed: int, split: str, key: str) -> int:
    """Return a number from 0 to 2^64 - 1 for an example; records are stored in the order of these numbers.

    The order depends only on the seed and the names of the examples, not on when and by which process they are read.
    TFDS shuffles in the same way.
    """
    digest = hashlib.blake2b(f"{split}/{key}".encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


def serialize(features: Mapping[str, Any]) -> bytes:
    """Return a record as TFDS stores it: a tf.train.Example of bytes, text and integers."""
    example = tf_example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    return example.SerializeToString(deterministic=True)


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write an ArrayRecord file, whole or not at all; OSError if that fails."""
    with atomic(path) as unfinished:
        try:
            # One record per group, as TFDS does, for random access; encoded images can't be compressed further.
            writer = array_record_module.ArrayRecordWriter(str(unfinished), "group_size:1,uncompressed")
            for record in records:
                writer.write(record)
            writer.close()
        except RuntimeError as error:  # a full disk, for example: only the text says which error it was
            raise OSError(str(error)) from error


def file_template(directory: Path, name: str, split: str) -> tfds.core.ShardedFileTemplate:
    """Return the paths that TFDS gives to the files of a split."""
    return tfds.core.ShardedFileTemplate(directory, dataset_name=name, split=split, filetype_suffix="array_record")


def features_dict(
    label_names: Sequence[str], image_size: int | None, encoding: Literal["jpeg", "png"], text_features: Sequence[str]
) -> tfds.features.FeaturesDict:
    """Return the features of a record: "image", "label", and text or other bytes."""
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
    features: tfds.features.FeaturesDict,
    splits: Sequence[tfds.core.SplitInfo],
    description: str,
    metadata: Mapping[str, Any],
    homepage: str = "",
) -> None:
    """Write the files that make a folder of records a TFDS data set; `dataset_info.json` is the last of them.

    `metadata` has other facts about the set (JSON values), stored in its `metadata.json`.
    """
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(name, tfds.core.Version(version), str(directory), module_name=""),
        description=description,
        homepage=homepage,
        features=features,
        supervised_keys=("image", "label"),
        metadata=tfds.core.MetadataDict(metadata),
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(directory)
