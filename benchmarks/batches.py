"""Images per second of the training step over batch sizes, with the share of the matmul peak.

    python -m benchmarks.batches --variant=paper --precision=bfloat16 --batches 512 2048 128 --platform=gpu

One process compiles the steps of all batch sizes side by side, then times them one after the other. float32 products
may use TF32 on a GPU, as JAX does by default; the peak is that of square products of the same precision.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, jax_environment, race
from benchmarks.step import matmul_size, operations
from benchmarks.work import Work

MATMUL = "matmul"


def ours(variant: str, precision: str, width: float, batches: list[int], size: int) -> Work:
    """Build a step, with augmentation, for each batch size, and the product of two matrices of this size."""
    from benchmarks import ours

    def compiled_step(batch: int) -> Work:
        work = ours.train_step(variant, batch, precision, width, augmentation=True)
        work.pieces["training"](1)
        return work

    with ThreadPoolExecutor() as pool:
        works = list(pool.map(compiled_step, batches))
    steps = {str(batch): work.pieces["training"] for batch, work in zip(batches, works, strict=True)}
    return Work(ours.matmul(size, precision).pieces | steps, works[0].notes)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=5)
    records.add_platform_flag(parser)
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128], help="images in a batch (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a repeat lasts, at least (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure and write the row."""
    flags = parse()
    size = matmul_size(flags)
    arguments = {name: getattr(flags, name) for name in ("variant", "precision", "width", "batches")}
    contender = Contender(
        "ours", "benchmarks.batches:ours", {**arguments, "size": size}, jax_environment(flags.platform), tuned=True
    )
    result = race([contender], flags.repeats, flags.seconds)
    times = {piece: by_name["ours"] for piece, by_name in result.times.items()}
    peak = 2 * size**3 / times.pop(MATMUL).median
    done = operations(flags.variant, flags.width, "training")

    def line(batch: int) -> dict[str, Any]:
        speed = batch / times[str(batch)].median
        shares = {"TFLOP/s": done * speed / 1e12, "share of matmul peak": done * speed / peak}
        return {"batch": batch, **records.milliseconds(times[str(batch)]), "images/s": speed, **shares}

    lines = [line(batch) for batch in sorted(flags.batches)]
    records.write("batches", flags, lines, matmul_peak=records.rounded(peak / 1e12), notes=result.notes)


if __name__ == "__main__":
    main()
