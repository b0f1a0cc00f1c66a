"""One step of the training: augmentation, gradients, update, as one compiled program over the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import augment
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.objective import cross_entropy, top_k_error
from alexnet_jax.optimizer import first_step
from alexnet_jax.parallel.towers import DATA_AXIS
from alexnet_jax.randomness import Purpose, example_keys
from alexnet_jax.state import TrainState, create_model, state_specs


def create_train_step(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, num_steps: int) -> Callable:
    """One update of the state, as one compiled program over the mesh.

    Returns:
      (state, batch, statistics) -> (state, metrics). `batch` holds the global "image" (uint8 [B, S, S, 3]) and
      "label" (int32 [B]); `metrics` the batch's mean "loss", "top1_error" and "top5_error" (percent). The old state's
      memory is used for the new one.
    """
    model = create_model(config, mesh.shape["tower"])
    noise_ends = first_step(config.data.color_noise_until, num_steps)

    def train_step(state: TrainState, batch: dict[str, jax.Array], statistics: Statistics) -> tuple[TrainState, dict]:
        labels = batch["label"]
        rows = lax.axis_index(DATA_AXIS) * labels.shape[0] + jnp.arange(labels.shape[0])
        positions = state.step * config.batch_size + rows
        views = augment(
            batch["image"],
            example_keys(config.seed, Purpose.AUGMENTATION, positions),
            statistics,
            image_size=config.model.image_size,
            flip=config.data.flip,
            color_noise=config.data.color_noise,
            mean=config.data.mean,
            noise_active=state.step < noise_ends,
        )
        dropout_keys = example_keys(config.seed, Purpose.DROPOUT, positions)

        frozen = {name: state.params[name] for name in config.optimizer.frozen}
        trained = {name: state.params[name] for name in state.params if name not in frozen}

        def loss_and_scores(trained: Any) -> tuple[jax.Array, jax.Array]:
            scores: Any = model.apply({"params": frozen | trained}, views, dropout_keys)
            # The mean over the whole batch, so that its gradients are those of the global loss on every device.
            return lax.pmean(cross_entropy(jax.nn.log_softmax(scores), labels).mean(), DATA_AXIS), scores

        # Backpropagation ends at the lowest layer that is trained.
        (loss, scores), gradients = jax.value_and_grad(loss_and_scores, has_aux=True)(trained)
        gradients |= jax.tree.map(jnp.zeros_like, frozen)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        errors = {f"top{k}_error": 100.0 * lax.pmean(top_k_error(scores, labels, k).mean(), DATA_AXIS) for k in (1, 5)}
        return TrainState(state.step + 1, params, opt_state), {"loss": loss, **errors}

    specs = state_specs(config, mesh)
    step = jax.shard_map(train_step, mesh=mesh, in_specs=(specs, P(DATA_AXIS), P()), out_specs=(specs, P()))
    return jax.jit(step, donate_argnums=0, compiler_options=runtime.compiler_options())
