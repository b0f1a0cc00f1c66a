"""Before the first step: the checks that can be made by then, and the lines that say what will run."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jaxlib
from jax.sharding import Mesh

import alexnet_jax
from alexnet_jax import runtime
from alexnet_jax.cluster import agreement
from alexnet_jax.cluster.agreement import StopSignals
from alexnet_jax.config import Config, fields
from alexnet_jax.data.datasets import Dataset, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import build_net
from alexnet_jax.parallel.mesh import create_mesh, devices
from alexnet_jax.run import fine_tuning, workdir
from alexnet_jax.state import TrainState
from alexnet_jax.validation import layout_faults

# Settings of JAX that change what is computed or how it is rounded: options of `jax.config`, which reads them from the
# environment. Those that only report, check, cache or choose devices are not here.
_JAX_SETTINGS = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_random_seed_offset", "jax_allow_f16_reductions"),
    *("jax_softmax_custom_jvp", "jax_use_direct_linearize", "jax_disable_jit", "jax_disable_most_optimizations"),
    "jax_optimization_level",
)
_XLA_FLAGS_WITHOUT_EFFECT = ("--xla_dump", "--xla_force_host_platform_device_count")
FEW_STEPS = 20  # with the paper's momentum of 0.9, the first ten only build it up
FEW_TO_FINE_TUNE = 500  # at a tenth of the learning rate; Caffe's recipe takes 100,000 (configs/finetune.py)


class CheckedRun(NamedTuple):
    """What a run starts with: its devices, its data, and the signals that stop it."""

    mesh: Mesh
    dataset: Dataset
    stop: StopSignals


@contextlib.contextmanager
def checked_run(config: Config, folder: Path) -> Iterator[CheckedRun]:
    """Check devices, data, processes and workdir; inside, the workdir is locked and signals are noted.

    Raises:
      UserError: something does not fit, or memory runs out inside.
    """
    runtime.use_compilation_cache()
    check_devices(config)
    agreement.check_agreement(program(config))
    dataset = fine_tuning.with_statistics(open_dataset(config.data), config, folder)
    agreement.check_agreement(data_fingerprint(config, dataset))
    check_data_fits(config, dataset)
    mesh = create_mesh(config.mesh)
    if faults := layout_faults(config, build_net(config.model), mesh.shape["data"]):
        raise UserError("\n".join(faults))
    agreement.check_mesh_reaches_all(mesh)
    with workdir.opened_for_training(folder, config, dataset.info, numerics()), StopSignals() as stop:
        try:
            yield CheckedRun(mesh, dataset, stop)
        except (jax.errors.JaxRuntimeError, MemoryError, OSError) as error:
            if not runtime.is_out_of_memory(error):
                raise
            raise UserError(
                f"The memory does not suffice for config.batch_size={config.batch_size} on this mesh; make "
                "the batch smaller, spread it over more devices (mesh.data), put one tower on each of two devices "
                "(mesh.tower=2), or take precision=bfloat16."
            ) from error


def program(config: Config) -> dict[str, Any]:
    """Return what computes the numbers of a run: config, code, JAX. All processes of a run must have the same."""
    named = {f"config.{name}": value for name, value in fields(config) if name != "data.dir"}
    code = f"version {alexnet_jax.__version__}, sources {source_digest(Path(alexnet_jax.__file__).parent)}"
    return {"the code of alexnet_jax": code} | numerics() | named


def numerics() -> dict[str, Any]:
    """Return what changes the numbers of a run from outside its config: versions, and settings of the environment.

    Not the generator of random numbers, which `rng` fixes.
    """
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_XLA_FLAGS_WITHOUT_EFFECT)]
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "XLA_FLAGS": " ".join(flags),
        "ALEXNET_JAX_TUNING": "1" if runtime.TUNING else "0",
        **{name.upper(): getattr(jax.config, name, jax.config.values.get(name)) for name in _JAX_SETTINGS},
    }


def source_digest(package: Path) -> str:
    """Hash every source file of a package, with its name."""
    sources = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        sources.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return sources.hexdigest()[:12]


def data_fingerprint(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Return what tells two data sets apart without reading them: each machine may have a copy of its own."""
    name = f"the number of evaluation images of data.name={config.data.name!r}"
    return dataset.info.fingerprint | {name: len(dataset.evaluation)}


def check_data_fits(config: Config, dataset: Dataset) -> None:
    """Raise a UserError if the data set has other classes than the net, too small images, or too many files."""
    runtime.allow_open_files(dataset.train.num_files + dataset.evaluation.num_files)
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


def check_devices(config: Config) -> None:
    """Raise a UserError if JAX finds no device, or only the CPU where an accelerator is required."""
    if devices()[0].platform == "cpu" and config.require_accelerator:
        raise UserError(
            "config.require_accelerator=True, but JAX finds only the CPU; install JAX for your accelerator (see "
            "README) or set require_accelerator=False."
        )


def print_summary(config: Config, dataset: Dataset, mesh: Mesh, state: TrainState, start: int, num_steps: int) -> None:
    """Print what runs, on what, and how much memory its state takes."""
    device = mesh.devices.flat[0]
    kinds = f"{mesh.size} x {device.device_kind}" if mesh.size > 1 else device.device_kind
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    on_device = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    first = f"resuming from step {start:,}" if start else "from the start"
    model = config.model
    lines = {
        "net": f"{model.variant}, {parameters:,} parameters, {config.precision}, {model.num_classes} classes",
        "data": f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.evaluation):,} evaluation images",
        "run": f"{num_steps:,} steps of {config.batch_size} images ({config.num_epochs:g} epochs), {first}",
        "devices": f"{kinds} ({device.platform}) as {mesh.shape['data']} (data) x {mesh.shape['tower']} (tower)",
        "memory": f"{on_device / 2**20:,.1f} MiB of parameters and momentum buffer on each device",
        "tuning": runtime.tuning_in_words(),
        "versions": (
            f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, flax {flax.__version__}, "
            f"Python {platform.python_version()}"
        ),
    }
    if num_steps < (FEW_TO_FINE_TUNE if config.init_from else FEW_STEPS):
        lines["remark"] = (
            f"{num_steps} steps are {'few for fine-tuning' if config.init_from else 'too few to learn much'}: "
            f"{len(dataset.train):,} images fill {len(dataset.train) / config.batch_size:.2g} batches an epoch; raise "
            "num_epochs or lower batch_size"
        )
    for name, text in lines.items():
        print(f"{name + ':':<10}{text}", flush=True)
