"""What is minimized and what is reported: cross-entropy, and the errors of the best one and five guesses."""

import jax
import jax.numpy as jnp


def cross_entropy(log_probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the negative log-likelihood of each example (multinomial logistic regression, paper section 3.5).

    Args:
      log_probabilities: [B, classes].
      labels: [B], int.

    Returns:
      [B], in nats.
    """
    return -_of_label(log_probabilities, labels)


def top_k_error(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Return 1 where the label is not among the k highest logits, 0 where it is; a tie at the border counts in part.

    With `better` logits above the label's and `equal` ones that equal it, the label's place among the latter is a
    matter of chance and it gets the credit (k - better) / equal (released code, `layer_kernels.cu:96`). So a net that
    gives every class the same logit is right in k of `classes` cases, not always.

    Args:
      logits: [B, classes], or anything in the same order, such as log-probabilities.
      labels: [B], int.
      k: how many guesses are allowed.

    Returns:
      [B], float32 in [0, 1].
    """
    of_label = _of_label(logits, labels)[:, None]
    better = jnp.sum(logits > of_label, axis=-1)
    equal = jnp.sum(logits == of_label, axis=-1)
    credit = (k - better) / jnp.maximum(equal, 1)  # NaN equals nothing, not even itself
    return jnp.where(equal > 0, 1.0 - jnp.clip(credit, 0.0, 1.0), 1.0).astype(jnp.float32)


def _of_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Return each example's value at its label, [B, classes] -> [B]: a masked sum, whose gradient needs no scatter."""
    return jnp.where(jnp.arange(values.shape[-1]) == labels[:, None], values, 0).sum(axis=-1)
