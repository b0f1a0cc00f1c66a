"""Dropout whose mask depends on the example and the tower, not on how batch or towers are split over devices."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model.layers import Dropout


def dropout(
    x: jax.Array,
    layer: Dropout,
    keys: jax.Array,
    first_tower: jax.Array | int,
    towers_here: int,
    shard: jax.Array | int = 0,
    num_shards: int = 1,
) -> jax.Array:
    """Zero each unit with probability 1 - keep.

    Args:
      x: [B, ..., C], the units of the towers on this device, tower after tower.
      layer: the rate and the kind. `original` leaves the kept units as they are (paper section 4.2; released code,
        `src/layer.cu:1126`), `inverted` divides them by keep.
      keys: [B] random keys, one per example, already particular to this layer.
      first_tower: number of the first tower on this device.
      towers_here: how many towers the channels of x belong to.
      shard: which shard of these towers' units x holds.
      num_shards: into how many shards they are split over devices.

    Returns:
      An array like x.
    """
    units = x.shape[-1]
    shape = (*x.shape[1:-1], num_shards * units // towers_here)

    def kept_units(key: jax.Array) -> jax.Array:
        masks = [
            jax.random.bernoulli(jax.random.fold_in(key, first_tower + tower), layer.keep, shape)
            for tower in range(towers_here)
        ]
        mask = jnp.concatenate(masks, axis=-1)
        return lax.dynamic_slice_in_dim(mask, shard * units, units, axis=-1) if num_shards > 1 else mask

    scale = 1.0 / layer.keep if layer.kind == "inverted" else 1.0
    return lax.select(jax.vmap(kept_units)(keys), x * scale, jnp.zeros_like(x))


def at_test_time(x: jax.Array, layer: Dropout) -> jax.Array:
    """Do what replaces dropout outside training: `original` multiplies by keep, `inverted` does nothing."""
    return x * layer.keep if layer.kind == "original" else x
