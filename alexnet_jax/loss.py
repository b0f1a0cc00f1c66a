"""What is minimized and what is reported: cross-entropy, and the errors of the first one and five guesses."""

import jax
import jax.numpy as jnp


def cross_entropy(log_probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The negative log-likelihood of each example (the paper's multinomial logistic regression, section 3.5).

    Args:
      log_probabilities: [B, classes].
      labels: [B], int.

    Returns:
      [B], in nats.
    """
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]


def top_k_error(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """1 where the label is not among the k best scores, 0 where it is; a tie at the border counts in part.

    With `better` scores above the label's and `equal` ones that equal it, the label's place among the latter is a
    matter of chance and it gets the credit (k - better) / equal (released code, `layer_kernels.cu:96`). So a net that
    gives every class the same score is right in k of `classes` cases, not always.

    Args:
      scores: [B, classes].
      labels: [B], int.
      k: how many guesses are allowed.

    Returns:
      [B], float32 in [0, 1].
    """
    of_label = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    better = jnp.sum(scores > of_label, axis=-1)
    equal = jnp.sum(scores == of_label, axis=-1)
    credit = (k - better) / jnp.maximum(equal, 1)  # a score that is not a number equals nothing, not even itself
    return jnp.where(equal > 0, 1.0 - jnp.clip(credit, 0.0, 1.0), 1.0).astype(jnp.float32)
