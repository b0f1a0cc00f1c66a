"""The update rule against float64 transcriptions of the paper and of the released code, and the published rates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from training_pieces import counts_of, momentum_of

from alexnet_jax import optimizer
from alexnet_jax.config import Config, OptimizerConfig
from alexnet_jax.model.layers import Classifier, Convolution, Net

NET = Net(1, (Convolution("conv1", 4, 3), Convolution("conv2", 4, 3), Classifier("fc8")))
THIRD_ROOT = 250 ** (-1 / 3)


def recipe(batch_size: int = 128, **fields) -> Config:
    return Config(batch_size=batch_size, optimizer=OptimizerConfig(**fields))


def changed(config: Config, **fields) -> Config:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **fields))


PAPER = recipe()
MANUAL_145 = recipe(
    drops=(25 / 91, 51 / 91, 79 / 91),
    bias_rate=2.0,
    bias_drops=(25 / 91,),
    conv1_drops=(67 / 91,),
    conv1_frozen_from=72 / 91,
)
DETERMINISTIC_170 = recipe(
    drops=(0.25, 0.5, 0.75),
    drop_factor=THIRD_ROOT,
    bias_rate=2.0,
    bias_drops=(0.5,),
    conv1_frozen_from=74 / 95,
)
CAFFE = recipe(drops=(2 / 9, 4 / 9, 6 / 9, 8 / 9), bias_rate=2.0, bias_drops=(2 / 9, 4 / 9, 6 / 9, 8 / 9))
TORCHVISION = recipe(drops=(1 / 3, 2 / 3), bias_drops=(1 / 3, 2 / 3), weight_decay=1e-4, decay_biases=True)

# One step an epoch: (config, steps, {first epoch: rate} of kernels, of biases, of conv1's kernels), from the sources.
RUNS = {
    "paper": (PAPER, 90, *(3 * ({0: 1e-2, 25: 1e-3, 51: 1e-4, 79: 1e-5},))),
    "manual #145": (
        MANUAL_145,
        91,
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 79: 1e-5},
        {0: 2e-2, 25: 2e-3},
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 67: 1e-5, 72: 0.0},
    ),
    "deterministic #170": (
        DETERMINISTIC_170,
        95,
        {0: 1e-2, 24: 1e-2 * THIRD_ROOT, 48: 1e-2 * THIRD_ROOT**2, 71: 4e-5},
        {0: 2e-2, 48: 2e-3},
        {0: 1e-2, 24: 1e-2 * THIRD_ROOT, 48: 1e-2 * THIRD_ROOT**2, 71: 4e-5, 74: 0.0},
    ),
}


def rate_at(step: int, rates: dict[int, float]) -> float:
    return rates[max(first for first in rates if first <= step)]


def random_tree(seed: int, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (3, 3, 2, 4), "conv2": (3, 3, 4, 4), "fc8": (6, 4)}
    return {
        layer: {
            "kernel": (scale * rng.standard_normal(shape)).astype(np.float32),
            "bias": (scale * rng.standard_normal(shape[-1])).astype(np.float32),
        }
        for layer, shape in shapes.items()
    }


def apply(transformation: optax.GradientTransformation, params: dict, gradients: list[dict]) -> tuple[list[dict], list]:
    """Parameters and states before the first and after each update."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    history, states = [params], [state]
    for gradient in gradients:
        params, state = step(params, state, gradient)
        history.append(params)
        states.append(state)
    return history, states


def transcription(params, gradients, rates, decayed, momentum=0.9, decay=5e-4):
    """Section 5 of the paper and weights.cu:148-195, one array at a time in float64."""
    w = np.asarray(params, np.float64)
    v = np.zeros_like(w)
    for step, gradient in enumerate(gradients):
        rate = rate_at(step, rates)
        if rate > 0:
            v = momentum * v - (decay * rate * w if decayed else 0) - rate * np.asarray(gradient, np.float64)
            w = w + v
    return w, v


@pytest.mark.parametrize("run", RUNS)
def test_equals_the_published_rule(run):
    config, num_steps, kernel_rates, bias_rates, conv1_rates = RUNS[run]
    params, gradients = random_tree(0), [random_tree(1 + step) for step in range(num_steps)]
    history, states = apply(optimizer.create_optimizer(config, NET, num_steps), params, gradients)
    for layer in params:
        for name in ("kernel", "bias"):
            rates = bias_rates if name == "bias" else conv1_rates if layer == "conv1" else kernel_rates
            w, v = transcription(
                params[layer][name], [g[layer][name] for g in gradients], rates, decayed=name == "kernel"
            )
            np.testing.assert_allclose(history[-1][layer][name], w, rtol=1e-5, atol=1e-6, err_msg=f"{layer} {name}")
            np.testing.assert_allclose(momentum_of(states[-1])[layer][name], v, rtol=1e-5, atol=1e-7)
    frozen_from = optimizer.first_step(config.optimizer.conv1_frozen_from, num_steps)
    assert counts_of(states[-1]) == {num_steps, frozen_from}  # conv1's chain stands still once it is frozen


def test_decays_biases_only_if_asked():
    params, gradients = random_tree(0), [random_tree(1 + step) for step in range(60)]
    history, _ = apply(optimizer.create_optimizer(TORCHVISION, NET, 60), params, gradients)
    rates = {0: 1e-2, 20: 1e-3, 40: 1e-4}
    for name in ("kernel", "bias"):
        w, _ = transcription(params["fc8"][name], [g["fc8"][name] for g in gradients], rates, True, decay=1e-4)
        np.testing.assert_allclose(history[-1]["fc8"][name], w, rtol=1e-5, atol=1e-6)


def test_equals_a_chain_of_optax_with_the_rate_before_the_trace():
    params, gradients = random_tree(0), [random_tree(1 + step) for step in range(90)]
    chain = optax.chain(
        optax.add_decayed_weights(5e-4, mask=lambda tree: jax.tree.map(lambda w: w.ndim > 1, tree)),
        optax.scale_by_learning_rate(optax.piecewise_constant_schedule(0.01, {25: 0.1, 51: 0.1, 79: 0.1})),
        optax.trace(decay=0.9),
    )
    ours, _ = apply(optimizer.create_optimizer(PAPER, NET, 90), params, gradients)
    theirs, _ = apply(chain, params, gradients)
    for a, b in zip(jax.tree.leaves(ours[-1]), jax.tree.leaves(theirs[-1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_differs_from_optax_sgd_after_a_drop_only():
    """Optax multiplies the old velocity by the new rate; in the paper's rule it runs out at the old one."""
    params = {"fc8": {"kernel": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    gradients = [jax.tree.map(lambda w, on=step < 10: np.full_like(w, on), params) for step in range(40)]
    config = recipe(drops=(0.25,), weight_decay=0.0)
    schedule = optimizer.learning_rate_schedule(config, 40)
    ours, theirs = (
        [float(params["fc8"]["kernel"][0, 0]) for params in apply(transformation, params, gradients)[0]]
        for transformation in (
            optimizer.create_optimizer(config, Net(1, (Classifier("fc8"),)), 40),
            optax.sgd(schedule, momentum=0.9),
        )
    )
    np.testing.assert_allclose(ours[:11], theirs[:11], rtol=1e-6)
    last_step, first_after_drop = ours[10] - ours[9], ours[11] - ours[10]
    assert first_after_drop == pytest.approx(0.9 * last_step, rel=1e-4)
    assert theirs[11] - theirs[10] == pytest.approx(0.1 * 0.9 * last_step, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "frozen", "moving"),
    [
        (recipe(conv1_frozen_from=0.5), [("conv1", "kernel")], [("conv1", "bias"), ("conv2", "kernel")]),
        (recipe(bias_rate=0.0), [("conv1", "bias"), ("fc8", "bias")], [("conv1", "kernel")]),
    ],
)
def test_skips_parameters_of_rate_zero_with_their_velocity(config, frozen, moving):
    gradients = [random_tree(1 + step) for step in range(10)]
    history, states = apply(optimizer.create_optimizer(config, NET, 10), random_tree(0), gradients)
    for layer, name in frozen:
        np.testing.assert_array_equal(history[-1][layer][name], history[5][layer][name])
        kept, last = (momentum_of(state).get(layer, {}).get(name) for state in (states[5], states[-1]))
        assert (kept is None and config.optimizer.bias_rate == 0) or np.array_equal(kept, last)
    for layer, name in moving:
        assert not np.array_equal(history[-1][layer][name], history[5][layer][name])


def test_fine_tuning_speeds_the_classifier_up_and_freezes_what_is_named():
    config = changed(MANUAL_145, last_layer_rate=10.0, frozen=("conv2",))
    params, gradients = random_tree(0), [random_tree(1 + step) for step in range(91)]
    history, states = apply(optimizer.create_optimizer(config, NET, 91), params, gradients)
    _, _, kernel_rates, bias_rates, conv1_rates = RUNS["manual #145"]
    for layer, factor in {"conv1": 1.0, "fc8": 10.0}.items():
        for name in ("kernel", "bias"):
            rates = bias_rates if name == "bias" else conv1_rates if layer == "conv1" else kernel_rates
            rates = {first: factor * rate for first, rate in rates.items()}
            w, v = transcription(
                params[layer][name], [g[layer][name] for g in gradients], rates, decayed=name == "kernel"
            )
            np.testing.assert_allclose(history[-1][layer][name], w, rtol=1e-5, atol=1e-5, err_msg=f"{layer} {name}")
            np.testing.assert_allclose(momentum_of(states[-1])[layer][name], v, rtol=1e-5, atol=1e-6)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(history[-1]["conv2"][name], params["conv2"][name])
    assert "conv2" not in momentum_of(states[-1])


def test_lars_is_optax_lars():
    """Norms of kernels only, the rate before the trace; biases as they are."""

    def kernels(tree):
        return jax.tree.map(lambda w: w.ndim > 1, tree)

    config = recipe(rule="lars", learning_rate=2.0, schedule="polynomial", warmup=0.2)
    schedule = optimizer.learning_rate_schedule(config, 40)
    lars = optax.lars(schedule, 5e-4, weight_decay_mask=kernels, trust_coefficient=0.001, trust_ratio_mask=kernels)
    params, gradients = random_tree(0), [random_tree(1 + step, scale=0.01) for step in range(40)]
    ours, states = apply(optimizer.create_optimizer(config, NET, 40), params, gradients)
    theirs, _ = apply(lars, params, gradients)
    for a, b in zip(jax.tree.leaves(ours[-1]), jax.tree.leaves(theirs[-1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(momentum_of(states[-1])) == jax.tree.structure(params)


def test_lars_takes_the_norm_of_a_whole_layer_wherever_its_parts_lie():
    mesh = jax.make_mesh((2, 2), ("data", "tower"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {
        "conv1": {"kernel": P(None, None, None, "tower"), "bias": P("tower")},
        "conv2": {"kernel": P(None, None, "data", "tower"), "bias": P("tower")},
        "fc8": {"kernel": P("tower", None), "bias": P()},
    }
    transformation = optimizer.create_optimizer(recipe(rule="lars", learning_rate=2.0), NET, 10)
    gradients = [random_tree(1 + step, scale=0.01) for step in range(10)]
    expected, _ = apply(transformation, random_tree(0), gradients)
    split = jax.device_put(random_tree(0), jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs))
    found, _ = apply(transformation, split, gradients)
    assert len(found[-1]["conv2"]["kernel"].sharding.device_set) == 4
    for a, b in zip(jax.tree.leaves(found[-1]), jax.tree.leaves(expected[-1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_rate_warms_up_and_falls_by_the_square():
    config = recipe(learning_rate=8.0, schedule="polynomial", warmup=0.1, bias_rate=0.5)
    for create, rate in ((optimizer.learning_rate_schedule, 8.0), (optimizer.bias_schedule, 4.0)):
        schedule = create(config, 100)
        found = [float(schedule(step)) for step in range(100)]
        steps = np.arange(100)
        expected = rate * (1 - steps / 100) ** 2 * np.minimum((steps + 1) / 10, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    stepwise = optimizer.learning_rate_schedule(recipe(warmup=0.5, drops=(0.25,)), 8)
    np.testing.assert_allclose([float(stepwise(step)) for step in range(5)], [0.0025, 0.005, 0.00075, 0.001, 0.001])


@pytest.mark.parametrize(("batch", "rate"), [(128, 0.01), (256, 0.02), (1024, 0.08)])
def test_rates_grow_with_the_batch_if_asked(batch, rate):
    """The author's notes of 2013 and cuda-convnet2: 0.01 for 128, 0.02 for 256; biases twice that."""
    config = recipe(batch, reference_batch=128, bias_rate=2.0)
    assert optimizer.learning_rate_schedule(config, 90)(0) == np.float32(rate)
    assert optimizer.bias_schedule(config, 90)(0) == np.float32(2 * rate)
    assert optimizer.conv1_schedule(config, 90)(0) == np.float32(rate)
    assert optimizer.learning_rate_schedule(recipe(batch), 90)(0) == np.float32(0.01)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 10009])
def test_rates_change_at_the_published_epochs(run, steps_per_epoch):
    config, num_epochs, *expected = RUNS[run]
    schedules = (optimizer.learning_rate_schedule, optimizer.bias_schedule, optimizer.conv1_schedule)
    for create, rates in zip(schedules, expected, strict=True):
        schedule = create(config, num_epochs * steps_per_epoch)
        published = {first: first for first in rates}
        if config is DETERMINISTIC_170:  # quarters of 95 epochs don't fall on whole epochs
            published |= {24: 23.75, 48: 47.5, 71: 71.25}
        before = rates[0]
        for first, rate in rates.items():
            step = round(published[first] * steps_per_epoch)
            assert schedule(step).dtype == jnp.float32
            np.testing.assert_allclose(schedule(step), rate, rtol=1e-7)
            np.testing.assert_allclose(schedule(max(step - 1, 0)), before, rtol=1e-7)
            before = rate


def test_caffe_and_torchvision_rates():
    kernels, biases = optimizer.learning_rate_schedule(CAFFE, 450_000), optimizer.bias_schedule(CAFFE, 450_000)
    for step, rate in {0: 1e-2, 99_999: 1e-2, 100_000: 1e-3, 200_000: 1e-4, 300_000: 1e-5, 449_999: 1e-6}.items():
        assert kernels(step) == np.float32(rate)
        assert biases(step) == np.float32(2 * rate)
    for create in (optimizer.learning_rate_schedule, optimizer.bias_schedule, optimizer.conv1_schedule):
        schedule = create(TORCHVISION, 90 * 5004)
        for epoch, rate in {0: 1e-2, 29.999: 1e-2, 30: 1e-3, 60: 1e-4, 89.999: 1e-4}.items():
            assert schedule(int(epoch * 5004)) == np.float32(rate)


def test_drops_that_fall_on_one_step_multiply():
    config = recipe(drops=(0.5,), conv1_drops=(0.51,))
    assert optimizer.conv1_schedule(config, 10)(5) == np.float32(1e-4)
    assert optimizer.conv1_schedule(config, 100)(50) == np.float32(1e-3)


@given(st.integers(1, 1000), st.integers(1, 100_000), st.data())
def test_whole_epochs_are_exact_steps(num_epochs, steps_per_epoch, data):
    epoch = data.draw(st.integers(0, num_epochs))
    step = optimizer.first_step(epoch / num_epochs, num_epochs * steps_per_epoch)
    assert step == epoch * steps_per_epoch


def test_is_the_same_on_a_mesh_and_the_momentum_lies_where_the_parameters_lie():
    mesh = jax.make_mesh((2, 2), ("data", "tower"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    config = changed(PAPER, conv1_frozen_from=0.6)
    transformation = optimizer.create_optimizer(config, NET, 10)
    specs = jax.tree.map(lambda w: P(*[None] * (w.ndim - 1), "tower"), random_tree(0))
    specs["fc8"] = {"kernel": P("tower", None), "bias": P()}
    params = jax.device_put(random_tree(0), jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs))
    gradients = [random_tree(1 + step) for step in range(10)]
    found, found_states = apply(transformation, params, gradients)
    expected, states = apply(transformation, random_tree(0), gradients)
    for a, b in zip(
        jax.tree.leaves((found[-1], found_states[-1])), jax.tree.leaves((expected[-1], states[-1])), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    momentum = momentum_of(found_states[-1])
    for layer, leaves in found[-1].items():
        for name, w in leaves.items():
            assert momentum[layer][name].sharding.is_equivalent_to(w.sharding, w.ndim)
