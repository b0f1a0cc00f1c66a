"""Random keys that depend on the seed and on the example's place in the training stream, and on nothing else.

So the results of a run depend neither on how a batch is split over devices or processes nor on where it was resumed,
nor on which generator the environment asks for (JAX_DEFAULT_PRNG_IMPL, JAX_THREEFRY_PARTITIONABLE).
"""

import enum
import functools
from collections.abc import Callable
from typing import Any

import jax

GENERATOR = "threefry2x32"  # its numbers are the same on every device and layout


class Purpose(enum.IntEnum):
    """What a key is for; keys of different purposes are independent."""

    INITIALIZATION = 0
    AUGMENTATION = 1
    DROPOUT = 2


def key_for(seed: int, purpose: Purpose) -> jax.Array:
    """Return the key of a run for one purpose."""
    return jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), int(purpose))


def draws_alike(function: Callable) -> Callable:
    """Make a function draw the same numbers from a key whatever `jax_threefry_partitionable` is outside."""

    @functools.wraps(function)
    def drawing(*args: Any, **kwargs: Any) -> Any:
        with jax.threefry_partitionable(True):
            return function(*args, **kwargs)

    return drawing


def example_keys(seed: int, purpose: Purpose, positions: jax.Array) -> jax.Array:
    """Return one key for each example.

    Args:
      seed: the run's.
      purpose: what the keys are for.
      positions: [B], int32, the examples' places in the training stream: step * batch size + row. Within an epoch
        a place stands for one image, so a key is a function of seed, epoch and image.

    Returns:
      [B] keys.
    """
    key = key_for(seed, purpose)
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)
