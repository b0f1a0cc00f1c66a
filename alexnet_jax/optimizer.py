"""The paper's update rule (section 5), with the rates that its author used.

    v <- momentum * v - rate * (dL/dw + decay * w)
    w <- w + v

The rate is part of the velocity, so after a drop of the rate the old velocity still runs out over some ten steps;
`optax.sgd` multiplies by the rate afterwards and differs there. Kernels, biases and conv1's kernels have rates of
their own (`weights.cu` and the files `layer-params-*.cfg` of the released code). For fine-tuning the classifier may
learn faster than the rest, and layers may be frozen (Caffe, `models/finetune_flickr_style`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.config import OptimizerConfig

LAST_LAYER = "fc8"  # the classifier's name in every net

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


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> Schedule:
    """The rate of the kernels."""
    return _stepwise(config.learning_rate, [(drop, config.drop_factor) for drop in config.drops], num_steps)


def bias_schedule(config: OptimizerConfig, num_steps: int) -> Schedule:
    """The rate of the biases. The author's: twice that of the kernels at first, then one drop."""
    drops = [(drop, config.bias_drop_factor) for drop in config.bias_drops]
    return _stepwise(config.bias_rate * config.learning_rate, drops, num_steps)


def conv1_schedule(config: OptimizerConfig, num_steps: int) -> Schedule:
    """The rate of conv1's kernels: more drops than the others, and 0 at the end (`layer-params-145.cfg`)."""
    drops = [(drop, config.drop_factor) for drop in (*config.drops, *config.conv1_drops)]
    return _stepwise(config.learning_rate, [*drops, (config.conv1_frozen_from, 0.0)], num_steps)


def create_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The update rule for a training of `num_steps` steps.

    Parameters are nested dicts whose leaves are named `kernel` or `bias` below the name of their layer. `update`
    needs them beside the gradients, and returns what is to be added to them. A parameter whose rate is 0 is
    skipped entirely, its velocity and decay included (`weights.cu:148` of the released code); so is a frozen layer.
    """
    schedules = {
        "kernels": learning_rate_schedule(config, num_steps),
        "biases": bias_schedule(config, num_steps),
        "conv1": conv1_schedule(config, num_steps),
    }
    decay = {
        "kernels": config.weight_decay,
        "biases": config.weight_decay if config.decay_biases else 0.0,
        "conv1": config.weight_decay,
    }

    def init(params: Any) -> OptimizerState:
        return OptimizerState(step=jnp.zeros((), jnp.int32), velocity=jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: OptimizerState, params: Any = None) -> tuple[Any, OptimizerState]:
        rates = {group: schedule(state.step) for group, schedule in schedules.items()}

        def rate_of(path: tuple) -> jax.Array:
            factor = 0.0 if _layer(path) in config.frozen else 1.0
            return rates[_group(path)] * (factor * config.last_layer_rate if _layer(path) == LAST_LAYER else factor)

        def next_velocity(path: tuple, v: jax.Array, gradient: jax.Array, w: jax.Array) -> jax.Array:
            rate = rate_of(path).astype(v.dtype)
            return jnp.where(rate > 0, config.momentum * v - rate * (gradient + decay[_group(path)] * w), v)

        def change(path: tuple, v: jax.Array) -> jax.Array:
            return jnp.where(rate_of(path) > 0, v, jnp.zeros_like(v))

        velocity = jax.tree.map_with_path(next_velocity, state.velocity, gradients, params)
        return jax.tree.map_with_path(change, velocity), OptimizerState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


def _stepwise(rate: float, drops: list[tuple[float, float]], num_steps: int) -> Schedule:
    """`rate`, multiplied by the factor of each (fraction of the training, factor) once its time has come."""
    boundaries, rates = [], [rate]
    for fraction, factor in sorted(drops):
        boundaries.append(first_step(fraction, num_steps))
        rates.append(rates[-1] * factor)
    schedule = optax.join_schedules([optax.constant_schedule(r) for r in rates], boundaries)
    return lambda step: jnp.asarray(schedule(step), jnp.float32)


def _layer(path: tuple) -> str:
    """The layer of the parameter at this path of the tree."""
    return path[-2].key


def _group(path: tuple) -> str:
    """Which rate and decay hold for the parameter at this path of the tree."""
    if path[-1].key == "bias":
        return "biases"
    return "conv1" if _layer(path) == "conv1" else "kernels"
