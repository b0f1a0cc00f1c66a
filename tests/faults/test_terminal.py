"""Ctrl-C in a terminal, or the loss of it, at any moment: one line, nothing is left running, and nothing is lost."""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from alexnet_jax.errors import EXIT_PREEMPTED
from faults.broken_runs import STEPS, Ended, Moment, Run, config_of, moments, wait_for

pytestmark = pytest.mark.faults
KINDS = ("main", "quickstart.sh", "local.sh 2", "sweep")
MARK = "ALEXNET_JAX_TEST_OF_TERMINAL"
# Makes its standard input the terminal of its session, and runs a command there.
JOB = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal with a command in it."""

    def __init__(self, command: list[str], cwd: Path, **environment: str):
        """Open it, and wait until the command takes signals; before, Python or bash is starting."""
        self._keyboard, inside = pty.openpty()
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, *command],
            cwd=cwd,
            env={**os.environ, "ALEXNET_JAX_ACCELERATOR": "cpu", **environment, MARK: self._mark},
            **dict.fromkeys(("stdin", "stdout", "stderr"), inside),
            start_new_session=True,
        )
        os.close(inside)
        self._screen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        while self.process.poll() is None and not _takes_signals(self.process.pid):
            time.sleep(0.002)

    def press_ctrl_c(self) -> None:
        """Send SIGINT to all processes in the foreground."""
        os.write(self._keyboard, b"\x03")

    def close(self) -> None:
        """Hang up: SIGHUP for the command."""
        os.close(self._keyboard)

    def ended(self) -> Ended:
        """Wait for the end of the command; return its status and the screen. Check that nothing is left running."""
        status = self.process.wait(timeout=400)
        assert not [process for process in psutil.process_iter() if _environment(process).get(MARK) == self._mark]
        self._reader.join(timeout=60)
        with contextlib.suppress(OSError):
            os.close(self._keyboard)
        return Ended(status, self._screen.decode().replace("\r\n", "\n"))

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # once no process has the terminal
            while data := os.read(self._keyboard, 1 << 16):
                self._screen += data


def _takes_signals(pid: int) -> bool:
    """Whether the process blocks or handles SIGTERM, which neither Python nor bash does by itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return {}


class Typed(Run):
    """A training whose command is one of `KINDS`."""

    def __init__(self, kind: str, folder: Path, data_dir: Path, num_epochs: float = 1.0):
        config = config_of("raw, 2 x 1" if kind == "local.sh 2" else "jpeg, one device", data_dir)
        config.num_epochs = num_epochs
        super().__init__(folder, config)
        self.kind = kind
        (folder / "sweep.py").write_text(f"def get_sweep():\n    return [{{'seed': {self.config.seed}}}]\n")

    @property
    def workdir(self) -> Path:
        """The workdir, which is one of several in a sweep."""
        workdir = self.folder / "workdir"
        return workdir / f"seed={self.config.seed}" if self.kind == "sweep" else workdir

    def open(self, checkout: Path) -> Terminal:
        """Type the command in a new terminal."""
        script, *count = self.kind.split()
        command = {
            "main": [sys.executable, "-m", "alexnet_jax.main"],
            "sweep": [sys.executable, "-m", "alexnet_jax.sweep", f"--sweep={self.folder / 'sweep.py'}"],
        }.get(script, ["bash", f"launch/{script}", *count])
        flags = [f"--config={self.folder / 'config_of_test.py'}", f"--workdir={self.folder / 'workdir'}"]
        return Terminal([*command, *flags], checkout, JAX_NUM_CPU_DEVICES="1")

    def trained(self) -> int:
        """Return the last training step in the log; check that all before it are there, each once."""
        steps = [record["step"] for record in self.log() if record["split"] == "train"]
        assert steps == list(range(1, len(steps) + 1))
        return len(steps)

    def assert_same(self, whole: "Typed") -> None:
        """Check that the final state, bit for bit, and the log are those of the uninterrupted run."""
        (step, state), (expected_step, expected) = self.state(), whole.state()
        assert step == expected_step == STEPS
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        # An `evaluate` that was stopped after its last word does it again.
        log, expected_log = ({json.dumps(record) for record in run.log()} for run in (self, whole))
        assert log == expected_log


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_at_random_moments(
    kind: str, checkout: Path, digits_dir: Path, choice: random.Random, tmp_path: Path, tell: Callable
) -> None:
    """While it starts, between steps, while a checkpoint is written, during the evaluation."""
    whole, run, times = Typed(kind, tmp_path / "whole", digits_dir), Typed(kind, tmp_path / "run", digits_dir), 20
    end = whole.open(checkout).ended()
    assert end.status == 0, end.output
    moment, done = moments(run, choice), 0
    while done < times:
        saved, next_moment = run.saved(), next(moment)
        terminal = run.open(checkout)
        wait_for(terminal.process, next_moment)
        terminal.press_ctrl_c()
        end = terminal.ended()
        assert "Traceback" not in end.output, end.output
        assert run.trained() == run.saved() >= saved
        if "Done: " in end.output and end.status in (0, -signal.SIGINT):  # it was done before
            run.assert_same(whole)
            shutil.rmtree(run.folder / "workdir")
            continue
        (line,) = re.findall(r"error: .*", end.output)
        print(
            f"{done}: {next_moment.name} + {next_moment.delay:.3f} s, {run.saved()} steps, status {end.status}: {line}"
        )
        if end.status == EXIT_PREEMPTED:
            assert "everything is saved" in line or line.startswith("error: stopped by SIGINT; run"), end.output
        else:
            assert end.status == 128 + signal.SIGINT, end.output
            assert line == "error: stopped by SIGINT with nothing to save; run the same command again."
        done += 1
    end = run.open(checkout).ended()
    assert end.status == 0, end.output
    run.assert_same(whole)
    tell(
        f"Ctrl-C in a terminal: `{kind}`",
        times,
        "one line, nothing left running, then as uninterrupted, bit for bit",
        0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_terminal(kind: str, checkout: Path, digits_dir: Path, tmp_path: Path, tell: Callable) -> None:
    """As when a connection breaks: the training saves and ends, though it can't print any more."""
    run = Typed(kind, tmp_path, digits_dir, num_epochs=100)  # too long to end before the terminal is lost
    terminal = run.open(checkout)
    wait_for(terminal.process, Moment("step", lambda: run.log(), 0.05))
    terminal.close()
    assert terminal.ended().status == EXIT_PREEMPTED
    assert 0 < run.trained() == run.saved() < 100 * STEPS
    tell(f"terminal closed: `{kind}`", 1, "status 75, nothing left running, everything saved", 0)
