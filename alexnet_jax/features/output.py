"""Features on disk, written while they are computed, so that memory does not grow with the number of images."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.files import atomic

# Takes features, float32 [n, ...], the images' names, and their labels, int32 [n], where they are known.
Write = Callable[[np.ndarray, Sequence[str], np.ndarray | None], None]


@contextlib.contextmanager
def open_for_writing(path: Path, shape: tuple[int, ...]) -> Iterator[Write]:
    """Yield a function that appends features of this shape to a file, which appears once it is complete.

    `.npy`: float32 [N, *shape]; beside it `NAME.names.json`, a list of N names, and if there are labels
    `NAME.labels.npy`, int32 [N]. `.parquet`: the columns `image`, `label` (null where unknown) and `features` (lists of
    one length, in C order). Bytes of a name that are not UTF-8 are written as escapes. OSError if writing fails.
    """
    open_rows = {".npy": _npy, ".parquet": _parquet}[path.suffix]
    with atomic(path) as unfinished, open_rows(unfinished, path, shape) as write:
        yield write


@contextlib.contextmanager
def _npy(unfinished: Path, path: Path, shape: tuple[int, ...]) -> Iterator[Write]:
    names: list[str] = []
    labels: list[np.ndarray] = []
    with open(unfinished, "wb") as file:

        def write_header() -> int:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            return file.tell()

        def write(features: np.ndarray, new_names: Sequence[str], new_labels: np.ndarray | None) -> None:
            file.write(np.ascontiguousarray(features, np.float32).data)
            names.extend(new_names)
            if new_labels is not None:
                labels.append(new_labels)

        length = write_header()
        yield write
        file.seek(0)
        if write_header() != length:
            raise AssertionError("the header has a new length")  # NumPy leaves room in it for the number of rows
    with atomic(path.with_name(f"{path.stem}.names.json")) as unfinished_names:
        unfinished_names.write_text(json.dumps(names, indent=0) + "\n")
        labels_path = path.with_name(f"{path.stem}.labels.npy")
        if labels:
            with atomic(labels_path) as unfinished_labels:
                np.save(unfinished_labels, np.concatenate(labels))
        else:
            labels_path.unlink(missing_ok=True)  # of earlier features


@contextlib.contextmanager
def _parquet(unfinished: Path, path: Path, shape: tuple[int, ...]) -> Iterator[Write]:
    import pyarrow as pa  # takes 0.3 s, which only this format needs
    import pyarrow.parquet as pq

    size = math.prod(shape)
    columns = {"image": pa.string(), "label": pa.int32(), "features": pa.list_(pa.float32(), size)}
    with pq.ParquetWriter(unfinished, pa.schema(columns)) as file:

        def write(features: np.ndarray, names: Sequence[str], labels: np.ndarray | None) -> None:
            values = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1))
            arrays = [
                pa.array([name.encode(errors="backslashreplace").decode() for name in names]),
                pa.nulls(len(names), pa.int32()) if labels is None else pa.array(labels, pa.int32()),
                pa.FixedSizeListArray.from_arrays(values, size),
            ]
            file.write_batch(pa.record_batch(arrays, names=list(columns)))

        yield write
