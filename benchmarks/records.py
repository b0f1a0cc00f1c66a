"""The result of a benchmark: a row in `results.jsonl`, and a Markdown table.

A row holds all that is needed to repeat it: commit, versions, hardware, time, command and settings. Its `lines` are the
table that the benchmark printed.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Times

RESULTS = ROOT / "benchmarks" / "results.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")
_GENERATED = (":!benchmarks/results.jsonl", ":!benchmarks/README.md")  # measuring changes these itself


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks share."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--repeats", type=int, default=repeats, help="timed repeats of each contender (%(default)s)")
    flags.add_argument("--results", type=Path, default=RESULTS, help="the file that the row is appended to")
    flags.add_argument("--commit", default=commit(), help="the commit that the row names (this checkout's)")
    return flags


def add_net_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags that choose a net and its batch."""
    flags.add_argument("--variant", default="paper", help="which net (%(default)s)")
    flags.add_argument("--batch", type=int, default=128, help="images in a batch, over all devices (%(default)s)")
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    flags.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")


def net_arguments(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `add_net_flags`, as arguments of a task."""
    return {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}


def add_platform_flag(flags: argparse.ArgumentParser) -> None:
    """Add the choice between CPU and GPU."""
    flags.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")


def write(benchmark: str, flags: argparse.Namespace, lines: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Append the row of one run, print its table, and return the row.

    Args:
      benchmark: its name.
      flags: as parsed by `parser`.
      lines: the table: text or numbers by column, the same columns in each line; numbers are kept to four digits.
      more: further JSON values to keep.
    """
    given = {name: value for name, value in vars(flags).items() if name not in ("results", "commit")}
    settings = {name: without_path(value) if isinstance(value, str) else value for name, value in given.items()}
    row = {
        "benchmark": benchmark,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": flags.commit,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *map(without_path, sys.argv[1:])]),
        "settings": settings,
        "versions": versions(),
        "hardware": hardware(),
        "lines": [{name: rounded(value) for name, value in line.items()} for line in lines],
        **more,
    }
    flags.results.parent.mkdir(parents=True, exist_ok=True)
    with flags.results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(markdown(row["lines"]))
    return row


def without_path(argument: str) -> str:
    """Return an argument of the command line with PATH instead of a file or folder of this machine."""
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}PATH" if os.sep in value else argument


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with the columns of the first line."""
    columns = list(lines[0])
    rows = [columns, *(["" if line[name] is None else str(line[name]) for name in columns] for line in lines)]
    header, *body = ("| " + " | ".join(cells) + " |" for cells in rows)
    return "\n".join([header, "|" + "---|" * len(columns), *body])


def milliseconds(times: Times) -> dict[str, Any]:
    """Return the median and the quartiles as cells of a table."""
    low, high = (rounded(1e3 * seconds) for seconds in (times.low, times.high))
    return {"ms": 1e3 * times.median, "quartiles": f"{low} to {high}"}


def rounded(value: Any) -> Any:
    """Round floats to four significant digits, without exponents; return anything else as it is."""
    if not isinstance(value, float):
        return value
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) >= 1000 else short


def commit() -> str:
    """Return the commit of this checkout, with "-dirty" if its files have changed; "unknown" without git."""
    try:
        head = _output(["git", "rev-parse", "--short=12", "HEAD"])
        changes = _output(["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *_GENERATED])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changes else head


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are measured."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def hardware() -> dict[str, Any]:
    """Return the processor, the number of cores that this process may use, and the GPUs, if any."""
    try:
        gpu = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    except (OSError, subprocess.CalledProcessError):
        gpu = None
    return {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)) if _is_linux() else None, "gpu": gpu}


def _cpu_model() -> str:
    if not _is_linux():
        return platform.processor()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _is_linux() -> bool:
    return sys.platform == "linux"


def _output(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
