"""The time of a training step by operation of the device.

    python -m benchmarks.kernels --variant=paper --batch=128 --precision=bfloat16 --platform=gpu

JAX's profiler traces a few steps; --trace keeps the trace, which TensorBoard and Perfetto can open. Each line names an
operation of the compiled program and the operation of the model that it was made from. On a GPU also the bytes that the
program says it moves (benchmarks/gpu_program.py), and the rate that follows.
"""

import argparse
import collections
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from alexnet_jax import runtime
from benchmarks import gpu_program, records

# An instruction of a compiled program and what it was made from: `%fusion.3 = ... metadata={op_name="jit(...)/..."}`.
_INSTRUCTION = re.compile(r"%?([\w.-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"")


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=5)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    parser.add_argument("--top", type=int, default=30, help="how many operations are listed (%(default)s)")
    parser.add_argument("--trace", type=Path, default=None, help="a folder for the trace (temporary)")
    return parser.parse_args()


def main() -> None:
    """Trace steps and write the row."""
    flags = parse()
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[flags.platform]

    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.trace or Path(temporary)
        program = trace(flags, folder)
        times = operation_times(folder)
    flags.trace = str(flags.trace)
    launched = gpu_program.kernels(program) if flags.platform == "gpu" else []
    moved = {kernel.name: kernel.moved for kernel in launched}
    sources = dict(_INSTRUCTION.findall(program))
    records.write("kernels", flags, table(times, sources, moved, flags.repeats, flags.top), kernels=len(launched))


def trace(flags: argparse.Namespace, folder: Path) -> str:
    """Run warm steps under the profiler; return the text of the program."""
    import jax  # after JAX_PLATFORMS is set

    from benchmarks import ours

    step, state, examples, statistics = ours.training(**records.net_arguments(flags), augmentation=True)
    program = step.lower(state, examples, statistics).compile().as_text()
    for _ in range(3):
        state, _ = step(state, examples, statistics)
    jax.block_until_ready(state)
    with jax.profiler.trace(str(folder)):
        for _ in range(flags.repeats):
            state, _ = step(state, examples, statistics)
        jax.block_until_ready(state)
    return program


def operation_times(folder: Path) -> dict[tuple[str, str], float]:
    """Return the total seconds of each (instruction, kernel) in the trace; on a CPU the two are the same."""
    from jax.profiler import ProfileData

    times: dict[tuple[str, str], float] = collections.defaultdict(float)
    for file in folder.rglob("*.xplane.pb"):
        planes = list(ProfileData.from_file(str(file)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        for plane in devices or planes:
            for line in plane.lines:
                for event in line.events:
                    # On a GPU each stream is a line; the other lines repeat the same work in larger pieces.
                    if (not devices or line.name.startswith("Stream")) and (name := dict(event.stats).get("hlo_op")):
                        times[str(name), event.name] += event.duration_ns / 1e9
    return times


def table(
    times: dict[tuple[str, str], float], sources: dict[str, str], moved: dict[str, int], steps: int, top: int
) -> list[dict[str, Any]]:
    """Return the longest operations and, in one line, the rest; milliseconds and bytes are those of one step."""
    total = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])

    def line(operation: str, kernel: str, source: str, seconds: float, size: int | None) -> dict[str, Any]:
        rate = {"MB": size and size / 1e6, "GB/s": size and size * steps / seconds / 1e9} if moved else {}
        share = {"ms": 1e3 * seconds / steps, "%": 100 * seconds / total}
        return {"operation": operation, "kernel": kernel, "made from": source[-80:], **share, **rate}

    lines = [
        line(
            name,
            kernel[:60] if kernel != name else "",
            re.sub(r"jit\(\w+\)/|shmap_body/|shard_map/", "", sources.get(name, "")),
            seconds,
            moved.get(name),
        )
        for (name, kernel), seconds in longest[:top]
    ]
    rest = line(f"{max(0, len(longest) - top)} others", "", "", sum(seconds for _, seconds in longest[top:]), None)
    return [*lines, rest, line("all", "", "", total, sum(moved.values()))]


if __name__ == "__main__":
    runtime.use_huge_pages()
    main()
