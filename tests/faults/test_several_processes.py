"""Runs at the same time in one workdir: only one of them trains."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from faults.broken_runs import Run, assert_equal, assert_finished, assert_refused, ended, hooked

pytestmark = pytest.mark.faults
# A process that is suspended when its first checkpoint gets its name, until it is continued.
SUSPENDED = """
import os, signal

rename = os.rename

def rename_and_stop(source, target, **options):
    rename(source, target, **options)
    if os.path.basename(target).isdecimal():
        os.rename = rename
        os.kill(os.getpid(), signal.SIGSTOP)

os.rename = rename_and_stop
"""
IN_USE = r"--workdir=.* is in use by process (\d+ on \S+|unknown); wait for it, stop it, or choose another"


@pytest.mark.quick
def test_a_second_run_in_the_same_workdir(whole: Callable, tmp_path: Path, tell) -> None:
    """The first one is suspended while others try."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    first = Run(tmp_path, expected.config, environment=hooked(SUSPENDED)).start()
    while psutil.Process(first.pid).status() != psutil.STATUS_STOPPED:
        assert first.poll() is None
        time.sleep(0.05)
    try:
        files = {path: path.read_bytes() for path in run.workdir.rglob("*") if path.is_file()}
        assert_refused(run.finish(), IN_USE)
        other = Run(tmp_path, expected.config, ("--config.seed=1",))
        assert_refused(other.finish(), IN_USE)
        assert files == {path: path.read_bytes() for path in run.workdir.rglob("*") if path.is_file()}
    finally:
        first.send_signal(signal.SIGCONT)
    assert_finished(run, ended(first))
    assert_equal(run, expected)
    tell("a second run in the same workdir", 2, "refused: one sentence, status 2; the first is not disturbed")


def test_several_runs_begin_at_once(whole: Callable, tmp_path: Path, tell) -> None:
    """Three of them: one has the folder to itself, the others are refused."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    ends = [ended(process) for process in [run.start() for _ in range(3)]]
    assert any(end.status == 0 for end in ends)
    for end in ends:
        if end.status:
            assert_refused(end, IN_USE)
    assert_equal(run, expected)
    tell("three runs begin in one workdir at once", 1, "one trains, the others are refused: one sentence, status 2")
