"""Watches a training from outside: does its memory grow, do open files or threads accumulate, does it slow down?

    python -m alexnet_jax.main --config=configs/quickstart.py --workdir=DIR --config.num_epochs=1000 & pid=$!
    python -m benchmarks.soak --pid=$pid --workdir=DIR --seconds=3600

It can be attached to a running training, and ends with it or after --seconds. Every few seconds it appends a sample to
--samples; at the end it writes the row and draws the plot. `--samples=FILE` without --pid does only that, from earlier
samples. It only reads `/proc` and the metrics, so it does not disturb the training.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from alexnet_jax.metrics import read_records
from benchmarks import records
from benchmarks.harness import ROOT

Sample = dict[str, float | None]


class Quantity(NamedTuple):
    """What is watched: its name in the samples, and its title in the table."""

    name: str
    title: str


QUANTITIES = (
    Quantity("resident_mib", "resident memory, MiB"),
    Quantity("files", "open files"),
    Quantity("threads", "threads"),
    Quantity("images_per_second", "images/s"),
)


def sample(process: psutil.Process, workdir: Path | None) -> Sample:
    """Return what the process and its children hold now, and the last speed that the training has logged.

    Raises:
      psutil.NoSuchProcess: the process has ended.
    """
    family = [process, *process.children(recursive=True)]
    resident, files, threads = 0.0, 0, 0
    for member in family:
        try:
            with member.oneshot():
                resident += member.memory_info().rss / 2**20
                files += member.num_fds()
                threads += member.num_threads()
        except psutil.NoSuchProcess:
            if member is process:
                raise
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(process.pid)
    speeds = [record.get("images_per_second") for record in read_records(workdir)] if workdir else []
    speed = next((value for value in reversed(speeds) if value is not None), None)
    return {"resident_mib": resident, "files": files, "threads": threads, "images_per_second": speed}


def watch(process: psutil.Process, workdir: Path | None, every: float, seconds: float) -> Iterator[Sample]:
    """Yield a sample every `every` seconds until the process ends or `seconds` are over.

    The "seconds" of a sample count from the start of the process.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            yield {"seconds": time.time() - process.create_time()} | sample(process, workdir)
        except psutil.NoSuchProcess:
            return
        time.sleep(every)


def summary(samples: Sequence[Sample], settled: float) -> list[dict[str, str | float]]:
    """Return a line per quantity: medians of the first and last quarter, extremes, and the slope of a linear fit.

    Samples of the first `settled` seconds of the process are left out, since it compiles and fills its caches.
    """
    lines: list[dict[str, str | float]] = []
    for quantity in QUANTITIES:
        seconds, values = series(samples, quantity.name, settled)
        if len(values) < 4:
            continue
        quarter = len(values) // 4
        slope = 3600 * float(np.polyfit(seconds, values, 1)[0])
        lines.append(
            {
                "": quantity.title,
                "first quarter, median": float(np.median(values[:quarter])),
                "last quarter, median": float(np.median(values[-quarter:])),
                "least": float(values.min()),
                "most": float(values.max()),
                "slope, per hour": round(slope, 3),
                "slope, %/hour": round(100 * slope / float(values.mean()), 3),
            }
        )
    return lines


def series(samples: Sequence[Sample], name: str, settled: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds and values of one quantity, where it is known."""
    known = [(each["seconds"], each[name]) for each in samples if each[name] is not None]
    points = np.array([point for point in known if point[0] >= settled], float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def draw(samples: Sequence[Sample], settled: float, path: Path) -> None:
    """Draw a panel per quantity over minutes; the time before `settled` seconds is shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(QUANTITIES), 1, sharex=True, figsize=(8, 8), layout="constrained")
    for panel, quantity in zip(axes, QUANTITIES, strict=True):
        seconds, values = series(samples, quantity.name)
        panel.plot(seconds / 60, values, linewidth=1)
        panel.axvspan(0, settled / 60, color="0.9", linewidth=0)
        panel.set_ylabel(quantity.title)
        panel.set_ylim(0, 1.2 * values.max(initial=1.0))
    axes[-1].set_xlabel("minutes since the training was started")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Watch, then write the row and the plot."""
    parser = records.parser(__doc__, repeats=1)
    parser.add_argument("--pid", type=int, help="the training; without it, only earlier samples are used")
    parser.add_argument("--workdir", type=Path, help="its workdir, whose metrics.jsonl has the images/s")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long to watch, at most (%(default)s)")
    parser.add_argument("--settled", type=float, default=120.0, help="seconds of start-up left out (%(default)s)")
    parser.add_argument("--samples", type=Path, default=ROOT / "runs" / "soak.jsonl", help="JSONL (%(default)s)")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "soak.png", help="the picture (%(default)s)")
    flags = parser.parse_args()
    if flags.pid is not None:
        process = watched(parser, flags.pid)
        flags.samples.parent.mkdir(parents=True, exist_ok=True)
        with flags.samples.open("w", buffering=1) as file:
            for each in watch(process, flags.workdir, flags.every, flags.seconds):
                file.write(json.dumps(each) + "\n")
    samples = [json.loads(line) for line in flags.samples.read_text().splitlines()]
    lines = summary(samples, flags.settled)
    if not lines:
        parser.error(f"{flags.samples} has fewer than 4 samples after --settled={flags.settled:g} seconds.")
    draw(samples, flags.settled, flags.plot)
    for name in ("pid", "workdir", "samples", "plot"):  # they describe this machine, not the measurement
        delattr(flags, name)
    records.write("soak", flags, lines, minutes=(samples[-1]["seconds"] - samples[0]["seconds"]) / 60)


def watched(parser: argparse.ArgumentParser, pid: int) -> psutil.Process:
    """Return the process to watch; exit with a message if there is none."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        parser.error(f"--pid={pid}: there is no such process.")


if __name__ == "__main__":
    main()
