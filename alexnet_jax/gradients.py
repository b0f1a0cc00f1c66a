"""The gradients of a batch on any layout: who computes which part of them, and what is reduced over devices.

Each device works on its own images with its own part of the parameters. What it finds is its share of the gradient of
the batch's mean loss; the shares are added up over `data` once a step, whatever the number of micro-batches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import augment
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.loss import cross_entropy, top_k_error
from alexnet_jax.optimizer import first_step
from alexnet_jax.parallel import hybrid
from alexnet_jax.parallel.towers import DATA_AXIS
from alexnet_jax.rng import Purpose, example_keys
from alexnet_jax.state import create_halves, create_model, hybrid_workers, state_specs

Tree = Any  # {"conv1": {"kernel", "bias"}, ...}
METRICS = ("loss", "top1_error", "top5_error")


def create_gradients(config: Config, mesh: Mesh, num_steps: int) -> Callable:
    """The function that a training step differentiates with, over the mesh.

    Returns:
      (params, step, batch, statistics) -> (gradients, metrics). `gradients` are those of the layers that are trained,
      split as their velocity is; `metrics` holds the batch's mean "loss", "top1_error" and "top5_error" (percent).
    """
    parts, workers = mesh.shape[DATA_AXIS], hybrid_workers(config, mesh)
    noise_ends = first_step(config.data.color_noise_until, num_steps)
    specs = state_specs(config, mesh)
    velocity_specs = {n: spec for n, spec in specs.opt_state.velocity.items() if n not in config.optimizer.frozen}
    shares_of = _hybrid(config, workers) if workers > 1 else _whole_net(config, mesh)

    def needs_sum(layer: str) -> bool:
        """Whether devices along `data` hold shares of this layer's gradients, rather than gradients."""
        return parts > 1 and DATA_AXIS not in specs.params[layer]["kernel"]

    def on_device(params: Tree, step: jax.Array, batch: dict[str, jax.Array], statistics: Statistics) -> Any:
        frozen = {name: params[name] for name in config.optimizer.frozen}
        # Of parameters that vary over `data` each device finds its share of the gradient, and nothing is sent yet.
        trained = {
            name: _vary(params[name], (DATA_AXIS,)) if needs_sum(name) else params[name] for name in velocity_specs
        }

        def of_micro_batch(examples: dict[str, jax.Array]) -> tuple[jax.Array, Tree]:
            positions = step * config.batch_size + examples["row"]
            views = augment(
                examples["image"],
                example_keys(config.seed, Purpose.AUGMENTATION, positions),
                statistics,
                image_size=config.model.image_size,
                crop=config.data.crop,
                flip=config.data.flip,
                color_noise=config.data.color_noise,
                mean=config.data.mean,
                std=config.data.std,
                noise_active=step < noise_ends,
            )
            return shares_of(frozen, trained, views, step, examples)

        like = jnp.zeros(len(METRICS)), trained
        axes = (
            (DATA_AXIS,) if parts > 1 and workers == 1 else (),
            {
                name: {leaf: _axes(specs.params[name][leaf], needs_sum(name)) for leaf in trained[name]}
                for name in trained
            },
        )
        micro_batches = _in_micro_batches(config, batch, parts, joint=workers > 1)
        sums, gradients = _sum_over(of_micro_batch, micro_batches, like, axes)
        gradients = {
            name: {leaf: _add_up(g, velocity_specs[name][leaf]) for leaf, g in of_layer.items()}
            if needs_sum(name)
            else of_layer
            for name, of_layer in gradients.items()
        }
        sums = lax.psum(sums, DATA_AXIS) if parts > 1 and workers == 1 else sums
        return gradients, dict(zip(METRICS, sums / config.batch_size, strict=True))

    batch_spec = P(DATA_AXIS) if parts > 1 else P()  # an axis of one device needs no collective
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(specs.params, P(), batch_spec, P()), out_specs=(velocity_specs, P())
    )


def _sums(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """[3]: the sums of METRICS over the images."""
    losses = cross_entropy(jax.nn.log_softmax(scores), labels)
    errors = [100.0 * top_k_error(scores, labels, k).sum() for k in (1, 5)]
    return jnp.stack([losses.sum(), *errors])


def _whole_net(config: Config, mesh: Mesh) -> Callable:
    """Forward and backward where every device has all layers, or its tower of all: (sums, shares of gradients)."""
    model = create_model(config, mesh.shape["tower"])

    def shares(frozen: Tree, trained: Tree, views: jax.Array, step: jax.Array, examples: dict[str, jax.Array]) -> Any:
        keys = example_keys(config.seed, Purpose.DROPOUT, step * config.batch_size + examples["row"])

        def share_of_loss(trained: Tree) -> tuple[jax.Array, jax.Array]:
            scores: Any = model.apply({"params": frozen | trained}, views, keys)
            sums = _sums(scores, examples["label"])
            return sums[0] / config.batch_size, sums

        (_, sums), gradients = jax.value_and_grad(share_of_loss, has_aux=True)(trained)
        return sums, gradients

    return shares


def _hybrid(config: Config, workers: int) -> Callable:
    """The same where fully connected layers are split over the devices of `data` (`parallel.hybrid`)."""
    convolutional, fully_connected = create_halves(config, workers)
    names = convolutional.net.names[: convolutional.net.num_convolutional]

    def shares(frozen: Tree, trained: Tree, views: jax.Array, step: jax.Array, examples: dict[str, jax.Array]) -> Any:
        def keys_of(rows: jax.Array) -> jax.Array:
            return example_keys(config.seed, Purpose.DROPOUT, step * config.batch_size + rows)

        def activities_of(params: Tree) -> Any:
            return convolutional.apply({"params": frozen | params}, views, keys_of(examples["row"]))

        def share_of_loss(params: Tree, activities: jax.Array, images: np.ndarray) -> tuple[jax.Array, jax.Array]:
            keys = keys_of(examples["joint_row"][images])
            scores: Any = fully_connected.apply({"params": frozen | params}, activities, keys)
            sums = _sums(scores, examples["joint_label"][images])
            return sums[0] / config.batch_size, sums

        below = {name: layer for name, layer in trained.items() if name in names}
        above = {name: layer for name, layer in trained.items() if name not in names}
        scheme = config.mesh.fully_connected
        sums, gradients = hybrid.loss_and_gradients(scheme, workers, activities_of, share_of_loss, (below, above))
        return sums, gradients[0] | gradients[1]

    return shares


def _in_micro_batches(config: Config, batch: dict[str, jax.Array], parts: int, joint: bool) -> dict[str, jax.Array]:
    """The examples here with their rows in the batch, [micro-batches, images, ...].

    With `joint`, "joint_row" and "joint_label" are those of all devices' images in each micro-batch.
    """
    here, k = config.batch_size // parts, config.gradient_accumulation
    first = lax.axis_index(DATA_AXIS) * here if parts > 1 else 0
    examples = {**batch, "row": first + jnp.arange(here)}
    split = {name: rows.reshape(k, here // k, *rows.shape[1:]) for name, rows in examples.items()}
    if joint:
        labels = lax.all_gather(batch["label"], DATA_AXIS, to="invarying")
        of_all = {"joint_row": jnp.arange(config.batch_size), "joint_label": labels}
        split |= {
            name: rows.reshape(parts, k, here // k).swapaxes(0, 1).reshape(k, parts * here // k)
            for name, rows in of_all.items()
        }
    return split


def _sum_over(function: Callable, micro_batches: Any, like: Any, axes: Any) -> Any:
    """The sum of what the function makes of each micro-batch, one after the other in the same memory.

    Args:
      function: micro-batch -> tree.
      micro_batches: arrays [k, ...].
      like: a tree of arrays of the shapes that the function returns.
      axes: the same tree of the mesh axes over which each of them varies.
    """
    if len(jax.tree.leaves(micro_batches)[0]) == 1:
        return function(jax.tree.map(lambda rows: rows[0], micro_batches))

    def add(total: Any, micro_batch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(micro_batch)), None

    zeros = jax.tree.map(lambda leaf, varying: _vary(jnp.zeros(leaf.shape, leaf.dtype), varying), like, axes)
    return lax.scan(add, zeros, micro_batches)[0]


def _axes(spec: P, shared: bool) -> tuple[str, ...]:
    """The mesh axes over which the gradient of a parameter of this spec varies."""
    return tuple(name for name in spec if name is not None) + ((DATA_AXIS,) if shared else ())


def _vary(tree: Any, axes: tuple[str, ...]) -> Any:
    """The same values, declared to differ from device to device along these axes."""
    return jax.tree.map(lambda leaf: lax.pcast(leaf, axes, to="varying"), tree) if axes else tree


def _add_up(shares: jax.Array, velocity_spec: P) -> jax.Array:
    """The sum over `data` of the devices' shares: of all, or of this device's part where the velocity is split."""
    if DATA_AXIS in velocity_spec:
        axis = velocity_spec.index(DATA_AXIS)
        return lax.psum_scatter(shares, DATA_AXIS, scatter_dimension=axis, tiled=True)
    return lax.psum(shares, DATA_AXIS)
