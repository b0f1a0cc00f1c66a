"""Random numbers depend on the seed and the example, not on the environment."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_pieces import pieces

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.rng import Purpose, example_keys, key_for
from alexnet_jax.state import create_train_state
from alexnet_jax.train_step import loss_and_sums

PACKAGE = Path(__file__).resolve().parents[1] / "alexnet_jax"
ENVIRONMENTS = {
    "JAX_DEFAULT_PRNG_IMPL=rbg": lambda: jax.default_prng_impl("rbg"),
    "JAX_THREEFRY_PARTITIONABLE=0": lambda: jax.threefry_partitionable(False),
}


class Probe:
    """In the model's place: logits from the views and from draws of the dropout keys."""

    def positions_seen(self, positions):
        return positions

    def apply(self, _, views, keys):
        return jax.vmap(lambda view, key: view.mean() + jax.random.normal(key, (10,)))(views, keys)


def test_parameters_views_and_dropout_are_those_of_the_seed(tiny_config):
    """Compare fresh parameters, and the loss of a few images that are cropped, mirrored and colored."""
    tiny_config.data.flip, tiny_config.data.color_noise = True, "original"
    statistics = Statistics(np.zeros((72, 72, 3), np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    images = np.random.default_rng(0).integers(0, 256, (4, 72, 72, 3), np.uint8)
    examples = {"image": images, "label": np.arange(4, dtype=np.int32), "position": np.arange(4, dtype=np.int32)}

    def numbers():
        params = create_train_state(tiny_config, *pieces(tiny_config)).params
        loss = jax.jit(functools.partial(loss_and_sums, tiny_config, Probe(), 9, {}, {}))
        return jax.device_get((params, loss(jnp.int32(0), statistics, examples)))

    expected = numbers()
    with ENVIRONMENTS["JAX_THREEFRY_PARTITIONABLE=0"]():  # the other one acts on keys alone
        found = numbers()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_keys_are_those_of_the_seed(environment):
    def bits():
        keys = example_keys(3, Purpose.AUGMENTATION, jnp.arange(4))
        return [np.asarray(jax.random.key_data(key)) for key in (key_for(2**32 - 1, Purpose.DROPOUT), keys)]

    expected = bits()
    with ENVIRONMENTS[environment]():
        found = bits()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_no_key_is_made_by_the_environment_s_generator():
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    calls = re.findall(r"random\.(?:key|PRNGKey)\(.*", text)
    assert len(calls) >= 2
    assert all("impl=GENERATOR" in call for call in calls), calls
