"""What a benchmark leaves behind: a row in `results.jsonl` and a Markdown table.

A row holds what is needed to repeat it: commit, versions, hardware, time, command and settings; and `lines`, the table
that the benchmark printed.
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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT

RESULTS = ROOT / "benchmarks" / "results.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")
_GENERATED = (":!benchmarks/results.jsonl", ":!benchmarks/README.md")  # changed by measuring itself


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """The flags that all benchmarks share."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--repeats", type=int, default=repeats, help="timed repeats of each contender (%(default)s)")
    flags.add_argument("--results", type=Path, default=RESULTS, help="the file that the row is appended to")
    flags.add_argument("--commit", default=commit(), help="what the row says was measured (this checkout's commit)")
    return flags


def write(benchmark: str, flags: argparse.Namespace, lines: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Appends the row of one run, prints its table, and returns the row.

    Args:
      benchmark: its name.
      flags: as parsed by `parser`.
      lines: the table: for each line the same columns, texts or numbers; numbers are kept to four digits.
      more: what else is worth keeping, JSON values.
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
    """An argument or a flag of the command line, with PATH for the name of a file or folder of this machine."""
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}PATH" if os.sep in value else argument


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with the columns of the first line."""
    columns = list(lines[0])
    text = [columns, ["---"] * len(columns)]
    text += [["" if line[name] is None else str(line[name]) for name in columns] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in text)


def rounded(value: Any) -> Any:
    """Floats to four significant digits, without exponents; anything else as it is."""
    if not isinstance(value, float):
        return value
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) >= 1000 else short


def commit() -> str:
    """The commit of this checkout, with "-dirty" if its files were changed since; "unknown" without git."""
    try:
        head = _output(["git", "rev-parse", "--short=12", "HEAD"])
        changes = _output(["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *_GENERATED])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changes else head


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are measured."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def hardware() -> dict[str, Any]:
    """The processor and how many cores this process may use; the GPUs, if there are any."""
    found: dict[str, Any] = {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)) if _is_linux() else None}
    try:
        found["gpu"] = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    except (OSError, subprocess.CalledProcessError):
        found["gpu"] = None
    return found


def _cpu_model() -> str:
    if _is_linux():
        names = _field(Path("/proc/cpuinfo").read_text().splitlines(), "model name")
        return next(iter(names), platform.machine())
    return platform.processor()


def _field(lines: Iterable[str], name: str) -> list[str]:
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]


def _is_linux() -> bool:
    return sys.platform == "linux"


def _output(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
