"""Twenty training steps of four nets, as one process of a group; `test_processes.py` starts it and compares.

python tests/steps_of_processes.py NUM_PROCESSES PROCESS_ID PORT TOWERS OUTPUT.npz

Numbers have 64 bits, for the reason given in `test_layouts.py`.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from training_pieces import pieces

from alexnet_jax.cluster.launcher import find_process_group
from alexnet_jax.cluster.processes import joined
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.parallel.mesh import local_rows, shard_batch
from alexnet_jax.state import create_train_state
from alexnet_jax.train_step import create_train_step
from configs import quickstart

VARIANTS = ("paper", "original", "caffe", "one_weird_trick")
STEPS, BATCH, SIDE = 20, 16, 72
STATISTICS = Statistics(
    mean_image=np.full((SIDE, SIDE, 3), 120.0, np.float32),
    color_std=np.array([20.0, 37.0, 120.0], np.float32),
    color_axes=np.eye(3, dtype=np.float32),
)


def parameters_after_training(variant: str, towers: int) -> dict[str, np.ndarray]:
    """Return all parameters by name, after training on random images over all devices, with all randomness on."""
    config = quickstart.get_config()
    config.batch_size = config.eval.batch_size = BATCH
    config.model.variant = variant
    config.model.image_size = 67
    config.model.conv_width, config.model.fc_width = 0.0833, 0.0079
    config.data.flip, config.data.color_noise = True, "original"
    config.precision = "float64"
    config.optimizer.learning_rate = 0.0001
    config.mesh.tower = 1 if variant == "one_weird_trick" else towers
    model, optimizer, mesh = pieces(config, STEPS)
    state = jax.tree.map(in_double, create_train_state(config, model, optimizer, mesh))
    train_step = create_train_step(config, model, optimizer, mesh, STEPS)
    rows = local_rows(mesh, BATCH)
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        images = random.integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8)
        labels = random.integers(0, 10, BATCH).astype(np.int32)
        state, _ = train_step(state, shard_batch(mesh, {"image": images[rows], "label": labels[rows]}), STATISTICS)
    whole = multihost_utils.process_allgather(state.params, tiled=True)
    named, _ = jax.tree_util.tree_flatten_with_path(whole)
    return {f"{variant}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in named}


def in_double(leaf: jax.Array) -> jax.Array:
    """Convert parameters and optimizer state to 64 bits, on their devices; leave the steps as they are."""
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def main(num_processes: str, process_id: str, port: str, towers: str, output: str) -> None:
    """Join the group and train; process 0 writes the parameters."""
    jax.config.update("jax_enable_x64", True)
    group = find_process_group({}, f"localhost:{port}", int(num_processes), int(process_id), timeout=240)
    with joined(group):
        params = {}
        for variant in VARIANTS:
            params |= parameters_after_training(variant, int(towers))
        if jax.process_index() == 0:
            np.savez(output, **params)


if __name__ == "__main__":
    main(*sys.argv[1:])
