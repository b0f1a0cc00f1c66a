"""Trainings in separate processes that are broken on purpose, and what must be true of them whatever happened."""

import dataclasses
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from training_pieces import pieces

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, set_field, to_dict
from alexnet_jax.errors import EXIT_PREEMPTED
from alexnet_jax.state import abstract_train_state
from configs import quickstart

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVED_EVERY, EVALUATED = 12, 3, (6, 12)
TIMED = ("images_per_second", "input_wait_fraction")

# Each kind of layout and each feeding mode, once.
LAYOUTS: dict[str, dict[str, Any]] = {
    "jpeg, one device": {},
    "raw, 2 x 1": {"data.feed": "raw", "mesh.data": 2},
    "device, 1 x 2": {"data.feed": "device", "mesh.tower": 2},
    "jpeg, 2 x 2, sharded momentum": {"mesh.data": 2, "mesh.tower": 2, "mesh.shard_momentum": True},
    "raw, hybrid on 2, 2 micro-batches": {
        "data.feed": "raw",
        "model.variant": "one_weird_trick",
        "mesh.data": 2,
        "mesh.shard_fully_connected": True,
        "gradient_accumulation": 2,
    },
}


class Ended(NamedTuple):
    """How a process ended, and what it printed to both streams."""

    status: int
    output: str


def config_of(layout: str, data_dir: Path) -> Config:
    """The narrowest net: 12 steps, saved after every third, evaluated in the middle and at the end."""
    config = quickstart.get_config()
    config.batch_size, config.num_epochs = 120, 1.0
    config.model.conv_width, config.model.fc_width = 0.0833, 0.0079
    config.mesh.data = 1
    config.data.dir = str(data_dir)
    config.eval.every_epochs, config.checkpoint.every_epochs, config.log.every_steps = 0.5, 0.25, 1
    for name, value in LAYOUTS[layout].items():
        set_field(config, name, value)
    return config


@dataclasses.dataclass
class Run:
    """A training whose config file and workdir are in `folder`."""

    folder: Path
    config: Config
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the config file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config_of_test.py").write_text(
            "from alexnet_jax import validation\n"
            f"def get_config():\n    return validation.from_dict({to_dict(self.config)!r}, 'test')\n"
        )

    @property
    def workdir(self) -> Path:
        """The workdir."""
        return self.folder / "workdir"

    @property
    def command(self) -> list[str]:
        """The command that a user types."""
        config = self.folder / "config_of_test.py"
        python = (sys.executable, "-m", "alexnet_jax.main")
        return [*python, f"--config={config}", f"--workdir={self.workdir}", *self.flags]

    def start(self, *before: str) -> subprocess.Popen:
        """Start it; `before` is a prefix of the command, for example one that sets limits."""
        devices = self.config.mesh.data * self.config.mesh.tower
        return start(*before, *self.command, JAX_NUM_CPU_DEVICES=str(devices), **self.environment)

    def finish(self, *before: str) -> Ended:
        """Start it and wait for its end."""
        return ended(self.start(*before))

    def log(self) -> list[dict[str, Any]]:
        """Return the whole lines of `metrics.jsonl`, without what depends on the time."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [{key: value for key, value in record.items() if key not in TIMED} for record in records]

    def logged(self) -> int:
        """Return the last training step in the log; check that all before it are there, each once."""
        steps = [record["step"] for record in self.log() if record["split"] == "train"]
        assert steps == list(range(1, len(steps) + 1))
        evaluations = [record["step"] for record in self.log() if record["split"] != "train"]
        assert evaluations == [step for step in EVALUATED if step in evaluations]
        return len(steps)

    def saved(self) -> int:
        """Return the step of the last complete checkpoint: a folder with a manifest, which is written last."""
        manifests = self.workdir.glob("checkpoints/*/manifest.json")
        return max((int(path.parent.name.removesuffix(".saving")) for path in manifests), default=0)

    def unfinished(self) -> set[int]:
        """Return the folders of checkpoints that are being written, or were when the process ended."""
        return {inode for path in self.workdir.glob("checkpoints/*.saving*") if (inode := _inode(path))}

    def state(self) -> tuple[int, Any]:
        """Return the step and the arrays of the latest checkpoint: parameters and optimizer state."""
        abstract = abstract_train_state(self.config, *pieces(self.config, STEPS))
        with Checkpoints(self.workdir / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
            restored = checkpoints.restore_latest(abstract)
        assert restored is not None
        return restored.step, jax.device_get(restored.state)


def start(*command: object, **environment: str) -> subprocess.Popen:
    """Start a process whose standard error goes to its standard output."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen) -> Ended:
    """Wait for the end of a process."""
    output, _ = process.communicate(timeout=400)
    return Ended(process.returncode, output)


def limited(**limits: int) -> list[str]:
    """Return a prefix that runs a command with these limits of `resource`: RLIMIT_FSIZE=bytes, RLIMIT_NOFILE=files."""
    settings = "".join(f"resource.setrlimit(resource.{name}, ({value}, {value})); " for name, value in limits.items())
    return [sys.executable, "-c", f"import os, resource, sys; {settings}os.execv(sys.argv[1], sys.argv[1:])"]


def assert_finished(run: Run, last: Ended) -> None:
    """Check that the run is done, and says so."""
    assert last.status == 0, last.output
    assert "Traceback" not in last.output
    assert f"Done: {STEPS} steps" in last.output


def assert_equal(run: Run, whole: Run) -> None:
    """Check that the final state, bit for bit, and the log, line by line, are those of the uninterrupted run."""
    (step, state), (expected_step, expected) = run.state(), whole.state()
    assert step == expected_step == STEPS
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert run.logged() == STEPS
    assert run.log() == whole.log()


def assert_refused(end: Ended, sentence: str, status: int = 2) -> None:
    """Check that the process ended with one matching sentence, and no other error."""
    assert end.status == status, end.output
    assert "Traceback" not in end.output
    errors = [line for line in end.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, end.output
    assert re.search(sentence, errors[0]), errors[0]


class Moment(NamedTuple):
    """When a process gets a signal: `delay` seconds after `reached` is first true."""

    name: str
    reached: Callable[[], bool]
    delay: float


def moments(run: Run, choice: random.Random) -> Iterator[Moment]:
    """Yield moments of a training in turn: while it starts, between steps, while it saves, while it evaluates."""
    while True:
        yield Moment("start", lambda: True, choice.uniform(0, 6))
        step = choice.randrange(1, STEPS)
        yield Moment("step", functools.partial(_has_logged, run, run.saved() + step), choice.uniform(0, 0.05))
        yield Moment("saving", functools.partial(_saves_again, run, run.unfinished()), choice.uniform(0, 0.1))
        step = 6 if run.saved() < 6 else 12
        yield Moment("evaluation", functools.partial(_has_logged, run, step), choice.uniform(0, 0.2))


def _has_logged(run: Run, step: int) -> bool:
    path = run.workdir / "metrics.jsonl"
    return path.exists() and f'"step": {min(step, STEPS)},' in path.read_text()


def _saves_again(run: Run, before: set[int]) -> bool:
    return bool(run.unfinished() - before)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:  # it was renamed just now
        return None


def hit(process: subprocess.Popen, moment: Moment, number: signal.Signals) -> Ended:
    """Send the signal at the moment, if the process lives that long, and wait for its end."""
    wait_for(process, moment)
    process.send_signal(number)  # does nothing where the process has ended
    return ended(process)


def wait_for(process: subprocess.Popen, moment: Moment) -> None:
    """Wait for the moment, or the end of the process."""
    while process.poll() is None and not moment.reached():
        time.sleep(0.002)
    deadline = time.monotonic() + moment.delay
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


class Hits(NamedTuple):
    """The result of hitting a run again and again."""

    times: int
    steps_lost: int  # at most, each time


def hit_again_and_again(run: Run, whole: Run, number: signal.Signals, times: int, choice: random.Random) -> Hits:
    """Send the signal `times` times, start the same command again each time, and finally let the run finish.

    Check that it resumes from the last complete checkpoint each time, that its log never has a step twice or lacks one,
    and that its end is that of the uninterrupted run. If it ends before it was hit often enough, it starts again in a
    new folder.
    """
    done = most_lost = 0
    moment = moments(run, choice)
    while done < times:
        saved, logged = run.saved(), run.logged()
        next_moment = next(moment)
        end = hit(run.start(), next_moment, number)
        assert "Traceback" not in end.output, end.output
        assert_resumes_from(saved, end.output)
        if end.status == 0:
            assert_equal(run, whole)
            shutil.rmtree(run.workdir)
            continue
        lost = run.logged() - run.saved()
        if end.status == EXIT_PREEMPTED:
            assert f"after step {run.saved()} of {STEPS}; everything is saved" in end.output
            assert lost == 0
        else:
            # SIGTERM is only fatal before the first step or after the last one, and silent before Python runs our code.
            assert end.status in (-number, 128 + number), end.output
            if number == signal.SIGTERM:
                assert run.logged() in (logged, STEPS)
        # A save is complete before the next one begins, and at the latest the next one is due by now.
        assert 0 <= lost <= 2 * SAVED_EVERY
        done += 1
        most_lost = max(most_lost, lost)
        half_written = ", a checkpoint half written" if run.unfinished() else ""
        print(f"{number.name} {done}: {next_moment.name} + {next_moment.delay:.3f} s, {lost} steps lost{half_written}")
    saved = run.saved()
    end = run.finish()
    assert_finished(run, end)
    assert_resumes_from(saved, end.output)
    assert_equal(run, whole)
    return Hits(done, most_lost)


def assert_resumes_from(step: int, output: str) -> None:
    """Check the step from which the run resumes, if it came far enough to print it."""
    if match := re.search(r"^run: .*, (?:from the start|resuming from step (\d+))$", output, re.MULTILINE):
        assert int(match[1] or 0) == step


def hooked(code: str) -> dict[str, str]:
    """Return an environment in which every Python process runs this code first."""
    folder = Path(tempfile.mkdtemp(prefix="hook-", dir=os.environ["JAX_COMPILATION_CACHE_DIR"]))
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}
