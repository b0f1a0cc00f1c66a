"""A disk that is full, or slow: one sentence, nothing lost, and the same command resumes."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.broken_runs import (
    Run,
    assert_equal,
    assert_finished,
    assert_refused,
    ended,
    hit_again_and_again,
    hooked,
    limited,
    start,
)

pytestmark = pytest.mark.faults

FULL = r"can't be written.*\((File too large|No space left on device)\)"
SLOW = """
import builtins, functools, os, time

def slowly(function):
    @functools.wraps(function)
    def slow(*arguments, **options):
        time.sleep(0.15)
        return function(*arguments, **options)
    return slow

for name in ("rename", "replace", "fsync", "mkdir", "rmdir"):
    setattr(os, name, slowly(getattr(os, name)))
opened = builtins.open
builtins.open = lambda file, mode="r", *more, **options: (
    slowly(opened) if set("wa") & set(mode) else opened
)(file, mode, *more, **options)
"""


def test_a_quota_on_the_size_of_files(whole: Callable, tmp_path: Path, tell) -> None:
    """Reached by config, log, TensorBoard's file, or a checkpoint: first in a new run, then in the middle of one."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    sizes = (200, 2_000, 5_000, 100_000)
    for size in sizes:
        saved = run.saved()
        assert_refused(run.finish(*limited(RLIMIT_FSIZE=size)), FULL)
        assert run.saved() == saved == 0
    end = run.finish(*limited(RLIMIT_FSIZE=1_000_000))
    assert_finished(run, end)
    assert_equal(run, expected)
    tell("disk quota reached", len(sizes), "one sentence, status 2, then as uninterrupted, bit for bit", 0)


@pytest.mark.quick
def test_a_quota_in_the_middle_of_a_run(whole: Callable, tmp_path: Path, tell) -> None:
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    shutil.copytree(expected.workdir, run.workdir)
    for step in (12, 6):  # the last, and the best: one checkpoint is left
        shutil.rmtree(run.workdir / "checkpoints" / str(step), ignore_errors=True)
    saved = run.saved()
    assert_refused(run.finish(*limited(RLIMIT_FSIZE=100_000)), FULL)
    assert run.saved() == saved == 9
    assert_finished(run, run.finish())
    assert_equal(run, expected)
    tell("disk quota reached", 1, "one sentence, status 2, then as uninterrupted, bit for bit", 0)


def small_disks() -> list[str]:
    """A command that runs a script where it may mount; [] if this machine allows that to no user."""
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        if shutil.which("unshare") and subprocess.run(
            [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode == 0:  # fmt: skip
            return command
    return []


MOUNTING = small_disks()
# Only this script sees the mount, which ends with the script, however that ends.
FULL_THEN_MORE_ROOM = """
disk=$1 size=$2; shift 2
mount -t tmpfs -o size=$size tmpfs "$disk"
"$@"; echo "status $?"
ls "$disk"/workdir/checkpoints 2>&1 | tr '\\n' ' '; echo "are there"
mount -o remount,size=64m "$disk"
"$@"; echo "status $?"
cp -r "$disk"/workdir "$disk".copy
"""


@pytest.mark.skipif(not MOUNTING, reason="mounting is not allowed here; the quota is tested instead")
@pytest.mark.parametrize("size", [8, 300])
def test_a_full_disk(size: int, whole: Callable, tmp_path: Path, tell) -> None:
    """A file system of `size` KiB, which is then made larger."""
    expected = whole("jpeg, one device")
    disk = tmp_path / "disk"
    disk.mkdir()
    run = Run(tmp_path, expected.config)
    command = [part.replace(str(run.workdir), str(disk / "workdir")) for part in run.command]
    script = ("bash", "-c", FULL_THEN_MORE_ROOM, "script", disk, f"{size}k", *command)
    end = ended(start(*MOUNTING, *script, JAX_NUM_CPU_DEVICES="1"))
    first, second, _ = end.output.split("status ")
    assert second.startswith("2\n"), end.output
    assert_refused(type(end)(2, first), FULL)
    assert end.output.endswith("status 0\n"), end.output
    shutil.move(f"{disk}.copy", run.workdir)
    assert_equal(run, expected)
    tell("full disk (tmpfs)", 1, "one sentence, status 2, then as uninterrupted, bit for bit", 0)


def test_a_slow_disk(whole: Callable, choice: random.Random, tmp_path: Path, tell) -> None:
    """Every rename, sync and opening to write takes 0.15 s longer; killed again and again as well."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config, environment=hooked(SLOW))
    hits = hit_again_and_again(run, expected, signal.SIGKILL, 4, choice)
    tell("slow disk and `kill -9`", hits.times, "as uninterrupted, bit for bit", hits.steps_lost)


def test_a_workdir_that_can_only_be_read(whole: Callable, tmp_path: Path, tell) -> None:
    """Root may write everywhere, so a file takes the place of the folder."""
    expected = whole("jpeg, one device")
    run = Run(tmp_path, expected.config)
    run.workdir.write_text("")
    assert_refused(run.finish(), r"--workdir=.* can't be written \((File exists|Not a directory)\)")
    assert os.path.getsize(run.workdir) == 0
    run.workdir.unlink()
    assert_finished(run, run.finish())
    assert_equal(run, expected)
    tell("workdir can't be made", 1, "one sentence, status 2, then as uninterrupted, bit for bit", 0)
