"""Feeds mutated files to what reads them, and counts what comes of it.

The promise: a file is read, or refused by a `UserError` whose one sentence names it. Anything else is a crash: another
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

MEMORY = 4 << 30  # bytes that reading one file may take
SECONDS = 60  # of computing, for one file


class Sample(NamedTuple):
    """A sound file: where it lies, the part of it that is mutated, and how that part becomes the file again."""

    path: Path
    data: bytes
    wrap: Callable[[bytes], bytes] = bytes


class Subject(NamedTuple):
    """Sound files, what the program does with them where they lie, and what a sentence about them must name."""

    samples: Sequence[Sample]
    read: Callable[[], Any]
    named: str


class Result(NamedTuple):
    """What came of the inputs of one kind; `crashes` counts them by exception and place."""

    kind: str
    inputs: int
    accepted: int
    refused: int
    crashes: dict[str, int]
    seconds: float
    peak: int  # bytes of memory that the process had at most


def fuzz(kind: str, subject: Subject, inputs: int, seed: int, keep: Path | None = None) -> Result:
    """Mutates and reads so many files; `keep` is a folder for one input of each crash."""
    for sample in subject.samples:
        sample.path.write_bytes(sample.wrap(sample.data))
    subject.read()  # sound files are read
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
            said = _said(str(error))
            if subject.named not in said or not said.removesuffix("\n").isprintable():
                _note(f"the sentence {said[:200]!r}", crashes, sample, data, keep)
        except Exception as error:
            _note(_place_of(error), crashes, sample, data, keep)
        sample.path.write_bytes(sample.wrap(sample.data))
    refused = inputs - accepted - crashes.total()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Result(kind, inputs, accepted, refused, dict(crashes), time.monotonic() - start, peak)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Inside, memory can't grow by more than MEMORY, and SECONDS of computing end the process with a traceback."""
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


def _said(sentence: str) -> str:
    """What stands on stderr in the end."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        print_error(sentence)
    return stderr.getvalue()


def _place_of(error: Exception) -> str:
    """The exception, and the last line of this program that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "alexnet_jax" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}: {str(error)[:80]!r}"


def _note(crash: str, crashes: Counter[str], sample: Sample, data: bytes, keep: Path | None) -> None:
    if keep and crash not in crashes:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{len(list(keep.iterdir()))}-{sample.path.name}").write_bytes(sample.wrap(data))
    crashes[crash] += 1
