"""Evaluation: every image exactly once, whatever batch and devices; one or ten views; one net or an ensemble."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.data.sources import ImageSource
from alexnet_jax.loss import cross_entropy, top_k_error
from alexnet_jax.parallel.mesh import local_rows, shard_batch
from alexnet_jax.predict_step import Predictor


@jax.jit
def _score(
    predictions: list[jax.Array], weights: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums over the images that are not padding, for the weighted mean of the ensemble's probabilities."""
    log_probabilities = jax.nn.logsumexp(jnp.stack(predictions), axis=0, b=weights[:, None, None])
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
    weights: Sequence[float] | None = None,
) -> dict[str, float] | None:
    """Mean loss and errors of the predictors' averaged probabilities over all of `source`.

    An ensemble of the released code is a weighted sum of its nets' probabilities (`avg-valid.py`).

    Args:
      predictors: one for each net of the ensemble.
      source: the split.
      mesh: the devices that the predictors run on.
      batch_size: global; the last batch is padded, and the padding not counted.
      read_threads: threads that decode images.
      should_stop: asked before each batch.
      weights: of the predictors, not negative, with a sum above 0; None gives all the same.

    Returns:
      "loss" (nats), "top1_error" and "top5_error" (percent), "num_examples"; None if it was asked to stop.
    """
    batches = evaluation_batches(
        source, batch_size=batch_size, rows=local_rows(mesh, batch_size), read_threads=read_threads
    )
    of_each = np.ones(len(predictors)) if weights is None else np.asarray(weights)
    shares = (of_each / of_each.sum()).astype(np.float32)
    totals = dict.fromkeys(("loss", "top1_error", "top5_error", "num_examples"), 0.0)
    ahead = None  # the sums of the latest batch, fetched once the next is under way
    for host_batch in batches:
        if should_stop():
            return None
        batch = shard_batch(mesh, host_batch)
        sums = _score([predict(batch["image"]) for predict in predictors], shares, batch["label"], batch["mask"])
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
