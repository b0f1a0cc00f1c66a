"""Every layout trains as one device does, and sends what its layers need and nothing else.

Compiling is what costs, so the quick tests have each kind of layout once: two towers, data and both, sharded momentum
and micro-batches for the two-tower nets; the hybrid on 8, 4 and 2 devices for the one-tower net. The tests marked
slow have the rest. A layout is compiled once; the same program is run and read.

Numbers have 64 bits here. With 32, a maximum over a window that hangs on the last bit of a sum may fall on another
pixel, and from there on twenty steps of so narrow a net lead elsewhere: rightly, but no longer to the same numbers.
"""

import functools
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from training_pieces import momentum_of, pieces

from alexnet_jax.config import Config
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.model.sharding import momentum_spec
from alexnet_jax.parallel.mesh import create_mesh, shard_batch
from alexnet_jax.predict_step import create_predict_step
from alexnet_jax.state import TrainState, abstract_train_state, create_model, create_train_state
from alexnet_jax.train_step import create_train_step
from benchmarks.collectives import Collective, collectives, in_words
from benchmarks.layouts import Layout, transfers
from configs import quickstart

STEPS, BATCH, SIDE = 20, 16, 72
STATISTICS = Statistics(
    mean_image=np.full((SIDE, SIDE, 3), 120.0, np.float32),
    color_std=np.array([20.0, 37.0, 120.0], np.float32),
    color_axes=np.eye(3, dtype=np.float32),
)
LAYOUTS = {
    "paper": [Layout(tower=2), Layout(data=4, tower=2), Layout(data=8, shard_momentum=True)],
    "original": [Layout(data=4, tower=2, shard_momentum=True, gradient_accumulation=2)],
    "caffe": [Layout(data=2, tower=2)],
    "one_weird_trick": [
        Layout(data=8, shard_fully_connected=True),
        Layout(data=4, shard_fully_connected=True, shard_momentum=True),
        Layout(data=2, shard_fully_connected=True, gradient_accumulation=2),
    ],
}
CASES = [(variant, layout) for variant, layouts in LAYOUTS.items() for layout in layouts]
FOR_TWO_TOWERS = [
    *(Layout(tower=2), Layout(data=2), Layout(data=2, tower=2), Layout(data=4, tower=2), Layout(data=8)),
    *(Layout(data=8, shard_momentum=True), Layout(gradient_accumulation=4)),
]
FOR_ONE_TOWER = [
    *(Layout(data=2), Layout(data=8), Layout(data=8, shard_momentum=True), Layout(gradient_accumulation=4)),
    *(Layout(data=n, shard_fully_connected=True) for n in (2, 4)),
]
OTHER_CASES = [
    (variant, layout)
    for variant in LAYOUTS
    for layout in (FOR_ONE_TOWER if variant == "one_weird_trick" else FOR_TWO_TOWERS)
    if (variant, layout) not in CASES
]
every_layout = pytest.mark.parametrize(("variant", "layout"), CASES, ids=lambda value: str(value).replace(", ", "-"))


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def config_of(variant: str, layout: Layout) -> Config:
    """Narrow, and every random thing on: crops, mirroring, color noise, dropout."""
    config = quickstart.get_config()
    config.batch_size = config.eval.batch_size = BATCH
    config.model.variant = variant
    config.model.image_size = 67
    config.model.conv_width, config.model.fc_width = 0.0833, 0.0079
    config.data.flip = True
    config.data.color_noise = "original"
    config.precision = "float64"
    config.optimizer.learning_rate = 0.0001
    layout.put_into(config)
    return config


def batch(number: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(number)
    images = random.integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8)
    return {"image": images, "label": random.integers(0, 10, BATCH).astype(np.int32)}


@functools.cache
def fresh(variant: str) -> TrainState:
    config = config_of(variant, Layout())
    state = jax.device_get(create_train_state(config, *pieces(config, STEPS)))
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.ndim else leaf, state)


def place(state: TrainState, config: Config) -> TrainState:
    abstract = abstract_train_state(config, *pieces(config, STEPS))
    return jax.tree.map(lambda leaf, where: jax.device_put(leaf, where.sharding), state, abstract)


@functools.cache
def training(variant: str, layout: Layout) -> tuple[str, TrainState, list[dict]]:
    """The text of the compiled step, the state after twenty of them, and what they reported."""
    config = config_of(variant, layout)
    mesh = create_mesh(config.mesh)
    state = place(fresh(variant), config)
    step = create_train_step(config, *pieces(config, STEPS), STEPS)
    compiled = step.lower(state, shard_batch(mesh, batch(0)), STATISTICS).compile()
    reported = []
    for number in range(STEPS):
        state, metrics = compiled(state, shard_batch(mesh, batch(number)), STATISTICS)
        reported.append(jax.device_get(metrics))
    return compiled.as_text(), jax.device_get(state), reported


def relative_error(found, expected) -> float:
    """The largest deviation of any array of a tree, relative to that array's largest value."""
    errors = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-30), found, expected)
    return max(jax.tree.leaves(errors))


@every_layout
def test_twenty_steps_give_what_one_device_gives(variant: str, layout: Layout) -> None:
    _, state, reported = training(variant, layout)
    _, expected, expected_reports = training(variant, Layout())
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), expected.params, fresh(variant).params)
    assert all(jax.tree.leaves(moved))
    assert relative_error((reported, state), (expected_reports, expected)) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "layout"), OTHER_CASES, ids=lambda value: str(value).replace(", ", "-"))
def test_every_net_does_so_in_every_layout(variant: str, layout: Layout) -> None:
    test_twenty_steps_give_what_one_device_gives(variant, layout)


@every_layout
def test_nothing_is_sent_but_what_the_layers_need(variant: str, layout: Layout) -> None:
    """Bytes of each kind of collective: a stray one fails."""
    text, _, _ = training(variant, layout)
    found = collectives(in_single_precision(text))
    config = config_of(variant, layout)
    config.precision = "float32"
    assert sent(found) == sent(transfers(config, layout)), in_words(found)


def in_single_precision(text: str) -> str:
    """The program with the types that training has."""
    return text.replace("f64[", "f32[")


def sent(found: list[Collective]) -> Counter:
    """{(kind, devices): bytes}; how many there are is the compiler's choice, it may send several arrays at once."""
    total: Counter = Counter()
    for each in found:
        total[each.kind, each.devices] += each.times * each.array_bytes
    return total


def test_one_device_sends_nothing() -> None:
    assert collectives(training("paper", Layout())[0]) == []


def test_towers_meet_four_times_forward_and_gradients_of_a_hybrid_s_units_stay() -> None:
    """Written out once, apart from the layer table: section 3.5 of the paper, section 4 of "One weird trick"."""
    towers = Counter(each.kind for each in collectives(training("paper", Layout(tower=2))[0]))
    assert towers == {"all-gather": 3, "reduce-scatter": 3, "all-reduce": 1}  # conv3, fc6, fc7, there and back; fc8
    hybrid = Layout(data=8, shard_fully_connected=True)
    found = collectives(training("one_weird_trick", hybrid)[0])
    added_up = sorted(each.array_bytes for each in found if each.kind == "all-reduce")
    params = fresh("one_weird_trick").params
    convolutions = [leaf.nbytes for name, layer in params.items() if name.startswith("conv") for leaf in layer.values()]
    assert added_up == sorted([*convolutions, 10 * 8, 3 * 8])  # and the classifier's biases, and what is reported


def test_a_hybrid_predicts_what_one_device_predicts() -> None:
    found = []
    for layout in (Layout(), Layout(data=4, shard_fully_connected=True)):
        config = config_of("one_weird_trick", layout)
        mesh = create_mesh(config.mesh)
        params = place(fresh("one_weird_trick"), config).params
        predict = create_predict_step(config, create_model(config), mesh, views=1)
        found.append(jax.device_get(predict(params, STATISTICS, shard_batch(mesh, batch(0))["image"])))
    assert relative_error(found[1], found[0]) < 1e-9


def test_what_a_device_keeps_of_a_sharded_momentum() -> None:
    """A part of everything but biases; parameters whole; the global shapes as ever, so that checkpoints fit."""
    config = config_of("paper", Layout(data=8, shard_momentum=True))
    state = place(fresh("paper"), config)
    for name, layer in momentum_of(state.opt_state).items():
        whole = state.params[name]["kernel"]
        part = layer["kernel"].addressable_shards[0].data
        assert layer["kernel"].shape == whole.shape == whole.addressable_shards[0].data.shape
        divides = any(size % 8 == 0 for size in whole.shape)
        assert part.size == (whole.size // 8 if divides else whole.size)
        assert layer["bias"].sharding.is_fully_replicated
    assert momentum_spec(jax.P(None, "tower"), (9216, 4096), 4) == jax.P("data", "tower")


def test_frozen_layers_keep_every_bit_and_send_nothing() -> None:
    layout = Layout(data=2)
    config = config_of("paper", layout)
    config.optimizer.frozen = ("conv1", "conv2", "conv3")
    mesh = create_mesh(config.mesh)
    model, optimizer, _ = pieces(config, STEPS)
    params = fresh("paper").params
    state = place(fresh("paper").replace(opt_state=optimizer.init(params)), config)
    step = create_train_step(config, model, optimizer, mesh, STEPS)
    compiled = step.lower(state, shard_batch(mesh, batch(0)), STATISTICS).compile()
    state = jax.device_get(compiled(state, shard_batch(mesh, batch(0)), STATISTICS)[0])
    for name in params:
        same = np.array_equal(params[name]["kernel"], state.params[name]["kernel"])
        assert same == (name in config.optimizer.frozen), name
    trained = sum(
        leaf.nbytes for name in params if name not in config.optimizer.frozen for leaf in params[name].values()
    )
    assert sent(collectives(compiled.as_text())) == {("all-reduce", 2): trained + 3 * 8}  # and what is reported
