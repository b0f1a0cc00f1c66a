"""What benchmarks of single operations share: flags, contenders, and the table.

The module of such a benchmark has two tasks, `ours` and `peer`, which build pieces of work with the same names.
"""

import argparse
import sys
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, Race, columns, jax_environment, race, torch_device

OURS = "ours"


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of such a benchmark."""
    flags = records.parser(description, repeats=11)
    flags.add_argument("--batch", type=int, default=64, help="images in a batch (%(default)s)")
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    records.add_platform_flag(flags)
    flags.add_argument("--modes", nargs="+", default=["eager", "compiled"], help="PyTorch's (benchmarks/peer.py)")
    flags.add_argument("--layouts", nargs="+", default=["NCHW", "channels_last"], help="PyTorch's")
    flags.add_argument("--seconds", type=float, default=0.1, help="how long a repeat lasts, at least (%(default)s)")
    return flags


def compare(
    benchmark: str, flags: argparse.Namespace, work: dict[str, int] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Race `benchmarks.<benchmark>:ours` against `:peer` in all modes and layouts; write and return the row.

    Args:
      benchmark: name of the module.
      flags: as parsed by `parser`.
      work: operations of each piece; if given, the table has GFLOP/s too.
      arguments: arguments of both tasks besides batch and precision; `peer` also gets device, layout and mode.
    """
    arguments |= {"batch": flags.batch, "precision": flags.precision}
    lines: list[dict[str, Any]] = []
    all_times, notes = {}, {}
    for column, environment in columns(flags.platform).items():
        print(f"{column}:", file=sys.stderr)
        ours = Contender(OURS, f"benchmarks.{benchmark}:ours", arguments, jax_environment(flags.platform), tuned=True)
        peers = [
            Contender(
                f"PyTorch {mode}, {layout}",
                f"benchmarks.{benchmark}:peer",
                {**arguments, "device": torch_device(flags.platform), "layout": layout, "mode": mode},
                environment,
            )
            for mode in flags.modes
            for layout in flags.layouts
        ]
        result = race([ours, *peers], flags.repeats, flags.seconds)
        lines += table(column, flags.modes, result, work or {})
        all_times[column] = {
            piece: {name: each._asdict() for name, each in times.items()} for piece, times in result.times.items()
        }
        notes[column] = result.notes
    return records.write(benchmark, flags, lines, times=all_times, notes=notes)


def table(column: str, modes: list[str], result: Race, work: dict[str, int]) -> list[dict[str, Any]]:
    """Return a line per piece: our median and quartiles, PyTorch's modes in their better layouts, and the ratio."""
    lines = []
    for piece, times in result.times.items():
        ours = times[OURS]
        best = {
            mode: min((t.median for name, t in times.items() if name.startswith(f"PyTorch {mode},")), default=None)
            for mode in modes
        }
        ms, quartiles = records.milliseconds(ours).values()
        line = {"column": column, "operation": piece, "ours, ms": ms, "quartiles": quartiles}
        line |= {f"PyTorch {mode}, ms": None if median is None else 1e3 * median for mode, median in best.items()}
        medians = [median for median in best.values() if median is not None]
        line["ours is faster"] = f"{min(medians) / ours.median:.2f}x" if medians else None
        if work:
            line["ours, GFLOP/s"] = work[piece] / ours.median / 1e9 if piece in work else None
            line["PyTorch, GFLOP/s"] = work[piece] / min(medians) / 1e9 if piece in work and medians else None
        lines.append(line)
    return lines
