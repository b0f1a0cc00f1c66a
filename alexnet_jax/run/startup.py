"""Before the first step: does the data fit the config, are there devices, and the lines that say what will run."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
from jax.sharding import Mesh

from alexnet_jax import __version__, runtime
from alexnet_jax.config import Config, fields
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.errors import UserError
from alexnet_jax.parallel.mesh import devices
from alexnet_jax.restore import RestoredNet
from alexnet_jax.run import limits
from alexnet_jax.state import TrainState


def program(config: Config) -> dict[str, Any]:
    """What computes the numbers of a run: config, code, JAX. All processes of a run must have the same."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        sources.update(path.read_bytes())
    named = {f"config.{name}": value for name, value in fields(config) if name != "data.dir"}
    code = f"version {__version__}, sources {sources.hexdigest()[:12]}"
    return {"the code of alexnet_jax": code, "jax": jax.__version__, "jaxlib": jaxlib.__version__} | named


def data_in_short(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What tells two data sets apart, without reading them: each machine may have a copy of its own."""
    name = f"the number of evaluation images of data.name={config.data.name!r}"
    return dataset.info.fingerprint | {name: len(dataset.evaluation)}


def check_data_fits(config: Config, dataset: Dataset) -> None:
    """UserError if the data set has other classes than the net, smaller images than it sees, or too many files."""
    limits.allow_open_files(dataset.train.num_files + dataset.evaluation.num_files)
    if dataset.num_classes != config.model.num_classes:
        raise UserError(
            f"config.model.num_classes={config.model.num_classes}, but data.name={config.data.name!r} has "
            f"{dataset.num_classes} classes; set model.num_classes={dataset.num_classes}."
        )
    if dataset.image_size < config.model.image_size:
        raise UserError(
            f"config.model.image_size={config.model.image_size} is larger than the images of "
            f"data.name={config.data.name!r} ({dataset.image_size} pixels a side); make it smaller or "
            "prepare larger images."
        )


def check_image_size(net: RestoredNet, dataset: Dataset) -> None:
    """UserError if the data set's images are not stored in the size that the net was trained on."""
    trained_on = net.dataset_info.statistics.image_size
    if dataset.image_size != trained_on:
        raise UserError(
            f"the images of {dataset.name!r} in {dataset.train.directory} have {dataset.image_size} pixels a side, "
            f"those that --workdir={net.folder} was trained on {trained_on}; prepare the set with that --size."
        )


def check_devices(config: Config) -> None:
    """UserError if JAX finds no device, or only the CPU where an accelerator is required."""
    if devices()[0].platform == "cpu" and config.require_accelerator:
        raise UserError(
            "config.require_accelerator=True, but JAX finds only the CPU; install JAX for your accelerator (see "
            "README) or set require_accelerator=False."
        )


def print_summary(config: Config, dataset: Dataset, mesh: Mesh, state: TrainState, start: int, num_steps: int) -> None:
    """What runs, on what, and how much memory its state takes."""
    device = mesh.devices.flat[0]
    kinds = f"{mesh.size} x {device.device_kind}" if mesh.size > 1 else device.device_kind
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    first = f"going on from step {start:,}" if start else "from the start"
    model = config.model
    lines = {
        "net": f"{model.variant}, {parameters:,} parameters, {config.precision}, {model.num_classes} classes",
        "data": f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.evaluation):,} evaluation images",
        "run": f"{num_steps:,} steps of {config.batch_size} images ({config.num_epochs:g} epochs), {first}",
        "devices": f"{kinds} ({device.platform}) as {mesh.shape['data']} (data) x {mesh.shape['tower']} (tower)",
        "memory": f"{here / 2**20:,.1f} MiB of parameters and velocity on each device",
        "tuning": runtime.tuning_in_words(),
        "versions": (
            f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, flax {flax.__version__}, "
            f"Python {platform.python_version()}"
        ),
    }
    for name, text in lines.items():
        print(f"{name + ':':<10}{text}", flush=True)
