"""The mesh changes where things are computed, not what: every layout gives what one device gives."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_pieces import momentum_of, pieces

from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.model.layers import layer_shapes
from alexnet_jax.model.sharding import parameter_specs
from alexnet_jax.parallel.mesh import create_mesh, local_rows
from alexnet_jax.rng import Purpose, example_keys
from alexnet_jax.state import create_model, create_train_state, on_mesh, params_specs
from alexnet_jax.train import train_and_evaluate

BATCH = 16


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """Every random thing on: crops, mirroring, color noise, dropout."""
    tiny_config.batch_size = BATCH
    tiny_config.data.flip = True
    tiny_config.data.color_noise = "original"
    tiny_config.optimizer.learning_rate = 0.001
    return tiny_config


def with_mesh(config: Config, data: int, tower: int) -> tuple[Config, jax.sharding.Mesh]:
    config = copy.deepcopy(config)
    config.mesh.data, config.mesh.tower = data, tower
    return config, create_mesh(config.mesh)


def relative_error(found, expected) -> float:
    """The largest deviation of any array of a tree, relative to that array's largest value."""
    errors = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-30), found, expected)
    return max(jax.tree.leaves(errors))


def test_logits_loss_and_gradients_agree_with_one_device_and_with_vmap(config: Config) -> None:
    """`jax.vmap` over the towers' parameters names the same axis without any device: an independent oracle."""
    random = np.random.default_rng(0)
    images = random.normal(0, 60, (BATCH, 64, 64, 3)).astype(np.float32)
    labels = random.integers(0, 10, BATCH)
    keys = example_keys(0, Purpose.DROPOUT, jnp.arange(BATCH))
    here, mesh = with_mesh(config, 1, 2)
    params = create_train_state(config, *pieces(config)).params
    params = jax.device_get(params)
    whole = create_model(config)
    split = on_mesh(whole, here, mesh)

    def loss_and_logits(model, params):
        logits = model.apply({"params": params}, images, keys)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean(), logits

    def value_and_gradient(model):
        return jax.value_and_grad(lambda params: loss_and_logits(model, params), has_aux=True)

    expected = jax.jit(value_and_gradient(whole))(params)

    specs = params_specs(here, whole, mesh)
    sharded = jax.shard_map(
        value_and_gradient(split),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=((jax.P(), jax.P()), specs),
    )
    assert relative_error(jax.jit(sharded)(params), expected) < 1e-5

    axes = jax.tree.map(
        lambda spec: next((axis for axis, name in enumerate(spec) if name == "tower"), None),
        specs,
        is_leaf=lambda leaf: isinstance(leaf, jax.P),
    )

    def stack_towers(leaf, axis):
        parts = [leaf, leaf] if axis is None else np.split(np.asarray(leaf), 2, axis)
        return jnp.stack(parts)

    stacked = jax.tree.map(stack_towers, params, axes, is_leaf=lambda leaf: leaf is None)

    @jax.jit
    def oracle(stacked):
        def mean_loss(stacked):
            loss, logits = jax.vmap(lambda params: loss_and_logits(split, params), axis_name="tower")(stacked)
            return loss.mean(), logits

        return jax.value_and_grad(mean_loss, has_aux=True)(stacked)

    (loss, logits), gradients = oracle(stacked)
    joined = jax.tree.map(
        lambda gradient, axis: gradient.sum(0) if axis is None else jnp.concatenate(list(gradient), axis),
        gradients,
        axes,
        is_leaf=lambda leaf: leaf is None,
    )
    assert relative_error(((loss, logits[0]), joined), expected) < 1e-5


def test_two_towers_halve_parameters_on_each_device(digits_dir) -> None:
    """At full size, from the shardings: at most 52 % of the bytes on each device."""
    config = Config()
    config.mesh.data, config.mesh.tower = 1, 2
    mesh = create_mesh(config.mesh)
    specs = parameter_specs(create_model(config).net, tower_devices=2)
    whole = here = 0
    for row in layer_shapes(create_model(config).net, 224, 1000):
        if row.kernel_shape:
            for name, shape in (("kernel", row.kernel_shape), ("bias", row.kernel_shape[-1:])):
                sharding = jax.sharding.NamedSharding(mesh, specs[row.layer.name][name])
                whole += np.prod(shape)
                here += np.prod(sharding.shard_shape(shape))
    assert whole == 60_965_224
    assert here / whole <= 0.52


def test_a_fresh_state_is_the_same_on_every_mesh_and_lies_where_its_specs_say(config: Config) -> None:
    here, _ = with_mesh(config, 2, 2)
    state = create_train_state(here, *pieces(here))
    on_one = create_train_state(config, *pieces(config))
    assert relative_error(jax.device_get(state), jax.device_get(on_one)) < 1e-6
    for tree in (state.params, momentum_of(state.opt_state)):
        kernel = tree["conv2"]["kernel"]
        assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 2
        assert tree["fc8"]["kernel"].addressable_shards[0].data.shape[0] == tree["fc8"]["kernel"].shape[0] // 2


def test_the_mesh_uses_all_devices_by_default_and_refuses_what_does_not_fit(config: Config, tmp_path) -> None:
    assert with_mesh(config, -1, 1)[1].shape == {"data": 8, "tower": 1}
    assert with_mesh(config, -1, 2)[1].shape == {"data": 4, "tower": 2}
    with pytest.raises(UserError, match=r"config.mesh.data=8 x config.mesh.tower=2 needs 16 devices, but there are 8"):
        with_mesh(config, 8, 2)
    config.batch_size, config.mesh.data = 12, -1
    with pytest.raises(
        UserError, match=r"config.batch_size=12 is not divisible into the 8 shards of config.mesh.data=-1"
    ):
        train_and_evaluate(config, tmp_path)


def test_one_process_feeds_every_row_once(config: Config) -> None:
    _, mesh = with_mesh(config, 2, 2)
    np.testing.assert_array_equal(local_rows(mesh, 16), np.arange(16))
