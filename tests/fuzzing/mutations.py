"""Mutations that simulate damage and malice: a valid file becomes one that may not be; deterministic for a given `rng`.

Kinds of mutation after AFL's (lcamtuf.coredump.cx/afl/technical_details.txt): flipped bits, values that make arithmetic
overflow, parts that are cut, repeated or spliced; and in JSON, values of other types in the right places.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

_NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "x", "../../x", "/dev/zero", "\x00", "\ud800", "<script>", "x" * 10_000, "é", "7", [], [[]], {}, {"a": {}}),
    *([0], [1, 2, 3], [None], ["a", "b"], [1e999], {"": None}),
)


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return `data` after one to four mutations; `others` are valid files to splice with."""
    if data[:1] in (b"{", b"[") and rng.random() < 0.6:
        return _mutate_json(data, rng)
    if rng.random() < 0.01:
        return rng.randbytes(rng.choice((0, 1, 8, 512, 5000)))
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_MUTATIONS)(data, others, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """Return a random position, often near one of the ends, where files have headers and indices."""
    if not data:
        return 0
    near = min(len(data), 256)
    return rng.choice((rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)))


def _flip_bit(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :] if data else data


def _set_byte(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.randbytes(1) + data[place + 1 :]


def _set_number(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Overwrite with an extreme length, size or count, in 1, 2, 4 or 8 bytes of either byte order, or in digits."""
    place, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    number = rng.choice(_NUMBERS)
    if rng.random() < 0.2:
        digits = str(number).encode()
        return data[:place] + digits + data[place + len(digits) :]
    number %= 256**size
    return data[:place] + number.to_bytes(size, rng.choice(("little", "big"))) + data[place + size :]


def _cut(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice((1, 2, 4, 16, 100, 512)) :]


def _repeat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(data, rng)
    part = data[place : place + rng.choice((1, 4, 64, 512))]
    return data[:place] + part * rng.choice((2, 3, 50)) + data[place + len(part) :]


def _insert(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.randbytes(rng.choice((1, 2, 4, 16, 64))) + data[place:]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


_MUTATIONS = (_flip_bit, _set_byte, _set_number, _set_number, _cut, _remove, _repeat, _insert, _splice)


def _mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON, or lines of it, with one value replaced, deleted, added or nested thousands of times."""
    lines = data.splitlines() if b"}\n{" in data else [data]
    number = rng.randrange(len(lines))
    root = [json.loads(lines[number])]
    container, key = rng.choice(list(_places(root)))
    kind = rng.random()
    if kind < 0.15:
        del container[key]
    elif kind < 0.25 and isinstance(container, dict):
        container[rng.choice((f"{key}x", "", "a.b"))] = container[key]
    else:
        container[key] = rng.choice(_VALUES)
    text = json.dumps(root[0] if root else None)
    if kind > 0.97:
        text = text.replace(json.dumps(None), "[" * 5000 + "]" * 5000)
    lines[number] = text.encode()
    return b"\n".join(lines) + b"\n"


def _places(value: Any):
    """Yield every (container, key) below a value."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)
