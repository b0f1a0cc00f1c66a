"""From the start of a process to its first training steps: with empty caches, and with those of an earlier run.

python -m benchmarks.startup --variant=paper --batch=128

Times count from the start of the process to the end of the imports, of the initialization, and of the first step. The
warm figures are medians of --repeats starts with the caches that the cold start filled.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, jax_environment, once, torch_device


def ours(started: float, **arguments: Any) -> dict[str, float]:
    """Return the seconds of each stage of our start."""
    import alexnet_jax.train  # noqa: F401 - training imports it
    from benchmarks import ours

    imported = time.time()
    work = ours.train_step(**arguments, augmentation=True)
    return _first_steps(started, imported, time.time(), work.pieces["training"])


def peer(started: float, **arguments: Any) -> dict[str, float]:
    """Return the seconds of each stage of PyTorch's start."""
    from benchmarks import peer

    imported = time.time()
    work = peer.train_step(**arguments)
    return _first_steps(started, imported, time.time(), work.pieces["training"])


def _first_steps(started: float, imported: float, built: float, step: Any) -> dict[str, float]:
    step(1)
    first = time.time()
    step(1)
    return {
        "imports": imported - started,
        "state": built - started,
        "first step": first - started,
        "second step": time.time() - first,
    }


def start(contender: Contender) -> dict[str, float]:
    """Start the contender's process now; return the seconds of each stage."""
    return once(dataclasses.replace(contender, arguments={**contender.arguments, "started": time.time()}))


def contenders(flags: argparse.Namespace, cache: Path) -> list[Contender]:
    """Return both sides, with caches in a folder that is empty at first."""
    arguments = records.net_arguments(flags)
    peers = {**arguments, "device": torch_device(flags.platform), "layout": "NCHW"}
    jax_cache = {**jax_environment(flags.platform), "JAX_COMPILATION_CACHE_DIR": str(cache / "xla")}
    torch_cache = {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
    return [
        Contender("ours", "benchmarks.startup:ours", arguments, jax_cache, tuned=True),
        Contender("PyTorch eager", "benchmarks.startup:peer", {**peers, "mode": "eager"}, torch_cache),
        Contender("PyTorch compiled", "benchmarks.startup:peer", {**peers, "mode": "compiled"}, torch_cache),
    ]


def main() -> None:
    """Start each contender once cold and then, in turns, warm; write the row."""
    parser = records.parser(__doc__, repeats=3)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        racing = contenders(flags, Path(cache))
        cold = {contender.name: [start(contender)] for contender in racing}
        warm: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in racing}
        for _ in range(flags.repeats):
            for contender in racing:
                warm[contender.name].append(start(contender))
    lines = [
        {"contender": name, "cache": cache}
        | {f"{stage}, s": statistics.median(each[stage] for each in starts[name]) for stage in starts[name][0]}
        for cache, starts in (("cold", cold), ("warm", warm))
        for name in starts
    ]
    records.write("startup", flags, lines)


if __name__ == "__main__":
    main()
