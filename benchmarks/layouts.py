"""The layouts that benchmarks compare: the transfers that each needs, by the layer table, and those of the program."""

import argparse
import math
from typing import Any, NamedTuple

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import Classifier, Convolution, Dense, LayerShape, Net, ResponseNorm
from alexnet_jax.model.sharding import momentum_spec, parameter_specs
from alexnet_jax.parallel.towers import DATA_AXIS
from benchmarks.collectives import BYTES, Collective, collectives, in_words
from benchmarks.harness import Contender, jax_environment, once
from benchmarks.nets import net_shapes
from benchmarks.records import net_arguments

METRICS = 3  # numbers that are summed for the log


class Layout(NamedTuple):
    """The fields of the config that distribute a run over devices."""

    data: int = 1
    tower: int = 1
    shard_fully_connected: bool = False
    shard_momentum: bool = False
    gradient_accumulation: int = 1

    @property
    def devices(self) -> int:
        """Return the number of devices."""
        return self.data * self.tower

    @property
    def is_hybrid(self) -> bool:
        """Return whether the devices of `data` hold shards of the fully connected layers."""
        return self.fully_connected_shards > 1

    @property
    def fully_connected_shards(self) -> int:
        """Return the number of shards along `data` of each fully connected layer."""
        return self.data if self.shard_fully_connected else 1

    def __str__(self) -> str:
        more = ["hybrid"] if self.is_hybrid else []
        more += ["sharded momentum"] if self.shard_momentum else []
        more += [f"{self.gradient_accumulation} micro-batches"] if self.gradient_accumulation > 1 else []
        return ", ".join([f"{self.data} x {self.tower}", *more])

    def put_into(self, config: Config) -> None:
        """Set these fields of a config."""
        config.mesh.data, config.mesh.tower = self.data, self.tower
        config.mesh.shard_fully_connected = self.shard_fully_connected
        config.mesh.shard_momentum = self.shard_momentum
        config.gradient_accumulation = self.gradient_accumulation


TWO_TOWERS = (
    *(Layout(), Layout(tower=2), Layout(data=2), Layout(data=2, tower=2), Layout(data=4, tower=2)),
    *(Layout(data=4, tower=2, shard_momentum=True), Layout(gradient_accumulation=4)),
)
ONE_TOWER = (
    *(Layout(), Layout(data=2), Layout(data=8), Layout(data=8, shard_momentum=True)),
    *(Layout(data=2, shard_fully_connected=True), Layout(data=8, shard_fully_connected=True)),
)


def layouts_of(net: Net) -> tuple[Layout, ...]:
    """Return the layouts that the net allows."""
    return TWO_TOWERS if net.towers == 2 else ONE_TOWER


def plan(layout: list, variant: str, batch: int, precision: str, width: float) -> dict[str, Any]:
    """Compile the training step on this layout, without running it.

    Returns:
      "collectives" as text; in bytes per device: "sent" and "needed" in a step, the "parameters" and the "momentum"
      that it holds, "temporaries" (activations, gradients) and the "peak" of memory, as the compiler has planned them.
    """
    import jax

    from alexnet_jax.optimizer import create_optimizer
    from alexnet_jax.parallel.mesh import batch_sharding, create_mesh
    from alexnet_jax.state import abstract_train_state, create_model
    from alexnet_jax.train_step import create_train_step
    from benchmarks import ours

    chosen = Layout(*layout)
    config = ours.config_of(variant, batch, precision, width, augmentation=True)
    chosen.put_into(config)
    config.eval.batch_size = batch
    mesh, model = create_mesh(config.mesh), create_model(config)
    optimizer = create_optimizer(config, model.net, ours.NUM_STEPS)
    state = abstract_train_state(config, model, optimizer, mesh)
    size = ours.STORED_SIZE
    shapes = {"image": ((batch, size, size, 3), "uint8"), "label": ((batch,), "int32")}
    examples = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }
    step: Any = create_train_step(config, model, optimizer, mesh, ours.NUM_STEPS)
    compiled = step.lower(state, examples, ours.statistics(size)).compile()
    memory = compiled.memory_analysis()
    transferred = collectives(compiled.as_text())
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "collectives": in_words(transferred),
        "sent": sum(each.sent for each in transferred),
        "needed": sum(each.sent for each in transfers(config, chosen)),
        "parameters": _bytes_per_device(state.params),
        "momentum": _bytes_per_device(state.opt_state),
        "temporaries": memory.temp_size_in_bytes,
        "peak": memory.argument_size_in_bytes + memory.temp_size_in_bytes + fresh_outputs,
    }


def _bytes_per_device(tree: Any) -> int:
    """Return the bytes of a tree of abstract arrays on each device."""
    import jax

    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def plans(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the `plan` of every layout of the net that the flags choose, by the layout's name."""
    config = Config()
    config.model.variant = flags.variant
    compiled = {}
    for layout in layouts_of(build_net(config.model)):
        arguments = {**net_arguments(flags), "layout": layout}
        environment = jax_environment("cpu") | {"JAX_NUM_CPU_DEVICES": str(layout.devices)}
        compiled[str(layout)] = once(
            Contender(str(layout), "benchmarks.layouts:plan", arguments, environment, tuned=True)
        )
    return compiled


def transfers(config: Config, layout: Layout) -> list[Collective]:
    """Return all transfers that one step needs: the theoretical minimum.

    Where the towers meet, activations are gathered and their gradients scattered (logits are summed). Gradients are
    summed over `data` once per step. A hybrid gathers the inputs of the fully connected layers and scatters the logits.
    """
    shapes = net_shapes(config)
    needed = [transfer for shape in shapes for transfer in _activations(config, layout, shape)]
    specs = parameter_specs(build_net(config.model), layout.tower, layout.fully_connected_shards)
    if layout.data > 1:
        for shape in filter(lambda shape: shape.kernel_shape, shapes):
            needed += _gradients(layout, shape, specs[shape.layer.name])
        needed.append(Collective("all-reduce", METRICS * BYTES["f32"], layout.data))  # the numbers for the log
    return needed


def _activations(config: Config, layout: Layout, shape: LayerShape) -> list[Collective]:
    """Return the transfers before or in one layer, forward and backward."""
    images = config.batch_size // layout.data // layout.gradient_accumulation  # on a device at a time
    bytes_each = {"float32": BYTES["f32"], "bfloat16": BYTES["bf16"]}[config.precision]
    times = layout.gradient_accumulation
    if layout.is_hybrid:
        return _hybrid_activations(layout, shape, images * layout.data, bytes_each)
    if layout.tower == 1:
        return []
    match shape.layer:
        case Convolution(sees="all") | Dense(sees="all"):
            size = images * math.prod(shape.input_shape) * bytes_each
            return [Collective(kind, size, layout.tower, times) for kind in ("all-gather", "reduce-scatter")]
        case Classifier():
            return [Collective("all-reduce", images * shape.output_shape[0] * BYTES["f32"], layout.tower, times)]
        case ResponseNorm(across="all"):  # half a window from each neighbor
            height, width, _ = shape.input_shape
            size = images * height * width * (shape.layer.size // 2) * bytes_each
            return [Collective("collective-permute", size, layout.tower, times)] * 4
    return []


def _hybrid_activations(layout: Layout, shape: LayerShape, images: int, bytes_each: int) -> list[Collective]:
    """Return the same for a hybrid; `images` are those of all devices."""
    times = layout.gradient_accumulation
    match shape.layer:
        case Classifier():
            size = images * shape.output_shape[0] * BYTES["f32"]
        case Dense():
            size = images * math.prod(shape.input_shape) * bytes_each
        case _:
            return []
    return [Collective(kind, size, layout.data, times) for kind in ("all-gather", "reduce-scatter")]


def _gradients(layout: Layout, shape: LayerShape, specs: dict) -> list[Collective]:
    """Return the transfers of the gradients of one layer."""
    assert shape.kernel_shape
    needed = []
    for name, whole in (("kernel", shape.kernel_shape), ("bias", shape.kernel_shape[-1:])):
        if layout.is_hybrid and DATA_AXIS in specs[name]:
            continue  # each device has the whole gradient of its shard
        is_sharded = any(axis is not None for axis in specs[name])
        size = math.prod(whole) // (layout.tower if is_sharded else 1) * BYTES["f32"]
        scattered = (
            layout.shard_momentum and name == "kernel" and DATA_AXIS in momentum_spec(specs[name], whole, layout.data)
        )
        kinds = ("reduce-scatter", "all-gather") if scattered else ("all-reduce",)
        needed += [Collective(kind, size, layout.data) for kind in kinds]
    return needed
