"""Whether a training that is stopped and resumed equals one that is not, bit for bit, with deterministic operations.

    python -m benchmarks.resumption --workdir=runs/resumption --config=configs/original.py -- --config.num_epochs=4

What follows `--` goes to the trainings. The second one gets SIGTERM in its middle, and the same command then resumes
it. Compared are all parameters and the loss of every step. Exits with 1 if anything differs.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from alexnet_jax.errors import EXIT_PREEMPTED
from alexnet_jax.metrics import read_records
from benchmarks import records
from benchmarks.harness import ROOT, clean_environment, jax_environment
from benchmarks.trainings import command

# Without this, XLA:GPU chooses the fastest operations, some of which add up in another order each time.
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=1)
    records.add_platform_flag(parser)
    parser.add_argument("--config", default="configs/original.py", help="the config file (%(default)s)")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder for two workdirs, both new")
    parser.add_argument("overrides", nargs="*", help="--config.FIELD=VALUE for both trainings, after `--`")
    return parser.parse_args()


def main() -> None:
    """Train twice, stop the second, compare, and write the row."""
    flags = parse()
    flags.workdir, folder = str(flags.workdir), flags.workdir
    environment = {**clean_environment(), **jax_environment(flags.platform)}
    environment |= DETERMINISTIC if flags.platform == "gpu" else {}
    whole, stopped = folder / "whole", folder / "stopped"
    overrides = [*flags.overrides, "--config.log.every_steps=1"]

    def train(workdir: Path) -> subprocess.Popen:
        return subprocess.Popen(command(flags.config, workdir, overrides), cwd=ROOT, env=environment)

    if train(whole).wait():
        sys.exit("error: the first training failed; its message is above.")
    losses = losses_of(whole)
    middle = len(losses) // 2
    process = train(stopped)
    while process.poll() is None and len(losses_of(stopped)) < middle:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if process.wait() != EXIT_PREEMPTED:
        sys.exit("error: the second training ended before it could be stopped; give it more epochs.")
    stopped_after = len(losses_of(stopped))
    if train(stopped).wait():
        sys.exit("error: the resumed training failed; its message is above.")

    ours, theirs = (parameters(workdir, environment) for workdir in (whole, stopped))
    equal = [np.array_equal(ours[name], theirs[name]) for name in ours]
    resumed = losses_of(stopped)
    same_losses = sum(losses[step] == resumed.get(step) for step in losses)
    line = {
        "stopped after": f"{stopped_after} of {len(losses)} steps",
        "equal parameters": f"{sum(equal)} of {len(equal)}",
        "equal losses": f"{same_losses} of {len(losses)}",
    }
    records.write("resumption", flags, [line])
    if not (all(equal) and same_losses == len(losses)):
        sys.exit("error: the resumed training differs from the one that was not stopped.")


def losses_of(workdir: Path) -> dict[int, float]:
    """Return the loss of each training step so far."""
    with contextlib.suppress(FileNotFoundError):
        return {record["step"]: record["loss"] for record in read_records(workdir) if record["split"] == "train"}
    return {}


def parameters(workdir: Path, environment: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the parameters of the last checkpoint."""
    file = workdir / "parameters.npz"
    export = ["-m", "alexnet_jax.convert", f"--workdir={workdir}", "--export=npz", f"--output={file}"]
    subprocess.run([sys.executable, *export], cwd=ROOT, env=environment, check=True)
    with np.load(file) as arrays:
        return dict(arrays)


if __name__ == "__main__":
    main()
