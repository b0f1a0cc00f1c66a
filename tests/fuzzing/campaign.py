"""Feeds mutated files to their readers and counts the outcomes.

A file must be read, or refused by a `UserError` of one sentence that names it. Anything else is a crash: another
exception, more than 4 GiB of memory, or more than a minute of computing, which ends the process with a traceback.
"""

import contextlib
import faulthandler
import io
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from alexnet_jax.errors import UserError, print_error
from fuzzing.mutations import mutate

MEMORY = 4 << 30  # bytes that one file may use
SECONDS = 60  # of computing, for one file


class Sample(NamedTuple):
    """A valid file: its path, the part that is mutated, and the function that turns this part into the file again."""

    path: Path
    data: bytes
    wrap: Callable[[bytes], bytes] = bytes


class Subject(NamedTuple):
    """Valid files, the function that reads them at their paths, and the name that error messages must contain."""

    samples: Sequence[Sample]
    read: Callable[[], Any]
    named: str


class Result(NamedTuple):
    """The outcomes for one kind of file; `crashes` counts by exception and place."""

    kind: str
    inputs: int
    accepted: int
    refused: int
    crashes: dict[str, int]
    seconds: float
    peak: int  # bytes of memory, of the process


def fuzz(kind: str, subject: Subject, inputs: int, seed: int, keep: Path | None = None) -> Result:
    """Mutate and read `inputs` files; `keep` is a folder for one input of each crash."""
    for sample in subject.samples:
        sample.path.write_bytes(sample.wrap(sample.data))
    subject.read()  # valid files are read
    accepted, crashes, start = 0, Counter[str](), time.monotonic()
    for number in range(inputs):
        rng = random.Random(f"{seed}/{kind}/{number}")
        sample = rng.choice(subject.samples)
        data = mutate(sample.data, [other.data for other in subject.samples], rng)
        sample.path.write_bytes(sample.wrap(data))
        try:
            with _bounded():
                subject.read()
            accepted += 1
        except UserError as error:
            printed = _printed(str(error))
            if subject.named not in printed or not printed.removesuffix("\n").isprintable():
                _record(f"the sentence {printed[:200]!r}", crashes, sample, data, keep)
        except Exception as error:
            _record(_describe(error), crashes, sample, data, keep)
        sample.path.write_bytes(sample.wrap(sample.data))
    refused = inputs - accepted - crashes.total()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Result(kind, inputs, accepted, refused, dict(crashes), time.monotonic() - start, peak)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Limit the growth of memory to MEMORY; end the process with a traceback after SECONDS of computing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
    faulthandler.register(signal.SIGPROF, chain=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _printed(message: str) -> str:
    """Return what a command prints on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        print_error(message)
    return stderr.getvalue()


def _describe(error: Exception) -> str:
    """Return the exception, and the last line of this program in its traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "alexnet_jax" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:80]!r}"


def _record(crash: str, crashes: Counter[str], sample: Sample, data: bytes, keep: Path | None) -> None:
    if keep and crash not in crashes:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{len(list(keep.iterdir()))}-{sample.path.name}").write_bytes(sample.wrap(data))
    crashes[crash] += 1
