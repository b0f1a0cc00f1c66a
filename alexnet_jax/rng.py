"""Random keys that depend on the seed and on the example's place in the training stream, and on nothing else.

So the results of a run depend neither on how a batch is split over devices or processes nor on where it was resumed.
"""

import enum

import jax


class Purpose(enum.IntEnum):
    """What a key is for; keys of different purposes are independent."""

    INITIALIZATION = 0
    AUGMENTATION = 1
    DROPOUT = 2


def key_for(seed: int, purpose: Purpose) -> jax.Array:
    """Return the key of a run for one purpose."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


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
