"""WebDataset shards: tars in which the files of one example follow each other and differ only in their suffixes.

`n01440764_10026.jpg`, `n01440764_10026.cls` (the label as text) or `.json` ({"label": 0, "filename": ...}), as timm
reads them. Source: github.com/webdataset/webdataset.
"""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from alexnet_jax.data.image_files import ENDINGS, MAX_BYTES, LeaveOut
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.forms import files
from alexnet_jax.prepare.forms.shard_names import by_split, find_shards
from alexnet_jax.prepare.search import Search
from alexnet_jax.prepare.source import Part, SourceImage

_LABEL_SUFFIXES = (".cls", ".json")
_KEYS = ("label", "cls", "class_id")  # of the label in a JSON


class _Example(NamedTuple):
    image: tars.TarFile
    name: str
    label: int


def find(source: Path) -> list[Path]:
    """Return the shards: a tar that contains labels beside images, or such tars in a folder or those of its splits."""
    if source.is_file():
        return [source] if _is_shard(source) else []
    shards = find_shards(source, ".tar")
    return shards if shards and _is_shard(shards[0]) else []


def open_webdataset(paths: list[Path]) -> Part:
    """Open shards: reads the names and labels in all of them. UserError if one is missing or damaged, or lacks one."""
    splits = by_split(paths)
    counts, train_labels, fingerprint = Counter[str](), Counter[int](), files.Fingerprint()
    with Search() as search:
        for split, shards in splits.items():
            for shard in shards:
                for example in _examples(shard, search.leave_out):
                    search.found()
                    counts[split] += 1
                    if split == "train":
                        train_labels[example.label] += 1
                    fingerprint.add(example.image.path / str(example.label), example.image.size)

    def images() -> Iterator[SourceImage]:
        start = 0
        for split, shards in splits.items():
            for shard in shards:
                with reading(str(shard)), shard.open("rb") as file:  # the walk is ahead, at the next example's files
                    for image, name, label in _examples(shard):
                        load = functools.partial(_read, file, image, shard)
                        yield SourceImage(split, name, label, load, start + image.position, image.size)
                start += shard.stat().st_size

    sizes = {path.name: path.stat().st_size for shards in splits.values() for path in shards}
    identity: dict[str, int | str] = {**sizes, "names and labels": str(fingerprint)}
    return Part("WebDataset shards", (), counts, sum(sizes.values()), identity, images, search.left_out(), train_labels)


def _is_shard(path: Path) -> bool:
    """Return whether the first two files of a tar are an image and a label with one key."""
    if files.kind(path) != "tar":
        return False
    try:
        first = list(itertools.islice(tars.walk(path), 2))
    except UserError:
        return False
    suffixes = {member.path.suffix.lower() for member in first}
    keys = {_key(member) for member in first}
    return len(first) == 2 and len(keys) == 1 and any(suffix in _LABEL_SUFFIXES for suffix in suffixes)


def _key(member: tars.TarFile) -> str:
    """Return the path up to the first dot of the file's name."""
    return (member.path.parent / member.path.name.split(".")[0]).as_posix()


def _examples(shard: Path, leave_out: LeaveOut = tars.forget) -> Iterator[_Example]:
    """Yield the examples of a shard; UserError if one has no image or no label."""
    for key, members in itertools.groupby(tars.walk(shard, leave_out), _key):
        image, facts = None, dict[str, Any]()
        for member in members:
            suffix = member.path.suffix.lower()
            if suffix in ENDINGS:
                image = member
            elif suffix in _LABEL_SUFFIXES:
                facts |= _facts(member, suffix, shard)
        if image is None or "label" not in facts:
            lacks = "no image" if image is None else "no label (.cls, or a .json with `label`)"
            raise UserError(f"{shard}, {key} has {lacks}; every example needs both.")
        yield _Example(image, str(facts.get("filename") or f"{key}{image.path.suffix}"), facts["label"])


def _read(file: IO[bytes], image: tars.TarFile, shard: Path) -> bytes:
    if image.size > MAX_BYTES:
        raise UserError(f"{shard}, {image.path} has {image.size:,} bytes; {MAX_BYTES:,} are allowed.")
    file.seek(image.offset)
    return file.read(image.size)


def _facts(member: tars.TarFile, suffix: str, shard: Path) -> dict[str, Any]:
    """Return label and file name, as far as this file tells; UserError if the label is not a number."""
    data = tars.read(member, shard)
    try:
        content = json.loads(data) if suffix == ".json" else {"label": int(data)}
        facts = {"filename": content["filename"]} if "filename" in content else {}
        label = next((content[key] for key in _KEYS if key in content), None)
        if label is None:
            return facts
        if not isinstance(label, int) or label < 0:
            raise ValueError(f"the label {label!r} is not a number from 0")
        return facts | {"label": label}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{shard}, {member.path} has no label that can be read ({error}).") from error
