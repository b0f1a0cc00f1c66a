"""How much of a device's memory the training step needs on different layouts, according to the compiled program.

    python -m benchmarks.memory --variant=paper --batch=128

Nothing is run: the compiler plans all memory before the first step. Layouts are data x tower; percentages refer to one
device with the same batch. On a GPU, one device is measured beside PyTorch, whose allocator counts its peak over a few
steps; on a CPU it does not count.
"""

import argparse
from typing import Any

from benchmarks import layouts, records
from benchmarks.harness import Contender, jax_environment, once, torch_device

QUANTITIES = ("parameters", "momentum", "temporaries", "peak")


def peer(**arguments: Any) -> dict[str, float]:
    """Return PyTorch's peak over a few steps on a GPU, in bytes."""
    import torch

    from benchmarks import peer

    peer.train_step(**arguments).pieces["training"](3)
    return {"peak": torch.cuda.max_memory_allocated()}


def beside_pytorch(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the memory on one GPU: ours, and each of PyTorch's modes."""
    arguments = records.net_arguments(flags)
    one = {**arguments, "layout": layouts.Layout()}
    plans = {"ours": once(Contender("ours", "benchmarks.layouts:plan", one, jax_environment("gpu"), tuned=True))}
    for mode in ("eager", "compiled"):
        peers = {**arguments, "device": torch_device("gpu"), "layout": "channels_last", "mode": mode}
        plans[f"PyTorch {mode}"] = once(Contender("PyTorch", "benchmarks.memory:peer", peers))
    return plans


def table(plans: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line per layout: MiB on each device, and the percentage of the first line."""
    first = next(iter(plans.values()))
    return [
        {"layout": layout}
        | {f"{name}, MiB": plan[name] / 2**20 if name in plan else None for name in QUANTITIES}
        | {f"{name}, %": 100.0 * plan[name] / first[name] if name in plan else None for name in QUANTITIES}
        for layout, plan in plans.items()
    ]


def main() -> None:
    """Compile for each layout and write the row."""
    parser = records.parser(__doc__, repeats=1)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    flags = parser.parse_args()
    plans = layouts.plans(flags) if flags.platform == "cpu" else beside_pytorch(flags)
    records.write("memory", flags, table(plans))


if __name__ == "__main__":
    main()
