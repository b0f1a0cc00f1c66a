"""Too few open files, too little memory, a clock that is wrong."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.broken_runs import Moment, Run, assert_equal, assert_finished, assert_refused, hit, hooked, limited

pytestmark = pytest.mark.faults

CLOCK = """
import time

began, monotonic = time.time(), time.monotonic
started = monotonic()
time.time = lambda: began - 366 * 86400 - (monotonic() - started)
time.time_ns = lambda: int(time.time() * 1e9)
"""


def test_too_few_open_files(whole: Callable, tmp_path: Path, tell) -> None:
    """Refused before anything starts; with exactly as many as required, the run finishes."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    limits = (20, 64)
    for limit in limits:
        assert_refused(run.finish(*limited(RLIMIT_NOFILE=limit)), rf"may open {limit} files and needs up to 6\d")
    assert_finished(run, run.finish(*limited(RLIMIT_NOFILE=66)))
    assert_equal(run, expected)
    tell("too few open files", len(limits), "one sentence, status 2, then as uninterrupted, bit for bit", 0)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--config.batch_size=10000000",), "batches of 10,000,000 images .* GiB are free"),
        (
            ("--config.batch_size=1000000", "--config.data.feed=device"),
            "The memory does not suffice for config.batch_size=1000000",
        ),
    ],
)
def test_a_batch_that_the_memory_does_not_hold(flags: tuple, sentence: str, whole: Callable, tmp_path: Path, tell):
    """On the host, and on the device. The process may use 12 GB, so that it does not take more from others."""
    run = Run(tmp_path, whole("jpeg, one device").config, flags)
    assert_refused(run.finish(*limited(RLIMIT_AS=12 << 30)), sentence)
    assert run.saved() == run.logged() == 0
    tell("batch beyond the memory", 1, "one sentence, status 2")


def test_the_clock_is_set_back(whole: Callable, choice: random.Random, tmp_path: Path, tell) -> None:
    """Killed after some steps; for the next process it is a year earlier, and time runs backwards."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    step = choice.randrange(4, 11)
    told = lambda: run.workdir.exists() and run.logged() >= step  # noqa: E731
    assert hit(run.start(), Moment("step", told, 0), signal.SIGKILL).status in (-signal.SIGKILL, 0)
    lost = run.logged() - run.saved()
    earlier = Run(tmp_path, expected.config, environment=hooked(CLOCK))
    assert_finished(earlier, earlier.finish())
    assert_equal(earlier, expected)
    shutil.rmtree(run.workdir)
    tell("clock set back by a year, running backwards", 1, "as uninterrupted, bit for bit", lost)
