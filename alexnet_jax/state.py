"""The state of a training, and how each part of it is sharded over the mesh."""

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
from alexnet_jax.model.sharding import Specs, momentum_specs, parameter_specs
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS
from alexnet_jax.rng import Purpose, draws_alike, key_for


@flax.struct.dataclass
class TrainState:
    """All that training changes, or something for each part of it (specs, shardings).

    `step`: steps done, int32 scalar. `params`: {"conv1": {"kernel", "bias"}, ...}. `opt_state`: Optax's, with the
    momentum buffer.
    """

    step: Any
    params: Any
    opt_state: Any


def create_model(config: Config) -> AlexNet:
    """Create the module that the config describes, for one device."""
    return AlexNet(build_net(config.model), config.model.num_classes, jnp.dtype(config.precision))


def on_mesh(model: AlexNet, config: Config, mesh: Mesh) -> AlexNet:
    """Return the module as each device of the mesh applies it to its shards of parameters and images."""
    fc_devices = mesh.shape[DATA_AXIS] if config.mesh.shard_fully_connected else 1
    return model.clone(tower_devices=mesh.shape[TOWER_AXIS], fc_devices=fc_devices, batch_size=config.batch_size)


def create_train_state(
    config: Config, model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Create a fresh state from the seed, in its place on the mesh, which changes no more than rounding."""
    shardings = state_shardings(config, model, optimizer, mesh)
    create = jax.jit(_initializer(config, model, optimizer), out_shardings=shardings)
    return create(key_for(config.seed, Purpose.INITIALIZATION))


def abstract_train_state(
    config: Config, model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Return the shapes, types and shardings of the state, to restore a checkpoint into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        _shapes(config, model, optimizer),
        state_shardings(config, model, optimizer, mesh),
    )


def abstract_params(config: Config, model: AlexNet, mesh: Mesh) -> Any:
    """Return the shapes, types and shardings of the parameters alone, to restore them from any checkpoint."""
    return abstract_train_state(config, model, optax.identity(), mesh).params


def state_shardings(config: Config, model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return the sharding of every part of the state."""
    gradients = gradient_specs(config, model, mesh)

    def of_optimizer(path: tuple, leaf: jax.ShapeDtypeStruct) -> P:
        """Shard what Optax keeps of a parameter like its gradient; its counts are whole on every device."""
        return gradients[path[-2].key][path[-1].key] if leaf.ndim else P()

    opt_state = jax.tree.map_with_path(of_optimizer, _shapes(config, model, optimizer).opt_state)
    specs = TrainState(step=P(), params=params_specs(config, model, mesh), opt_state=opt_state)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))


def params_specs(config: Config, model: AlexNet, mesh: Mesh) -> Specs:
    """Return the `PartitionSpec` of every parameter."""
    return parameter_specs(model.net, mesh.shape[TOWER_AXIS], on_mesh(model, config, mesh).fc_devices)


def gradient_specs(config: Config, model: AlexNet, mesh: Mesh) -> Specs:
    """Return the `PartitionSpec` of every gradient that the update sees, and so of the momentum buffer."""
    params = params_specs(config, model, mesh)
    if not config.mesh.shard_momentum:
        return params
    shapes = layer_shapes(model.net, config.model.image_size, config.model.num_classes)
    kernels = {shape.layer.name: shape.kernel_shape for shape in shapes if shape.kernel_shape}
    return momentum_specs(params, kernels, mesh.shape[DATA_AXIS])


def _initializer(config: Config, model: AlexNet, optimizer: optax.GradientTransformation):
    """Return the function key -> TrainState that makes a fresh state."""
    image = jnp.zeros((1, config.model.image_size, config.model.image_size, 3))

    @draws_alike
    def create(key: jax.Array) -> TrainState:
        params = model.init(key, image)["params"]
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    return create


def _shapes(config: Config, model: AlexNet, optimizer: optax.GradientTransformation) -> TrainState:
    return jax.eval_shape(_initializer(config, model, optimizer), key_for(config.seed, Purpose.INITIALIZATION))
