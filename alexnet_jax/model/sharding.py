"""How the parameters of a net, and their momentum buffer, are sharded over the mesh axes `data` and `tower`.

Momentum over `data`: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv
1910.02054), stage 1. Each device gets the sum of a shard of the gradient (a reduce-scatter), updates that shard, and
the parameters are put together again (an all-gather): as many bytes as the all-reduce that this replaces.
"""

from jax.sharding import PartitionSpec as P

from alexnet_jax.model import layers
from alexnet_jax.parallel.towers import DATA_AXIS, TOWER_AXIS

Specs = dict[str, dict[str, P]]  # {"conv1": {"kernel": ..., "bias": ...}, ...}


def parameter_specs(net: layers.Net, tower_devices: int, fc_devices: int = 1) -> Specs:
    """Return the `PartitionSpec` of every parameter: kernels and biases are sharded by output channel over the towers.

    The classifier is sharded by input instead: each tower contributes its part of every logit, so that the number of
    classes need not be even and the towers exchange B x classes numbers, not B x 4096.

    Args:
      net: the net.
      tower_devices: size of the tower axis; with 1 nothing is sharded over it.
      fc_devices: over how many devices of the data axis fully connected layers are sharded, in the same way.
    """
    tower = TOWER_AXIS if tower_devices > 1 else None
    units = DATA_AXIS if fc_devices > 1 else tower
    specs: Specs = {}
    for layer in net.layers:
        match layer:
            case layers.Convolution():
                specs[layer.name] = {"kernel": P(None, None, None, tower), "bias": P(tower)}
            case layers.LocallyConnected():
                specs[layer.name] = {"kernel": P(None, None, None, None), "bias": P()}
            case layers.Dense():
                specs[layer.name] = {"kernel": P(None, units), "bias": P(units)}
            case layers.Classifier():
                specs[layer.name] = {"kernel": P(units, None), "bias": P()}
    return specs


def momentum_specs(parameters: Specs, shapes: dict[str, tuple[int, ...]], data_devices: int) -> Specs:
    """Shard the momentum buffer of every kernel over `data` too.

    Args:
      parameters: the parameters' specs.
      shapes: the kernels' global shapes, by layer.
      data_devices: size of the data axis.
    """
    return {
        name: {**specs, "kernel": momentum_spec(specs["kernel"], shapes[name], data_devices)}
        for name, specs in parameters.items()
    }


def momentum_spec(spec: P, shape: tuple[int, ...], data_devices: int) -> P:
    """Shard one kernel's momentum along its longest axis that is whole and divides into the shards.

    Biases are not worth a message of their own; they stay as they are, as does what is sharded over `data` already or
    divides along no axis. The global shape is unchanged, so that checkpoints fit any layout.

    Args:
      spec: the parameter's, with an entry for each axis.
      shape: the parameter's, global.
      data_devices: size of the data axis.
    """
    if data_devices == 1 or DATA_AXIS in spec:
        return spec
    free = [axis for axis, name in enumerate(spec) if name is None and shape[axis] % data_devices == 0]
    longest = max(free, key=lambda axis: shape[axis], default=None)
    return P(*(DATA_AXIS if axis == longest else name for axis, name in enumerate(spec)))
