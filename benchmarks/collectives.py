"""The transfers between devices in the text of a compiled program.

Bytes are those that a device sends with the usual ring algorithms in a group of n devices: (n - 1) / n of the whole
array for an all-gather or a reduce-scatter, twice that for an all-reduce, the whole array for a permutation.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r" = (?P<result>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|"
    r"collective-broadcast)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """A transfer: its kind, the bytes of the whole array before or after, devices in a group, times per step."""

    kind: str
    array_bytes: int
    devices: int
    times: int = 1

    @property
    def sent(self) -> float:
        """Return the bytes that each device sends in a step."""
        share = 1.0 if self.kind == "collective-permute" else (self.devices - 1) / self.devices
        return self.times * share * self.array_bytes * (2 if self.kind == "all-reduce" else 1)


def collectives(program: str) -> list[Collective]:
    """Return the transfers of a compiled program (`compiled.as_text()`), in no particular order.

    Raises:
      ValueError: a loop of unknown length contains a transfer, or a transfer names no groups of devices.
    """
    computations, entry = computations_of(program)
    transfers: list[Collective] = []

    def visit(name: str, times: int) -> None:
        for line in computations[name]:
            if match := _COLLECTIVE.search(line):
                transfers.extend(_transfers(match["kind"], match["result"], line, times))
            elif called := _CALLED.findall(line):
                trips = _TIMES.search(line)
                if " while(" in line and trips is None and _sends(called, computations):
                    raise ValueError(f"a loop of unknown length contains a transfer: {line.strip()}")
                for each in called:
                    visit(each, times * (int(trips[1]) if trips else 1))

    visit(entry, 1)
    return transfers


def in_words(transfers: list[Collective]) -> str:
    """Return the number of each kind: "3 all-gather, 20 all-reduce"."""
    counts: Counter[str] = Counter()
    for each in transfers:
        counts[each.kind] += each.times
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def computations_of(program: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation by name, and the name of the entry computation."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in program.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations[match[2]] = []
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _sends(names: list[str], computations: dict[str, list[str]]) -> bool:
    return any(_COLLECTIVE.search(line) for name in names for line in computations[name])


def _transfers(kind: str, result: str, line: str, times: int) -> Iterator[Collective]:
    """Yield one transfer per array, since a collective may transfer several."""
    devices = _group_size(line)
    for dtype, sizes in _ARRAY.findall(result):
        size = BYTES[dtype] * math.prod(int(number) for number in sizes.split(",") if number)
        yield Collective(kind, size * (devices if kind == "reduce-scatter" else 1), devices, times)


def _group_size(line: str) -> int:
    """Return the devices in a group: of {{0,1},{2,3}}, [2,2]<=[4] or mesh['a'=2,'b'=2] {'b'}; 2 for a permutation."""
    if "source_target_pairs=" in line:
        return 2
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"('\w+')=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in match[2].split(","))
    raise ValueError(f"no groups in {line.strip()}")
