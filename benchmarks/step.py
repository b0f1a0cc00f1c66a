"""Whole steps, training (augmentation, forward, backward, update) and inference, beside PyTorch's.

    python -m benchmarks.step --variant=paper --batch=128 --what=training

PyTorch runs the same net in all its modes and layouts first, each by itself; the fastest of each mode then takes turns
with ours, and with products of square matrices, whose rate is what shares are of. On a CPU that is done twice: as
installed, where our program sets for itself what it needs and PyTorch runs as its users start it, and at best, where
PyTorch gets the allocator settings that serve it best.
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Iterable
from typing import Any

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import LayerShape, layer_shapes
from benchmarks import records
from benchmarks.harness import AT_BEST, Contender, Race, columns, fastest, jax_environment, race, torch_device

OURS = "ours"
WITH_AUGMENTATION = "ours, with augmentation"
# PyTorch's mode "frozen", for inference: its compiler takes weights as constants and stores them as serves it best.
FROZEN = {"TORCHINDUCTOR_FREEZING": "1"}


def main() -> None:
    """Runs the columns that the platform has and writes one row."""
    flags = parse()
    lines, facts = [], {}
    for column, environment in columns(flags.platform).items():
        print(f"{column}:", file=sys.stderr)
        peers = [best for mode in flags.modes for best in fastest_layout(flags, mode, environment)]
        result = race([*ours(flags), *peers, *matmuls(flags)], flags.repeats, flags.seconds)
        lines += table(flags, column, result)
        facts[column] = result.facts
    records.write("step", flags, lines, facts=facts)


def parse() -> argparse.Namespace:
    """The flags."""
    parser = records.parser(__doc__, repeats=11)
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch (%(default)s)")
    parser.add_argument("--what", choices=("training", "inference"), default="training")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], help="PyTorch's (benchmarks/peer.py)")
    parser.add_argument("--layouts", nargs="+", default=["NCHW", "channels_last"], help="PyTorch's")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a repeat lasts at least (%(default)s)")
    parser.add_argument(
        "--ours_environment", nargs="*", default=[], metavar="NAME=VALUE", help="settings for our side, to try them"
    )
    return parser.parse_args()


def ours(flags: argparse.Namespace) -> list[Contender]:
    """Our side: the same work as the peer's, and in training also with the augmentation that the peer does without."""
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}
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
    """PyTorch in this mode, in the layout that serves it best; nothing if it fails in all of them."""
    task = "benchmarks.peer:" + ("train_step" if flags.what == "training" else "predict_step")
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}
    arguments |= {"device": torch_device(flags.platform), "mode": mode}
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
    """Products of large square matrices in both frameworks."""
    arguments = {"size": matmul_size(flags), "precision": flags.precision}
    return [
        Contender("JAX", "benchmarks.ours:matmul", arguments, jax_environment(flags.platform), tuned=True),
        Contender("PyTorch", "benchmarks.peer:matmul", {**arguments, "device": torch_device(flags.platform)}, AT_BEST),
    ]


def matmul_size(flags: argparse.Namespace) -> int:
    """Large enough for the rate to be the hardware's; PyTorch's bfloat16 crawls on CPUs that lack the instructions."""
    if flags.platform == "gpu":
        return 8192
    return 3072 if flags.precision == "float32" else 1024


def table(flags: argparse.Namespace, column: str, result: Race) -> list[dict[str, Any]]:
    """A line for each contender: time, rate, share of the matmul peak, and how many times as fast ours is."""
    peak = matmul_rate(result, matmul_size(flags))
    work = operations(flags.variant, flags.width, flags.what) * flags.batch
    steps = result.times[flags.what]
    return [
        {
            "column": column,
            "contender": name,
            "ms": 1e3 * times.median,
            "quartiles": f"{records.rounded(1e3 * times.low)} to {records.rounded(1e3 * times.high)}",
            "images/s": flags.batch / times.median,
            "TFLOP/s": work / times.median / 1e12,
            "share of matmul peak": work / times.median / peak,
            "ours is faster": f"{times.median / steps[OURS].median:.2f}x",
        }
        for name, times in steps.items()
    ] + [
        {
            "column": column,
            "contender": f"matmul {matmul_size(flags)}, {name}",
            "ms": 1e3 * times.median,
            "quartiles": f"{records.rounded(1e3 * times.low)} to {records.rounded(1e3 * times.high)}",
            "images/s": None,
            "TFLOP/s": 2 * matmul_size(flags) ** 3 / times.median / 1e12,
            "share of matmul peak": None,
            "ours is faster": None,
        }
        for name, times in result.times["matmul"].items()
    ]


def matmul_rate(result: Race, size: int) -> float:
    """The higher of the two frameworks' rates, in operations a second."""
    return 2 * size**3 / min(times.median for times in result.times["matmul"].values())


def operations(variant: str, width: float, what: str) -> int:
    """Operations for one image: two for each multiply-add of the layer table, three times that in training.

    Forward, gradient of the input and gradient of the kernel take the same number, except that nothing needs the
    gradient of the image.
    """
    config: Config = importlib.import_module(f"configs.{variant}").get_config()
    model = dataclasses.replace(config.model, conv_width=width, fc_width=width)
    shapes = list(layer_shapes(build_net(model), model.image_size, model.num_classes))
    forward = 2 * sum(shape.multiply_adds for shape in shapes)
    return forward if what == "inference" else 3 * forward - 2 * _first_with_kernel(shapes).multiply_adds


def _first_with_kernel(shapes: Iterable[LayerShape]) -> LayerShape:
    return next(shape for shape in shapes if shape.kernel_shape)


if __name__ == "__main__":
    main()
