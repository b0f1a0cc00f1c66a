"""The cost of a training: the number of images it sees, divided by the speed of a machine."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from alexnet_jax.metrics import read_records
from experiments.logs import LOGS, runs_of
from experiments.paper import IMAGENETS, MACHINES, REPRODUCED, SMALL_SETS, TRAININGS
from experiments.registry import Training


def num_images(training: Training, examples: Mapping[str, int]) -> float | None:
    """Return how many images all runs of a training see; None if its data set is not in `examples`, {name: size}."""
    config = training.build()
    size = examples.get(config.data.name)
    return None if size is None else config.num_epochs * size * training.seeds


def hours_on_imagenet(training: Training) -> dict[str, float]:
    """Return hours by machine for all runs of a training, as if all nets took the same time; {} if not on ImageNet."""
    images = num_images(training, IMAGENETS)
    return {} if images is None else {m.name: images / m.images_per_second / 3600 for m in MACHINES}


def hours_of_small(training: Training, logs: Path = LOGS) -> dict[str, float]:
    """Return hours by hardware for all runs of a training on a small set, at the speed of its net in the kept logs.

    {} for trainings on other sets, and for nets without a log.
    """
    images = num_images(training, SMALL_SETS)
    return {} if images is None else {name: images / speed / 3600 for name, speed in speeds(training, logs).items()}


def speeds(training: Training, logs: Path = LOGS) -> dict[str, float]:
    """Return images/s by hardware: the median over the logs of all trainings of the same net."""
    model = training.build().model
    speeds_by_hardware: dict[str, list[float]] = {}
    for other in TRAININGS:
        if other.name in REPRODUCED and other.build().model == model:
            records = [record for run in runs_of(logs, other.name) for record in read_records(run)]
            logged = speeds_by_hardware.setdefault(REPRODUCED[other.name].hardware, [])
            logged += [record["images_per_second"] for record in records if record.get("images_per_second")]
    return {hardware: statistics.median(logged) for hardware, logged in speeds_by_hardware.items() if logged}
