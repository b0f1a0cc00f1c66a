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
from alexnet_jax.data.facts import DataFacts, load_facts
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import Predictor
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.state import abstract_train_state


@dataclasses.dataclass(frozen=True)
class RestoredNet:
    """Parameters of one checkpoint, on this machine's devices, with its training's config and facts of its data."""

    folder: Path
    config: Config
    facts: DataFacts
    mesh: Mesh
    step: int
    params: Any

    @property
    def epoch(self) -> float:
        """How many epochs the net was trained for."""
        return self.step * self.config.batch_size / self.facts.num_examples

    def predictor(self, predict_step: Callable) -> Predictor:
        """Images -> log-probabilities, from a compiled program and this net's parameters."""
        return functools.partial(predict_step, self.params, self.facts.statistics)


def restore(folder: Path, step: int | None = None) -> RestoredNet:
    """Restores a checkpoint onto all devices of this machine, whatever mesh it was trained on.

    Args:
      folder: the workdir of a training.
      step: which checkpoint; None is the latest.

    Raises:
      UserError: the folder holds no run or no such checkpoint.
    """
    config = workdir.read_config(folder)
    config.mesh.data, config.mesh.tower = len(startup.devices()), 1
    facts = load_facts(folder)
    runtime.use_compilation_cache()
    mesh = create_mesh(config)
    # The schedule does not matter here, the shape of the optimizer's state does.
    state = abstract_train_state(config, create_optimizer(config, num_steps=1), mesh)
    checkpoints = Checkpoints(workdir.checkpoints_in(folder), keep_last=1, keep_best=1)
    with contextlib.closing(checkpoints):
        found = checkpoints.restore_latest(state) if step is None else checkpoints.restore(step, state)
    if found is None:
        raise UserError(f"--workdir={folder} has no checkpoint yet; train first, or wait for the first one.")
    return RestoredNet(folder, config, facts, mesh, found.step, found.state.params)
