"""Numbers of an accelerator beside the CPU's: response normalization, pooling and a whole training step.

    python -m benchmarks.agreement --variant=paper --batch=16 --platform=gpu

Both run in one process, on the same values. The reference is the CPU in float32; an error is the length of the
difference over the length of the reference, of the worst array. A step is compared by its loss and by its momentum
buffers, which are the gradients of all parameters. Exits with 1 if an error exceeds what its precision allows; in
bfloat16 a step may be half as wrong again as the CPU's own.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import lrn, pooling, records

# Of products: full float32; the same as by default, TF32 on a GPU; and all of the net in bfloat16.
PRECISIONS = ("highest", "default", "bfloat16")
ALLOWED_OF_OPERATIONS = {"float32": 1e-5, "bfloat16": 1e-2}
ALLOWED_OF_STEPS = {"highest": 1e-3, "default": 1e-1}  # TF32 has ten bits of mantissa


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=1)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    parser.set_defaults(batch=16)
    return parser.parse_args()


def main() -> None:
    """Compare, write the row, and check it."""
    flags = parse()
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda,cpu"}[flags.platform]
    lines = [*of_operations(flags.batch), *of_steps(flags)]
    records.write("agreement", flags, lines)
    if wrong := [line["what"] for line in lines if not line["error"] <= line["allowed"]]:
        sys.exit(f"error: {', '.join(wrong)} differ from the CPU's numbers by more than rounding.")


def of_operations(batch: int) -> list[dict[str, Any]]:
    """Return a line for each operation, size and precision: values and gradients."""
    import jax
    import numpy as np

    from alexnet_jax import runtime

    def on(device: jax.Device, function: Callable, *arrays: np.ndarray) -> list[np.ndarray]:
        compiled = jax.jit(function, compiler_options=runtime.compiler_options(device.platform))
        return [np.asarray(array, np.float32) for array in compiled(*jax.device_put(arrays, device))]

    def compare(name: str, function: Callable, side: int, channels: int, precision: str) -> dict[str, Any]:
        def with_gradient(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
            y, backward = jax.vjp(function, x)
            return y, backward(cotangent)[0]

        random = np.random.default_rng(0)
        x = random.normal(0, 30, (batch, side, side, channels)).astype(precision)  # as large as responses are
        cotangent = random.normal(size=jax.eval_shape(function, x).shape).astype(precision)
        found = on(jax.devices()[0], with_gradient, x, cotangent)
        expected = on(jax.devices("cpu")[0], with_gradient, x.astype("float32"), cotangent.astype("float32"))
        errors = {part: error(a, b) for part, a, b in zip(("values", "gradient"), found, expected, strict=True)}
        return line(f"{name} {side} x {side} x {channels}", precision, errors, ALLOWED_OF_OPERATIONS[precision])

    return [
        compare(name, module.operation(), side, channels, precision)
        for name, module in (("response normalization", lrn), ("pooling", pooling))
        for side, channels in module.SIZES
        for precision in ALLOWED_OF_OPERATIONS
    ]


def of_steps(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for each precision of the first step of a training."""
    import jax

    from benchmarks import ours

    config = ours.config_of(flags.variant, flags.batch, "float32", flags.width, augmentation=True)
    config.model.initialization = "he"  # with the published deviations, gradients would be as small as rounding
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    expected = first_step(config, cpu)

    def compare(device: Any, precision: str) -> dict[str, float]:
        config.precision = "bfloat16" if precision == "bfloat16" else "float32"
        with jax.default_matmul_precision("highest" if precision == "highest" else "default"):
            found = first_step(config, device)
        return {name: error(found[name], expected[name]) for name in expected}

    allowed = ALLOWED_OF_STEPS | {"bfloat16": 1.5 * max(compare(cpu, "bfloat16").values())}
    return [line("step", precision, compare(device, precision), allowed[precision]) for precision in PRECISIONS]


def first_step(config: Any, device: Any) -> dict[str, Any]:
    """Return the loss of the first step and the momentum buffers after it, from a state made on the CPU."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from alexnet_jax.optimizer import create_optimizer
    from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS
    from alexnet_jax.state import create_model, create_train_state, state_shardings
    from alexnet_jax.train_step import create_train_step
    from benchmarks import ours

    def mesh_of(device: Any) -> Mesh:
        return Mesh(np.array([[device]]), (DATA_AXIS, TOWER_AXIS), axis_types=(AxisType.Auto,) * 2)

    mesh, model = mesh_of(device), create_model(config)
    optimizer = create_optimizer(config, model.net, ours.NUM_STEPS)
    state = create_train_state(config, model, optimizer, mesh_of(jax.devices("cpu")[0]))
    state = jax.device_put(jax.device_get(state), state_shardings(config, model, optimizer, mesh))
    examples, statistics = ours.random_batch(config, mesh, ours.STORED_SIZE)
    step = create_train_step(config, model, optimizer, mesh, ours.NUM_STEPS)
    state, metrics = step(state, examples, statistics)
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    momentum = {f"{path[-2].key}/{path[-1].key}": np.asarray(leaf) for path, leaf in leaves if leaf.ndim}
    return {"loss": np.asarray(metrics["loss"])} | momentum


def error(found: Any, expected: Any) -> float:
    """Return |found - expected| / |expected|; also of one that is not finite."""
    import numpy as np

    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def line(what: str, precision: str, errors: dict[str, float], allowed: float) -> dict[str, Any]:
    """Return a line with the worst of the errors."""
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return {"what": what, "precision": precision, "error": errors[worst], "of": worst, "allowed": allowed}


if __name__ == "__main__":
    main()
