"""Dropout: the two kinds, what stands in for it at test time, and masks that depend on example and tower alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_nets import QUICK_TO_COMPILE, random_images, random_params

from alexnet_jax.config import ModelConfig
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.dropout import at_test_time, dropout
from alexnet_jax.model.layers import Dropout
from alexnet_jax.rng import Purpose, example_keys

EXAMPLES, UNITS = 64, 512
X = jnp.asarray(1 + np.random.default_rng(0).random((EXAMPLES, UNITS)), jnp.float32)
KEYS = example_keys(0, Purpose.DROPOUT, jnp.arange(EXAMPLES))
ORIGINAL, INVERTED = Dropout("drop", kind="original"), Dropout("drop", kind="inverted")


def kept(layer: Dropout, keys=KEYS, x=X, first_tower=0, towers_here=1) -> np.ndarray:
    return np.asarray(dropout(x, layer, keys, first_tower, towers_here)) != 0


@pytest.mark.parametrize(("layer", "scale"), [(ORIGINAL, 1.0), (INVERTED, 2.0), (Dropout("d", 0.8, "inverted"), 1.25)])
def test_kept_units_are_scaled_in_training_only_by_the_inverted_kind(layer, scale):
    y = np.asarray(dropout(X, layer, KEYS, 0, 1))
    np.testing.assert_allclose(y[y != 0], np.asarray(X)[y != 0] * scale, rtol=1e-6)


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_each_unit_is_kept_with_the_same_chance(keep):
    mask = kept(Dropout("drop", keep))
    deviation = (keep * (1 - keep)) ** 0.5
    assert abs(mask.mean() - keep) < 4 * deviation / mask.size**0.5
    for axis, others in ((0, EXAMPLES), (1, UNITS)):
        assert np.abs(mask.mean(axis) - keep).max() < 5 * deviation / others**0.5
    # Neighbors in an example and in the batch decide by themselves: products have the mean of independent ones.
    for pairs in (mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]):
        assert abs(pairs.mean() - keep**2) < 0.02


def test_at_test_time_the_original_halves_and_the_inverted_does_nothing():
    np.testing.assert_array_equal(at_test_time(X, ORIGINAL), X / 2)
    np.testing.assert_array_equal(at_test_time(X, INVERTED), X)


@pytest.mark.parametrize("layer", [ORIGINAL, INVERTED])
def test_test_time_is_the_mean_of_training(layer):
    x = X[:1]
    keys = example_keys(0, Purpose.DROPOUT, jnp.arange(4000))
    mean = np.asarray(dropout(jnp.broadcast_to(x, (4000, UNITS)), layer, keys, 0, 1)).mean(0)
    np.testing.assert_allclose(mean, at_test_time(x, layer)[0], rtol=0.1)


def test_gradient_passes_through_kept_units():
    gradient = jax.grad(lambda x: dropout(x, INVERTED, KEYS, 0, 1).sum())(X)
    np.testing.assert_array_equal(gradient, np.where(kept(INVERTED), 2.0, 0.0))


def test_the_mask_does_not_depend_on_how_the_batch_is_split():
    whole = kept(ORIGINAL)
    for rows in (slice(0, 1), slice(10, 30), slice(63, 64)):
        np.testing.assert_array_equal(kept(ORIGINAL, KEYS[rows], X[rows]), whole[rows])


def test_the_mask_does_not_depend_on_where_the_towers_live():
    together = kept(ORIGINAL, towers_here=2)
    apart = [kept(ORIGINAL, x=X[:, : UNITS // 2], first_tower=tower) for tower in (0, 1)]
    np.testing.assert_array_equal(together, np.concatenate(apart, axis=1))


def test_towers_examples_and_steps_drop_different_units():
    halves = np.split(kept(ORIGINAL, towers_here=2), 2, axis=1)
    later = kept(ORIGINAL, example_keys(0, Purpose.DROPOUT, jnp.arange(EXAMPLES) + EXAMPLES))
    mask = kept(ORIGINAL)
    for first, second in ((halves[0], halves[1]), (mask[0::2], mask[1::2]), (mask, later)):
        assert abs((first == second).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("variant", "places"),
    [
        ("paper", {"drop6": "relu6", "drop7": "relu7"}),
        ("torchvision", {"drop5": "pool5", "drop6": "relu6"}),  # the inputs of fc6 and fc7
    ],
)
def test_in_the_net_both_layers_drop_units_of_their_own(variant, places):
    net = build_net(ModelConfig(variant=variant, conv_width=0.1, fc_width=0.1))
    params, images = random_params(net, 99, 10), random_images(8, 99)

    def outputs(params, images, keys):
        _, state = AlexNet(net, 10).apply({"params": params}, images, keys, mutable="intermediates")
        return state["intermediates"]["outputs"][0]

    sown = jax.device_get(jax.jit(outputs, compiler_options=QUICK_TO_COMPILE)(params, images, KEYS[:8]))
    assert {name for name in sown if name.startswith("drop")} == set(places)
    dropped = {}
    for name, source in places.items():
        scale = 2.0 if variant == "torchvision" else 1.0
        alive = sown[source] != 0
        dropped[name] = sown[name][alive] == 0
        np.testing.assert_allclose(sown[name][alive][~dropped[name]], scale * sown[source][alive][~dropped[name]])
        assert 0.4 < dropped[name].mean() < 0.6
    (first, second) = (sown[name].reshape(8, -1)[:, :200] != 0 for name in places)
    assert not np.array_equal(first, second)
