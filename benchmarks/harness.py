"""Measuring side by side: contenders, each in a process of its own, take turns in one run."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Settings that would reach contenders by accident.
_TUNING = ("GLIBC_TUNABLES", "MALLOC_", "XLA_FLAGS", "OMP_", "KMP_", "MKL_", "TORCHINDUCTOR_", "ALEXNET_JAX_TUNING")

# Columns of a comparison on a CPU. What malloc hands out: as glibc does by default, or in huge pages that the process
# keeps, which is what serves PyTorch best. Our own program asks for huge pages by itself (`alexnet_jax.runtime`).
AS_INSTALLED: dict[str, str] = {}
AT_BEST = {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**62}"}


@dataclasses.dataclass(frozen=True)
class Contender:
    """Somebody who does the work: `task` is "module:function", called with `arguments` in a process of its own.

    `environment` is added to a clean one; `tuned` lets `alexnet_jax.runtime` set what it sets for every command.
    """

    name: str
    task: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    tuned: bool = False


def clean_environment() -> dict[str, str]:
    """The environment of this process without settings that make one of the contenders faster or slower."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_TUNING)}


class FailedError(RuntimeError):
    """A contender's process ended; the message holds the end of what it printed."""


class Times(NamedTuple):
    """Seconds of one call: the median over the repeats, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """From the repeats' own times."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high)


class Process:
    """A contender that is warm and waits to be asked."""

    def __init__(self, contender: Contender, seconds: float):
        request = {
            "task": contender.task,
            "arguments": contender.arguments,
            "tuned": contender.tuned,
            "seconds": seconds,
        }
        self._name = contender.name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(request)],
            env={**clean_environment(), **contender.environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        """Waits for the warm-up: {"calls": {piece: calls in a repeat}, "facts": {...}}."""
        return self._answer()

    def repeat(self, piece: str) -> float:
        """Seconds of one call of the piece, the mean of one repeat."""
        assert self._process.stdin
        self._process.stdin.write(piece + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._log):
            if file:
                file.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._log.seek(0)
        raise FailedError(f"{self._name} ended with status {self._process.wait()}:\n{self._log.read()[-2000:]}")


@contextlib.contextmanager
def started(contenders: Sequence[Contender], seconds: float) -> Iterator[tuple[list[Process], list[dict[str, Any]]]]:
    """Processes of the contenders, warmed up one after the other, and their answers."""
    with contextlib.ExitStack() as stack:
        processes, answers = [], []
        for contender in contenders:
            print(f"  {contender.name} ...", file=sys.stderr, flush=True)
            processes.append(stack.enter_context(contextlib.closing(Process(contender, seconds))))
            answers.append(processes[-1].ready())
        yield processes, answers


class Race(NamedTuple):
    """`times`: {piece: {contender: Times}}; `facts`: {contender: its settings}."""

    times: dict[str, dict[str, Times]]
    facts: dict[str, dict[str, Any]]


def race(contenders: Sequence[Contender], repeats: int, seconds: float = 0.5) -> Race:
    """Every contender does every piece `repeats` times, in turns; each repeat lasts at least so many seconds.

    Who starts a turn moves on by one from turn to turn. All contenders have the same pieces, except for some that have
    fewer.
    """
    with started(contenders, seconds) as (processes, answers):
        pieces = list(dict.fromkeys(piece for answer in answers for piece in answer["calls"]))
        measured: dict[str, dict[str, list[float]]] = {piece: {c.name: [] for c in contenders} for piece in pieces}
        for piece in pieces:
            racing = [i for i, answer in enumerate(answers) if piece in answer["calls"]]
            for turn in range(repeats):
                shift = turn % len(racing)
                for i in racing[shift:] + racing[:shift]:
                    measured[piece][contenders[i].name].append(processes[i].repeat(piece))
    times = {
        piece: {name: Times.of(values) for name, values in of_piece.items() if values}
        for piece, of_piece in measured.items()
    }
    return Race(times, {c.name: answer["facts"] for c, answer in zip(contenders, answers, strict=True)})


def fastest(contenders: Sequence[Contender], piece: str, repeats: int, seconds: float = 0.5) -> Contender | None:
    """The contender with the lowest median when each runs by itself; who fails is left out, and None if all do."""
    medians: dict[int, float] = {}
    for position, contender in enumerate(contenders):
        try:
            with started([contender], seconds) as ([process], _):
                medians[position] = Times.of([process.repeat(piece) for _ in range(repeats)]).median
            print(f"    {1e3 * medians[position]:.1f} ms", file=sys.stderr)
        except FailedError as error:
            print(f"    left out: {error}", file=sys.stderr)
    return contenders[min(medians, key=medians.__getitem__)] if medians else None
