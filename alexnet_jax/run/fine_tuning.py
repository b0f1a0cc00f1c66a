"""Fine-tuning: a training that starts from another net (`config.init_from`, its workdir).

All layers are taken over, except the classifier where the classes differ, and so is what the net was trained to
subtract and to expect: its mean image and colors. The source is read only before the first checkpoint; from then on
the training's own workdir holds everything.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from alexnet_jax.config import Config, differences
from alexnet_jax.data.dataset_info import FILE_NAME as DATASET_INFO
from alexnet_jax.data.dataset_info import load_dataset_info
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.files import expanded, reading
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Classifier, Net, layer_shapes
from alexnet_jax.optimizer import LAST_LAYER
from alexnet_jax.run import workdir
from alexnet_jax.run.restore import restore_params
from alexnet_jax.state import TrainState, create_model, create_train_state

# What two nets may differ in, of the fields that make up a net: the classifier, fresh layers, and what only training
# does. Images of another size fit if the layers' shapes do.
_MAY_DIFFER = ("model.num_classes", "model.image_size", "model.initialization", "model.dropout")


def with_statistics(dataset: Dataset, config: Config, folder: Path) -> Dataset:
    """Give the data set the statistics that its net knows: those of `folder`, or before the start of `init_from`.

    Of a source whose stored images have another size only the mean color is taken.

    Raises:
      UserError: `init_from` is not a workdir, or one of another net.
    """
    if not config.init_from:
        return dataset
    source = folder
    with reading(f"--workdir={folder}"):
        started = (folder / DATASET_INFO).exists()
    if not started:
        source = expanded(config.init_from, "config.init_from")
        _check_same_net(config, build_net(config.model), _read_source(source), source)
    statistics = _of_size(load_dataset_info(source).statistics, dataset.image_size)
    return dataclasses.replace(dataset, statistics=statistics)


def create_initial_state(
    config: Config,
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    label_names: tuple[str, ...],
) -> TrainState:
    """Create the state that a training starts from: fresh, or with the parameters of `init_from`, which is printed."""
    state = create_train_state(config, model, optimizer, mesh)
    if not config.init_from:
        return state
    source = expanded(config.init_from, "config.init_from")
    source_config = _read_source(source)
    _check_same_net(config, model.net, source_config, source)
    source_config.mesh = config.mesh
    which = int(config.init_step) if config.init_step.isdecimal() else config.init_step
    params, step = restore_params(source, source_config, create_model(source_config), mesh, which)
    kept = "all layers"
    if load_dataset_info(source).label_names != label_names:
        params = {**params, LAST_LAYER: state.params[LAST_LAYER]}
        kept = f"all layers but {LAST_LAYER}, which is new: {config.model.num_classes} classes"
    print(f"{'start:':<10}{kept}, from step {step:,} of {source}", flush=True)
    if (view := config.model.image_size) != (known := source_config.model.image_size):
        print(
            f"{'views:':<10}{view} pixels, but the source has learned from {known}; its accuracy needs "
            f"config.model.image_size={known}",
            flush=True,
        )
    return dataclasses.replace(state, params=jax.tree.map(lambda _, leaf: leaf, state.params, params))


def _read_source(source: Path) -> Config:
    with reading(f"config.init_from={source}"):
        exists = (source / "config.json").is_file()
    if not exists:
        raise UserError(
            f"config.init_from={source} does not hold a trained net: {source / 'config.json'} is missing; give the "
            "workdir of a training, or of `python -m alexnet_jax.convert`."
        )
    return workdir.read_config(source)


def _check_same_net(config: Config, net: Net, source_config: Config, source: Path) -> None:
    """Raise a UserError if a layer of the source has another shape, or works otherwise."""
    shapes, source_shapes = _kernel_shapes(config, net), _kernel_shapes(source_config, build_net(source_config.model))
    unequal = [name for name in {**shapes, **source_shapes} if shapes.get(name) != source_shapes.get(name)]
    changed = differences(config, source_config)
    decisive = [name for name in changed if name.startswith("model.") and name not in _MAY_DIFFER]
    decisive += [name for name in ("data.mean", "data.std") if name in changed]
    if not unequal and not decisive:
        return
    decisive += [name for name in ("model.image_size",) if name in changed]
    layer = ""
    if unequal:
        name = unequal[0]
        layer = f"its {name} is {source_shapes.get(name, 'missing')}, yours {shapes.get(name, 'missing')}; "
    fields = ", ".join(f"config.{name}={changed[name][0]!r} (source: {changed[name][1]!r})" for name in decisive)
    raise UserError(f"config.init_from={source} holds another net: {layer}{fields}; set these to the source's values.")


def _kernel_shapes(config: Config, net: Net) -> dict[str, tuple[int, ...]]:
    shapes = layer_shapes(net, config.model.image_size, config.model.num_classes)
    return {s.layer.name: s.kernel_shape for s in shapes if s.kernel_shape and not isinstance(s.layer, Classifier)}


def _of_size(statistics: Statistics, size: int) -> Statistics:
    if statistics.image_size == size:
        return statistics
    mean = statistics.mean_image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return statistics._replace(mean_image=np.broadcast_to(mean, (size, size, 3)).copy())
