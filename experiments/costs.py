"""What a training costs: the images it sees over how many a second a machine trains on."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from alexnet_jax.metrics import read_records
from experiments.logs import LOGS, runs_of
from experiments.paper import IMAGENETS, MACHINES, REPRODUCED, SMALL_SETS, TRAININGS
from experiments.registry import Training


def num_images(training: Training, examples: Mapping[str, int]) -> float | None:
    """How many images all runs of a training see; None if the data set (its size, by name) is not among these."""
    config = training.build()
    size = examples.get(config.data.name)
    return None if size is None else config.num_epochs * size * training.seeds


def hours_on_imagenet(training: Training) -> dict[str, float]:
    """Hours by machine for all runs of a training on ImageNet, as if every net took the same time an image.

    Empty for trainings on other sets.
    """
    images = num_images(training, IMAGENETS)
    return {} if images is None else {m.name: images / m.images_per_second / 3600 for m in MACHINES}


def hours_of_small(training: Training, logs: Path = LOGS) -> dict[str, float]:
    """Hours by hardware for all runs of a training on a small set, at the speed that its net has in the kept logs.

    Empty for trainings on other sets, and for nets of which there is no log.
    """
    images = num_images(training, SMALL_SETS)
    return {} if images is None else {name: images / speed / 3600 for name, speed in speeds(training, logs).items()}


def speeds(training: Training, logs: Path = LOGS) -> dict[str, float]:
    """Images a second by hardware: the median over the logs of all trainings of the same net."""
    model = training.build().model
    found: dict[str, list[float]] = {}
    for other in TRAININGS:
        if other.name in REPRODUCED and other.build().model == model:
            records = [record for run in runs_of(logs, other.name) for record in read_records(run)]
            kept = found.setdefault(REPRODUCED[other.name].hardware, [])
            kept += [record["images_per_second"] for record in records if record.get("images_per_second")]
    return {hardware: statistics.median(several) for hardware, several in found.items() if several}
