"""Measures side by side: contenders, each in a process of its own, take turns in one run."""

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

# Variables of this process that contenders must not inherit.
_TUNING = ("GLIBC_TUNABLES", "MALLOC_", "XLA_FLAGS", "OMP_", "KMP_", "MKL_", "TORCHINDUCTOR_", "ALEXNET_JAX_TUNING")

# The two comparisons on a CPU: PyTorch with glibc's default malloc, or with the malloc settings of our own program.
AS_INSTALLED: dict[str, str] = {}
AT_BEST = {"GLIBC_TUNABLES": MALLOC}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One side of a comparison: `task` is "module:function", called with `arguments` in a process of its own.

    `environment` is added to a clean one; `tuned` applies the settings of `alexnet_jax.runtime`, as every command does.
    """

    name: str
    task: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    tuned: bool = False


def clean_environment() -> dict[str, str]:
    """Return the environment of this process without variables that make a contender faster or slower."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_TUNING)}


def jax_environment(platform: str) -> dict[str, str]:
    """Return JAX's variables for one platform; a GPU's memory is allocated on demand, since processes share it."""
    if platform == "cpu":
        return {"JAX_PLATFORMS": "cpu"}
    return {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def torch_device(platform: str) -> str:
    """Return PyTorch's name of the platform."""
    return "cuda" if platform == "gpu" else "cpu"


def columns(platform: str) -> dict[str, dict[str, str]]:
    """Return the comparisons to make on this platform, and the environment of PyTorch in each."""
    return {"as installed": AS_INSTALLED, "at best": AT_BEST} if platform == "cpu" else {"GPU": {}}


class FailedError(RuntimeError):
    """A contender's process has ended; the message holds the end of its output."""


class Times(NamedTuple):
    """Seconds of one call: the median over the repeats, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Summarize the times of the repeats."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high)


class Process:
    """A contender's process, which warms up and then runs a repeat on request."""

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
        """Wait for the warm-up; return {"calls": {piece: calls in a repeat}, "notes": {...}}."""
        return self._answer()

    def repeat(self, piece: str) -> float:
        """Run one repeat of the piece; return the mean seconds of a call."""
        assert self._process.stdin
        self._process.stdin.write(piece + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """End the process."""
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
    """Return the answer of a task that measures by itself, once, in a process of its own."""
    with contextlib.closing(Process(contender, 0.0)) as process:
        return process.ready()


class Race(NamedTuple):
    """`times`: {piece: {contender: Times}}; `notes`: {contender: its `Work.notes`}."""

    times: dict[str, dict[str, Times]]
    notes: dict[str, dict[str, Any]]


def race(contenders: Sequence[Contender], repeats: int, seconds: float = 0.5, pause: float = 0.0) -> Race:
    """Let every contender do every piece `repeats` times, in turns.

    Contenders warm up one after the other; in each turn another one starts. A contender may lack some of the pieces
    that others have; one that fails is left out, and the reason is printed.

    Args:
      contenders: who takes part.
      repeats: turns.
      seconds: how long a repeat lasts, at least.
      pause: seconds before each repeat; a contender that reads ahead continues for a while after its turn.

    Raises:
      FailedError: all contenders failed.
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
            raise FailedError("all contenders failed; the reasons are above")
        times = {piece: _turns(racing, answers, piece, repeats, pause) for piece in _pieces(answers)}
    return Race(times, {name: answer["notes"] for name, answer in answers.items()})


def _pieces(answers: dict[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(piece for answer in answers.values() for piece in answer["calls"]))


def _turns(
    racing: dict[str, Process], answers: dict[str, dict[str, Any]], piece: str, repeats: int, pause: float
) -> dict[str, Times]:
    """Time one piece by all contenders that have it."""
    names = [name for name in racing if piece in answers[name]["calls"]]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(pause)
            seconds[name].append(racing[name].repeat(piece))
    return {name: Times.of(values) for name, values in seconds.items()}


def fastest(contenders: Sequence[Contender], piece: str, repeats: int, seconds: float = 0.5) -> list[Contender]:
    """Return the contender with the lowest median when each runs by itself, or none if all fail.

    A single contender is returned without a heat.
    """
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
