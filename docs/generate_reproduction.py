"""Write the tables of `docs/reproduction.md` again from `experiments/` and its logs; the text between them stays.

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
    """Rewrite the document."""
    DOCUMENT.write_text(with_new_tables(DOCUMENT.read_text()))


def with_new_tables(text: str) -> str:
    """Return the document with the text between its markers replaced by what the data and the logs say now."""
    tables = {
        "claims": claims(),
        "runs": runs(),
        "learning rates": learning_rates(),
        "machines": machines(),
        "costs": costs(),
        "costs of small": costs_of_small(),
        "commands": commands(),
    }
    for name, table in tables.items():
        start, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        pattern = rf"{re.escape(start)}.*?{re.escape(end)}"
        text, count = re.subn(pattern, lambda _, new=start + table + end: new, text, count=1, flags=re.DOTALL)
        if not count:
            raise ValueError(f"{DOCUMENT} has no marker for the table {name!r}")
    return text


def claims() -> str:
    """Return one row per claim: the published number and ours."""
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
    """Return one row per training and number of views: the published errors, ours, and the logs of ours."""
    rows = []
    for training in TRAININGS:
        published = {errors.views: errors for errors in training.published}
        for views in sorted(published.keys() | {1, 5, 10}):
            ours = final_errors(LOGS, training.name, views)
            if views not in published and not ours:
                continue
            theirs, source = "-", "-"
            if errors := published.get(views):
                theirs = f"{errors.top1:.2f}" + (f" / {errors.top5:.2f}" if errors.top5 is not None else "")
                source = errors.source
            results = (in_words(ours), _logs(training)) if ours else ("-", "-")
            rows.append((f"`{training.name}`", str(views), theirs, source, *results))
    header = ("training", "views", "published", "source", "ours", "commit: logs by seed")
    return f"{_table(header, rows)}\nHardware: {_hardware()}.\n"


def _logs(training: Training) -> str:
    logs = [
        f"[{run.name}](../experiments/logs/{training.name}/{run.name}/metrics.jsonl)"
        for run in runs_of(LOGS, training.name)
    ]
    return f"`{REPRODUCED[training.name].commit}`: {', '.join(logs)}"


def _hardware() -> str:
    """Return which trainings were run on which hardware; without names if there is only one."""
    names: dict[str, list[str]] = {}
    for name, reproduced in REPRODUCED.items():
        names.setdefault(reproduced.hardware, []).append(f"`{name}`")
    return "; ".join(f"{hardware} ({', '.join(names[hardware])})" if len(names) > 1 else hardware for hardware in names)


def learning_rates() -> str:
    """Return one row per run of figure 1's sweep: the mean training error over each epoch."""
    rows = []
    for run in SWEEP_OF_FIGURE_1.iterdir():
        config = read_config(run)
        errors = [f"{error:.1f}" for _, error in training_errors(read_records(run))]
        rows.append((config.model.activation, f"{config.optimizer.learning_rate:g}", *errors))
    epochs = [str(epoch + 1) for epoch in range(max(map(len, rows), default=2) - 2)]
    return _table(("activation", "learning rate", *epochs), sorted(rows))


def machines() -> str:
    """Return one row per machine: its training speed and the source of that."""
    rows = [(machine.name, f"{machine.images_per_second:,.0f}", machine.source) for machine in MACHINES]
    return _table(("machine", "images/s", "source"), rows)


def costs() -> str:
    """Return one row per number of images on ImageNet, with the hours that they take on each machine."""
    names: dict[tuple[str, ...], list[str]] = {}
    for training in TRAININGS:
        images = num_images(training, IMAGENETS)
        if images is not None:
            hours = [f"{hours:,.0f}" for hours in hours_on_imagenet(training).values()]
            names.setdefault((str(training.seeds), f"{images / 1e6:,.0f}", *hours), []).append(f"`{training.name}`")
    rows = [(", ".join(trainings), *numbers) for numbers, trainings in names.items()]
    return _table(("training", "runs", "million images", *(f"{machine.name}: hours" for machine in MACHINES)), rows)


def costs_of_small() -> str:
    """Return one row per training on a small set, with two columns per kind of hardware."""
    kinds = list(dict.fromkeys(reproduced.hardware for reproduced in REPRODUCED.values()))
    rows = []
    for training in TRAININGS:
        images = num_images(training, SMALL_SETS)
        if images is not None:
            speed, hours = speeds(training), hours_of_small(training)
            numbers = [(f"{speed[kind]:,.0f}", f"{hours[kind]:.1f}") if kind in speed else ("-", "-") for kind in kinds]
            rows.append((f"`{training.name}`", str(training.seeds), f"{images / 1e6:.2f}", *sum(numbers, ())))
    header = [f"{kind}: {unit}" for kind in kinds for unit in ("images/s", "hours")]
    return _table(("training", "runs", "million images", *header), rows)


def commands() -> str:
    """Return the commands of each training and of each measurement on trained nets."""
    blocks = []
    for training in TRAININGS:
        runs = f" {training.seeds} runs; this is the first." if training.seeds > 1 else ""
        blocks.append((f"{training.name}: {training.description}.{runs} {training.note}", training.commands()))
    names: dict[tuple[str, ...], list[str]] = {}
    for experiment in EXPERIMENTS:
        if experiment.evaluate:
            names.setdefault(experiment.evaluate, []).append(experiment.name)
    blocks += [(", ".join(experiments), list(lines)) for lines, experiments in names.items()]
    return "```sh\n" + "\n".join(f"{_comment(comment)}\n{_code(lines)}" for comment, lines in blocks) + "```\n"


def _comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 116, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False))


def _code(lines: Sequence[str]) -> str:
    return "".join(f"{_wrapped(line)}\n" for line in lines)


def _wrapped(command: str) -> str:
    """Break a command into several lines, as a shell reads it."""
    return " \\\n    ".join(textwrap.wrap(command, 116, break_long_words=False, break_on_hyphens=False))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    main()
