"""Read MATLAB's files of version 5 (`.mat`, also -v7, which is compressed): numbers, text, cells and structs.

SciPy's reader crashes on damaged files (SIGSEGV in 1.17). Source: MathWorks, MAT-File Format, "Level 5 MAT-Files".
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

# What reading a damaged file may raise.
DAMAGE = (
    *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError),
    *(struct.error, zlib.error),
)
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # of elements
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _TEXT = 1, 2, 4  # classes of arrays
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}


def read_variables(content: bytes, max_bytes: int) -> dict[str, Any]:
    """Return a file's variables by name; one of DAMAGE if it is damaged or unpacks to `max_bytes` or more.

    Arrays of numbers have no dimensions of size 1; text is a str; a cell array is a list; a struct is a dictionary, an
    array of structs a list of them; anything else is None.
    """
    data = memoryview(content)
    order = {b"IM": "<", b"MI": ">"}[bytes(data[126:128])]
    variables: dict[str, Any] = {}
    left = max_bytes
    for kind, part in _elements(data[128:], order):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(part, left)
            left -= len(unpacked)
            if left <= 0:
                raise ValueError(f"it unpacks to more than {max_bytes:,} bytes")
            kind, part = next(_elements(memoryview(unpacked), order), (0, part))
        if kind == _MATRIX:
            name, value = _read_matrix(part, order)
            variables[name] = value
    return variables


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the data of each element; ValueError if the data end too early."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, padding = at + 8, 0 if kind == _COMPRESSED else -size % 8
        if kind >> 16:  # up to four bytes are inside the tag
            kind, size, start, padding = kind & 0xFFFF, kind >> 16, at + 4, 4 - (kind >> 16)
        if start + size > len(data):
            raise ValueError("it ends too early")
        yield kind, data[start : start + size]
        at = start + size + padding


def _read_matrix(data: memoryview, order: str) -> tuple[str, Any]:
    """Return the name and the value of an array."""
    elements = _elements(data, order)
    if not len(data):
        return "", None  # an empty one in a cell or struct

    def numbers() -> np.ndarray:
        kind, part = next(elements, (0, memoryview(b"")))
        return np.frombuffer(part, order + _TYPES[kind])

    flags, dimensions, name = numbers(), numbers().tolist(), numbers().tobytes().decode("latin-1")
    of, count = int(flags[0]) & 0xFF, math.prod(dimensions)

    def values() -> Iterator[Any]:
        for _ in range(count):
            kind, part = next(elements, (0, memoryview(b"")))
            if kind != _MATRIX:
                raise ValueError("a part of an array is missing")
            yield _read_matrix(part, order)[1]

    if of == _CELL:
        return name, list(values())
    if of == _STRUCT:
        length, fields = int(numbers()[0]), numbers().tobytes()
        names = [fields[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(fields), length)]
        count *= len(names)
        flat = list(values())
        structs = [dict(zip(names, flat[at : at + len(names)], strict=True)) for at in range(0, count, len(names))]
        return name, structs[0] if len(structs) == 1 else structs
    if of == _TEXT:
        kind, part = next(elements, (0, memoryview(b"")))
        encoding, ending = _ENCODINGS[kind], "-le" if order == "<" else "-be"
        return name, bytes(part).decode(encoding + ending * encoding.endswith(("16", "32")), "replace")
    if of in _NUMBERS:
        return name, numbers().astype(_NUMBERS[of]).reshape(dimensions, order="F").squeeze()
    return name, None
