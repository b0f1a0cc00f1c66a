"""Carries runs out, each in a process of its own, several at once; one that fails does not stop the others."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from alexnet_jax import runtime
from alexnet_jax.errors import EXIT_PREEMPTED, UserError
from alexnet_jax.run.signals import NotedSignals
from alexnet_jax.sweep.runs import CONSOLE, OUTCOME, Run

_POLL_SECONDS = 0.2


class Slot(NamedTuple):
    """Where a run is carried out: on these GPUs (CUDA_VISIBLE_DEVICES), these cores; None: on all there are."""

    gpus: str | None = None
    cores: frozenset[int] | None = None


def slots(parallel: int) -> list[Slot]:
    """So many slots to run in, each with its share of the GPUs, on a machine without any with its share of the cores.

    Two runs on a core each get on 1.4 times as fast as one on two cores (`docs/reproduction.md`); where both may use
    both cores, they wait for each other. UserError if there are fewer GPUs than slots.
    """
    if parallel == 1:
        return [Slot()]
    if gpus := _gpus():
        if parallel > len(gpus):
            raise UserError(f"--parallel={parallel}, but there are {len(gpus)} GPUs; a run needs at least one.")
        return [Slot(gpus=",".join(gpus[slot::parallel])) for slot in range(parallel)]
    cores = runtime.cores()
    if parallel > len(cores):
        return [Slot()] * parallel
    return [Slot(cores=frozenset(cores[slot::parallel])) for slot in range(parallel)]


def _gpus() -> list[str]:
    """Names of the GPUs that processes may use, without starting JAX, which would take their memory."""
    if (names := runtime.named_gpus()) is not None:
        return names
    if not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    # Parts of a GPU (MIG) are listed below it, indented.
    gpus = [line for line in found.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))] if found.returncode == 0 else []


def carry_out(
    runs: Sequence[Run],
    config_flags: Sequence[str],
    slots: Sequence[Slot],
    stop: NotedSignals,
    changed: Callable[[set[int]], None],
) -> None:
    """Trains the runs that are not finished, in their order.

    Args:
      runs: the runs.
      config_flags: --config and the overrides that hold for all of them.
      slots: where, one run at a time in each.
      stop: once true, running processes are asked to save and end, and no more are started.
      changed: called with the numbers of the runs that are under way, several times a second.

    Raises:
      OSError: a folder can't be written; the runs under way were asked to save and have ended.
    """
    waiting = [run for run in runs if not run.finished]
    free = list(slots)
    processes: dict[int, tuple[Run, subprocess.Popen, Slot]] = {}
    asked_to_stop = False
    try:
        while processes or (waiting and not stop):
            while waiting and free and not stop:
                run, slot = waiting.pop(0), free.pop(0)
                processes[run.number] = (run, _start(run, config_flags, slot), slot)
            if stop and not asked_to_stop:
                asked_to_stop = True
                for _, process, _ in processes.values():
                    process.terminate()
            time.sleep(_POLL_SECONDS)
            ended = [number for number, (_, process, _) in processes.items() if process.poll() is not None]
            for number in ended:
                run, process, slot = processes.pop(number)
                free.append(slot)
                if process.returncode != EXIT_PREEMPTED:
                    run.note_outcome(process.returncode)
            changed(set(processes))
    finally:  # only an error leaves any under way
        for _, process, _ in processes.values():
            process.terminate()
        for _, process, _ in processes.values():
            process.wait()


def _start(run: Run, config_flags: Sequence[str], slot: Slot) -> subprocess.Popen:
    """Starts a run, in a session of its own: Ctrl-C reaches it through us, once."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / OUTCOME).unlink(missing_ok=True)
    command = [sys.executable, "-m", "alexnet_jax.main", *config_flags, *run.flags, f"--workdir={run.folder}"]
    environment = os.environ if slot.gpus is None else {**os.environ, "CUDA_VISIBLE_DEVICES": slot.gpus}
    with (run.folder / CONSOLE).open("ab") as console, _on_cores(slot.cores):
        return subprocess.Popen(command, stdout=console, stderr=console, env=environment, start_new_session=True)


@contextlib.contextmanager
def _on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """What is started meanwhile runs on these cores, and so do all its threads."""
    if cores is None or sys.platform != "linux":
        yield
        return
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)
