"""Carries runs out, each in a process of its own, several at once; one that fails does not stop the others."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from alexnet_jax.errors import EXIT_PREEMPTED, UserError
from alexnet_jax.signals import NotedSignals
from alexnet_jax.sweeping.runs import CONSOLE, OUTCOME, Run

_POLL_SECONDS = 0.2


def slots(parallel: int) -> list[dict[str, str]]:
    """For each of so many places to run in, what its processes' environment has: its share of the GPUs.

    On a machine without GPUs the processes share the CPU. UserError if there are fewer GPUs than places.
    """
    gpus = _gpus()
    if not gpus or parallel == 1:
        return [{} for _ in range(parallel)]
    if parallel > len(gpus):
        raise UserError(f"--parallel={parallel}, but there are {len(gpus)} GPUs; a run needs at least one.")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[place::parallel])} for place in range(parallel)]


def _gpus() -> list[str]:
    """Names of the GPUs that processes may use, without starting JAX, which would take their memory."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu") or not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number in range(len(found.stdout.splitlines()))] if found.returncode == 0 else []


def carry_out(
    runs: Sequence[Run],
    config_flags: Sequence[str],
    places: Sequence[dict[str, str]],
    stop: NotedSignals,
    changed: Callable[[set[int]], None],
) -> None:
    """Trains the runs that are not finished, in their order.

    Args:
      runs: the runs.
      config_flags: --config and the overrides that hold for all of them.
      places: as `slots` gives them.
      stop: once true, running processes are asked to save and end, and no more are started.
      changed: called with the numbers of the runs that are under way, several times a second.
    """
    waiting = [run for run in runs if not run.finished]
    free = list(places)
    processes: dict[int, tuple[Run, subprocess.Popen, dict[str, str]]] = {}
    asked_to_stop = False
    while processes or (waiting and not stop):
        while waiting and free and not stop:
            run, place = waiting.pop(0), free.pop(0)
            processes[run.number] = (run, _start(run, config_flags, place), place)
        if stop and not asked_to_stop:
            asked_to_stop = True
            for _, process, _ in processes.values():
                process.send_signal(signal.SIGTERM)
        time.sleep(_POLL_SECONDS)
        ended = [number for number, (_, process, _) in processes.items() if process.poll() is not None]
        for number in ended:
            run, process, place = processes.pop(number)
            free.append(place)
            if process.returncode != EXIT_PREEMPTED:
                run.note_outcome(process.returncode)
        changed(set(processes))


def _start(run: Run, config_flags: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
    """Starts a run, in a session of its own: Ctrl-C reaches it through us, once."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / OUTCOME).unlink(missing_ok=True)
    command = [sys.executable, "-m", "alexnet_jax.main", *config_flags, *run.flags, f"--workdir={run.folder}"]
    with (run.folder / CONSOLE).open("ab") as console:
        return subprocess.Popen(
            command, stdout=console, stderr=console, env={**os.environ, **environment}, start_new_session=True
        )
