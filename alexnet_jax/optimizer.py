"""The paper's update rule (section 5), with the rates that its author used.

    v <- momentum * v - rate * (dL/dw + decay * w)
    w <- w + v

The rate is part of the velocity, so after a drop of the rate the old velocity still runs out over some ten steps;
`optax.sgd` multiplies by the rate afterwards and differs there. Kernels, biases and conv1's kernels have rates of
their own (`weights.cu` and the files `layer-params-*.cfg` of the released code). For fine-tuning the classifier may
learn faster than the rest, and layers may be frozen (Caffe, `models/finetune_flickr_style`). A layer may have a
multiple of the decay (the author's CIFAR-10 nets).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net

LAST_LAYER = "fc8"  # the classifier's name in every net
TRUST_COEFFICIENT = 0.001  # of LARS (NVCaffe's "local_lr_auto" configurations: eta)

Schedule = Callable[[jax.Array | int], jax.Array]  # number of updates done so far -> rate of the next one, float32


class OptimizerState(NamedTuple):
    """`step`: updates done so far, int32 scalar. `velocity`: a tree like the parameters, and split like them."""

    step: Any
    velocity: Any


def first_step(fraction: float, num_steps: int) -> int:
    """The step at which a change that is due after this fraction of the training takes effect: the nearest one.

    Step n is the update that n updates precede, so `first_step(1.0, num_steps)` never comes.
    """
    return round(fraction * num_steps)


def learning_rate_schedule(config: Config, num_steps: int) -> Schedule:
    """The rate of the kernels."""
    drops = [(drop, config.optimizer.drop_factor) for drop in config.optimizer.drops]
    return _schedule(config, _base_rate(config), drops, num_steps)


def bias_schedule(config: Config, num_steps: int) -> Schedule:
    """The rate of the biases. The author's: twice that of the kernels at first, then one drop."""
    drops = [(drop, config.optimizer.bias_drop_factor) for drop in config.optimizer.bias_drops]
    return _schedule(config, config.optimizer.bias_rate * _base_rate(config), drops, num_steps)


def conv1_schedule(config: Config, num_steps: int) -> Schedule:
    """The rate of conv1's kernels: more drops than the others, and 0 at the end (`layer-params-145.cfg`)."""
    optimizer = config.optimizer
    drops = [(drop, optimizer.drop_factor) for drop in (*optimizer.drops, *optimizer.conv1_drops)]
    schedule = _schedule(config, _base_rate(config), drops, num_steps)
    frozen_from = first_step(optimizer.conv1_frozen_from, num_steps)
    return lambda step: jnp.where(step < frozen_from, schedule(step), 0.0)


def create_optimizer(config: Config, num_steps: int) -> optax.GradientTransformation:
    """The update rule for a training of `num_steps` steps.

    Parameters are nested dicts whose leaves are named `kernel` or `bias` below the name of their layer. `update`
    needs them beside the gradients, and returns what is to be added to them. A parameter whose rate is 0 is
    skipped entirely, its velocity and decay included (`weights.cu:148` of the released code); so is a frozen layer.

    With rule "lars" the decayed gradient of each kernel is first given the length 0.001 |w| (`optax.lars`; You et al.,
    arXiv 1708.03888). Norms are those of whole layers: `update` belongs where arrays are global, outside `shard_map`.
    """
    settings = config.optimizer
    schedules = {
        "kernels": learning_rate_schedule(config, num_steps),
        "biases": bias_schedule(config, num_steps),
        "conv1": conv1_schedule(config, num_steps),
    }
    decay = {
        "kernels": settings.weight_decay,
        "biases": settings.weight_decay if settings.decay_biases else 0.0,
        "conv1": settings.weight_decay,
    }
    multipliers = {x.name: x.decay for x in build_net(config.model).layers if hasattr(x, "decay")}
    trust = optax.scale_by_trust_ratio(trust_coefficient=TRUST_COEFFICIENT)

    def init(params: Any) -> OptimizerState:
        return OptimizerState(step=jnp.zeros((), jnp.int32), velocity=jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: OptimizerState, params: Any = None) -> tuple[Any, OptimizerState]:
        rates = {group: schedule(state.step) for group, schedule in schedules.items()}

        def rate_of(path: tuple) -> jax.Array:
            factor = 0.0 if _layer(path) in settings.frozen else 1.0
            return rates[_group(path)] * (factor * settings.last_layer_rate if _layer(path) == LAST_LAYER else factor)

        def downhill(path: tuple, gradient: jax.Array, w: jax.Array) -> jax.Array:
            decayed = gradient + decay[_group(path)] * multipliers[_layer(path)] * w
            return trust.update(decayed, trust.init(w), w)[0] if follows_norms(path) else decayed

        def follows_norms(path: tuple) -> bool:
            return settings.rule == "lars" and _group(path) != "biases"

        def next_velocity(path: tuple, v: jax.Array, gradient: jax.Array, w: jax.Array) -> jax.Array:
            rate = rate_of(path).astype(v.dtype)
            return jnp.where(rate > 0, settings.momentum * v - rate * downhill(path, gradient, w), v)

        def change(path: tuple, v: jax.Array) -> jax.Array:
            return jnp.where(rate_of(path) > 0, v, jnp.zeros_like(v))

        velocity = jax.tree.map_with_path(next_velocity, state.velocity, gradients, params)
        return jax.tree.map_with_path(change, velocity), OptimizerState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


def _base_rate(config: Config) -> float:
    """The rate of the kernels before any drop, scaled to the batch if asked (the author's notes: 256 with 0.02)."""
    reference = config.optimizer.reference_batch
    return config.optimizer.learning_rate * (config.batch_size / reference if reference else 1.0)


def _schedule(config: Config, rate: float, drops: list[tuple[float, float]], num_steps: int) -> Schedule:
    """The rate over the training: the warm-up times what the config's schedule makes of `rate`."""
    polynomial = config.optimizer.schedule == "polynomial"
    decayed = _polynomial(rate, num_steps) if polynomial else _stepwise(rate, drops, num_steps)
    rising = first_step(config.optimizer.warmup, num_steps)  # the first update has 1 / rising of the rate
    return lambda step: decayed(step) * jnp.minimum((step + 1) / rising, 1.0) if rising else decayed(step)


def _stepwise(rate: float, drops: list[tuple[float, float]], num_steps: int) -> Schedule:
    """`rate`, multiplied by the factor of each (fraction of the training, factor) once its time has come."""
    boundaries, rates = [], [rate]
    for fraction, factor in sorted(drops):
        boundaries.append(first_step(fraction, num_steps))
        rates.append(rates[-1] * factor)
    schedule = optax.join_schedules([optax.constant_schedule(r) for r in rates], boundaries)
    return lambda step: jnp.asarray(schedule(step), jnp.float32)


def _polynomial(rate: float, num_steps: int) -> Schedule:
    """`rate` x (1 - fraction of the training)^2, down to 0 (NVCaffe's "poly" of power 2)."""
    schedule = optax.polynomial_schedule(rate, 0.0, power=2, transition_steps=num_steps)
    return lambda step: jnp.asarray(schedule(step), jnp.float32)


def _layer(path: tuple) -> str:
    """The layer of the parameter at this path of the tree."""
    return path[-2].key


def _group(path: tuple) -> str:
    """Which rate and decay hold for the parameter at this path of the tree."""
    if path[-1].key == "bias":
        return "biases"
    return "conv1" if _layer(path) == "conv1" else "kernels"
