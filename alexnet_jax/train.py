"""Training from start to end: the loop around `train_step.py`."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.cluster.agreement import StopSignals
from alexnet_jax.config import Config, num_views
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.device_batches import open_train_batches
from alexnet_jax.errors import PreemptedError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.files import expanded
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.plan import Plan
from alexnet_jax.predict_step import create_predict_step
from alexnet_jax.run import startup
from alexnet_jax.run.fine_tuning import create_initial_state
from alexnet_jax.run.monitoring import Profile, diverged
from alexnet_jax.run.reporter import Reporter
from alexnet_jax.run.workdir import checkpoints_in
from alexnet_jax.state import abstract_train_state, create_model
from alexnet_jax.train_step import create_train_step


def train_and_evaluate(config: Config, folder: Path) -> None:
    """Train as a valid config says, resuming from the last checkpoint in `folder` if there is one.

    Raises:
      UserError: data, devices or folder don't fit.
      DivergedError: the loss or a parameter is no longer finite.
      PreemptedError: a signal came (signals.py), and a checkpoint was saved.
    """
    folder = expanded(folder, "folder")
    with startup.checked_run(config, folder) as (mesh, dataset, stop):
        train(config, folder, mesh, dataset, stop)


def train(config: Config, folder: Path, mesh: Mesh, dataset: Dataset, stop: StopSignals) -> None:
    """Run the loop: next batch, step, report; evaluate and save when they are due."""
    plan = Plan.from_config(config, len(dataset.train))
    with contextlib.ExitStack() as stack:
        # The model and its state, from the last checkpoint or fresh.
        model = create_model(config)
        optimizer = create_optimizer(config, model.net, plan.num_steps)
        keep = config.checkpoint
        checkpoints = stack.enter_context(
            Checkpoints(checkpoints_in(folder), keep_last=keep.keep_last, keep_best=keep.keep_best)
        )
        restored = checkpoints.restore_latest(abstract_train_state(config, model, optimizer, mesh))
        if restored:
            state, start = restored.state, restored.step
        else:
            state, start = create_initial_state(config, model, optimizer, mesh, dataset.label_names), 0
        startup.print_summary(config, dataset, mesh, state, start, plan.num_steps)

        # The compiled programs, the input and the reports.
        train_step = create_train_step(config, model, optimizer, mesh, plan.num_steps)
        predict_step = create_predict_step(config, model, mesh, config.eval.views)
        statistics = jax.device_put(dataset.statistics, NamedSharding(mesh, P()))
        batches = stack.enter_context(contextlib.closing(open_train_batches(dataset.train, config, mesh, start)))
        reporter = stack.enter_context(
            contextlib.closing(Reporter(config, folder, len(dataset.train), plan.num_steps, start))
        )
        profile = stack.enter_context(contextlib.closing(Profile(folder / "profile", start, config.profile)))
        late_reports = LateReports(lambda step, metrics: reporter.training(step, metrics, checkpoints.latest_step()))

        def evaluate_now(step: int) -> dict[str, float] | None:
            predictor = functools.partial(predict_step, state.params, statistics)
            threads = config.data.read_threads
            result = evaluate([predictor], dataset.evaluation, mesh, config.eval.batch_size, threads, stop.poll)
            if result:
                reporter.evaluation(step, result)
            return result

        if restored and plan.evaluation_due(start):  # the run may have been stopped before that evaluation
            result = reporter.recorded_evaluation(start) or evaluate_now(start)
            if result and result != restored.metrics:
                checkpoints.save(start, state, result)

        step = start
        while step < plan.num_steps and not stop:
            if not batches.ready():
                late_reports.wait()  # so that reading input hides behind the running step
            with reporter.throughput.waiting():
                batch = next(batches)

            profile.step_begins(step)
            state, metrics = train_step(state, batch, statistics)
            profile.step_called(step, metrics)
            reporter.throughput.step_done()
            stop.poll()
            step += 1
            late_reports.add(step, metrics)

            if plan.evaluation_due(step) or plan.save_due(step) or stop:
                late_reports.flush()
                with reporter.throughput.paused():
                    result = evaluate_now(step) if plan.evaluation_due(step) and not stop else None
                    if plan.save_due(step) or stop or (result and checkpoints.is_among_best(result)):
                        check_parameters(state.params, step, checkpoints.latest_step())
                        checkpoints.save(step, state, result)

    if stop:
        raise PreemptedError(
            f"stopped by {stop.name} after step {step:,} of {plan.num_steps:,}; everything is saved in {folder}: run "
            "the same command again to resume."
        )
    views = f"With {num_views(config, 10)} views of each image"
    print(f"Done: {plan.num_steps:,} steps. {views}: python -m alexnet_jax.evaluate --workdir={folder} --views=10")


class LateReports:
    """Reports a step's metrics once the next step is under way, so that the device never waits for the host."""

    def __init__(self, report: Callable[[int, dict[str, jax.Array]], None]):
        self._report = report
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Report the step before, and keep this one."""
        self.flush()
        self._pending = step, metrics

    def wait(self) -> None:
        """Wait until the latest step has been computed."""
        if self._pending:
            jax.block_until_ready(self._pending[1])

    def flush(self) -> None:
        """Report the latest step, which waits for it."""
        if self._pending:
            self._report(*self._pending)
            self._pending = None


def check_parameters(params: Any, step: int, last_checkpoint: int | None) -> None:
    """Raise DivergedError if a parameter is not finite: such a state is never saved."""
    if not all_finite(params):
        raise diverged(f"A parameter is not finite after step {step:,}", last_checkpoint)


@jax.jit
def all_finite(params: Any) -> jax.Array:
    """Tell whether every parameter is a finite number."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]))
