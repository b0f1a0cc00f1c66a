"""Draw figure 1 of the paper from the kept logs: training error by epoch, ReLU solid and tanh dashed.

python -m experiments.figure_1
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from alexnet_jax import cli
from alexnet_jax.errors import UserError
from alexnet_jax.metrics import read_records
from alexnet_jax.report.section import BLUE, GRAY, as_png
from experiments.logs import LOGS, epochs_to, runs_of, training_errors

FIGURE = LOGS / "figure_1.png"
LINES = {"figure_1_relu": ("ReLU", "-"), "figure_1_tanh": ("tanh", "--")}
ERROR = 25.0  # percent, at which the paper compares the two


def main(arguments: Sequence[str]) -> None:
    """Write the figure beside the logs."""
    cli.no_arguments(arguments)
    FIGURE.write_bytes(figure(LOGS))
    print(FIGURE)


@as_png
def figure(logs: Path) -> Figure:
    """Draw one line per run, as a PNG; UserError if a log is missing."""
    drawn = Figure(figsize=(6, 4), layout="constrained")
    axes = drawn.subplots()
    for training, (name, dashes) in LINES.items():
        if not runs_of(logs, training):
            raise UserError(f"{logs / training} has no log yet; run {training} first (python -m experiments relu).")
        for number, run in enumerate(runs_of(logs, training)):
            errors = training_errors(read_records(run))
            label = f"{name}: {ERROR:g} % after {epochs_to(errors, ERROR):.1f} epochs (seed {run.name})"
            color = BLUE if dashes == "-" else "black"
            axes.plot(*zip(*errors, strict=True), dashes, color=color, alpha=0.7**number, label=label)
    axes.axhline(ERROR, color=GRAY, linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="training error (%)", ylim=(0, None))
    axes.legend()
    return drawn


if __name__ == "__main__":
    cli.run(main)
