"""The types that describe the paper's claims: trainings, what is measured on them, and what they cost."""

import dataclasses
import importlib
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.config import Config, set_field


@dataclasses.dataclass(frozen=True)
class Published:
    """The published errors of a training, in percent; None if the source does not give one."""

    views: int
    top1: float
    top5: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class Training:
    """One run, or the same run with several seeds.

    name: of its workdir and its logs. config: the file under `configs/`, without its suffix. overrides: fields that
    differ from it; {seed} in a string is the run's seed. published: its errors. seeds: how many runs the claim is
    about. note: how it differs from the published run.
    """

    name: str
    description: str
    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: tuple[Published, ...] = ()
    seeds: int = 1
    note: str = ""

    def build(self, seed: int = 0) -> Config:
        """Build its config, not yet validated."""
        config: Config = importlib.import_module(f"configs.{self.config}").get_config()
        for name, value in self._overrides(seed).items():
            set_field(config, name, value)
        return config

    def workdir(self, seed: int = 0) -> str:
        """Return the folder that its commands write to."""
        return f"runs/{self.name}/{seed}"

    def commands(self, seed: int = 0) -> list[str]:
        """Return the commands that train it and evaluate it with the other published numbers of views."""
        arguments = [f"--config=configs/{self.config}.py", f"--workdir={self.workdir(seed)}"]
        arguments += [_argument(name, value) for name, value in self._overrides(seed).items()]
        views = sorted({errors.views for errors in self.published} - {self.build().eval.views})
        return [
            f"python -m alexnet_jax.main {' '.join(arguments)}",
            *(f"python -m alexnet_jax.evaluate --workdir={self.workdir(seed)} --views={number}" for number in views),
        ]

    def _overrides(self, seed: int) -> dict[str, Any]:
        fields = {k: v.format(seed=seed) if isinstance(v, str) else v for k, v in self.overrides.items()}
        return {**fields, "seed": seed} if seed else fields


def _argument(name: str, value: Any) -> str:
    text = "".join(repr(value).split()) if isinstance(value, tuple) else str(value)
    return shlex.quote(f"--config.{name}={text}")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A claim, and how it is tested.

    claim: a sentence. source: where it is from. published: its number, top-1 / top-5 in percent, + for a difference.
    trainings: their names, in the order of running them. measure: the result, from the folder of the logs; None if a
    log is missing. evaluate: commands beyond those of the trainings.
    """

    name: str
    claim: str
    source: str
    published: str
    trainings: tuple[str, ...]
    measure: Callable[[Path], str | None]
    evaluate: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reproduced:
    """The code and hardware behind the logs in `experiments/logs/NAME/SEED/`, `metrics.jsonl` and `config.json`."""

    commit: str
    hardware: str


@dataclasses.dataclass(frozen=True)
class Machine:
    """The training speed of a machine, and its source."""

    name: str
    images_per_second: float
    source: str


def by_hand(
    epochs: float, drops: tuple[int, ...], *, noise_until: int | None = None, conv1: tuple[int, ...], frozen: int
) -> dict[str, Any]:
    """Return the overrides of a schedule that the author set by hand, from the epochs in his `layer-params-*.cfg`.

    drops: when all learning rates fell to a tenth. noise_until: when the color noise was turned off; None for never.
    conv1: when conv1's learning rate also fell. frozen: when it became 0. The notes do not say when the learning rate
    of the biases fell; here it falls once, with the first drop, as in the author's scripted runs
    (`configs/original_145.py`). Fractions have four digits, a hundredth of an epoch; the notes are not more exact.
    """

    def fractions(*times: float) -> tuple[float, ...]:
        return tuple(round(time / epochs, 4) for time in times)

    return {
        "num_epochs": float(epochs),
        "data.color_noise_until": fractions(epochs if noise_until is None else noise_until)[0],
        "optimizer.drops": fractions(*drops),
        "optimizer.bias_drops": fractions(drops[0]),
        "optimizer.conv1_drops": fractions(*conv1),
        "optimizer.conv1_frozen_from": fractions(frozen)[0],
    }
