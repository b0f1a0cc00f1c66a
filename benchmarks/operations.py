"""What the benchmarks of single operations share: their flags, who races, and their table.

The module of such a benchmark has two tasks, `ours` and `peer`, which build the same pieces of work by name.
"""

import argparse
import sys
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, Race, columns, jax_environment, race, torch_device

OURS = "ours"


def parser(description: str) -> argparse.ArgumentParser:
    """The flags."""
    flags = records.parser(description, repeats=11)
    flags.add_argument("--batch", type=int, default=64, help="images in a batch (%(default)s)")
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    flags.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    flags.add_argument("--modes", nargs="+", default=["eager", "compiled"], help="PyTorch's (benchmarks/peer.py)")
    flags.add_argument("--layouts", nargs="+", default=["NCHW", "channels_last"], help="PyTorch's")
    flags.add_argument("--seconds", type=float, default=0.1, help="how long a repeat lasts at least (%(default)s)")
    return flags


def compare(
    benchmark: str, flags: argparse.Namespace, work: dict[str, int] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Lets `benchmarks.<benchmark>:ours` race with `:peer` in all modes and layouts; writes and returns the row.

    Args:
      benchmark: name of the module.
      flags: as parsed by `parser`.
      work: operations of each piece; then rates are listed, too.
      arguments: of both tasks, beside batch and precision; `peer` also gets device, layout and mode.
    """
    arguments |= {"batch": flags.batch, "precision": flags.precision}
    lines: list[dict[str, Any]] = []
    everything, facts = {}, {}
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
        everything[column] = {piece: {n: t._asdict() for n, t in of.items()} for piece, of in result.times.items()}
        facts[column] = result.facts
    return records.write(benchmark, flags, lines, times=everything, facts=facts)


def table(column: str, modes: list[str], result: Race, work: dict[str, int]) -> list[dict[str, Any]]:
    """A line for each piece: our median and quartiles, each of PyTorch's modes in its better layout, the ratio."""
    lines = []
    for piece, times in result.times.items():
        ours = times[OURS]
        best = {
            mode: min(found, default=None)
            for mode in modes
            for found in [[t.median for name, t in times.items() if name.startswith(f"PyTorch {mode},")]]
        }
        line: dict[str, Any] = {
            "column": column,
            "operation": piece,
            "ours, ms": 1e3 * ours.median,
            "quartiles": f"{records.rounded(1e3 * ours.low)} to {records.rounded(1e3 * ours.high)}",
        }
        line |= {f"PyTorch {mode}, ms": None if t is None else 1e3 * t for mode, t in best.items()}
        medians = [t for t in best.values() if t is not None]
        line["ours is faster"] = f"{min(medians) / ours.median:.2f}x" if medians else None
        if work:
            line["ours, GFLOP/s"] = work[piece] / ours.median / 1e9 if piece in work else None
            line["PyTorch, GFLOP/s"] = work[piece] / min(medians) / 1e9 if piece in work and medians else None
        lines.append(line)
    return lines
