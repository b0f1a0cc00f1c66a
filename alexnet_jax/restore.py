"""A trained net with all that belongs to it, from its workdir alone."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from alexnet_jax import runtime
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.data.dataset_info import DatasetInfo, load_dataset_info
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import devices, mesh_of
from alexnet_jax.predict_step import Predictor
from alexnet_jax.run import workdir
from alexnet_jax.state import abstract_train_state


@dataclasses.dataclass(frozen=True)
class RestoredNet:
    """Parameters of one checkpoint, on this machine's devices, with the config and the data set's description."""

    folder: Path
    config: Config
    dataset_info: DatasetInfo
    mesh: Mesh
    step: int
    params: Any

    @property
    def epoch(self) -> float:
        """How many epochs the net was trained for."""
        return self.step * self.config.batch_size / self.dataset_info.num_examples

    def predictor(self, predict_step: Callable) -> Predictor:
        """Images -> log-probabilities, from a compiled program and this net's parameters."""
        return functools.partial(predict_step, self.params, self.dataset_info.statistics)


def restore(folder: Path, step: int | None = None, tower: int = 1) -> RestoredNet:
    """Restores a checkpoint onto all devices of this machine, whatever mesh it was trained on.

    Args:
      folder: the workdir of a training.
      step: which checkpoint; None is the latest.
      tower: over how many devices the two towers are spread.

    Raises:
      UserError: the folder holds no run or no such checkpoint, or the net can't be laid out like that.
    """
    config = workdir.read_config(folder)
    if build_net(config.model).towers % tower:
        raise UserError(f"--workdir={folder} holds {config.model.variant!r}, a net with one tower; leave --tower at 1.")
    config.mesh = MeshConfig(data=max(1, len(devices()) // tower), tower=tower)
    dataset_info = load_dataset_info(folder)
    runtime.use_compilation_cache()
    mesh = mesh_of(config.mesh.data, tower)  # whatever the batches of training were
    params, step = restore_params(folder, config, mesh, step)
    return RestoredNet(folder, config, dataset_info, mesh, step, params)


def restore_params(folder: Path, config: Config, mesh: Mesh, step: int | None = None) -> tuple[Any, int]:
    """The parameters of a checkpoint and its step, laid out as `config` says; UserError if there is none."""
    # The schedule does not matter here, the shapes of the parameters do.
    abstract = abstract_train_state(config, create_optimizer(config, num_steps=1), mesh).params
    checkpoints = Checkpoints(workdir.checkpoints_in(folder), keep_last=1, keep_best=1)
    with contextlib.closing(checkpoints):
        if step is None:
            found = checkpoints.restore_latest(abstract, only="params")
        else:
            found = checkpoints.restore(step, abstract, only="params")
    if found is None:
        raise UserError(f"{folder} has no checkpoint yet; train first, or wait for the first one.")
    return found.state, found.step
