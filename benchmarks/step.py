"""Whole steps beside PyTorch's: training (augmentation, forward, backward, update) and inference.

    python -m benchmarks.step --variant=paper --batch=128 --what=training

PyTorch first runs the same net in each mode and layout alone. The faster layout of each mode then takes turns with ours
and with products of square matrices, whose rate is the peak that shares refer to. A CPU is measured twice: as
installed, where PyTorch runs as its users start it (our program tunes itself), and at best, where PyTorch gets the
allocator settings that are best for it.
"""

import argparse
import sys
from typing import Any

from benchmarks import records
from benchmarks.harness import AT_BEST, Contender, Race, columns, fastest, jax_environment, race, torch_device
from benchmarks.nets import inference_operations, net_config, net_shapes, training_operations

OURS = "ours"
WITH_AUGMENTATION = "ours, with augmentation"
# PyTorch's mode "frozen", for inference: its compiler treats weights as constants and chooses their memory layout.
FROZEN = {"TORCHINDUCTOR_FREEZING": "1"}


def main() -> None:
    """Run the comparisons of the platform and write one row."""
    flags = parse()
    lines, notes = [], {}
    for column, environment in columns(flags.platform).items():
        print(f"{column}:", file=sys.stderr)
        peers = [best for mode in flags.modes for best in fastest_layout(flags, mode, environment)]
        result = race([*ours(flags), *peers, *matmuls(flags)], flags.repeats, flags.seconds)
        lines += table(flags, column, result)
        notes[column] = result.notes
    records.write("step", flags, lines, notes=notes)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=11)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    parser.add_argument("--what", choices=("training", "inference"), default="training")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], help="PyTorch's (benchmarks/peer.py)")
    parser.add_argument("--layouts", nargs="+", default=["NCHW", "channels_last"], help="PyTorch's")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a repeat lasts, at least (%(default)s)")
    parser.add_argument(
        "--ours_environment", nargs="*", default=[], metavar="NAME=VALUE", help="variables for our side, to try them"
    )
    return parser.parse_args()


def ours(flags: argparse.Namespace) -> list[Contender]:
    """Return our side: the same work as the peer's, and in training also with augmentation, which the peer lacks."""
    arguments = records.net_arguments(flags)
    environment = {**jax_environment(flags.platform), **dict(item.split("=", 1) for item in flags.ours_environment)}
    if flags.what == "inference":
        return [Contender(OURS, "benchmarks.ours:predict_step", arguments, environment, tuned=True)]
    return [
        Contender(
            name, "benchmarks.ours:train_step", {**arguments, "augmentation": augmentation}, environment, tuned=True
        )
        for name, augmentation in ((OURS, False), (WITH_AUGMENTATION, True))
    ]


def fastest_layout(flags: argparse.Namespace, mode: str, environment: dict[str, str]) -> list[Contender]:
    """Return PyTorch in this mode and in its fastest layout; nothing if it fails in all layouts."""
    task = "benchmarks.peer:" + ("train_step" if flags.what == "training" else "predict_step")
    arguments = {**records.net_arguments(flags), "device": torch_device(flags.platform), "mode": mode}
    candidates = [
        Contender(
            f"PyTorch {mode}, {layout}",
            task,
            {**arguments, "layout": layout},
            {**environment, **(FROZEN if mode == "frozen" else {})},
        )
        for layout in flags.layouts
    ]
    return fastest(candidates, flags.what, min(3, flags.repeats), flags.seconds)


def matmuls(flags: argparse.Namespace) -> list[Contender]:
    """Return products of large square matrices in both frameworks."""
    arguments = {"size": matmul_size(flags), "precision": flags.precision}
    return [
        Contender("JAX", "benchmarks.ours:matmul", arguments, jax_environment(flags.platform), tuned=True),
        Contender("PyTorch", "benchmarks.peer:matmul", {**arguments, "device": torch_device(flags.platform)}, AT_BEST),
    ]


def matmul_size(flags: argparse.Namespace) -> int:
    """Return a size that reaches the hardware's rate; small for bfloat16 on a CPU, where PyTorch may be very slow."""
    if flags.platform == "gpu":
        return 8192
    return 3072 if flags.precision == "float32" else 1024


def table(flags: argparse.Namespace, column: str, result: Race) -> list[dict[str, Any]]:
    """Return a line per contender: time, rate, share of the matmul peak, and the ratio of its time to ours."""
    peak = matmul_rate(result, matmul_size(flags))
    total = operations(flags.variant, flags.width, flags.what) * flags.batch
    steps = result.times[flags.what]
    return [
        {
            "column": column,
            "contender": name,
            **records.milliseconds(times),
            "images/s": flags.batch / times.median,
            "TFLOP/s": total / times.median / 1e12,
            "share of matmul peak": total / times.median / peak,
            "ours is faster": f"{times.median / steps[OURS].median:.2f}x",
        }
        for name, times in steps.items()
    ] + [
        {
            "column": column,
            "contender": f"matmul {matmul_size(flags)}, {name}",
            **records.milliseconds(times),
            "images/s": None,
            "TFLOP/s": 2 * matmul_size(flags) ** 3 / times.median / 1e12,
            "share of matmul peak": None,
            "ours is faster": None,
        }
        for name, times in result.times["matmul"].items()
    ]


def matmul_rate(result: Race, size: int) -> float:
    """Return the rate of the faster framework, in operations per second."""
    return 2 * size**3 / min(times.median for times in result.times["matmul"].values())


def operations(variant: str, width: float, what: str) -> int:
    """Return the operations for one image, in training or in inference."""
    shapes = net_shapes(net_config(variant, width))
    return inference_operations(shapes) if what == "inference" else training_operations(shapes)


if __name__ == "__main__":
    main()
