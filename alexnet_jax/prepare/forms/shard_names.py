"""The names of shards: which split a file belongs to, and whether one of its siblings is missing."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.folders import SPLIT_FOLDERS

_NUMBERED = re.compile(r"(?P<before>.*?)(?P<index>\d+)(?P<of>-of-(?P<count>\d+))?(?P<after>[.-].*)")
_WORD = re.compile(r"[a-z]+")


def find_shards(source: Path, suffix: str) -> list[Path]:
    """Return the files with this suffix in a folder, its folder `data`, and the folders of its splits.

    Others are not listed: they may be folders of a million images.
    """
    folders = [source, *(path for path in source.iterdir() if path.name.lower() in ("data", *SPLIT_FOLDERS))]
    return sorted(path for folder in folders if folder.is_dir() for path in folder.glob(f"*{suffix}"))


def split_of(path: Path) -> str:
    """Return the split that a word in a shard's name tells, or its folder's name; "train" if neither does."""
    words = [*_WORD.findall(path.name.lower()), path.parent.name.lower()]
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "train")


def by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the shards of each split in order, training images first; UserError if one is missing."""
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: (split_of(path), path)):
        splits[split_of(path)].append(path)
    for shards in splits.values():
        check_complete(shards)
    order = list(dict.fromkeys(SPLIT_FOLDERS.values()))
    return {split: splits[split] for split in order if split in splits}


def check_complete(paths: Iterable[Path], count: int | None = None) -> None:
    """Raise UserError if the numbers in the names, such as `train-00003-of-00294.parquet`, show that one is missing.

    Without a count in the name, as in `train-0003.tar`, only gaps can be seen, unless `count` is given.
    """
    numbered = defaultdict(list)
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            numbered[path.parent, match["before"], match["of"] or ""].append(match)
    for (folder, before, of), matches in numbered.items():
        indexes = {int(match["index"]) for match in matches}
        total = int(matches[0]["count"] or count or max(indexes) + 1)
        first = 0 if matches[0]["count"] or count else min(1, *indexes, total)
        if missing := sorted(set(range(first, total)) - indexes):
            endings = {match["after"] for match in matches}
            ending = endings.pop() if len(endings) == 1 else "-..."  # some names end in a hash of the content
            name = f"{before}{missing[0]:0{len(matches[0]['index'])}d}{of}{ending}"
            raise UserError(f"{folder} lacks {len(missing)} of its files, first {name}; download what is missing.")
