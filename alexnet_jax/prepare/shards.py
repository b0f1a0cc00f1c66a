"""The second pass: the records of all units, shuffled, become the files of a split.

Every unit is sorted by shuffle key, so a shard is a contiguous part of each of them: all reading is in stretches, and
memory holds the records of a few shards, whatever the size of the set.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alexnet_jax.data.builder import WrittenSplit, shard_path, write_records
from alexnet_jax.prepare.units import Unit

SHARD_BYTES = 64 << 20  # aimed at
MAX_WRITERS = 4  # shards at a time


def write_split(
    units: Sequence[Unit], directory: Path, name: str, split: str, num_workers: int, done: Callable[[int, int], None]
) -> WrittenSplit:
    """Writes the split's files, less those that a killed preparation has finished; OSError if one can't be written.

    `done(number, of)` is called after each file.
    """
    num_bytes = sum(int(unit.ends[-1]) for unit in units if len(unit.ends))
    keys = np.sort(np.concatenate([unit.keys for unit in units]))
    num_shards = max(1, min(len(keys), round(num_bytes / SHARD_BYTES)))
    bounds = keys[[len(keys) * number // num_shards for number in range(1, num_shards)]]
    cuts = [[0, *np.searchsorted(unit.keys, bounds).tolist(), len(unit.keys)] for unit in units]

    def write(number: int) -> int:
        path = shard_path(directory, name, split, number, num_shards)
        ranges = [(unit, cut[number], cut[number + 1]) for unit, cut in zip(units, cuts, strict=True)]
        length = sum(stop - start for _, start, stop in ranges)
        if not path.exists():
            shard_keys = np.concatenate([unit.keys[start:stop] for unit, start, stop in ranges])
            records = [record for unit, start, stop in ranges for record in unit.read(start, stop)]
            write_records(path, [records[index] for index in np.argsort(shard_keys, kind="stable")])
        return length

    lengths = []
    with ThreadPoolExecutor(min(num_workers, MAX_WRITERS)) as pool:
        for number, length in enumerate(pool.map(write, range(num_shards)), 1):
            lengths.append(length)
            done(number, num_shards)
    return WrittenSplit(lengths, num_bytes)
