"""Evaluation: every image exactly once, whatever batch and devices; one or ten views; one net or an ensemble."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import center_view, ten_views
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.data.sources import ImageSource
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.objective import cross_entropy, top_k_error
from alexnet_jax.parallel.mesh import feed, local_rows
from alexnet_jax.parallel.towers import DATA_AXIS
from alexnet_jax.state import create_model, state_specs

Predictor = Callable[[jax.Array], jax.Array]  # uint8 images [B, S, S, 3] -> log-probabilities [B, classes]


def create_predict_step(config: Config, mesh: Mesh, views: int) -> Callable:
    """The compiled program (params, statistics, images) -> log-probabilities [B, classes], split over `data`.

    With ten views the probabilities of the views are averaged, not the scores (paper section 4.1; released code,
    `layer.cu:1804`).
    """
    model = create_model(config, mesh.shape["tower"])
    size, mean = config.model.image_size, config.data.mean

    def predict_step(params: Any, statistics: Statistics, images: jax.Array) -> jax.Array:
        if views == 1:
            crops = center_view(images, statistics, image_size=size, mean=mean)
        else:
            crops = ten_views(images, statistics, image_size=size, mean=mean).reshape(-1, size, size, 3)
        scores: Any = model.apply({"params": params}, crops)
        return mean_of_probabilities(jax.nn.log_softmax(scores).reshape(-1, views, scores.shape[-1]), axis=1)

    specs = state_specs(config, mesh).params
    step = jax.shard_map(predict_step, mesh=mesh, in_specs=(specs, P(), P(DATA_AXIS)), out_specs=P(DATA_AXIS))
    return jax.jit(step, compiler_options=runtime.compiler_options())


def mean_of_probabilities(log_probabilities: jax.Array, axis: int) -> jax.Array:
    """The logarithm of the mean of probabilities that are given as logarithms."""
    return jax.nn.logsumexp(log_probabilities, axis=axis) - math.log(log_probabilities.shape[axis])


@jax.jit
def _score(predictions: list[jax.Array], labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the images that are not padding, for the ensemble's averaged probabilities."""
    log_probabilities = mean_of_probabilities(jnp.stack(predictions), axis=0)
    return {
        "loss": jnp.sum(cross_entropy(log_probabilities, labels) * mask),
        "top1_error": jnp.sum(top_k_error(log_probabilities, labels, 1) * mask),
        "top5_error": jnp.sum(top_k_error(log_probabilities, labels, 5) * mask),
        "num_examples": jnp.sum(mask),
    }


def evaluate(
    predictors: Sequence[Predictor],
    source: ImageSource,
    mesh: Mesh,
    batch_size: int,
    read_threads: int,
    should_stop: Callable[[], object] = lambda: False,
) -> dict[str, float] | None:
    """Mean loss and errors of the predictors' averaged probabilities over all of `source`.

    Args:
      predictors: one for each net of the ensemble.
      source: the split.
      mesh: the devices that the predictors run on.
      batch_size: global; the last batch is padded, and the padding not counted.
      read_threads: threads that decode images.
      should_stop: asked before each batch.

    Returns:
      "loss" (nats), "top1_error" and "top5_error" (percent), "num_examples"; None if it was asked to stop.
    """
    batches = evaluation_batches(
        source, batch_size=batch_size, rows=local_rows(mesh, batch_size), read_threads=read_threads
    )
    totals = dict.fromkeys(("loss", "top1_error", "top5_error", "num_examples"), 0.0)
    ahead = None  # the sums of the latest batch, fetched once the next is under way
    for host_batch in batches:
        if should_stop():
            return None
        batch = feed(mesh, host_batch)
        sums = _score([predict(batch["image"]) for predict in predictors], batch["label"], batch["mask"])
        _add(totals, ahead)
        ahead = sums
    _add(totals, ahead)
    count = totals["num_examples"]
    return {
        "loss": totals["loss"] / count,
        "top1_error": 100.0 * totals["top1_error"] / count,
        "top5_error": 100.0 * totals["top5_error"] / count,
        "num_examples": round(count),
    }


def _add(totals: dict[str, float], sums: dict[str, jax.Array] | None) -> None:
    if sums is not None:
        for name, value in jax.device_get(sums).items():
            totals[name] += float(value)
