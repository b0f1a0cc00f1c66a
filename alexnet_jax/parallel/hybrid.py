"""Convolutions data-parallel, fully connected layers model-parallel, over the same devices.

Source: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014, arXiv 1404.5997),
section 4. Convolutions do most of the work with few parameters, so each worker has all of them and its own part of the
batch. Fully connected layers have most of the parameters and little work, so each worker has 1/K of their units and
sees the whole batch; their gradients are never reduced. In between, activities of the last convolutional layer are
exchanged in one of three ways:

    "gathered", scheme (a): every worker sends all of its activities to all others; one round over the whole batch.
    "broadcast", scheme (b): one worker after the other sends its activities to all others; K rounds.
    "exchanged", scheme (c): in each of K rounds every worker sends 1/K of its activities to all others.

All give the same gradients: those of the K rounds are added up. (The paper may also update the fully connected layers
after each round, with batches of another size; that is not built.) The bound axis of the mesh is `data`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.parallel.towers import DATA_AXIS


def images_of_rounds(scheme: str, workers: int, images: int) -> np.ndarray:
    """Which images the fully connected layers see in each round, by their place in the joint batch of all workers.

    Args:
      scheme: "gathered", "broadcast" or "exchanged".
      workers: how many there are.
      images: how many images each has, for "exchanged" a multiple of the workers.

    Returns:
      [rounds, images in a round], int.
    """
    joint = np.arange(workers * images)
    match scheme:
        case "gathered":
            return joint[None]
        case "broadcast":
            return joint.reshape(workers, images)
        case _:
            return joint.reshape(workers, workers, -1).swapaxes(0, 1).reshape(workers, images)


def send(scheme: str, activities: jax.Array, number: int, workers: int) -> jax.Array:
    """The activities of the images of round `number`, on every worker.

    Args:
      scheme: "gathered", "broadcast" or "exchanged".
      activities: [B / workers, ...], those of this worker's images.
      number: of the round.
      workers: how many there are.

    Returns:
      [images in a round, ...], in the order of `images_of_rounds`.
    """
    match scheme:
        case "gathered":
            return gather(activities)
        case "broadcast":  # as a sum, because `lax.pbroadcast` has no gradient
            mine = lax.axis_index(DATA_AXIS) == number
            return lax.psum(jnp.where(mine, activities, jnp.zeros_like(activities)), DATA_AXIS)
        case _:
            part = len(activities) // workers
            return gather(lax.slice_in_dim(activities, number * part, (number + 1) * part))


def gather(rows: jax.Array) -> jax.Array:
    """The rows of all workers, [B / workers, ...] -> [B, ...]: an all-gather."""
    return lax.all_gather(rows, DATA_AXIS, tiled=True)


def own_rows(rows: jax.Array, count: int) -> jax.Array:
    """Of the rows of all workers, [B, ...], the `count` that belong to this one."""
    return lax.dynamic_slice_in_dim(rows, lax.axis_index(DATA_AXIS) * count, count)


def loss_and_gradients(
    scheme: str,
    workers: int,
    convolutional: Callable[[Any], jax.Array],
    fully_connected: Callable[[Any, jax.Array, np.ndarray], tuple[jax.Array, jax.Array]],
    params: tuple[Any, Any],
) -> tuple[jax.Array, tuple[Any, Any]]:
    """Forward and backward through both halves of the net.

    Args:
      scheme: "gathered", "broadcast" or "exchanged".
      workers: how many there are.
      convolutional: parameters -> activities of this worker's images.
      fully_connected: (parameters, activities, places in the joint batch) -> (their share of the loss, other sums).
      params: of both halves.

    Returns:
      The other sums over all images, and the gradients of both halves: this worker's share of those of the
      convolutions, and the complete ones of its part of the fully connected layers.
    """
    activities, backward = jax.vjp(convolutional, params[0])
    rounds = images_of_rounds(scheme, workers, len(activities))

    def share_of_round(params: Any, activities: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
        return fully_connected(params, send(scheme, activities, number, workers), rounds[number])

    total: Any = None
    for number in range(len(rounds)):
        (_, sums), gradients = jax.value_and_grad(share_of_round, argnums=(0, 1), has_aux=True)(
            params[1], activities, number
        )
        found = sums, *gradients
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    sums, of_fully_connected, of_activities = total
    (of_convolutions,) = backward(of_activities)
    return sums, (of_convolutions, of_fully_connected)
