"""The second pass: shuffle the records of all units into the files of a split.

Every unit is sorted by shuffle key, so a shard is a contiguous range of each unit: reads are sequential, and memory
holds the records of a few shards, whatever the size of the data set.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data.builder import file_template, write_records
from alexnet_jax.data.threads import map_ahead
from alexnet_jax.prepare.units import Unit

SHARD_BYTES = 64 << 20  # the target size
MAX_WRITERS = 4  # shards at a time


def write_split(
    units: Sequence[Unit], directory: Path, name: str, split: str, num_threads: int, done: Callable[[int, int], None]
) -> tfds.core.SplitInfo:
    """Write the shards of a split except those that an interrupted preparation finished; OSError if that fails.

    `done` is called after each shard with its number, from 1, and the number of shards.
    """
    template = file_template(directory, name, split)
    num_bytes = sum(unit.num_bytes for unit in units)
    keys = np.sort(np.concatenate([unit.keys for unit in units]))
    num_shards = max(1, min(len(keys), round(num_bytes / SHARD_BYTES)))
    first_keys = keys[[len(keys) * shard // num_shards for shard in range(1, num_shards)]]
    bounds = [[0, *np.searchsorted(unit.keys, first_keys).tolist(), len(unit.keys)] for unit in units]

    def write(shard: int) -> int:
        path = Path(template.sharded_filepath(shard_index=shard, num_shards=num_shards))
        ranges = [(unit, starts[shard], starts[shard + 1]) for unit, starts in zip(units, bounds, strict=True)]
        if not path.exists():
            shard_keys = np.concatenate([unit.keys[start:stop] for unit, start, stop in ranges])
            records = [record for unit, start, stop in ranges for record in unit.read(start, stop)]
            write_records(path, [records[index] for index in np.argsort(shard_keys, kind="stable")])
        return sum(stop - start for _, start, stop in ranges)

    lengths = []
    num_writers = min(num_threads, MAX_WRITERS)
    for length in map_ahead(write, range(num_shards), num_writers, num_writers):
        lengths.append(length)
        done(len(lengths), num_shards)
    return tfds.core.SplitInfo(split, lengths, num_bytes, template)
