"""The layouts that benchmarks and documents compare: what each has to send, from the layer table alone, and what the
compiler makes of it.
"""

import argparse
import math
from typing import Any, NamedTuple

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import Classifier, Convolution, Dense, LayerShape, Net, ResponseNorm, layer_shapes
from alexnet_jax.model.sharding import velocity_spec
from alexnet_jax.parallel.towers import DATA_AXIS, parameter_specs
from benchmarks.collectives import BYTES, Collective, collectives, in_words
from benchmarks.harness import Contender, jax_environment, once

METRICS = 3  # numbers that are added up for the log


class Layout(NamedTuple):
    """The fields of the config that lay a run out over devices."""

    data: int = 1
    tower: int = 1
    fully_connected: str = "replicated"
    shard_velocity: bool = False
    gradient_accumulation: int = 1

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.data * self.tower

    @property
    def workers(self) -> int:
        """Over how many devices fully connected layers are split apart from towers."""
        return 1 if self.fully_connected == "replicated" else self.data

    def __str__(self) -> str:
        more = [self.fully_connected] if self.workers > 1 else []
        more += ["split velocity"] if self.shard_velocity else []
        more += [f"{self.gradient_accumulation} micro-batches"] if self.gradient_accumulation > 1 else []
        return ", ".join([f"{self.data} x {self.tower}", *more])

    def put_into(self, config: Config) -> None:
        """Sets these fields of a config."""
        config.mesh.data, config.mesh.tower = self.data, self.tower
        config.mesh.fully_connected, config.mesh.shard_velocity = self.fully_connected, self.shard_velocity
        config.gradient_accumulation = self.gradient_accumulation


TWO_TOWERS = (
    *(Layout(), Layout(tower=2), Layout(data=2), Layout(data=2, tower=2), Layout(data=4, tower=2)),
    *(Layout(data=4, tower=2, shard_velocity=True), Layout(gradient_accumulation=4)),
)
ONE_TOWER = (
    *(Layout(), Layout(data=2), Layout(data=8), Layout(data=8, shard_velocity=True)),
    Layout(data=2, fully_connected="gathered"),
    *(Layout(data=8, fully_connected=scheme) for scheme in ("gathered", "broadcast", "exchanged")),
)


def layouts_of(net: Net) -> tuple[Layout, ...]:
    """Those that the net allows."""
    return TWO_TOWERS if net.towers == 2 else ONE_TOWER


def plan(layout: list, variant: str, batch: int, precision: str, width: float) -> dict[str, Any]:
    """The compiled training step on this layout: what it sends and what it holds. Nothing is run.

    Returns:
      "collectives" in words, "sent" and "needed" bytes that a device sends in a step, those of the "parameters" and the
      "velocity" that it holds, "temporaries" (activations, gradients) and "peak", all as the compiler planned them.
    """
    import jax

    from alexnet_jax.optimizer import create_optimizer
    from alexnet_jax.parallel.mesh import batch_sharding, create_mesh
    from alexnet_jax.state import abstract_train_state
    from alexnet_jax.train_step import create_train_step
    from benchmarks import ours

    chosen = Layout(*layout)
    config = ours.config_of(variant, batch, precision, width, augmentation=True)
    chosen.put_into(config)
    config.eval.batch_size = batch
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
    compiled = step.lower(state, examples, ours.statistics(size)).compile()
    memory = compiled.memory_analysis()
    found = collectives(compiled.as_text())
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "collectives": in_words(found),
        "sent": sum(each.sent for each in found),
        "needed": sum(each.sent for each in transfers(config, chosen)),
        "parameters": _bytes_here(state.params),
        "velocity": _bytes_here(state.opt_state.velocity),
        "temporaries": memory.temp_size_in_bytes,
        "peak": memory.argument_size_in_bytes + memory.temp_size_in_bytes + fresh_outputs,
    }


def _bytes_here(tree: Any) -> int:
    """Bytes of a tree of abstract arrays on each device."""
    import jax

    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def plans(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What `plan` finds for every layout of the net that the flags name, by the layout in words."""
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width")}
    config = Config()
    config.model.variant = flags.variant
    found = {}
    for layout in layouts_of(build_net(config.model)):
        environment = jax_environment("cpu") | {"JAX_NUM_CPU_DEVICES": str(layout.devices)}
        task = Contender(
            str(layout), "benchmarks.layouts:plan", {**arguments, "layout": layout}, environment, tuned=True
        )
        found[str(layout)] = once(task)
    return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name a net."""
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch, over all devices (%(default)s)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")


def transfers(config: Config, layout: Layout) -> list[Collective]:
    """All that the devices have to tell each other in one step: the theoretical minimum.

    Where the towers meet, activations are gathered and their gradients scattered (scores are added up); gradients are
    added up over `data` once a step; a hybrid exchanges what enters the fully connected layers and what each of them
    makes of it, and all labels.
    """
    net = build_net(config.model)
    shapes = list(layer_shapes(net, config.model.image_size, config.model.num_classes))
    found = [transfer for shape in shapes for transfer in _activations(config, layout, shape)]
    specs = parameter_specs(net, layout.tower, layout.workers)
    if layout.data > 1:
        for shape in filter(lambda shape: shape.kernel_shape, shapes):
            found += _gradients(layout, shape, specs[shape.layer.name])
        small = "all-gather" if layout.workers > 1 else "all-reduce"  # the labels, or what is logged
        count = config.batch_size if layout.workers > 1 else METRICS
        found.append(Collective(small, count * BYTES["s32"], layout.data))
    return found


def _activations(config: Config, layout: Layout, shape: LayerShape) -> list[Collective]:
    """What is sent before or in one layer, forward and backward."""
    images = config.batch_size // layout.data // layout.gradient_accumulation  # on a device at a time
    bytes_each = {"float32": BYTES["f32"], "bfloat16": BYTES["bf16"]}[config.precision]
    times = layout.gradient_accumulation
    if layout.workers > 1:
        return _of_hybrid(layout, shape, images, bytes_each, times)
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


def _of_hybrid(layout: Layout, shape: LayerShape, images: int, bytes_each: int, times: int) -> list[Collective]:
    """The same where fully connected layers are split over `data`."""
    rounds = 1 if layout.fully_connected == "gathered" else layout.workers
    images = images * layout.workers // rounds  # in a round
    match shape.layer:
        case Classifier():
            size = images * shape.output_shape[0] * BYTES["f32"]
            return [Collective("all-reduce", size, layout.workers, rounds * times)]
        case Dense():
            from_convolutions = len(shape.input_shape) == 3
            broadcast = from_convolutions and layout.fully_connected == "broadcast"
            kinds = ("broadcast", "reduce") if broadcast else ("all-gather", "reduce-scatter")
            size = images * math.prod(shape.input_shape) * bytes_each
            return [Collective(kind, size, layout.workers, rounds * times) for kind in kinds]
    return []


def _gradients(layout: Layout, shape: LayerShape, specs: dict) -> list[Collective]:
    """What is sent of the gradients of one layer."""
    assert shape.kernel_shape
    found = []
    for name, whole in (("kernel", shape.kernel_shape), ("bias", shape.kernel_shape[-1:])):
        if layout.workers > 1 and DATA_AXIS in specs["kernel"]:
            continue  # complete where they are
        split = any(axis is not None for axis in specs[name])
        size = math.prod(whole) // (layout.tower if split else 1) * BYTES["f32"]
        scattered = layout.shard_velocity and DATA_AXIS in velocity_spec(specs[name], whole, layout.data)
        kinds = ("reduce-scatter", "all-gather") if scattered else ("all-reduce",)
        found += [Collective(kind, size, layout.data) for kind in kinds]
    return found
