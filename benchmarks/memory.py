"""How many bytes of a device's memory the training step needs, on different meshes, as its compiled program says.

python -m benchmarks.memory --variant=paper --batch=128

Nothing is run: the compiler plans all memory before the first step. On a GPU PyTorch's side is the peak that its
allocator counted over some steps; on a CPU it keeps no count.
"""

import argparse
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, jax_environment, once, torch_device

MESHES = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2))  # data x tower


def ours(data: int, tower: int, variant: str, batch: int, precision: str, width: float) -> dict[str, float]:
    """Bytes on each device: of the arguments (state and batch), of the temporaries, and at the peak."""
    import jax

    from alexnet_jax.optimizer import create_optimizer
    from alexnet_jax.parallel.mesh import batch_sharding, create_mesh
    from alexnet_jax.state import abstract_train_state
    from alexnet_jax.train import create_train_step
    from benchmarks import ours

    config = ours.config_of(variant, batch, precision, width, augmentation=True)
    config.mesh.data, config.mesh.tower = data, tower
    mesh = create_mesh(config)
    optimizer = create_optimizer(config, ours.NUM_STEPS)
    state = abstract_train_state(config, optimizer, mesh)
    size = ours.STORED_SIZE
    shapes = {"image": ((batch, size, size, 3), "uint8"), "label": ((batch,), "int32")}
    examples = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }
    step: Any = create_train_step(config, optimizer, mesh, ours.NUM_STEPS)
    plan = step.lower(state, examples, ours.statistics(size)).compile().memory_analysis()
    fresh_outputs = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return {
        "arguments": plan.argument_size_in_bytes,
        "temporaries": plan.temp_size_in_bytes,
        "peak": plan.argument_size_in_bytes + plan.temp_size_in_bytes + fresh_outputs,
    }


def peer(**arguments: Any) -> dict[str, float]:
    """Bytes at the peak of some steps on a GPU."""
    import torch

    from benchmarks import peer

    peer.train_step(**arguments).pieces["training"](3)
    return {"peak": torch.cuda.max_memory_allocated()}


def lines_of(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each mesh that fits the net, and on a GPU for each of PyTorch's modes."""
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}
    measured: dict[str, dict[str, float]] = {}
    for data, tower in MESHES if flags.platform == "cpu" else MESHES[:1]:
        if tower > flags.towers:
            continue
        environment = jax_environment(flags.platform)
        if flags.platform == "cpu":
            environment["JAX_NUM_CPU_DEVICES"] = str(data * tower)
        mesh = {"data": data, "tower": tower}
        contender = Contender("ours", "benchmarks.memory:ours", {**arguments, **mesh}, environment, tuned=True)
        measured[f"ours, {data} (data) x {tower} (tower)"] = once(contender)
    for mode in ("eager", "compiled") if flags.platform == "gpu" else ():
        peers = {**arguments, "device": torch_device(flags.platform), "layout": "channels_last", "mode": mode}
        measured[f"PyTorch {mode}"] = once(Contender("PyTorch", "benchmarks.memory:peer", peers))
    return [
        {"contender": name}
        | {
            f"{part}, MiB": found[part] / 2**20 if part in found else None
            for part in ("arguments", "temporaries", "peak")
        }
        for name, found in measured.items()
    ]


def main() -> None:
    """Compiles for each mesh and writes the row."""
    parser = records.parser(__doc__, repeats=1)
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--towers", type=int, default=2, help="how many towers it has (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch, over all devices (%(default)s)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")
    flags = parser.parse_args()
    records.write("memory", flags, lines_of(flags))


if __name__ == "__main__":
    main()
