"""Trains a config with many overrides, checked before the first run; run again, it does what is left to do.

    python -m alexnet_jax.sweep --config=configs/quickstart.py --sweep=configs/sweeps/learning_rate.py --workdir=DIR \
        [--parallel=N] [--index=I] [--config.section.field=value ...]

Each run has a folder of its own in the workdir. One that is done, or that diverged, is not run again; one that was
stopped goes on; one that failed is tried again. At the end there are results.csv, results.md and hparams/ (for
TensorBoard). `--index`, or SLURM_ARRAY_TASK_ID, picks a single run.
"""

import os
import sys
import time
from collections.abc import Collection, Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax import cli
from alexnet_jax.console import duration
from alexnet_jax.errors import PreemptedError, UserError
from alexnet_jax.files import writing
from alexnet_jax.run.signals import NotedSignals
from alexnet_jax.sweep import execution, results, runs

_CONFIG = cli.define_config_flag()
_WORKDIR = cli.define_workdir_flag("the folder for the runs' folders and the results")
_SWEEP = flags.DEFINE_string("sweep", None, "the sweep file, such as configs/sweeps/learning_rate.py")
_PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "runs at a time; they divide the GPUs, or else the cores", lower_bound=1
)
_INDEX = flags.DEFINE_integer("index", None, "the number of the only run to do, from 0", lower_bound=0)
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Checks all runs, carries out those that are left, and writes the results."""
    cli.no_arguments(arguments)
    base = cli.the_config(_CONFIG)
    folder = cli.required_path(_WORKDIR)
    planned = runs.plan(base, runs.read_sweep(cli.required_path(_SWEEP)), folder)
    chosen = runs.pick(planned, _index())
    runs.check_folders(planned)
    slots = execution.slots(_PARALLEL.value)
    show = Display(planned, chosen)
    with writing(f"--workdir={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with NotedSignals() as stop:
            execution.carry_out(chosen, _config_arguments(), slots, stop, show)
        results.write(planned, folder)
    show.table(())
    if stop:
        raise PreemptedError(f"stopped by {stop.name}; run the same command again to go on with what is left.")
    if failed := [run for run in chosen if not run.finished]:
        consoles = ", ".join(str(run.folder / runs.CONSOLE) for run in failed)
        raise UserError(f"{len(failed)} of {len(chosen)} runs failed; see {consoles}, then run the same command again.")
    print(f"Done: {len(chosen)} of {len(planned)} runs; results.csv, results.md and hparams/ are in {folder}.")


def _config_arguments() -> list[str]:
    """--config and its overrides, as they were given to us."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    return [f"--config={config_flags.get_config_filename(flag)}", *runs.override_flags(overrides)]


def _index() -> int | None:
    """The run that --index or the task of a SLURM array picks; None: all of them."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return int(task) if _INDEX.value is None and task.isdecimal() else _INDEX.value


class Display:
    """The table while runs are under way: drawn over itself in a terminal, else a line for each change."""

    def __init__(self, planned: Sequence[runs.Run], chosen: Sequence[runs.Run]):
        self._planned = planned
        self._to_do = sum(not run.finished for run in chosen)
        self._running: Collection[int] = ()
        self._started, self._done = time.monotonic(), 0
        self._height = 0
        self._drawn = 0.0

    def __call__(self, running: Collection[int]) -> None:
        """Shows what has changed; in a terminal every other second."""
        if sys.stdout.isatty():
            if time.monotonic() - self._drawn > 2:
                self.table(running)
            return
        ended, begun = set(self._running) - set(running), set(running) - set(self._running)
        self._running = running
        self._done += len(ended)
        for number in sorted(ended) + sorted(begun):
            row = results.table([self._planned[number]], running)[0]
            known = number in ended and row["top1_error"] is not None
            error = f", top-1 error {row['top1_error']:.2f} %" if known else ""
            left = f", {self._time_left()} left" if number in ended else ""
            name = self._planned[number].name
            print(f"run {number} of {len(self._planned)}, {name}: {row['status']}{error}{left}", flush=True)

    def _time_left(self) -> str:
        """How long the rest takes if it goes on as it went."""
        return duration((time.monotonic() - self._started) / self._done * (self._to_do - self._done))

    def table(self, running: Collection[int]) -> None:
        """Prints the whole table, in a terminal over the one before."""
        if self._height:
            print(f"\x1b[{self._height}A\x1b[J", end="")
        lines = results.lines(results.table(self._planned, running))
        print("\n".join(lines), flush=True)
        self._height = len(lines) if sys.stdout.isatty() else 0
        self._drawn = time.monotonic()


if __name__ == "__main__":
    cli.run(main)
