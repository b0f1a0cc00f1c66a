"""Measuring side by side: contenders, each in a process of its own, take turns in one run."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.runtime import MALLOC

ROOT = Path(__file__).resolve().parents[1]

# Settings that would reach contenders by accident.
_TUNING = ("GLIBC_TUNABLES", "MALLOC_", "XLA_FLAGS", "OMP_", "KMP_", "MKL_", "TORCHINDUCTOR_", "ALEXNET_JAX_TUNING")

# Columns of a comparison on a CPU. What malloc hands out to PyTorch: as glibc does by default, or as our own program
# sets it for itself.
AS_INSTALLED: dict[str, str] = {}
AT_BEST = {"GLIBC_TUNABLES": MALLOC}


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


def jax_environment(platform: str) -> dict[str, str]:
    """One platform only; on a GPU memory is taken as needed, since several processes share it."""
    if platform == "cpu":
        return {"JAX_PLATFORMS": "cpu"}
    return {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def torch_device(platform: str) -> str:
    """PyTorch's name of the platform."""
    return "cuda" if platform == "gpu" else "cpu"


def columns(platform: str) -> dict[str, dict[str, str]]:
    """The columns of a comparison on this platform, and the environment that each gives to PyTorch."""
    return {"as installed": AS_INSTALLED, "at best": AT_BEST} if platform == "cpu" else {"GPU": {}}


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


def once(contender: Contender) -> dict[str, Any]:
    """What a task answers that measures by itself, once, in a process of its own."""
    with contextlib.closing(Process(contender, 0.0)) as process:
        return process.ready()


class Race(NamedTuple):
    """`times`: {piece: {contender: Times}}; `facts`: {contender: its settings}."""

    times: dict[str, dict[str, Times]]
    facts: dict[str, dict[str, Any]]


def race(contenders: Sequence[Contender], repeats: int, seconds: float = 0.5, pause: float = 0.0) -> Race:
    """Every contender does every piece `repeats` times, in turns; each repeat lasts at least so many seconds.

    Between two turns all pause for so many seconds: who reads ahead goes on for a while when its turn is over.

    They warm up one after the other. Who starts a turn moves on by one from turn to turn. A contender may lack some of
    the pieces that others have; one that fails is left out, and the reason printed. FailedError if all do.
    """
    with contextlib.ExitStack() as stack:
        racing: dict[str, Process] = {}
        answers: dict[str, dict[str, Any]] = {}
        for contender in contenders:
            process = stack.enter_context(contextlib.closing(Process(contender, seconds)))
            print(f"  {contender.name} ...", end="", file=sys.stderr, flush=True)
            try:
                answers[contender.name] = process.ready()
            except FailedError as error:
                print(f" left out: {error}", file=sys.stderr)
            else:
                racing[contender.name] = process
                print(" is warm", file=sys.stderr)
        if not racing:
            raise FailedError("none of the contenders could be measured; see above")
        times = {piece: _turns(racing, answers, piece, repeats, pause) for piece in _pieces(answers)}
    return Race(times, {name: answer["facts"] for name, answer in answers.items()})


def _pieces(answers: dict[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(piece for answer in answers.values() for piece in answer["calls"]))


def _turns(
    racing: dict[str, Process], answers: dict[str, dict[str, Any]], piece: str, repeats: int, pause: float
) -> dict[str, Times]:
    """One piece by all who have it."""
    names = [name for name in racing if piece in answers[name]["calls"]]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(pause)
            seconds[name].append(racing[name].repeat(piece))
    return {name: Times.of(values) for name, values in seconds.items()}


def fastest(contenders: Sequence[Contender], piece: str, repeats: int, seconds: float = 0.5) -> list[Contender]:
    """The contender with the lowest median when each runs by itself; none if all fail. One alone needs no heat."""
    if len(contenders) == 1:
        return list(contenders)
    medians: dict[str, float] = {}
    for contender in contenders:
        try:
            times = race([contender], repeats, seconds).times[piece][contender.name]
        except FailedError:
            continue
        medians[contender.name] = times.median
        print(f"    {1e3 * times.median:.4g} ms", file=sys.stderr)
    best = min(medians, key=medians.__getitem__, default=None)
    return [contender for contender in contenders if contender.name == best]
