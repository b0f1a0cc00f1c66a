"""How long a checkpoint stops the training, and how long it takes until it is on disk.

python -m benchmarks.checkpoint --variant=paper --batch=128

After each save, training continues while the checkpoint is written, as in a run. PyTorch's side is `torch.save` of
model and optimizer, which returns when it has finished.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, jax_environment, once, torch_device


def ours(folder: str, repeats: int, **arguments: Any) -> dict[str, list[float]]:
    """Return the seconds of undisturbed steps, of the standstill, of steps while writing, and of the whole save."""
    import jax

    from alexnet_jax.checkpoint import Checkpoints
    from benchmarks import ours

    step, state, examples, statistics_ = ours.training(**arguments, augmentation=True)
    times: dict[str, list[float]] = {"step": [], "standstill": [], "step while writing": [], "on disk": []}

    def timed_step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = step(state, examples, statistics_)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    timed_step()
    with Checkpoints(folder, keep_last=1, keep_best=0) as checkpoints:
        for number in range(repeats + 1):
            undisturbed = min(timed_step(), timed_step())
            start = time.perf_counter()
            checkpoints.save(number, state)
            standstill = time.perf_counter() - start
            disturbed = timed_step()
            checkpoints.wait()
            on_disk = time.perf_counter() - start
            if number:  # the first is a warm-up
                for name, value in zip(times, (undisturbed, standstill, disturbed, on_disk), strict=True):
                    times[name].append(value)
    return times | {"megabytes": [_megabytes(folder)]}


def peer(folder: str, repeats: int, **arguments: Any) -> dict[str, list[float]]:
    """Return the seconds of a step and of `torch.save`."""
    import torch

    from benchmarks import peer

    model, optimizer, step = peer.training(**arguments)
    device = arguments["device"]
    timed_step = peer.repeated(step, device)
    timed_step(2)
    times: dict[str, list[float]] = {"step": [], "standstill": []}
    for number in range(repeats + 1):
        start = time.perf_counter()
        timed_step(1)
        stepped = time.perf_counter()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{folder}/checkpoint.pt")
        if number:
            times["step"].append(stepped - start)
            times["standstill"].append(time.perf_counter() - stepped)
    return times | {"megabytes": [_megabytes(folder)]}


def _megabytes(folder: str) -> float:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """Measure one side after the other, --rounds times, and write the row."""
    parser = records.parser(__doc__, repeats=3)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in turns (%(default)s)")
    parser.add_argument("--folder", default=None, help="where to save: on the disk to measure (temporary)")
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    flags = parser.parse_args()
    arguments = {**records.net_arguments(flags), "repeats": flags.repeats}
    peers = {**arguments, "device": torch_device(flags.platform), "layout": "NCHW", "mode": "eager"}
    contenders = [
        Contender("ours", "benchmarks.checkpoint:ours", arguments, jax_environment(flags.platform), tuned=True),
        Contender("PyTorch, torch.save", "benchmarks.checkpoint:peer", peers),
    ]
    measured: dict[str, dict[str, list[float]]] = {}
    for _ in range(flags.rounds):
        for contender in contenders:
            with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
                arguments = {**contender.arguments, "folder": folder}
                answer = once(dataclasses.replace(contender, arguments=arguments))
            for quantity, values in answer.items():
                measured.setdefault(contender.name, {}).setdefault(quantity, []).extend(values)
    medians = {
        name: {quantity: statistics.median(values) for quantity, values in quantities.items()}
        for name, quantities in measured.items()
    }
    columns = list(dict.fromkeys(itertools.chain.from_iterable(medians.values())))
    titles = {quantity: "MB on disk" if quantity == "megabytes" else f"{quantity}, s" for quantity in columns}
    lines = [
        {"contender": name}
        | {titles[quantity]: seconds.get(quantity) for quantity in columns}
        | {"standstill, steps": seconds["standstill"] / seconds["step"]}
        for name, seconds in medians.items()
    ]
    records.write("checkpoint", flags, lines, times=measured)


if __name__ == "__main__":
    main()
