"""Features on disk, written while they are computed: memory does not grow with the number of images.

A file gets its name once it is whole.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.files import writing

FORMATS = (".npy", ".parquet")

# Takes features, float32 [n, ...], the images' names, and their labels, int32 [n], where they are known.
Write = Callable[[np.ndarray, Sequence[str], np.ndarray | None], None]


@contextlib.contextmanager
def open_for_writing(path: Path, shape: tuple[int, ...]) -> Iterator[Write]:
    """A function that appends rows of this shape to a file, by its ending:

    .npy: float32 [N, *shape]; beside it `NAME.names.json`, a list of N, and if there are labels `NAME.labels.npy`,
    int32 [N]. .parquet: the columns `image`, `label` (null where unknown) and `features` (of one length, in C order).
    Bytes of a name that are not UTF-8 are written as escapes.
    UserError if the ending is another, or the folder can't be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--output={path} must end in {' or '.join(FORMATS)}.")
    open_rows = _npy if path.suffix == ".npy" else _parquet
    with writing(f"--output={path}"), _whole(path) as partial, open_rows(partial, path, shape) as write:
        yield write


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file that gets its name at the end; nothing is left of it after an error."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def _npy(partial: Path, path: Path, shape: tuple[int, ...]) -> Iterator[Write]:
    names: list[str] = []
    labels: list[np.ndarray] = []
    with open(partial, "wb") as file:
        _write_header(file, (0, *shape))
        length = file.tell()

        def write(features: np.ndarray, new_names: Sequence[str], new_labels: np.ndarray | None) -> None:
            file.write(np.ascontiguousarray(features, np.float32).data)
            names.extend(new_names)
            if new_labels is not None:
                labels.append(new_labels)

        yield write
        file.seek(0)
        _write_header(file, (len(names), *shape))
        if file.tell() != length:
            raise AssertionError("the header has changed its length")  # NumPy leaves room for the number of rows
    with _whole(path.with_name(f"{path.stem}.names.json")) as names_file:
        names_file.write_text(json.dumps(names, indent=0) + "\n")
        beside = path.with_name(f"{path.stem}.labels.npy")
        if labels:
            with _whole(beside) as labels_file, open(labels_file, "wb") as opened:
                np.save(opened, np.concatenate(labels))
        else:  # of earlier features
            beside.unlink(missing_ok=True)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


@contextlib.contextmanager
def _parquet(partial: Path, path: Path, shape: tuple[int, ...]) -> Iterator[Write]:
    import pyarrow as pa  # 0.3 s that only this format needs
    import pyarrow.parquet as pq

    columns = {"image": pa.string(), "label": pa.int32(), "features": pa.list_(pa.float32(), math.prod(shape))}
    with pq.ParquetWriter(partial, pa.schema(columns)) as file:

        def write(features: np.ndarray, names: Sequence[str], labels: np.ndarray | None) -> None:
            values = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1))
            arrays = [
                pa.array([name.encode(errors="backslashreplace").decode() for name in names]),
                pa.nulls(len(names), pa.int32()) if labels is None else pa.array(labels, pa.int32()),
                pa.FixedSizeListArray.from_arrays(values, math.prod(shape)),
            ]
            file.write_batch(pa.record_batch(arrays, names=list(columns)))

        yield write
