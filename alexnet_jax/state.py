"""The state of a training, and where each part of it lies on the mesh."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import layer_shapes
from alexnet_jax.model.sharding import velocity_spec
from alexnet_jax.optimizer import OptimizerState
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS, parameter_specs
from alexnet_jax.rng import Purpose, key_for


@flax.struct.dataclass
class TrainState:
    """All that training changes, or what belongs to each part of it (specs, shardings).

    `step`: steps done, int32 scalar. `params`: {"conv1": {"kernel", "bias"}, ...}. `opt_state`: the velocity.
    """

    step: Any
    params: Any
    opt_state: OptimizerState


def create_model(config: Config, tower_devices: int = 1) -> AlexNet:
    """The module that the config describes, for towers spread over so many devices."""
    return AlexNet(
        net=build_net(config.model),
        num_classes=config.model.num_classes,
        tower_devices=tower_devices,
        dtype=jnp.dtype(config.precision),
    )


def create_halves(config: Config, workers: int) -> tuple[AlexNet, AlexNet]:
    """The convolutional and the fully connected layers as two modules, the latter spread over so many workers."""
    whole = create_model(config)
    return whole.clone(part="convolutional"), whole.clone(part="fully_connected", workers=workers)


def hybrid_workers(config: Config, mesh: Mesh) -> int:
    """Over how many devices fully connected layers are split while convolutions are not; 1: it is no hybrid."""
    return 1 if config.mesh.fully_connected == "replicated" else mesh.shape[DATA_AXIS]


def state_specs(config: Config, mesh: Mesh) -> TrainState:
    """The `PartitionSpec` of every part of the state: the velocity is split as the parameters are, or further."""
    net = build_net(config.model)
    params = parameter_specs(net, mesh.shape[TOWER_AXIS], hybrid_workers(config, mesh))
    velocity = params
    if config.mesh.shard_velocity:
        velocity = {
            shape.layer.name: {
                "kernel": velocity_spec(params[shape.layer.name]["kernel"], shape.kernel_shape, mesh.shape[DATA_AXIS]),
                "bias": params[shape.layer.name]["bias"],
            }
            for shape in layer_shapes(net, config.model.image_size, config.model.num_classes)
            if shape.kernel_shape
        }
    return TrainState(step=P(), params=params, opt_state=OptimizerState(step=P(), velocity=velocity))


def create_train_state(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A fresh state, initialized from the seed, made where it will live. The mesh changes no more than rounding."""
    create = jax.jit(_initializer(config, optimizer), out_shardings=state_shardings(config, mesh))
    return create(key_for(config.seed, Purpose.INITIALIZATION))


def abstract_train_state(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The shapes, types and shardings of the state, to restore a checkpoint into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(_initializer(config, optimizer), key_for(config.seed, Purpose.INITIALIZATION)),
        state_shardings(config, mesh),
    )


def _initializer(config: Config, optimizer: optax.GradientTransformation):
    """The function key -> TrainState that makes a fresh state."""
    model = create_model(config)
    image = jnp.zeros((1, config.model.image_size, config.model.image_size, 3))

    def create(key: jax.Array) -> TrainState:
        params = model.init(key, image)["params"]
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    return create


def state_shardings(config: Config, mesh: Mesh) -> TrainState:
    """Where every part of the state lies."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), state_specs(config, mesh), is_leaf=lambda leaf: isinstance(leaf, P)
    )
