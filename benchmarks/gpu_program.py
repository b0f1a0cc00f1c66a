"""What XLA makes of the training step or of inference for NVIDIA H100s, on a machine that has none.

    bash benchmarks/gpu_environment.sh     # once: .venv-cuda, with the CUDA build of JAX (6 GB); no GPU, no driver
    .venv-cuda/bin/python -m benchmarks.gpu_program --variant=paper --batch=512 --precision=bfloat16

Nothing is run. The whole program is compiled for an H100 SXM that is described by its published numbers; then every
kernel of the program, and what it reads and writes, is known exactly and without noise. Two things are not: which
cuDNN or cuBLAS algorithm a GPU would choose, and how long a kernel takes. The floor is what the memory alone needs.

    ... --what=inference                   # the center view's log-probabilities instead of the training step
    ... --tower=2                          # two devices, a tower on each; --data=N: N shards of the batch
    ... --against=COMMIT                   # the same for another commit, in a checkout of its own, and the difference
    ... --against=precision=float32        # the same with another value of one of the flags
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import records
from benchmarks.collectives import BYTES, computations_of
from benchmarks.harness import ROOT

# An H100 SXM as XLA describes GPUs (GpuTargetConfigProto): openxla/xla#25919, jax-ml/jax#28376, NVIDIA's data sheet.
MEMORY_BANDWIDTH = 3_352_320_000_000  # bytes per second
H100 = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: {MEMORY_BANDWIDTH} device_memory_size: 84929347584 l2_cache_size: 52428800
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info {{ major: 9 minor: 7 }} runtime_version {{ major: 12 minor: 8 patch: 0 }}
"""

SETTINGS = ("what", "variant", "batch", "precision", "data", "tower")
TABLE = ("kernels", "GB moved", "floor, ms", "collectives", "memory, GiB")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NOT_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"}


class Kernel(NamedTuple):
    """One launch: its name in the program, kind, bytes of operands and results, and the operation that it is from."""

    name: str
    kind: str
    moved: int
    source: str


def kernels(program: str) -> list[Kernel]:
    """Return the kernels of a compiled GPU program (`compiled.as_text()`), in the order in which they are launched."""
    computations, entry = computations_of(program)
    return list(_kernels_of(entry, computations))


def _kernels_of(computation: str, computations: dict[str, list[str]]) -> Iterator[Kernel]:
    types: dict[str, str] = {}
    for line in computations[computation]:
        if not (match := _INSTRUCTION.match(line)):
            continue
        name, result, operation, rest = match.groups()
        types[name] = result
        if operation in _NOT_KERNELS or operation.endswith("-done"):
            continue
        if operation == "call":  # a command buffer: kernels that are launched as one graph
            yield from _kernels_of(_attribute(line, r"to_apply=%?([\w.\-]+)"), computations)
            continue
        if operation == "while":
            raise ValueError(f"a loop: its kernels can't be counted ({line.strip()[:100]})")
        operands = dict.fromkeys(re.findall(r"%([\w.\-]+)", _arguments(rest)))
        moved = _written(operation, result) + sum(sum(_sizes(types[operand])) for operand in operands)
        yield Kernel(name, _kind(operation, line), moved, _attribute(line, r'op_name="([^"]*)"'))


def _arguments(text: str) -> str:
    """Return the text up to the parenthesis that closes the arguments."""
    depth = 1
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:end]
    raise ValueError(f"arguments without an end: {text[:100]}")


def _sizes(types: str) -> list[int]:
    """Return the bytes of each array in the text of a type."""
    return [BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in _ARRAY.findall(types)]


def _written(operation: str, result: str) -> int:
    """Return the bytes of the results.

    A library call also returns its scratch memory, uint8, and the start of a transfer its operand: they do not count.
    """
    arrays = list(zip(_sizes(result), _ARRAY.findall(result), strict=True))
    if operation.endswith("-start"):
        return arrays[-1][0]
    scratch = operation == "custom-call" and result.startswith("(")
    return sum(size for size, (dtype, _) in arrays if not (scratch and dtype == "u8"))


def _kind(operation: str, line: str) -> str:
    if operation == "custom-call":
        return _attribute(line, r'custom_call_target="([^"]*)"').strip("_$")
    if operation != "fusion":
        return operation
    custom = _attribute(line, r'"fusion_config".*?"kind":"_*(\w+)"')
    return custom or {"kLoop": "loop", "kInput": "reduction or transposition"}.get(
        _attribute(line, r"kind=(\w+)"), "fusion"
    )


def _attribute(line: str, pattern: str) -> str:
    match = re.search(pattern, line)
    return match[1] if match else ""


def compile_for_h100(settings: dict[str, Any]) -> Any:
    """Compile the program of these settings for as many H100s as its mesh has devices."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from alexnet_jax.optimizer import create_optimizer
    from alexnet_jax.parallel.mesh import batch_sharding
    from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS
    from alexnet_jax.predict_step import create_predict_step
    from alexnet_jax.state import abstract_train_state, create_model
    from alexnet_jax.train_step import create_train_step
    from benchmarks import ours

    data, tower, batch = settings["data"], settings["tower"], settings["batch"]
    described = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x1x{data * tower}")
    grid = np.array(described.devices).reshape(data, tower)
    mesh = Mesh(grid, (DATA_AXIS, TOWER_AXIS), axis_types=(AxisType.Auto,) * 2)
    config = ours.config_of(settings["variant"], batch, settings["precision"], 1.0, augmentation=True)
    config.mesh.data, config.mesh.tower = data, tower
    model = create_model(config)
    optimizer = create_optimizer(config, model.net, ours.NUM_STEPS)
    state = abstract_train_state(config, model, optimizer, mesh)
    size = ours.STORED_SIZE
    images = jax.ShapeDtypeStruct((batch, size, size, 3), "uint8", sharding=batch_sharding(mesh))
    labels = jax.ShapeDtypeStruct((batch,), "int32", sharding=batch_sharding(mesh))
    whole = NamedSharding(mesh, P())
    statistics = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), ours.statistics(size))
    if settings["what"] == "inference":
        return create_predict_step(config, model, mesh, views=1).lower(state.params, statistics, images).compile()
    step: Any = create_train_step(config, model, optimizer, mesh, ours.NUM_STEPS)
    return step.lower(state, {"image": images, "label": labels}, statistics).compile()


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Compile and return the totals of each device's program, its kernels by kind, and its ten largest kernels."""
    compiled = compile_for_h100(settings)
    launched = kernels(compiled.as_text())
    transfers = Counter(kernel.kind.removesuffix("-start") for kernel in launched if kernel.kind.endswith("-start"))
    memory = compiled.memory_analysis()
    moved = sum(kernel.moved for kernel in launched)
    largest = sorted(launched, key=lambda kernel: -kernel.moved)[:10]
    return {
        "kernels": len(launched),
        "GB moved": moved / 1e9,
        "floor, ms": 1e3 * moved / MEMORY_BANDWIDTH,
        "collectives": ", ".join(f"{count} {kind}" for kind, count in sorted(transfers.items())) or "none",
        "memory, GiB": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
        "kinds": dict(Counter(kernel.kind for kernel in launched).most_common()),
        "largest": [[records.rounded(kernel.moved / 1e6), kernel.kind, kernel.source] for kernel in largest],
    }


def measure_commit(commit: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure in a temporary checkout of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            if not (tree / "benchmarks" / Path(__file__).name).exists():
                sys.exit(f"error: {commit} has no benchmarks/{Path(__file__).name}; give a later commit.")
            flags = [f"--{name}={value}" for name, value in settings.items()]
            row = Path(folder) / "row.jsonl"
            command = [sys.executable, "-m", "benchmarks.gpu_program", *flags, f"--results={row}"]
            subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
            measured = json.loads(row.read_text())
            return measured["lines"][0] | {name: measured[name] for name in ("kinds", "largest")}
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def parse_flags() -> argparse.Namespace:
    """Return the flags; ends the process with a sentence if they are wrong."""
    parser = records.parser(__doc__, repeats=1)
    parser.add_argument("--what", choices=("training", "inference"), default="training")
    records.add_net_flags(parser)
    parser.add_argument("--data", type=int, default=1, help="devices along data (%(default)s)")
    parser.add_argument("--tower", type=int, choices=(1, 2), default=1, help="devices along tower (%(default)s)")
    parser.add_argument("--against", help="a commit, or one of the flags with another value: precision=float32")
    parser.set_defaults(batch=512, precision="bfloat16")
    flags = parser.parse_args()
    if flags.against and "=" in flags.against and flags.against.split("=", 1)[0] not in SETTINGS:
        parser.error(f"--against={flags.against}: there is no such setting; there are {', '.join(SETTINGS)}")
    return flags


def main() -> None:
    """Compile, print what the program holds, and append the row."""
    flags = parse_flags()
    settings = {name: getattr(flags, name) for name in SETTINGS}
    measured = {records.commit() if not flags.against or "=" not in flags.against else "as it is": measure(settings)}
    if flags.against and "=" in flags.against:
        name, value = flags.against.split("=", 1)
        measured[flags.against] = measure(settings | {name: type(settings[name])(value)})
    elif flags.against:
        measured[flags.against] = measure_commit(flags.against, settings)
    first = next(iter(measured.values()))
    lines = [{"program": name, **{column: each[column] for column in TABLE}} for name, each in measured.items()]
    records.write("gpu_program", flags, lines, kinds=first["kinds"], largest=first["largest"])
    print("\nKernels by kind: " + ", ".join(f"{count} {kind}" for kind, count in first["kinds"].items()))
    print("\nThe ten largest, MB:")
    for moved, kind, source in first["largest"]:
        print(f"{moved:8.0f}  {kind:<28} {source[-80:]}")


if __name__ == "__main__":
    main()
