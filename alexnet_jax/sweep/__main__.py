"""Train one config with many overrides, all checked before the first run; run again, it finishes what is left.

    python -m alexnet_jax.sweep --config=configs/quickstart.py --sweep=configs/sweeps/learning_rate.py --workdir=DIR \
        [--parallel=N] [--index=I] [--config.section.field=value ...]

Each run has its own folder in the workdir. Runs that finished or diverged are not repeated, stopped ones resume, and
failed ones are tried again. The results are in results.csv, results.md and hparams/ (for TensorBoard). `--index`, or
SLURM_ARRAY_TASK_ID, selects a single run.
"""

import os
import sys
import time
from collections.abc import Collection, Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax import cli
from alexnet_jax.errors import PreemptedError, UserError
from alexnet_jax.files import writing
from alexnet_jax.metrics import duration
from alexnet_jax.signals import NotedSignals, say
from alexnet_jax.sweep import execution, results, runs

_CONFIG = cli.define_config_flag()
_WORKDIR = cli.define_path_flag("workdir", "the folder for the runs' folders and the results")
_SWEEP = cli.define_path_flag("sweep", "the sweep file, such as configs/sweeps/learning_rate.py")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "runs at a time, each with its share of GPUs or cores", lower_bound=1)
_INDEX = flags.DEFINE_integer("index", None, "the only run to execute, counted from 0", lower_bound=0)
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Check all runs, execute those that are left, and write the results."""
    cli.no_arguments(arguments)
    base = cli.the_config(_CONFIG)
    folder = cli.required(_WORKDIR)
    planned = runs.plan(base, runs.read_sweep(cli.required(_SWEEP)), folder)
    selected = runs.select(planned, _index())
    runs.check_folders(planned)
    slots = execution.slots(_PARALLEL.value)
    display = Display(planned, selected)
    with writing(f"--workdir={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with NotedSignals() as stop:
            execution.execute(selected, _config_arguments(), slots, stop, display)
        results.write(planned, folder)
    display.print_table(())
    if stop:
        raise PreemptedError(f"stopped by {stop.name}; run the same command again to continue.")
    if failed := [str(run.folder / runs.CONSOLE) for run in selected if not run.finished]:
        remedy = f"see {', '.join(failed)}, then run the same command again"
        raise UserError(f"{len(failed)} of {len(selected)} runs failed; {remedy}.")
    print(f"Done: {len(selected)} of {len(planned)} runs; results.csv, results.md and hparams/ are in {folder}.")


def _config_arguments() -> list[str]:
    """Return --config and its overrides as they were passed to this command."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    return [f"--config={config_flags.get_config_filename(flag)}", *runs.override_flags(overrides)]


def _index() -> int | None:
    """Return the run that --index or the task of a SLURM array selects; None for all."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return int(task) if _INDEX.value is None and task.isdecimal() else _INDEX.value


class Display:
    """The progress of the runs: in a terminal a table that is redrawn in place, elsewhere one line per change."""

    def __init__(self, planned: Sequence[runs.Run], selected: Sequence[runs.Run]):
        self._planned = planned
        self._num_left = sum(not run.finished for run in selected)
        self._num_ended = 0
        self._running: Collection[int] = ()
        self._started = time.monotonic()
        self._redrawn, self._height = 0.0, 0

    def __call__(self, running: Collection[int]) -> None:
        """Show what has changed; in a terminal, every other second."""
        if sys.stdout.isatty():
            if time.monotonic() - self._redrawn > 2:
                self.print_table(running)
            return
        ended, started = set(self._running) - set(running), set(running) - set(self._running)
        self._running = running
        self._num_ended += len(ended)
        seconds_per_run = (time.monotonic() - self._started) / max(self._num_ended, 1)
        for number in sorted(ended) + sorted(started):
            row = results.table([self._planned[number]], running)[0]
            line = f"run {number} of {len(self._planned)}, {self._planned[number].name}: {row['status']}"
            if number in ended:
                line += "" if row["top1_error"] is None else f", top-1 error {row['top1_error']:.2f} %"
                line += f", {duration(seconds_per_run * (self._num_left - self._num_ended))} left"
            say(line)

    def print_table(self, running: Collection[int]) -> None:
        """Print the whole table; in a terminal, over the previous one."""
        lines = results.lines(results.table(self._planned, running))
        if self._height:
            lines[0] = f"\x1b[{self._height}A\x1b[J{lines[0]}"
        say("\n".join(lines))
        self._height = len(lines) if sys.stdout.isatty() else 0
        self._redrawn = time.monotonic()


if __name__ == "__main__":
    cli.run(main)
