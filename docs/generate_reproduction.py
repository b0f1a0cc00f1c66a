"""Writes the tables of `docs/reproduction.md` anew from `experiments/` and its logs; the text around them stays.

python -m docs.generate_reproduction
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.metrics import read_records
from alexnet_jax.run.workdir import read_config
from experiments.costs import hours_of_small, hours_on_imagenet, num_images, speeds
from experiments.logs import LOGS, SWEEP_OF_FIGURE_1, final_errors, in_words, runs_of, training_errors
from experiments.paper import EXPERIMENTS, IMAGENETS, MACHINES, REPRODUCED, SMALL_SETS, TRAININGS
from experiments.registry import Training

DOCUMENT = Path(__file__).with_name("reproduction.md")


def main() -> None:
    """Rewrites the document."""
    DOCUMENT.write_text(with_new_tables(DOCUMENT.read_text()))


def with_new_tables(text: str) -> str:
    """The document with what stands between its markers replaced by what the data and the logs say now."""
    parts = {
        "claims": claims(),
        "runs": runs(),
        "rates": rates(),
        "machines": machines(),
        "costs": costs(),
        "costs of small": costs_of_small(),
        "commands": commands(),
    }
    for name, table in parts.items():
        start, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        pattern = rf"{re.escape(start)}.*?{re.escape(end)}"
        text, found = re.subn(pattern, lambda _, new=start + table + end: new, text, count=1, flags=re.DOTALL)
        if not found:
            raise ValueError(f"{DOCUMENT} has no place for the table {name!r}")
    return text


def claims() -> str:
    """A row for each claim: what was published, and what came out here."""
    rows = []
    for experiment in EXPERIMENTS:
        trainings = ", ".join(f"`{name}`" for name in experiment.trainings) or "-"
        ours = experiment.measure(LOGS) or "-"
        for log in sorted((LOGS / experiment.name).glob("*.json*")):
            ours += f", [log](../experiments/logs/{experiment.name}/{log.name})"
        rows.append(
            (f"`{experiment.name}`", experiment.claim, experiment.source, experiment.published, ours, trainings)
        )
    return _table(("experiment", "claim", "source", "published", "ours", "trainings"), rows)


def runs() -> str:
    """A row for each training and number of views: what was published, what came out, with what, and the log."""
    rows = []
    for training in TRAININGS:
        published = {errors.views: errors for errors in training.published}
        kept = runs_of(LOGS, training.name)
        for views in sorted(published.keys() | {1, 10}):
            found = final_errors(LOGS, training.name, views)
            if views not in published and not found:
                continue
            there, source = "-", "-"
            if errors := published.get(views):
                there = f"{errors.top1:.2f}" + (f" / {errors.top5:.2f}" if errors.top5 is not None else "")
                source = errors.source
            with_what = REPRODUCED.get(training.name)
            how = (with_what.hardware, f"`{with_what.commit}`") if with_what and found else ("-", "-")
            logs = ", ".join(
                f"[{run.name}](../experiments/logs/{training.name}/{run.name}/metrics.jsonl)" for run in kept
            )
            ours = in_words(found) if found else "-"
            rows.append((f"`{training.name}`", str(views), there, source, ours, *how, logs or "-"))
    return _table(("training", "views", "published", "source", "ours", "hardware", "commit", "logs by seed"), rows)


def rates() -> str:
    """A row for each run of figure 1's sweep: the mean training error over each epoch."""
    rows = []
    for run in SWEEP_OF_FIGURE_1.iterdir():
        config = read_config(run)
        errors = [f"{error:.1f}" for _, error in training_errors(read_records(run))]
        rows.append((config.model.activation, f"{config.optimizer.learning_rate:g}", *errors))
    epochs = [str(epoch + 1) for epoch in range(max(map(len, rows), default=2) - 2)]
    return _table(("units", "rate", *epochs), sorted(rows))


def machines() -> str:
    """A row for each machine: how fast it trains, and who says so."""
    rows = [(machine.name, f"{machine.images_per_second:,.0f}", machine.source) for machine in MACHINES]
    return _table(("machine", "images/s", "source"), rows)


def costs() -> str:
    """A row for each training on ImageNet: images to be seen, and the hours that takes on each machine."""
    rows = []
    for training in TRAININGS:
        images = num_images(training, IMAGENETS)
        if images is not None:
            hours = [f"{hours:,.0f}" for hours in hours_on_imagenet(training).values()]
            rows.append((f"`{training.name}`", str(training.seeds), f"{images / 1e6:,.0f}", *hours))
    return _table(("training", "runs", "million images", *(f"{machine.name}: hours" for machine in MACHINES)), rows)


def costs_of_small() -> str:
    """A row for each training on a small set and kind of machine on which its net was trained."""
    rows = []
    for training in TRAININGS:
        images = num_images(training, SMALL_SETS)
        if images is not None:
            for hardware, hours in hours_of_small(training).items():
                numbers = (f"{images / 1e6:.2f}", f"{speeds(training)[hardware]:,.0f}", f"{hours:.1f}")
                rows.append((f"`{training.name}`", str(training.seeds), hardware, *numbers))
    return _table(("training", "runs", "hardware", "million images", "images/s", "hours"), rows)


def commands() -> str:
    """What to type for each training, and for what is measured on several of them."""
    parts = [_commands(training) for training in TRAININGS]
    for experiment in EXPERIMENTS:
        if experiment.evaluate:
            parts.append(f"### {experiment.name}\n\n{experiment.claim}\n\n{_code(experiment.evaluate)}")
    return "\n".join(parts)


def _commands(training: Training) -> str:
    runs = f" {training.seeds} runs; this is the first." if training.seeds > 1 else ""
    note = f" {training.note}" if training.note else ""
    what = training.what[0].upper() + training.what[1:]
    return f"### {training.name}\n\n{what}.{runs}{note}\n\n{_code(training.commands())}"


def _code(lines: Sequence[str]) -> str:
    return "```sh\n" + "\n".join(map(_wrapped, lines)) + "\n```\n"


def _wrapped(command: str) -> str:
    """A command over several lines, as a shell reads it."""
    return " \\\n    ".join(textwrap.wrap(command, 116, break_long_words=False, break_on_hyphens=False))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    main()
