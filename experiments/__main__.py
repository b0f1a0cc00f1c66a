"""List the paper's claims with our results, or print how one of them is tested and what that costs.

python -m experiments [NAME]
"""

import difflib
from collections.abc import Sequence

from alexnet_jax import cli
from alexnet_jax.errors import UserError
from experiments.costs import hours_of_small, hours_on_imagenet
from experiments.logs import LOGS
from experiments.paper import EXPERIMENTS, TRAININGS
from experiments.registry import Experiment


def main(arguments: Sequence[str]) -> None:
    """Print one line per claim, or all about the named ones."""
    if not arguments:
        width = max(len(experiment.name) for experiment in EXPERIMENTS)
        for experiment in EXPERIMENTS:
            ours = experiment.measure(LOGS) or "not run"
            print(f"{experiment.name:<{width}}  {_claim(experiment)} (ours: {ours})")
    for name in arguments:
        print(describe(name))


def describe(name: str) -> str:
    """Return claim, source, result, commands and costs of an experiment; UserError if there is none of this name."""
    by_name = {experiment.name: experiment for experiment in EXPERIMENTS}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(by_name)}."
        raise UserError(f"there is no experiment {name!r}; {hint}")
    experiment = by_name[name]
    lines = [f"{_claim(experiment)} ({experiment.source})", f"Ours: {experiment.measure(LOGS) or 'not run'}"]
    for training in TRAININGS:
        if training.name in experiment.trainings:
            lines += ["", f"# {training.description}", *([f"# {training.note}"] if training.note else [])]
            hours = hours_on_imagenet(training) | hours_of_small(training)
            lines += [f"# hours: {', '.join(f'{number:,.1f} ({name})' for name, number in hours.items())}"]
            for seed in range(training.seeds):
                lines += training.commands(seed)
    return "\n".join([*lines, *experiment.evaluate])


def _claim(experiment: Experiment) -> str:
    """Return the claim with its published number, which a small relative of a claim does not have."""
    return experiment.claim if experiment.published == "-" else f"{experiment.claim} {experiment.published}"


if __name__ == "__main__":
    cli.run(main)
