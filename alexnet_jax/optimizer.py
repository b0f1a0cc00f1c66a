"""The paper's update rule (section 5), with the learning rates that its author used.

    v <- momentum * v - learning rate * (dL/dw + decay * w)
    w <- w + v

The learning rate is part of the velocity v, so after a drop the old velocity still runs out over some ten steps;
`optax.sgd` multiplies by the learning rate afterwards and differs there. Kernels, biases and conv1's kernels have
learning rates of their own (`weights.cu` and the files `layer-params-*.cfg` of the released code). For fine-tuning the
classifier may learn faster than the rest, and layers may be frozen (Caffe, `models/finetune_flickr_style`). A layer may
have a multiple of the decay (the author's CIFAR-10 nets).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.config import Config
from alexnet_jax.model.layers import Net

LAST_LAYER = "fc8"  # the classifier's name in every net
TRUST_COEFFICIENT = 0.001  # of LARS (NVCaffe's "local_lr_auto" configurations: eta)

Schedule = Callable[[jax.Array | int], jax.Array]  # updates done so far -> learning rate of the next one, float32


def first_step(fraction: float, num_steps: int) -> int:
    """Return the step, the nearest one, at which a change due after this fraction of the training takes effect.

    Step n is the update that n updates precede, so `first_step(1.0, num_steps)` never comes.
    """
    return round(fraction * num_steps)


def learning_rate_schedule(config: Config, num_steps: int) -> Schedule:
    """Return the learning rate of the kernels."""
    drops = [(drop, config.optimizer.drop_factor) for drop in config.optimizer.drops]
    return _schedule(config, _base_learning_rate(config), drops, num_steps)


def bias_schedule(config: Config, num_steps: int) -> Schedule:
    """Return the learning rate of the biases. The author's: twice that of the kernels at first, then one drop."""
    drops = [(drop, config.optimizer.bias_drop_factor) for drop in config.optimizer.bias_drops]
    return _schedule(config, config.optimizer.bias_rate * _base_learning_rate(config), drops, num_steps)


def conv1_schedule(config: Config, num_steps: int) -> Schedule:
    """Return the learning rate of conv1's kernels: with more drops, and 0 at the end (`layer-params-145.cfg`)."""
    settings = config.optimizer
    drops = [(drop, settings.drop_factor) for drop in (*settings.drops, *settings.conv1_drops)]
    schedule = _schedule(config, _base_learning_rate(config), drops, num_steps)
    frozen_from = first_step(settings.conv1_frozen_from, num_steps)
    return lambda step: jnp.where(step < frozen_from, schedule(step), 0.0)


def create_optimizer(config: Config, net: Net, num_steps: int) -> optax.GradientTransformation:
    """Create the update rule for a training of `num_steps` steps: one Optax chain for each group of parameters.

    Parameters are nested dicts whose leaves are named `kernel` or `bias` below the name of their layer; `update` needs
    them beside the gradients. A parameter whose learning rate is 0 is skipped entirely, its momentum buffer and decay
    included (`weights.cu:148` of the released code).

    With rule "lars" the decayed gradient of each kernel is first given the length 0.001 |w| (`optax.lars`; You et al.,
    arXiv 1708.03888). Optax divides it by its own length, |g + decay w|; the paper divides by |g| + decay |w|, which is
    more, so its steps are shorter. Norms are those of whole layers: `update` belongs where arrays are global, outside
    `shard_map`.
    """
    groups = {
        layer.name: {kind: Group.of_parameter(config, layer.name, kind, layer.decay) for kind in ("kernel", "bias")}
        for layer in net.layers
        if hasattr(layer, "decay")
    }
    chains = {str(group): _chain(config, group, num_steps) for layer in groups.values() for group in layer.values()}
    return optax.partition(chains, jax.tree.map(str, groups, is_leaf=lambda node: isinstance(node, Group)))


class Group(NamedTuple):
    """Parameters that follow one rule: "kernels", "biases" or "conv1", and what theirs is multiplied by."""

    name: str
    learning_rate_factor: float
    decay_factor: float

    @classmethod
    def of_parameter(cls, config: Config, layer: str, kind: str, decay_factor: float) -> "Group":
        """Return the group of a layer's "kernel" or "bias"."""
        name = "biases" if kind == "bias" else "conv1" if layer == "conv1" else "kernels"
        factor = config.optimizer.last_layer_rate if layer == LAST_LAYER else 1.0
        return cls(name, 0.0 if layer in config.optimizer.frozen else factor, decay_factor)

    def __str__(self) -> str:
        learning_rate = f", learning rate x {self.learning_rate_factor:g}" if self.learning_rate_factor != 1 else ""
        return self.name + learning_rate + (f", decay x {self.decay_factor:g}" if self.decay_factor != 1 else "")


def _chain(config: Config, group: Group, num_steps: int) -> optax.GradientTransformation:
    """Create a group's rule: decay, learning rate, and the sum of it with what is left of earlier updates."""
    settings = config.optimizer
    if group.learning_rate_factor == 0 or (group.name == "biases" and settings.bias_rate == 0):
        return optax.set_to_zero()
    create_schedule = {"kernels": learning_rate_schedule, "biases": bias_schedule, "conv1": conv1_schedule}[group.name]
    schedule = create_schedule(config, num_steps)
    decays = group.name != "biases" or settings.decay_biases
    follows_norms = group.name != "biases" and settings.rule == "lars"
    rule = optax.chain(
        optax.add_decayed_weights(group.decay_factor * settings.weight_decay if decays else 0.0),
        optax.scale_by_trust_ratio(trust_coefficient=TRUST_COEFFICIENT) if follows_norms else optax.identity(),
        optax.scale_by_learning_rate(lambda step: group.learning_rate_factor * schedule(step)),
        optax.trace(settings.momentum),
    )
    if group.name != "conv1" or settings.conv1_frozen_from == 1.0:
        return rule
    return optax.conditionally_mask(rule, lambda step: schedule(step) > 0)


def _base_learning_rate(config: Config) -> float:
    """Return the kernels' learning rate before any drop, scaled to the batch if asked (the author's: 0.02 for 256)."""
    reference = config.optimizer.reference_batch
    return config.optimizer.learning_rate * (config.batch_size / reference if reference else 1.0)


def _schedule(config: Config, start: float, drops: list[tuple[float, float]], num_steps: int) -> Schedule:
    """Return the learning rate over the training: the warm-up times what the config's schedule makes of `start`."""
    polynomial = config.optimizer.schedule == "polynomial"
    decayed = _polynomial(start, num_steps) if polynomial else _stepwise(start, drops, num_steps)
    rising = first_step(config.optimizer.warmup, num_steps)  # the first update has 1 / rising of the learning rate
    return lambda step: decayed(step) * jnp.minimum((step + 1) / rising, 1.0) if rising else decayed(step)


def _stepwise(start: float, drops: list[tuple[float, float]], num_steps: int) -> Schedule:
    """Multiply `start` by the factor of each (fraction of the training, factor) once its time has come."""
    boundaries, values = [], [start]
    for fraction, factor in sorted(drops):
        boundaries.append(first_step(fraction, num_steps))
        values.append(values[-1] * factor)
    schedule = optax.join_schedules([optax.constant_schedule(value) for value in values], boundaries)
    return lambda step: jnp.asarray(schedule(step), jnp.float32)


def _polynomial(start: float, num_steps: int) -> Schedule:
    """Return `start` x (1 - fraction of the training)^2, down to 0 (NVCaffe's "poly" of power 2)."""
    schedule = optax.polynomial_schedule(start, 0.0, power=2, transition_steps=num_steps)
    return lambda step: jnp.asarray(schedule(step), jnp.float32)
