"""Whole trainings of one config with different settings and seeds: errors, images per second, and waiting for input.

    python -m benchmarks.trainings --workdir=runs/on_gpu --config=configs/original.py \
        --each precision=bfloat16 precision=float32 --seeds=2 -- --config.num_epochs=60

Every setting after --each is trained with every seed, in a process of its own; what follows `--` goes to all of them. A
row is written after each training, with those before it. A training that was stopped resumes with the same command.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alexnet_jax.metrics import read_records
from benchmarks import records
from benchmarks.harness import ROOT, clean_environment, jax_environment


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=1)
    records.add_platform_flag(parser)
    parser.add_argument("--config", default="configs/original.py", help="the config file (%(default)s)")
    parser.add_argument("--workdir", type=Path, required=True, help="the folder for the runs' workdirs")
    parser.add_argument("--each", nargs="+", required=True, metavar="FIELD=VALUE", help="fields that are compared")
    parser.add_argument("--seeds", type=int, default=1, help="trainings with each setting (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="--config.FIELD=VALUE for all trainings, after `--`")
    return parser.parse_args()


def main() -> None:
    """Train with each seed and setting, and write a row after each."""
    flags = parse()
    flags.workdir, folder = str(flags.workdir), flags.workdir
    lines: list[dict[str, Any]] = []
    for seed in range(flags.seeds):
        for setting in flags.each:
            workdir = folder / setting / str(seed)
            start = time.perf_counter()
            subprocess.run(
                command(flags.config, workdir, [f"--config.{setting}", f"--config.seed={seed}", *flags.overrides]),
                cwd=ROOT,
                env={**clean_environment(), **jax_environment(flags.platform)},
                check=True,
            )
            lines.append({"setting": setting, "seed": seed, "s": time.perf_counter() - start, **outcome(workdir)})
            records.write("trainings", flags, lines)


def command(config: str, workdir: Path, overrides: list[str]) -> list[str]:
    """Return the command that trains a config with these overrides."""
    return [sys.executable, "-m", "alexnet_jax.main", f"--config={config}", f"--workdir={workdir}", *overrides]


def outcome(workdir: Path) -> dict[str, Any]:
    """Return what the records of a run say: its speed, its last training loss and its last evaluation."""
    logged = list(read_records(workdir))
    trained = [record for record in logged if record["split"] == "train"]
    steady = trained[1:] or trained  # the first interval compiles
    evaluation = next((record for record in reversed(logged) if record["split"] != "train"), {})
    return {
        "epochs": trained[-1]["epoch"],
        "images/s": statistics.median(record["images_per_second"] for record in steady),
        "waiting for input, %": 100 * statistics.median(record["input_wait_fraction"] for record in steady),
        "training loss": statistics.mean(record["loss"] for record in trained[-5:]),
        "top-1 error, %": evaluation.get("top1_error"),
        "top-5 error, %": evaluation.get("top5_error"),
    }


if __name__ == "__main__":
    main()
