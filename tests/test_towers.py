"""Two devices with a tower each compute what one device with both computes, in every net that has two towers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from random_nets import QUICK_TO_COMPILE, random_images, random_params, relative_errors

from alexnet_jax.config import ModelConfig
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import (
    Activation,
    Classifier,
    Convolution,
    Dense,
    Dropout,
    ImpossibleShapeError,
    MapNorm,
    MaxPool,
    Net,
    ResponseNorm,
)
from alexnet_jax.model.sharding import parameter_specs
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.rng import Purpose, example_keys

CLASSES, BATCH, IMAGE_SIZE, SMALL = 7, 4, 67, 12
TWO_TOWERS = [variant for variant, net in VARIANTS.items() if net.towers == 2]
# Four channels a tower in conv1; in CaffeNet one, fewer than its normalization reaches into the neighbor.
CONV_WIDTH = dict.fromkeys(TWO_TOWERS, 1 / 12) | {"caffenet": 1 / 70}
KEYS = example_keys(0, Purpose.DROPOUT, jnp.arange(BATCH))
LABELS = np.arange(BATCH) % CLASSES
IMAGES = random_images(BATCH, IMAGE_SIZE).astype(np.float32)


def narrow(variant: str) -> tuple[Net, dict]:
    """A net with few kernels and units, and parameters for it."""
    net = build_net(ModelConfig(variant=variant, conv_width=CONV_WIDTH[variant], fc_width=1 / 64))
    return net, jax.tree.map(np.float32, random_params(net, IMAGE_SIZE, CLASSES))


def loss_and_logits(net: Net, tower_devices: int, images: np.ndarray = IMAGES):
    """The function params -> (loss, logits) of a training step, for this many tower devices."""
    model = AlexNet(net, CLASSES, images.dtype, tower_devices)

    def function(params):
        logits = model.apply({"params": params}, images, KEYS)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), logits

    return function


def value_and_gradients(net: Net, tower_devices: int, images: np.ndarray = IMAGES):
    return jax.value_and_grad(loss_and_logits(net, tower_devices, images), has_aux=True)


def compiled(function):
    return jax.jit(function, compiler_options=QUICK_TO_COMPILE)


def halves(leaf: np.ndarray, spec: P) -> np.ndarray:
    """[2, ...]: what each tower holds of a parameter."""
    return np.stack(np.split(leaf, 2, axis=spec.index("tower")) if "tower" in spec else [leaf, leaf])


def whole(leaf: np.ndarray, spec: P) -> np.ndarray:
    """A parameter from what each tower holds."""
    return np.concatenate(list(leaf), axis=spec.index("tower")) if "tower" in spec else leaf[0]


def assert_agree(actual, expected, tolerance: float = 1e-5) -> None:
    errors = relative_errors(actual, expected)
    assert max(errors.values()) < tolerance, errors


def assert_two_devices_agree_with_one(net: Net, params: dict, images: np.ndarray, tolerance: float) -> None:
    expected = jax.device_get(compiled(value_and_gradients(net, 1, images))(params))
    specs = parameter_specs(net, tower_devices=2)
    mesh = jax.make_mesh((1, 2), ("data", "tower"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:2])
    on_towers = jax.shard_map(
        value_and_gradients(net, 2, images), mesh=mesh, in_specs=(specs,), out_specs=((P(), P()), specs), check_vma=True
    )
    assert_agree(jax.device_get(compiled(on_towers)(params)), expected, tolerance)


@pytest.mark.parametrize("variant", TWO_TOWERS)
def test_a_tower_a_device(variant):
    assert_two_devices_agree_with_one(*narrow(variant), IMAGES, tolerance=1e-5)


FEATURES, SEES = st.integers(1, 4).map(lambda each: 2 * each), st.sampled_from(["own", "all"])
NORMALIZATIONS = [ResponseNorm("norm", size, across=across) for size in (1, 4, 5, 9) for across in ("tower", "all")]
POOLINGS = [MaxPool("pool", *sizes, ceil) for sizes in ((2, 1), (2, 2), (3, 2)) for ceil in (False, True)]
ON_MAPS = st.one_of(
    st.sampled_from([Activation("relu"), Activation("tanh", "tanh"), MapNorm("norm", 3)]),
    st.sampled_from(NORMALIZATIONS),
    st.sampled_from(POOLINGS),
    st.builds(Convolution, st.just("conv"), FEATURES, st.integers(1, 3), padding=st.just((1, 0)), sees=SEES),
)
ON_UNITS = st.one_of(
    st.sampled_from([Activation("relu"), Dropout("drop")]), st.builds(Dense, st.just("fc"), FEATURES, SEES)
)


@st.composite
def nets_of_two_towers(draw) -> Net:
    """Layers on maps in any order, then layers on units; as few as one channel a tower."""
    layers = [
        Convolution("conv", draw(FEATURES), kernel=3, stride=draw(st.integers(1, 2)), sees="image"),
        *draw(st.lists(ON_MAPS, max_size=4)),
        Dense("fc", draw(FEATURES), draw(SEES)),
        *draw(st.lists(ON_UNITS, max_size=2)),
        Classifier(),
    ]
    numbered = (dataclasses.replace(layer, name=f"{layer.name}{number}") for number, layer in enumerate(layers))
    return Net(towers=2, layers=tuple(numbered))


FEWER_CHANNELS_THAN_A_NEIGHBOR_IS_ASKED_FOR = Net(
    2, (Convolution("conv", 6, 3, sees="image"), ResponseNorm("norm", 9, across="all"), Dense("fc", 2), Classifier())
)


@settings(max_examples=12)
@given(nets_of_two_towers())
@example(FEWER_CHANNELS_THAN_A_NEIGHBOR_IS_ASKED_FOR)
def test_any_net_a_tower_a_device(net):
    """In double precision: no maximum hangs on the last bit of a sum."""
    try:
        params = random_params(net, SMALL, CLASSES)
    except ImpossibleShapeError:
        assume(False)
    with jax.enable_x64(True):
        assert_two_devices_agree_with_one(net, params, random_images(BATCH, SMALL), tolerance=1e-10)


@pytest.mark.parametrize("variant", ["original", "no_communication"])
def test_a_tower_a_row_of_vmap(variant):
    """`jax.vmap` names the same axis without any device: an oracle for how the towers are put together.

    It takes no exchange between neighbors that leaves the ends without one, so Caffe's nets can't be tested so.
    """
    net, params = narrow(variant)
    expected = jax.device_get(compiled(value_and_gradients(net, 1))(params))
    specs = parameter_specs(net, tower_devices=2)

    def mean_loss(stacked):
        loss, logits = jax.vmap(loss_and_logits(net, 2), axis_name="tower")(stacked)
        return loss.mean(), logits

    stacked = jax.tree.map(halves, params, specs)
    (loss, logits), gradients = jax.device_get(compiled(jax.value_and_grad(mean_loss, has_aux=True))(stacked))
    np.testing.assert_array_equal(logits[0], logits[1])
    gradients["fc8"]["bias"] = np.stack([gradients["fc8"]["bias"].sum(0)] * 2)  # the one parameter that both hold
    assert_agree(((loss, logits[0]), jax.tree.map(whole, gradients, specs)), expected)


def test_towers_of_the_paper_meet_in_conv3_and_the_fully_connected_layers():
    """Section 3.5. What a tower computes before conv3 does not depend on the other tower's kernels."""
    net, params = narrow("paper")

    def outputs(params):
        _, state = AlexNet(net, CLASSES).apply({"params": params}, IMAGES, mutable="intermediates")
        return state["intermediates"]["outputs"][0]

    run = compiled(outputs)
    before = run(params)
    other = jax.tree.map(np.copy, params)
    other["conv1"]["kernel"][..., 4:] *= 2  # the second tower's kernels
    after = run(other)
    for name in ("conv1", "pool1", "conv2", "norm2", "pool2"):
        first, second = np.split(np.asarray(before[name] != after[name]), 2, axis=-1)
        assert not first.any(), name
        assert second.any(), name
    for name in ("conv3", "conv4", "conv5", "fc6"):
        for half in np.split(np.asarray(before[name] != after[name]), 2, axis=-1):
            assert half.any(), name
