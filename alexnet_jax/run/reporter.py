"""What the loop reports, as it happens."""

from pathlib import Path
from typing import Any

import jax
from absl import logging

from alexnet_jax.cluster.processes import on_process_0
from alexnet_jax.config import Config
from alexnet_jax.metrics import (
    MetricWriter,
    PlateauWatch,
    Throughput,
    check_finite,
    evaluation_line,
    read_records,
    training_line,
)
from alexnet_jax.optimizer import learning_rate_schedule


class Reporter:
    """Says what happens: `metrics.jsonl`, TensorBoard, the console, and the warnings. Process 0 does, for all."""

    def __init__(self, config: Config, folder: Path, num_examples: int, num_steps: int, start: int):
        self._config = config
        self._folder = folder
        self._num_examples = num_examples
        self._num_steps = num_steps
        self._learning_rate = learning_rate_schedule(config, num_steps)
        self._writer = MetricWriter(folder, resumed_step=start, enabled=jax.process_index() == 0)
        self._plateau = PlateauWatch(config.model.num_classes, config.log.plateau_steps)
        self.throughput = Throughput(config.batch_size)

    def training(self, step: int, metrics: dict[str, jax.Array], last_checkpoint: int | None) -> None:
        """Checks the loss of every step, and writes it down every `log.every_steps`."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(values["loss"], step, last_checkpoint)
        if step % self._config.log.every_steps and step != self._num_steps:
            return
        speed = self.throughput.lap()._asdict()
        rate = float(self._learning_rate(step - 1))
        record = {**self._where(step, "train"), **values, "learning_rate": rate, **speed}
        self._writer.write(record)
        seconds_left = self.throughput.seconds_left(self._num_steps - step)
        print(training_line(record, self._num_steps, self._config.num_epochs, seconds_left), flush=True)
        warning = self._plateau.warning(step, values["loss"])
        if warning and jax.process_index() == 0:
            logging.warning(warning)

    def has_evaluation(self, step: int) -> bool:
        """Whether `metrics.jsonl` holds the evaluation of this step: of the config's split, by as many views."""
        wanted = {"step": step, "split": self._config.data.eval_split, "views": self._config.eval.views}

        def found() -> bool:
            return any(wanted.items() <= record.items() for record in read_records(self._folder))

        return on_process_0(found)

    def evaluation(self, step: int, result: dict[str, float]) -> None:
        """Writes down an evaluation."""
        record = {**self._where(step, self._config.data.eval_split), **result, "views": self._config.eval.views}
        self._writer.write(record)
        print(evaluation_line(record), flush=True)

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()

    def _where(self, step: int, split: str) -> dict[str, Any]:
        return {"step": step, "epoch": step * self._config.batch_size / self._num_examples, "split": split}
