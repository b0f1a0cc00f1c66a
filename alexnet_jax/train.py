"""Training: when things happen, and the loop around the step (`training/train_step.py`)."""

import contextlib
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import runtime
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.cluster import processes
from alexnet_jax.config import Config
from alexnet_jax.data.datasets import Dataset, open_dataset
from alexnet_jax.data.device_batches import open_train_batches
from alexnet_jax.errors import PreemptedError, UserError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.metrics import diverged
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.predict_step import create_predict_step
from alexnet_jax.run import fine_tuning as transfer
from alexnet_jax.run import limits, startup, workdir
from alexnet_jax.run.preemption import StopSignals
from alexnet_jax.run.profiling import Profile
from alexnet_jax.run.reporter import Reporter
from alexnet_jax.state import abstract_train_state
from alexnet_jax.train_step import create_train_step


class Plan(NamedTuple):
    """When things happen, in steps."""

    num_steps: int
    evaluate_every: int
    save_every: int

    @classmethod
    def of(cls, config: Config, num_examples: int) -> "Plan":
        """From the config's epochs: the nearest number of steps, at least one."""

        def steps(epochs: float) -> int:
            return max(1, round(epochs * num_examples / config.batch_size))

        return cls(steps(config.num_epochs), steps(config.eval.every_epochs), steps(config.checkpoint.every_epochs))

    def evaluation_due(self, step: int) -> bool:
        """Whether the state after this step is evaluated."""
        return step % self.evaluate_every == 0 or step == self.num_steps

    def save_due(self, step: int) -> bool:
        """Whether the state after this step is saved."""
        return step % self.save_every == 0 or step == self.num_steps


def train_and_evaluate(config: Config, folder: Path) -> None:
    """Trains as a valid config says, going on from the last checkpoint in `folder` if there is one.

    Raises:
      UserError: data, devices or folder don't fit; DivergedError: the loss is no longer finite; PreemptedError:
        SIGTERM or SIGINT came, and a checkpoint was saved.
    """
    runtime.use_compilation_cache()
    startup.check_devices(config)
    processes.check_agreement(startup.program(config))
    dataset = transfer.with_statistics(open_dataset(config.data), config, folder)
    processes.check_agreement(startup.data_in_short(config, dataset))
    startup.check_data_fits(config, dataset)
    mesh = create_mesh(config)
    processes.check_mesh_reaches_all(mesh)
    with workdir.opened_for_training(folder, config, dataset.info), StopSignals() as stop:
        try:
            _train(config, folder, dataset, mesh, stop)
        except (jax.errors.JaxRuntimeError, MemoryError, OSError) as error:
            if not limits.is_out_of_memory(error):
                raise
            raise UserError(
                f"The memory does not suffice for config.batch_size={config.batch_size} on this mesh; make "
                "the batch smaller, spread it over more devices (mesh.data), put one tower on each of two devices "
                "(mesh.tower=2), or take precision=bfloat16."
            ) from error


def _train(config: Config, folder: Path, dataset: Dataset, mesh: Mesh, stop: StopSignals) -> None:
    """The loop. A step's metrics are fetched after the next step is under way, so that the device never waits."""
    plan = Plan.of(config, len(dataset.train))

    # The state, from the last checkpoint or fresh.
    optimizer = create_optimizer(config, plan.num_steps)
    checkpoints = Checkpoints(
        workdir.checkpoints_in(folder), keep_last=config.checkpoint.keep_last, keep_best=config.checkpoint.keep_best
    )
    restored = checkpoints.restore_latest(abstract_train_state(config, optimizer, mesh))
    state = restored.state if restored else transfer.create_initial_state(config, optimizer, mesh, dataset.label_names)
    start = restored.step if restored else 0
    reporter = Reporter(config, folder, len(dataset.train), plan.num_steps, start)
    startup.print_summary(config, dataset, mesh, state, start, plan.num_steps)

    # The programs, and the input.
    train_step = create_train_step(config, optimizer, mesh, plan.num_steps)
    predict_step = create_predict_step(config, mesh, config.eval.views)
    statistics = jax.device_put(dataset.statistics, NamedSharding(mesh, P()))
    batches = open_train_batches(dataset.train, config, mesh, start)
    profile = Profile(folder / "profile", start, config.profile)

    def evaluate_now() -> dict[str, float] | None:
        predictor = functools.partial(predict_step, state.params, statistics)
        threads = config.data.read_threads
        return evaluate([predictor], dataset.evaluation, mesh, config.eval.batch_size, threads, stop.poll)

    with (
        contextlib.closing(batches),
        contextlib.closing(checkpoints),
        contextlib.closing(reporter),
        contextlib.closing(profile),
    ):
        if start and plan.evaluation_due(start) and not reporter.has_evaluation(start):
            # The process was stopped between this checkpoint and its evaluation.
            result = evaluate_now()
            if result:
                reporter.evaluation(start, result)
                checkpoints.save(start, state, result)

        step, ahead = start, None  # ahead: the latest step and its metrics, not yet fetched
        while step < plan.num_steps and not stop:
            if ahead and not batches.ready():
                jax.block_until_ready(ahead[1])  # as long as a step runs, nobody waits for input
            with reporter.throughput.waiting():
                batch = next(batches)
            profile.step_begins(step)
            state, metrics = train_step(state, batch, statistics)
            profile.step_called(step, metrics)
            reporter.throughput.step_done()
            stop.poll()
            if ahead:
                reporter.training(*ahead, checkpoints.latest_step())
            step, ahead = step + 1, (step + 1, metrics)

            if plan.evaluation_due(step) or plan.save_due(step) or stop:
                reporter.training(*ahead, checkpoints.latest_step())
                ahead = None
                with reporter.throughput.paused():
                    evaluation_due = plan.evaluation_due(step) and not stop
                    if result := evaluate_now() if evaluation_due else None:
                        reporter.evaluation(step, result)
                    if plan.save_due(step) or stop:
                        check_parameters(state.params, step, checkpoints.latest_step())
                        checkpoints.save(step, state, result)

    if stop:
        raise PreemptedError(
            f"stopped by {stop.name} after step {step:,} of {plan.num_steps:,}; everything is saved in {folder}: run "
            "the same command again to go on."
        )
    print(f"Done: {plan.num_steps:,} steps. Ten views: python -m alexnet_jax.evaluate --workdir={folder} --views=10")


def check_parameters(params: Any, step: int, last_checkpoint: int | None) -> None:
    """DivergedError if a parameter is not finite: such a state is never saved."""
    if not all_finite(params):
        raise diverged(f"A parameter is no finite number after step {step:,}", last_checkpoint)


@jax.jit
def all_finite(params: Any) -> jax.Array:
    """Whether every parameter is a finite number."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]))
