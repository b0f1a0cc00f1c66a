"""What the training loop reports as it happens."""

from pathlib import Path
from typing import Any

import jax
from absl import logging

from alexnet_jax.cluster.agreement import on_process_0
from alexnet_jax.config import Config, num_views
from alexnet_jax.metrics import Record, evaluation_line, read_records, training_line, without_trivial_top5
from alexnet_jax.optimizer import learning_rate_schedule
from alexnet_jax.run.metric_writer import MetricWriter
from alexnet_jax.run.monitoring import PlateauWatch, Throughput, check_finite
from alexnet_jax.signals import say


class Reporter:
    """Reports to `metrics.jsonl`, TensorBoard and the console, and warns. Process 0 writes for all processes."""

    def __init__(self, config: Config, folder: Path, num_examples: int, num_steps: int, start: int):
        self._config = config
        self._folder = folder
        self._num_examples = num_examples
        self._num_steps = num_steps
        self._views = num_views(config, config.eval.views)
        self._learning_rate = learning_rate_schedule(config, num_steps)
        self._writer = MetricWriter(folder, resumed_step=start, enabled=jax.process_index() == 0)
        self._plateau = PlateauWatch(config.model.num_classes, config.log.plateau_steps)
        self.throughput = Throughput(config.batch_size)

    def training(self, step: int, metrics: dict[str, jax.Array], last_checkpoint: int | None) -> None:
        """Check the loss of a step, and report the step every `log.every_steps`; DivergedError if it is not finite."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(values["loss"], step, last_checkpoint)
        if step % self._config.log.every_steps and step != self._num_steps:
            return
        speed = self.throughput.lap()
        learning_rate = float(self._learning_rate(step - 1))
        known = without_trivial_top5(values, self._config.model.num_classes)
        record = {**self._position(step, "train"), **known, "learning_rate": learning_rate, **speed}
        self._writer.write(record)
        seconds_left = self.throughput.seconds_left(self._num_steps - step)
        say(training_line(record, self._num_steps, self._config.num_epochs, seconds_left))
        warning = self._plateau.warning(step, values["loss"])
        if warning and jax.process_index() == 0:
            logging.warning(warning)

    def recorded_evaluation(self, step: int) -> dict[str, float] | None:
        """Return the evaluation of this step with the config's split and views, if `metrics.jsonl` has it."""
        which = {"step": step, "split": self._config.data.eval_split, "views": self._views}

        def find() -> dict[str, float] | None:
            found = next((record for record in read_records(self._folder) if which.items() <= record.items()), None)
            return found and {name: value for name, value in found.items() if name not in (*which, "epoch")}

        return on_process_0(find)

    def evaluation(self, step: int, result: Record) -> None:
        """Report an evaluation."""
        result = without_trivial_top5(result, self._config.model.num_classes)
        record = {**self._position(step, self._config.data.eval_split), **result, "views": self._views}
        self._writer.write(record)
        say(evaluation_line(record))

    def close(self) -> None:
        """Close the logs."""
        self._writer.close()

    def _position(self, step: int, split: str) -> dict[str, Any]:
        return {"step": step, "epoch": step * self._config.batch_size / self._num_examples, "split": split}
