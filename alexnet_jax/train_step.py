"""One step of the training in the order in which it happens: augment, loss, gradients, reduce, update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.accumulation import accumulate
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import augment
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.loss import cross_entropy, top_k_error
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.optimizer import first_step
from alexnet_jax.parallel.mesh import platform_of
from alexnet_jax.parallel.reduction import batch_axes, first_row, reduce_gradients, reduce_sums, to_differentiate
from alexnet_jax.rng import Purpose, draws_alike, example_keys
from alexnet_jax.state import TrainState, gradient_specs, on_mesh, params_specs, state_shardings

Params = Any  # {"conv1": {"kernel", "bias"}, ...}
Batch = dict[str, jax.Array]  # "image": uint8 [B, S, S, 3], "label": int32 [B]
METRICS = ("loss", "top1_error", "top5_error")


@draws_alike
def loss_and_sums(
    config: Config,
    model: AlexNet,
    noise_ends: int,
    trained: Params,
    frozen: Params,
    step: jax.Array,
    statistics: Statistics,
    examples: Batch,
) -> tuple[jax.Array, jax.Array]:
    """Compute the examples' share of the batch's mean loss, and the sums of METRICS over them, [3].

    `examples` also has "position", int32 [b]: the images' places in the training stream, which all randomness is drawn
    from.
    """
    # Augment.
    views = augment(  # uint8 [b, S, S, 3] -> float32 [b, s, s, 3]
        examples["image"],
        example_keys(config.seed, Purpose.AUGMENTATION, examples["position"]),
        statistics,
        image_size=config.model.image_size,
        crop=config.data.crop,
        flip=config.data.flip,
        color_noise=config.data.color_noise,
        mean=config.data.mean,
        std=config.data.std,
        noise_active=step < noise_ends,
    )

    # Loss.
    dropout_keys = example_keys(config.seed, Purpose.DROPOUT, model.positions_seen(examples["position"]))
    logits: Any = model.apply({"params": frozen | trained}, views, dropout_keys)  # [b, classes]
    losses = cross_entropy(jax.nn.log_softmax(logits), examples["label"])  # [b], nats
    errors = [100.0 * top_k_error(logits, examples["label"], k).sum() for k in (1, 5)]  # percent
    sums = jnp.stack([losses.sum(), *errors])
    return sums[0] / config.batch_size, sums


def create_train_step(
    config: Config, model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh, num_steps: int
) -> Callable:
    """Compile one update of the state over the mesh.

    Returns:
      (state, batch, statistics) -> (state, metrics). `batch` is global; `metrics` holds its mean "loss" (nats),
      "top1_error" and "top5_error" (percent). The old state's memory is used for the new one.
    """
    frozen_layers = config.optimizer.frozen
    param_specs = params_specs(config, model, mesh)
    grad_specs = {n: specs for n, specs in gradient_specs(config, model, mesh).items() if n not in frozen_layers}
    noise_ends = first_step(config.data.color_noise_until, num_steps)
    loss_fn = functools.partial(loss_and_sums, config, on_mesh(model, config, mesh), noise_ends)

    def gradients_on_device(params: Params, step: jax.Array, batch: Batch, statistics: Statistics) -> Any:
        """Compute, from the b images on this device, the gradients of the mean loss, and the metrics of the batch."""
        trained = to_differentiate({name: params[name] for name in grad_specs}, param_specs, mesh)
        frozen = {name: params[name] for name in frozen_layers}
        rows = first_row(config.batch_size, mesh) + jnp.arange(len(batch["label"]))  # [b], of the batch
        examples = batch | {"position": step * config.batch_size + rows}

        # Gradients, summed over the micro-batches of this device.
        gradient_fn = functools.partial(jax.grad(loss_fn, has_aux=True), trained, frozen, step, statistics)
        sums_like = jnp.zeros_like(batch["label"], float, shape=(len(METRICS),))
        shares, sums = accumulate(gradient_fn, (trained, sums_like), examples, config.gradient_accumulation)

        # Reduce, over the devices.
        metrics = reduce_sums(sums, mesh) / config.batch_size
        return reduce_gradients(shares, param_specs, grad_specs, mesh), dict(zip(METRICS, metrics, strict=True))

    def train_step(state: TrainState, batch: Batch, statistics: Statistics) -> tuple[TrainState, dict[str, jax.Array]]:
        # On one device `shard_map` changes nothing.
        gradients, metrics = jax.shard_map(
            gradients_on_device,
            mesh=mesh,
            in_specs=(param_specs, P(), P(batch_axes(mesh)), P()),
            out_specs=(grad_specs, P()),
        )(state.params, state.step, batch, statistics)
        gradients |= {name: jax.tree.map(jnp.zeros_like, state.params[name]) for name in frozen_layers}

        # Update. Arrays are global here: what a sharded momentum buffer needs, the compiler sends.
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    shardings = state_shardings(config, model, optimizer, mesh), NamedSharding(mesh, P())
    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=shardings,
        compiler_options=runtime.compiler_options(platform_of(mesh)),
    )
