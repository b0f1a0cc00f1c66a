"""From the start of a process to its first training steps: with nothing compiled before, and with what a run left.

python -m benchmarks.startup --variant=paper --batch=128

Times count from the start of the process: when the imports are done, when the state is made, and after the first step.
The warm figures are the medians of --repeats starts with the cache of the cold one.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, jax_environment, once, torch_device


def ours(started: float, **arguments: Any) -> dict[str, float]:
    """Seconds of each part of our start."""
    import alexnet_jax.train  # noqa: F401 - what training imports
    from benchmarks import ours

    imported = time.time()
    work = ours.train_step(**arguments, augmentation=True)
    return _first_steps(started, imported, time.time(), work.pieces["training"])


def peer(started: float, **arguments: Any) -> dict[str, float]:
    """Seconds of each part of PyTorch's start."""
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
    """What the contender's process says of its start, now."""
    arguments = {**contender.arguments, "started": time.time()}
    return once(Contender(contender.name, contender.task, arguments, contender.environment, contender.tuned))


def contenders(flags: argparse.Namespace, cache: Path) -> list[Contender]:
    """Both sides, their caches in a folder that is empty at first."""
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}
    peers = {**arguments, "device": torch_device(flags.platform), "layout": "NCHW"}
    jax_cache = {**jax_environment(flags.platform), "JAX_COMPILATION_CACHE_DIR": str(cache / "xla")}
    torch_cache = {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
    return [
        Contender("ours", "benchmarks.startup:ours", arguments, jax_cache, tuned=True),
        Contender("PyTorch eager", "benchmarks.startup:peer", {**peers, "mode": "eager"}, torch_cache),
        Contender("PyTorch compiled", "benchmarks.startup:peer", {**peers, "mode": "compiled"}, torch_cache),
    ]


def main() -> None:
    """Starts each contender once cold and then, in turns, warm; writes the row."""
    parser = records.parser(__doc__, repeats=3)
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch (%(default)s)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")
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
        | {f"{part}, s": statistics.median(start[part] for start in starts[name]) for part in starts[name][0]}
        for cache, starts in (("cold", cold), ("warm", warm))
        for name in starts
    ]
    records.write("startup", flags, lines)


if __name__ == "__main__":
    main()
