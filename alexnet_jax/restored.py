"""A trained net with all that belongs to it, from its workdir alone."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from alexnet_jax import runtime, startup, workdir
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.data.datasets import Dataset, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import Predictor
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.state import abstract_train_state


@dataclasses.dataclass(frozen=True)
class RestoredNet:
    """Parameters of one checkpoint, on this machine's devices, with the config and the data set of the training."""

    folder: Path
    config: Config
    dataset: Dataset
    mesh: Mesh
    step: int
    params: Any

    @property
    def epoch(self) -> float:
        """How many epochs the net was trained for."""
        return self.step * self.config.batch_size / len(self.dataset.train)

    def predictor(self, predict_step: Callable) -> Predictor:
        """Images -> log-probabilities, from a compiled program and this net's parameters."""
        return functools.partial(predict_step, self.params, self.dataset.statistics)


def restore(
    folder: Path, step: int | None = None, data_dir: str | None = None, split: str | None = None
) -> RestoredNet:
    """Restores a checkpoint onto all devices of this machine, whatever mesh it was trained on.

    Args:
      folder: the workdir of a training.
      step: which checkpoint; None is the latest.
      data_dir: where the data set lies, if not where training found it.
      split: the split to evaluate; None is the one of training.

    Raises:
      UserError: the folder holds no run or no such checkpoint, or the data set is missing.
    """
    config = workdir.read_config(folder)
    config.mesh.data, config.mesh.tower = len(startup.devices()), 1
    config.data.dir = data_dir or config.data.dir
    config.data.eval_split = split or config.data.eval_split
    runtime.use_compilation_cache()
    dataset = open_dataset(config.data)
    startup.check_data_fits(config, dataset)
    mesh = create_mesh(config)
    # The schedule does not matter here, the shape of the optimizer's state does.
    state = abstract_train_state(config, create_optimizer(config.optimizer, num_steps=1), mesh)
    checkpoints = Checkpoints(workdir.checkpoints_in(folder), keep_last=1, keep_best=1)
    with contextlib.closing(checkpoints):
        found = checkpoints.restore_latest(state) if step is None else checkpoints.restore(step, state)
    if found is None:
        raise UserError(f"--workdir={folder} has no checkpoint yet; train first, or wait for the first one.")
    return RestoredNet(folder, config, dataset, mesh, found.step, found.state.params)
