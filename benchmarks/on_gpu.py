"""All that is to be known of a GPU, in order of worth, in the time there is: `bash benchmarks/on_gpu.sh` starts it.

    python -m benchmarks.on_gpu --seconds=540 --results=FILE

Every part is a benchmark of its own, which writes its rows as soon as it has them. If one fails, the next one follows;
what no time was left for is listed at the end, and `--parts` takes it up. `--short` runs all parts with tiny nets on
the CPU, to see that they run. Trainings need the data set that on_gpu.sh prepares in --data_dir.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import records
from benchmarks.harness import ROOT

IMAGES = "imagenette128"  # the data set
NETS = ("paper", "one_weird_trick")
GRACE = 5.0  # seconds that a part gets to end once its time is over
# XLA's profile does not name kernels that are launched as a graph.
NO_GRAPHS = {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="}


class Scale(NamedTuple):
    """How much the parts do: on an H100, or to see that they run."""

    platform: str
    numbers: tuple[str, ...]
    step: tuple[str, ...]
    batches: tuple[str, ...]
    timing: tuple[str, ...]
    mode: str  # of PyTorch
    images: tuple[str, ...]
    long: tuple[str, ...]
    brief: tuple[str, ...]


FULL = Scale(
    platform="gpu",
    numbers=("--batch=16",),
    step=("--batch=512",),
    batches=("--batches", "512", "2048", "128", "1024", "256"),
    timing=("--repeats=5",),
    mode="compiled",
    images=(f"--config.data.name={IMAGES}",),
    long=("--config.num_epochs=60", "--config.eval.every_epochs=10", "--config.checkpoint.every_epochs=60"),
    brief=("--config.num_epochs=4", "--config.eval.every_epochs=4", "--config.checkpoint.every_epochs=4"),
)
SHORT = Scale(
    platform="cpu",
    numbers=("--batch=2", "--width=0.1"),
    step=("--batch=2", "--width=0.1"),
    batches=("--batches", "2", "4", "--width=0.1"),
    timing=("--repeats=2", "--seconds=0"),
    mode="eager",
    images=(
        *("--config.data.name=digits", "--config.model.image_size=64"),
        *("--config.model.conv_width=0.0833", "--config.model.fc_width=0.0079"),
    ),
    long=("--config.num_epochs=2", "--config.eval.every_epochs=2", "--config.checkpoint.every_epochs=2"),
    brief=("--config.num_epochs=1", "--config.eval.every_epochs=1", "--config.checkpoint.every_epochs=1"),
)


class Part(NamedTuple):
    """A benchmark with its arguments, those for trainings apart; the environment is added to that of this process."""

    name: str
    module: str
    arguments: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    environment: dict[str, str] | None = None

    def command(self, *shared: str) -> list[str]:
        """Return the command."""
        overrides = ["--", *self.overrides] if self.overrides else []
        return [sys.executable, "-m", f"benchmarks.{self.module}", *self.arguments, *shared, *overrides]


def parts(scale: Scale, data_dir: Path, workdir: Path) -> list[Part]:
    """Return all parts, the most valuable first."""
    bfloat16 = "--precision=bfloat16"
    peer = (*scale.step, bfloat16, *scale.timing, "--modes", scale.mode, "--layouts", "channels_last")
    training = (
        *(f"--config.data.dir={data_dir}", *scale.images),
        *("--config.model.num_classes=10", "--config.model.initialization=he"),
    )
    on_device = (*training, "--config.data.feed=device")
    precisions = ("--each", "precision=bfloat16", "precision=float32")
    feeds = ("--each", "data.feed=device", "data.feed=jpeg")

    def speeds(net: str, precision: str) -> Part:
        arguments = (f"--variant={net}", f"--precision={precision}", *scale.batches, *scale.timing)
        return Part(f"batches {net} {precision}", "batches", arguments)

    def beside_pytorch(net: str, what: str) -> Part:
        return Part(f"pytorch {net} {what}", "step", (f"--variant={net}", f"--what={what}", *peer))

    return [
        Part("numbers", "agreement", scale.numbers),
        speeds("paper", "bfloat16"),
        beside_pytorch("paper", "training"),
        speeds("one_weird_trick", "bfloat16"),
        Part("kernels", "kernels", (*scale.step, bfloat16), environment=NO_GRAPHS),
        Part("choices", "choices", (*scale.step, bfloat16, *scale.timing)),
        Part("feeds", "trainings", (f"--workdir={workdir}/feeds", *feeds), (*training, *scale.brief)),
        Part("resumption", "resumption", (f"--workdir={workdir}/resumption",), (*on_device, *scale.brief)),
        Part("trainings", "trainings", (f"--workdir={workdir}/trainings", *precisions), (*on_device, *scale.long)),
        *(speeds(net, "float32") for net in NETS),
        beside_pytorch("one_weird_trick", "training"),
        beside_pytorch("paper", "inference"),
    ]


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=1)
    parser.add_argument("--short", action="store_true", help="tiny nets on the CPU")
    parser.add_argument("--seconds", type=float, default=540, help="when the last part has to end (%(default)s)")
    parser.add_argument("--parts", nargs="+", help="only these, by name (all)")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data" / "on_gpu", help="with the prepared images")
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "on_gpu", help="for trainings, new or resumed")
    flags = parser.parse_args()
    names = [part.name for part in parts(FULL, flags.data_dir, flags.workdir)]
    if unknown := set(flags.parts or ()) - set(names):
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return flags


def main() -> None:
    """Run the parts until the time is over; exit with 1 unless all that were asked for are done."""
    flags = parse()
    end = time.monotonic() + flags.seconds
    scale = SHORT if flags.short else FULL
    shared = (f"--platform={scale.platform}", f"--results={flags.results}", f"--commit={flags.commit}")
    lines = []
    for part in parts(scale, flags.data_dir, flags.workdir):
        if flags.parts and part.name not in flags.parts:
            continue
        print(f"--- {part.name}", flush=True)
        start = time.monotonic()
        if part.overrides and scale is FULL and not (flags.data_dir / IMAGES).is_dir():
            outcome = f"no {flags.data_dir / IMAGES}"
        else:
            outcome = run(part, shared, end - start)
        lines.append({"part": part.name, "s": round(time.monotonic() - start, 1), "outcome": outcome})
        print(f"--- {part.name}: {outcome}", flush=True)
    print(records.markdown(lines))
    if any(line["outcome"] != "done" for line in lines):
        sys.exit(1)


def run(part: Part, shared: tuple[str, ...], seconds: float) -> str:
    """Run a part for at most so many seconds; return how it ended."""
    if seconds < GRACE:
        return "no time left"
    environment = {**os.environ, **(part.environment or {})}
    process = subprocess.Popen(part.command(*shared), cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(seconds - GRACE)
        return "done" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return "stopped, its time was over"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started has its group, and may still run
        process.wait()


if __name__ == "__main__":
    main()
