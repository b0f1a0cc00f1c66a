"""The claims of the paper that small data sets can test, at full length: `bash benchmarks/on_gpu_runs.sh` starts it.

    python -m benchmarks.on_gpu_runs --seconds=540 --data_dir=DIR

Trains the two CIFAR-10 nets for their 520 epochs, without and with normalization, and the two of figure 1, as
`python -m experiments` says. Seed 0 of each comes first. What is not done when the time is over resumes with the same
command; then copy the logs as docs/reproduction.md says. `--short` gives every run two epochs, on any device.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import ROOT
from experiments.paper import TRAININGS

RUNS = ("figure_1_relu", "figure_1_tanh", "cifar_11pct", "cifar_13pct")
GRACE = 20.0  # seconds that a training gets to save its state


def commands(data_dir: Path, short: bool) -> list[list[str]]:
    """Return what is to be run, in order; every run feeds its images from the device's memory."""
    trainings = {training.name: training for training in TRAININGS}
    added = [f"--config.data.dir={data_dir}", "--config.data.feed=device"]
    added += ["--config.num_epochs=2"] if short else []
    runs = []
    for seed in range(1 if short else max(trainings[name].seeds for name in RUNS)):
        for name in RUNS:
            if seed < trainings[name].seeds:
                for command in trainings[name].commands(seed):
                    arguments = shlex.split(command)[1:]  # without `python`
                    runs.append([*arguments, *(added if "alexnet_jax.main" in arguments else [])])
    return runs


def main() -> None:
    """Run the commands until the time is over; exit with 1 if any is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two epochs of each")
    parser.add_argument("--seconds", type=float, default=540, help="when the last run has to end (%(default)s)")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data" / "on_gpu", help="with the prepared cifar10")
    flags = parser.parse_args()
    end = time.monotonic() + flags.seconds
    for arguments in commands(flags.data_dir, flags.short):
        print(f"--- python {shlex.join(arguments)}", flush=True)
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
        try:
            status = process.wait(max(0.0, end - GRACE - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            sys.exit("The time is over; the same command resumes.")
        if status:
            sys.exit(f"error: the command above ended with status {status}.")


if __name__ == "__main__":
    main()
