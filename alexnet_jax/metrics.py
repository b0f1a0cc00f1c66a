"""The records of a run, one JSON object per line of `metrics.jsonl` in its workdir.

A record is a flat dict with `step`, `epoch`, `split`, `loss`, `top1_error` and `top5_error` (percent). Records of
training also have `learning_rate`, `images_per_second` and `input_wait_fraction`; records of an evaluation have `views`
and `num_examples`. What is not known, or means nothing (`without_trivial_top5`), is null. `training_line`,
`evaluation_line` and `duration` print them for people.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.files import write_atomically, writing

Record = Mapping[str, Any]

FILE_NAME = "metrics.jsonl"
_LIMIT = 2.0**128  # no float32 is as large, and figures can be drawn of numbers below it


def append_record(workdir: str | os.PathLike[str], record: Record) -> None:
    """Append a record, after removing a line that a killed process left half written; UserError if that fails.

    Numbers may be NumPy or JAX scalars. Those that JSON can't express (NaN, infinity) become null.
    """
    path = Path(workdir) / FILE_NAME
    line = json.dumps({key: _json_value(value) for key, value in record.items()}, allow_nan=False) + "\n"
    with writing(str(path)), open(path, "a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def read_records(workdir: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the complete records in order; none if there is no file."""
    path = Path(workdir) / FILE_NAME
    if path.exists():
        yield from filter(None, map(_record, path.read_bytes().splitlines()))


def drop_records_after(workdir: str | os.PathLike[str], step: int) -> None:
    """Keep only the complete records up to this step. A kill at any moment leaves the old file or the new one."""
    path = Path(workdir) / FILE_NAME
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and (record := _record(line)) and record["step"] <= step]
    if kept != lines:
        write_atomically(path, b"".join(kept))


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line: a step, a split and finite numbers. None if it is damaged (by a power failure)."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not _is_number(record.get("step")):
        return None
    numbers = [value for key, value in record.items() if key != "split" and value is not None]
    return record if isinstance(record.get("split", ""), str) and all(map(_is_number, numbers)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LIMIT


def _json_value(value: Any) -> Any:
    """Return the str, bool, int, float or None that equals this value; None for NaN and infinity."""
    if value is None or isinstance(value, str):
        return value
    scalar = np.asarray(value)[()]
    # str gives float32(0.01) as 0.01 where item would give 0.009999999776482582
    number = float(str(scalar)) if isinstance(scalar, np.float32) else scalar.item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


def without_trivial_top5(values: Record, num_classes: int) -> Record:
    """Return a record's values without a top-5 error where it would always be 0: with at most five classes."""
    return values if num_classes > 5 else {**values, "top5_error": None}


def training_line(record: Record, num_steps: int, num_epochs: float, seconds_left: float | None) -> str:
    """Return the line for a record of training; `num_steps` and `num_epochs` are those of the whole run."""
    parts = [
        f"step {record['step']:>{len(f'{num_steps:,}')},}/{num_steps:,}",
        f"epoch {record['epoch']:.2f}/{num_epochs:g}",
        f"loss {record['loss']:.4f}",
        f"top-1 error {record['top1_error']:5.1f} %",
        f"learning rate {record['learning_rate']:.3g}",
    ]
    if record["images_per_second"] is not None:
        parts.append(f"{record['images_per_second']:,.0f} images/s")
        parts.append(f"{100 * record['input_wait_fraction']:.0f} % waiting for input")
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return "  ".join(parts)


def evaluation_line(record: Record) -> str:
    """Return the line for a record of an evaluation."""
    views = "1 view" if record["views"] == 1 else f"{record['views']} views"
    top5 = "" if record["top5_error"] is None else f" top-5 error {record['top5_error']:.2f} %,"
    return (
        f"step {record['step']:,}  {record['split']}: top-1 error {record['top1_error']:.2f} %,{top5} "
        f"loss {record['loss']:.4f} ({record['num_examples']:,} images, {views})"
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, for example "3 min 20 s"."""
    total = round(seconds)
    for (large, size), (small, part) in itertools.pairwise((("d", 86400), ("h", 3600), ("min", 60), ("s", 1))):
        if total >= size:
            return f"{total // size} {large} {total % size // part} {small}"
    return f"{total} s"
