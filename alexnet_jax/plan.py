"""When things happen in a training, in steps. A config gives times in epochs and in fractions of the training."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import Config, fields
from alexnet_jax.optimizer import bias_schedule, conv1_schedule, first_step, learning_rate_schedule

FRACTIONS_OF_TRAINING = (
    *("optimizer.warmup", "optimizer.drops", "optimizer.bias_drops", "optimizer.conv1_drops"),
    *("optimizer.conv1_frozen_from", "data.color_noise_until"),
)
TIMES = ("num_epochs", *FRACTIONS_OF_TRAINING)  # all that says when something changes
_NEVER = {"optimizer.conv1_frozen_from": 1.0, "data.color_noise_until": 1.0}  # whatever the length
_HALF = Fraction(1, 2)


class Plan(NamedTuple):
    """The length of a training, and how often it evaluates and saves, in steps."""

    num_steps: int
    evaluate_every: Fraction
    save_every: Fraction

    @classmethod
    def from_config(cls, config: Config, num_examples: int) -> "Plan":
        """Return the plan of a training on so many images: at least one step, and periods of at least one step."""

        def period(epochs: float) -> Fraction:
            # Exact, also for 1/3: each event is rounded to a step by itself, so if one period is a multiple of the
            # other, so are their steps.
            return max(Fraction(1), Fraction(epochs).limit_denominator(10**6) * num_examples / config.batch_size)

        num_steps = max(1, round(config.num_epochs * num_examples / config.batch_size))
        return cls(num_steps, period(config.eval.every_epochs), period(config.checkpoint.every_epochs))

    def evaluation_due(self, step: int) -> bool:
        """Tell whether the state after this step is evaluated."""
        return step == self.num_steps or _is_due(step, self.evaluate_every)

    def save_due(self, step: int) -> bool:
        """Tell whether the state after this step is saved, whether or not it is the best."""
        return step == self.num_steps or _is_due(step, self.save_every)


def same_until(step: int, config: Config, other: Config, num_examples: int) -> bool:
    """Tell whether two configs that differ in TIMES at most give the same state after this step, to the bit."""
    return _history(step, config, num_examples) == _history(step, other, num_examples)


def fractions_kept(config: Config, num_epochs: float) -> dict[str, Any]:
    """Return the FRACTIONS_OF_TRAINING that keep all times where they are in epochs if the training gets longer.

    Fields that stay as they are (nothing happens, or never) are left out.
    """
    ratio = config.num_epochs / num_epochs
    values = {name: value for name, value in fields(config) if name in FRACTIONS_OF_TRAINING}
    return {
        name: tuple(round(fraction * ratio, 9) for fraction in value)
        if isinstance(value, tuple)
        else round(value * ratio, 9)
        for name, value in values.items()
        if value and value != _NEVER.get(name)
    }


def _history(step: int, config: Config, num_examples: int) -> tuple[Any, ...]:
    """Return all that the first `step` updates take from TIMES, and the form of the optimizer's state."""
    num_steps = Plan.from_config(config, num_examples).num_steps
    schedules = (learning_rate_schedule, bias_schedule, conv1_schedule)
    rates = (np.broadcast_to(create(config, num_steps)(jnp.arange(step)), step) for create in schedules)
    noise_ends = min(step, first_step(config.data.color_noise_until, num_steps))
    conv1_is_frozen = config.optimizer.conv1_frozen_from != 1.0
    return *(rate.tobytes() for rate in rates), noise_ends, conv1_is_frozen, step <= num_steps


def _is_due(step: int, period: Fraction) -> bool:
    """Tell whether a multiple of the period, in steps, is nearest to this step (halves count up)."""
    return math.ceil((step + _HALF) / period) > math.ceil((step - _HALF) / period)
