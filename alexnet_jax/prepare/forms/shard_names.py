"""The names of shards: which split a file belongs to, and whether one of its siblings is missing."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.folders import SPLIT_FOLDERS

_OF = re.compile(r"(?P<before>.*?)(?P<index>\d{5})-of-(?P<count>\d{5})(?P<after>.*)")
_INDEX = re.compile(r"(?P<before>.*?)(?P<index>\d+)(?P<after>\.\w+)")
_WORD = re.compile(r"[a-z]+")


def split_of(path: Path) -> str:
    """Return the split that a shard's name tells, or its folder's; "train" if neither does."""
    for name in (path.name, path.parent.name):
        for word in _WORD.findall(name.lower()):
            if word in SPLIT_FOLDERS:
                return SPLIT_FOLDERS[word]
    return "train"


def by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the shards of each split in order, training images first; UserError if one is missing."""
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: (split_of(path), path)):
        splits[split_of(path)].append(path)
    for shards in splits.values():
        check_complete(shards)
    order = list(dict.fromkeys(SPLIT_FOLDERS.values()))
    return {split: splits[split] for split in order if split in splits}


def check_complete(paths: Iterable[Path]) -> None:
    """Raise UserError if the numbers in the names, such as `train-00003-of-00294.parquet`, show that one is missing.

    Without a count, as in `train-0003.tar`, only gaps can be seen.
    """
    numbered = defaultdict(list)
    for path in paths:
        if match := _OF.fullmatch(path.name):
            key = (path.parent, match["before"], int(match["count"]))
        elif match := _INDEX.fullmatch(path.name):
            key = (path.parent, match["before"], 0)
        else:
            continue
        numbered[key].append((int(match["index"]), path))
    for (folder, before, count), found in numbered.items():
        indexes = {index for index, _ in found}
        first = 0 if count else min(indexes)
        missing = sorted(set(range(first, count or max(indexes))) - indexes)
        if missing:
            width = len(_INDEX_DIGITS.search(found[0][1].name[len(before) :])[0])
            name = f"{before}{missing[0]:0{width}d}" + (f"-of-{count:05d}" if count else "")
            raise UserError(
                f"{folder} lacks {len(missing)} of its files, first {name}...; download what is missing again."
            )


_INDEX_DIGITS = re.compile(r"\d+")
