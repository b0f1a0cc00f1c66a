"""What a sweep file returns: a list of runs, each the overrides that make it, {"optimizer.learning_rate": 0.01}.

    def get_sweep():
        return grid({"optimizer.learning_rate": (0.01, 0.003), "seed": (0, 1, 2)})

A list can be written out by hand as well; lists are joined by `+`, and `crossed` combines each run of one with each of
the other.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Overrides = dict[str, Any]
Distribution = Callable[[np.random.Generator], Any]


def grid(choices: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Every combination of the values of all fields; the last field varies fastest."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def sample(count: int, fields: Mapping[str, Distribution], seed: int = 0) -> list[Overrides]:
    """`count` runs, each with a value drawn for every field; the same ones for the same seed."""
    random = np.random.default_rng(seed)
    return [{field: draw(random) for field, draw in fields.items()} for _ in range(count)]


def uniform(low: float, high: float) -> Distribution:
    """Numbers between `low` and `high`, of three digits."""
    return lambda random: _three_digits(random.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Numbers whose logarithm is uniform between those of `low` and `high`, of three digits."""
    return lambda random: _three_digits(math.exp(random.uniform(math.log(low), math.log(high))))


def choice(*values: Any) -> Distribution:
    """One of the values."""
    return lambda random: values[random.integers(len(values))]


def crossed(first: Sequence[Overrides], second: Sequence[Overrides]) -> list[Overrides]:
    """Every run of `first` with the overrides of every run of `second` on top."""
    return [{**one, **other} for one, other in itertools.product(first, second)]


def _three_digits(number: float) -> float:
    """Rounded, so that a run can be repeated by the number that its name shows."""
    return float(f"{number:.3g}")
