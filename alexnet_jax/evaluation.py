"""Evaluation of a net or an ensemble on one or several views: every image counts once, whatever batch and devices."""

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


def evaluate(
    predictors: Sequence[Predictor],
    source: ImageSource,
    mesh: Mesh,
    batch_size: int,
    read_threads: int,
    should_stop: Callable[[], object] = lambda: False,
    weights: Sequence[float] | None = None,
) -> dict[str, float] | None:
    """Compute mean loss and errors of the predictors' averaged probabilities over all of `source`.

    Args:
      predictors: one for each net of the ensemble.
      source: the split.
      mesh: the devices that the predictors run on.
      batch_size: global; the last batch is padded, and the padding does not count.
      read_threads: threads that decode images.
      should_stop: called before each batch.
      weights: one for each net, at least 0, with a sum above 0 (released code: `avg-valid.py`); None: all the same.

    Returns:
      "loss" (nats), "top1_error" and "top5_error" (percent), "num_examples"; None if `should_stop` returned true.
    """
    rows = local_rows(mesh, batch_size)
    batches = evaluation_batches(source, batch_size=batch_size, rows=rows, read_threads=read_threads)
    net_weights = np.ones(len(predictors)) if weights is None else np.asarray(weights)  # [nets]
    net_weights = (net_weights / net_weights.sum()).astype(np.float32)
    totals, previous = np.zeros(4), np.zeros(4)
    for host_batch in batches:
        if should_stop():
            return None
        batch = shard_batch(mesh, host_batch)
        log_probabilities = [predict(batch["image"]) for predict in predictors]  # for each net [B, classes]
        sums = _sums(log_probabilities, net_weights, batch["label"], batch["mask"])
        totals += jax.device_get(previous)  # the previous batch's sums, now that the next ones are under way
        previous = sums
    loss, top1_errors, top5_errors, count = (totals + jax.device_get(previous)).tolist()
    return {
        "loss": loss / count,
        "top1_error": 100.0 * top1_errors / count,
        "top5_error": 100.0 * top5_errors / count,
        "num_examples": round(count),
    }


@jax.jit
def _sums(
    log_probabilities: list[jax.Array],  # for each net [B, classes]
    net_weights: jax.Array,  # [nets]
    labels: jax.Array,  # int32 [B]
    mask: jax.Array,  # float32 [B], 0 for padding
) -> jax.Array:
    """Sum the losses, the top-1 and top-5 errors and the number of the images that are not padding: float32 [4]."""
    mean = jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0, b=net_weights[:, None, None])  # [B, classes]
    errors = (cross_entropy(mean, labels), top_k_error(mean, labels, 1), top_k_error(mean, labels, 5))
    return jnp.stack([*(jnp.sum(error * mask) for error in errors), jnp.sum(mask)])
