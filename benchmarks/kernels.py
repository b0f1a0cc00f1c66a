"""The time of a training step by operation of the device.

    python -m benchmarks.kernels --variant=paper --batch=128 --precision=bfloat16 --platform=gpu

JAX's profiler traces a few steps; --trace keeps the trace, which TensorBoard and Perfetto can open. Each line names an
operation of the compiled program and the operation of the model that it was made from.
"""

import collections
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from alexnet_jax import runtime
from benchmarks import records

# An instruction of a compiled program and what it was made from: `%fusion.3 = ... metadata={op_name="jit(...)/..."}`.
_INSTRUCTION = re.compile(r"%?([\w.-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"")


def main() -> None:
    """Trace steps and write the row."""
    parser = records.parser(__doc__, repeats=5)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    parser.add_argument("--top", type=int, default=30, help="how many operations are listed (%(default)s)")
    parser.add_argument("--trace", type=Path, default=None, help="a folder for the trace (temporary)")
    flags = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[flags.platform]

    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.trace or Path(temporary)
        sources = trace(flags, folder)
        times = operation_times(folder)
    flags.trace = str(flags.trace)
    records.write("kernels", flags, table(times, sources, flags.repeats, flags.top))


def trace(flags: Any, folder: Path) -> dict[str, str]:
    """Run warm steps under the profiler; return the model's operation for each instruction of the program."""
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
    return dict(_INSTRUCTION.findall(program))


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
    times: dict[tuple[str, str], float], sources: dict[str, str], steps: int, top: int
) -> list[dict[str, str | float]]:
    """Return the longest operations and, in one line, the rest; milliseconds are those of one step."""
    total = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])
    lines: list[dict[str, str | float]] = [
        {
            "operation": name,
            "kernel": kernel[:60] if kernel != name else "",
            "made from": re.sub(r"jit\(\w+\)/|shmap_body/|shard_map/", "", sources.get(name, ""))[-80:],
            "ms": 1e3 * seconds / steps,
            "%": 100 * seconds / total,
        }
        for (name, kernel), seconds in longest[:top]
    ]
    rest = sum(seconds for _, seconds in longest[top:])
    for name, seconds in ((f"{max(0, len(longest) - top)} others", rest), ("all", total)):
        ms, percent = 1e3 * seconds / steps, 100 * seconds / total
        lines.append({"operation": name, "kernel": "", "made from": "", "ms": ms, "%": percent})
    return lines


if __name__ == "__main__":
    runtime.use_huge_pages()
    main()
