"""Executes runs, each in its own process and several at once; one that fails does not stop the others."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from alexnet_jax import runtime, signals
from alexnet_jax.errors import EXIT_PREEMPTED, UserError
from alexnet_jax.signals import NotedSignals
from alexnet_jax.sweep.runs import CONSOLE, OUTCOME, Run, override_flags

_POLL_SECONDS = 0.2
# Of a run that was asked to stop: it saved, or had nothing to save (on its own account, or before Python took signals).
_STOPPED = (EXIT_PREEMPTED, 128 + signal.SIGTERM, -signal.SIGTERM)


class Slot(NamedTuple):
    """The GPUs (as CUDA_VISIBLE_DEVICES) and cores of one run at a time; None for all that the machine has."""

    gpus: str | None = None
    cores: frozenset[int] | None = None


def slots(parallel: int) -> list[Slot]:
    """Divide the GPUs, or on a machine without any the cores, among `parallel` slots; UserError if GPUs are too few.

    Two runs with one core each are 1.4 times as fast as one with both (`docs/reproduction.md`); when both may use both
    cores, they wait for each other.
    """
    if parallel == 1:
        return [Slot()]
    if gpus := _gpus():
        if parallel > len(gpus):
            raise UserError(f"parallel={parallel} is more than the {len(gpus)} GPUs; each run needs at least one.")
        return [Slot(gpus=",".join(gpus[slot::parallel])) for slot in range(parallel)]
    cores = runtime.cores()
    if parallel > len(cores):
        return [Slot()] * parallel
    return [Slot(cores=frozenset(cores[slot::parallel])) for slot in range(parallel)]


def _gpus() -> list[str]:
    """Return the GPUs that processes may use, without starting JAX, which would take their memory."""
    if (names := runtime.named_gpus()) is not None:
        return names
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    # MIG instances are listed, indented, below their GPU.
    count = sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return list(map(str, range(count))) if listing.returncode == 0 else []


def execute(
    runs: Sequence[Run],
    config_flags: Sequence[str],
    slots: Sequence[Slot],
    stop: NotedSignals,
    on_progress: Callable[[set[int]], None],
) -> None:
    """Train the runs that are not finished, in order, one at a time in each slot.

    Every run gets `config_flags` (--config and its overrides) and its own overrides. `on_progress` is called several
    times a second with the numbers of those that are running. Once `stop` is true, no more are started and the running
    ones are asked to save and end. If a folder can't be written, they have saved and ended when OSError is raised.
    """
    waiting = [run for run in runs if not run.finished]
    free = list(slots)
    running: dict[int, tuple[Run, subprocess.Popen, Slot]] = {}
    asked_to_stop = False
    try:
        while running or (waiting and not stop):
            while waiting and free and not stop:
                run, slot = waiting.pop(0), free.pop(0)
                running[run.number] = (run, _start(run, config_flags, slot), slot)
            if stop and not asked_to_stop:
                asked_to_stop = True
                for _, process, _ in running.values():
                    process.terminate()
            time.sleep(_POLL_SECONDS)
            for run, process, slot in list(running.values()):
                if process.poll() is None:
                    continue
                del running[run.number]
                free.append(slot)
                if process.returncode not in _STOPPED:
                    run.record_outcome(process.returncode)
            on_progress(set(running))
    finally:  # only an error leaves any running
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def _start(run: Run, config_flags: Sequence[str], slot: Slot) -> subprocess.Popen:
    """Start a run in its own session, so that Ctrl-C reaches it only once, through this process, and ends with it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / OUTCOME).unlink(missing_ok=True)
    command = [sys.executable, "-m", "alexnet_jax.main", *config_flags, *override_flags(run.overrides)]
    command.append(f"--workdir={run.folder}")
    environment = {**os.environ, signals.PARENT: str(os.getpid())}
    if slot.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpus
    with (run.folder / CONSOLE).open("ab") as console, _on_cores(slot.cores):
        return subprocess.Popen(command, stdout=console, stderr=console, env=environment, start_new_session=True)


@contextlib.contextmanager
def _on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """Bind the processes that are started inside, with all their threads, to these cores."""
    if cores is None or sys.platform != "linux":
        yield
        return
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)
