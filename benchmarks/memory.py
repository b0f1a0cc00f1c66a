"""How many bytes of a device's memory the training step needs, on different layouts, as its compiled program says.

    python -m benchmarks.memory --variant=paper --batch=128

Nothing is run: the compiler plans all memory before the first step. Layouts are data x tower; shares are of what one
device needs for the same batch. On a GPU only one device is measured, beside PyTorch: its peak is what its allocator
counted over some steps; on a CPU it keeps no count.
"""

import argparse
from typing import Any

from benchmarks import layouts, records
from benchmarks.harness import Contender, jax_environment, once, torch_device

PARTS = ("parameters", "velocity", "temporaries", "peak")


def peer(**arguments: Any) -> dict[str, float]:
    """Bytes at the peak of some steps on a GPU."""
    import torch

    from benchmarks import peer

    peer.train_step(**arguments).pieces["training"](3)
    return {"peak": torch.cuda.max_memory_allocated()}


def beside_pytorch(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """On a GPU: ours on one device, and each of PyTorch's modes."""
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}
    one = {**arguments, "layout": layouts.Layout()}
    found = {"ours": once(Contender("ours", "benchmarks.layouts:plan", one, jax_environment("gpu"), tuned=True))}
    for mode in ("eager", "compiled"):
        peers = {**arguments, "device": torch_device("gpu"), "layout": "channels_last", "mode": mode}
        found[f"PyTorch {mode}"] = once(Contender("PyTorch", "benchmarks.memory:peer", peers))
    return found


def lines_of(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each layout: MiB on each device, and the share of what the first line needs."""
    first = next(iter(found.values()))
    return [
        {"layout": name}
        | {f"{part}, MiB": plan[part] / 2**20 if part in plan else None for part in PARTS}
        | {f"{part}, %": 100.0 * plan[part] / first[part] if part in plan else None for part in PARTS}
        for name, plan in found.items()
    ]


def main() -> None:
    """Compiles for each layout and writes the row."""
    parser = records.parser(__doc__, repeats=1)
    layouts.add_flags(parser)
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    flags = parser.parse_args()
    found = layouts.plans(flags) if flags.platform == "cpu" else beside_pytorch(flags)
    records.write("memory", flags, lines_of(found))


if __name__ == "__main__":
    main()
