"""Parquet shards as on Hugging Face: a column of images, each the bytes of a file and its name, and one of labels.

`ILSVRC/imagenet-1k` has them as `data/train-00000-of-00294.parquet`; test images have the label -1.
"""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.forms.shard_names import by_split, find_shards
from alexnet_jax.prepare.source import Part, SourceImage

_BATCH_BYTES = 16 << 20  # of images in memory at a time, at least one
_FAULTS = (pa.ArrowException, OSError)


class _Columns(NamedTuple):
    """The columns' names. has_path: whether the file's name is beside its bytes."""

    image: str
    label: str
    has_path: bool


def find(source: Path) -> list[Path]:
    """Return the parquet files of a folder, of its folder `data`, or of folders of its splits."""
    if source.is_file():
        return [source] if source.suffix == ".parquet" else []
    return find_shards(source, ".parquet")


def open_parquet(paths: list[Path]) -> Part:
    """Open shards; UserError if one is missing or damaged, or there are no columns of images and labels."""
    splits = by_split(paths)
    schema = _footer(paths[0])[1]
    columns, label_names = _columns(schema, paths[0]), _label_names(schema)
    counts, left_out = Counter[str](), Counter[str]()
    for split, shards in splits.items():
        for shard in shards:
            metadata, other = _footer(shard)
            if not other.equals(schema):
                raise UserError(f"{shard} has other columns than {paths[0]}; check that both are of one data set.")
            counts[split] += metadata.num_rows
        if _is_unlabeled(splits[split][0], columns):
            left_out[f"{split} images, which have no labels"] = counts.pop(split)
    labeled = {split: splits[split] for split in counts}
    found = {split: _count_labels(shards, columns) for split, shards in labeled.items()}
    if pa.types.is_string(schema.field(columns.label).type):
        label_names = tuple(sorted({str(label) for labels in found.values() for label in labels}))
    labels = {name: label for label, name in enumerate(label_names)}
    train_labels = {labels.get(label, label): count for label, count in found.get("train", {}).items()}

    def images() -> Iterator[SourceImage]:
        start = 0
        for split, shards in labeled.items():
            for shard in shards:
                yield from _images(shard, split, columns, labels, start)
                start += shard.stat().st_size

    sizes = {path.name: path.stat().st_size for shards in labeled.values() for path in shards}
    return Part("parquet shards", label_names, counts, sum(sizes.values()), sizes, images, left_out, train_labels)


def _footer(path: Path) -> tuple[pq.FileMetaData, pa.Schema]:
    """Return what the end of a file says of it; UserError if the end is missing, as after half a download."""
    with _naming(path), pq.ParquetFile(path) as file:
        return file.metadata, file.schema_arrow


def _columns(schema: pa.Schema, path: Path) -> _Columns:
    """Find the columns by their types; UserError if there is none, or more than one could be meant."""
    images, labels = [], []
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            images.append((field.name, kind.get_field_index("path") >= 0))
        elif pa.types.is_binary(kind):
            images.append((field.name, False))
        elif pa.types.is_integer(kind) or pa.types.is_string(kind):
            labels.append(field.name)
    label = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
    if len(images) != 1 or label is None:
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}; it needs one of images, with their bytes, and a column "
            "`label`: rename yours."
        )
    return _Columns(images[0][0], label, images[0][1])


def _label_names(schema: pa.Schema) -> tuple[str, ...]:
    """Return the names of the classes that the library `datasets` stores in the schema; none if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names: Any = next(feature["names"] for feature in features.values() if feature.get("_type") == "ClassLabel")
        return tuple(map(str, names))
    except (KeyError, ValueError, TypeError, AttributeError, StopIteration):
        return ()


def _is_unlabeled(path: Path, columns: _Columns) -> bool:
    """Return whether the first image of a shard has no label."""
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(1, columns=[columns.label]), None)
    return batch is not None and batch.num_rows > 0 and batch[0][0].as_py() in (None, -1)


def _count_labels(shards: list[Path], columns: _Columns) -> Counter[Any]:
    """Return how many images have each label; UserError if a shard is damaged, or an image has no label."""
    counts = Counter[Any]()
    for shard in shards:
        with _naming(shard):
            counted = pq.read_table(shard, columns=[columns.label])[columns.label].value_counts().to_pylist()
        counts.update({entry["values"]: entry["counts"] for entry in counted})
        if None in counts or any(isinstance(label, int) and label < 0 for label in counts):
            raise UserError(f"{shard} has images without a label; they need a split of their own, such as test.")
    return counts


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file to errors of Arrow."""
    try:
        yield
    except _FAULTS as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} can't be read as a parquet file ({reason}); download it again.") from error


def _images(path: Path, split: str, columns: _Columns, labels: Mapping[str, int], start: int) -> Iterator[SourceImage]:
    """Yield the images of a shard, which begins at byte `start` of the part.

    Labels and names are read first; the images of a row group only when one is asked for.
    """
    light = [columns.label, *([f"{columns.image}.path"] if columns.has_path else [])]
    row = 0
    with _naming(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=light)
            position = start + path.stat().st_size * (group + 1) // file.num_row_groups
            loader = _Loader(file, group, columns, path)
            names = table[columns.image].combine_chunks().field("path").to_pylist() if columns.has_path else None
            for index, label in enumerate(table[columns.label].to_pylist()):
                name = (names and names[index]) or f"{path.stem}_{row:06d}"
                number = labels[label] if isinstance(label, str) else label
                load = functools.partial(loader.load, index)
                yield SourceImage(split, name, number, load, position, loader.mean_size)
                row += 1


class _Loader:
    """Reads the images of a row group in order, a few at a time. mean_size: of an image, in bytes."""

    def __init__(self, file: pq.ParquetFile, group: int, columns: _Columns, path: Path):
        group_facts = file.metadata.row_group(group)
        self.mean_size = group_facts.total_byte_size // max(1, group_facts.num_rows)
        rows = max(1, _BATCH_BYTES // max(1, self.mean_size))
        self._batches: Iterator[Any] = file.iter_batches(rows, row_groups=[group], columns=[columns.image])
        self._columns, self._path = columns, path
        self._start, self._batch, self._num_rows = 0, None, group_facts.num_rows

    def load(self, index: int) -> bytes:
        """Return the bytes of the image `index` of the group; indexes may only grow."""
        while self._batch is None or index >= self._start + len(self._batch):
            self._start += len(self._batch) if self._batch is not None else 0
            with _naming(self._path):
                self._batch = next(self._batches)[self._columns.image]
        value = self._batch[index - self._start].as_py()
        if index == self._num_rows - 1:  # images that wait for a thread refer to their loader: free its memory
            self._batch, self._batches = None, iter(())
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise UserError(
                f"{self._path} has names of images without their bytes; it must be a data set with embedded images."
            )
        return data
