"""What tests need of a training: its pieces from a config, and a look into the optimizer's state."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.state import create_model


def pieces(config: Config, num_steps: int = 1) -> tuple[AlexNet, optax.GradientTransformation, Mesh]:
    """Create the model, the optimizer and the mesh, in the order in which functions take them."""
    model = create_model(config)
    return model, create_optimizer(config, model.net, num_steps), create_mesh(config.mesh)


def momentum_of(opt_state: Any) -> dict[str, dict[str, Any]]:
    """Return the momentum buffer, {"conv1": {"kernel", "bias"}, ...}; layers that are not trained have none."""
    buffer: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        if leaf.ndim:
            buffer.setdefault(path[-2].key, {})[path[-1].key] = leaf
    return buffer


def counts_of(opt_state: Any) -> set[int]:
    """Return the counts of updates that Optax keeps for its schedules."""
    return {int(leaf) for leaf in jax.tree.leaves(opt_state) if not leaf.ndim}
