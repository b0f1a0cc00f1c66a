"""Lists of runs for the `get_sweep` of a sweep file; a run is its overrides, {"optimizer.learning_rate": 0.01}.

    def get_sweep():
        return grid({"optimizer.learning_rate": (0.01, 0.003), "seed": (0, 1, 2)})

A list can also be written by hand. `+` joins lists; `crossed` combines each run of one with each run of another.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Overrides = dict[str, Any]
Distribution = Callable[[np.random.Generator], Any]


def grid(choices: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Return every combination of the values of all fields; the last field varies fastest."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def sample(count: int, fields: Mapping[str, Distribution], seed: int = 0) -> list[Overrides]:
    """Return `count` runs with a value drawn for every field; the same seed gives the same runs."""
    random = np.random.default_rng(seed)
    return [{field: draw(random) for field, draw in fields.items()} for _ in range(count)]


def uniform(low: float, high: float) -> Distribution:
    """Draw numbers between `low` and `high`, rounded to three digits."""
    return lambda random: _rounded(random.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Draw numbers whose logarithm is uniform between those of `low` and `high`, rounded to three digits."""
    return lambda random: _rounded(math.exp(random.uniform(math.log(low), math.log(high))))


def choice(*values: Any) -> Distribution:
    """Draw one of the values."""
    return lambda random: values[random.integers(len(values))]


def crossed(first: Sequence[Overrides], second: Sequence[Overrides]) -> list[Overrides]:
    """Return every run of `first` with the overrides of every run of `second` on top."""
    return [{**one, **other} for one, other in itertools.product(first, second)]


def _rounded(number: float) -> float:
    """Round to three digits, so that a run can be repeated from the number in its name."""
    return float(f"{number:.3g}")
