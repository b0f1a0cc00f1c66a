"""One step of the training, as one compiled program over the mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.config import Config
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.gradients import create_gradients
from alexnet_jax.state import TrainState, state_shardings


def create_train_step(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, num_steps: int) -> Callable:
    """One update of the state: augmentation, forward, backward, and the optimizer's rule.

    Returns:
      (state, batch, statistics) -> (state, metrics). `batch` holds the global "image" (uint8 [B, S, S, 3]) and
      "label" (int32 [B]); `metrics` the batch's mean "loss", "top1_error" and "top5_error" (percent). The old state's
      memory is used for the new one.
    """
    gradients_of = create_gradients(config, mesh, num_steps)

    def train_step(state: TrainState, batch: dict[str, jax.Array], statistics: Statistics) -> tuple[TrainState, dict]:
        gradients, metrics = gradients_of(state.params, state.step, batch, statistics)
        gradients |= {name: jax.tree.map(jnp.zeros_like, state.params[name]) for name in config.optimizer.frozen}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    # Arrays are global here: what the update of a split velocity needs, the compiler sends (`parallel.velocity`).
    where = state_shardings(config, mesh), NamedSharding(mesh, P())
    return jax.jit(train_step, donate_argnums=0, out_shardings=where, compiler_options=runtime.compiler_options())
