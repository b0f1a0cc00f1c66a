"""How long training stands still for a checkpoint, and how long it takes until everything is on the disk.

python -m benchmarks.checkpoint --variant=paper --batch=128

After each save training goes on while the checkpoint is written, as in a run. PyTorch's side is `torch.save` of model
and optimizer, which stands still until it is done.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.harness import Contender, jax_environment, once, torch_device


def ours(folder: str, repeats: int, **arguments: Any) -> dict[str, list[float]]:
    """Seconds of undisturbed steps, of the standstill, of the steps while the disk is written, and of the writing."""
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
    """Seconds of a step and of `torch.save`."""
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
    """Measures one side after the other, --rounds times, and writes the row."""
    parser = records.parser(__doc__, repeats=3)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in turns (%(default)s)")
    parser.add_argument("--folder", default=None, help="where to save; on the disk in question (temporary)")
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch (%(default)s)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")
    flags = parser.parse_args()
    arguments = {name: getattr(flags, name) for name in ("variant", "batch", "precision", "width", "repeats")}
    peers = {"device": torch_device(flags.platform), "layout": "NCHW", "mode": "eager"}
    measured: dict[str, dict[str, list[float]]] = {}
    for _ in range(flags.rounds):
        for name, task, more, environment in (
            ("ours", "ours", {}, jax_environment(flags.platform)),
            ("PyTorch, torch.save", "peer", peers, {}),
        ):
            with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
                here = {**arguments, **more, "folder": folder}
                answer = once(Contender(name, f"benchmarks.checkpoint:{task}", here, environment, tuned=task == "ours"))
            for part, values in answer.items():
                measured.setdefault(name, {}).setdefault(part, []).extend(values)
    columns = list(dict.fromkeys(itertools.chain.from_iterable(measured.values())))
    lines = [
        {"contender": name}
        | {
            f"{part}, s" if part != "megabytes" else "MB on disk": statistics.median(parts[part])
            if part in parts
            else None
            for part in columns
        }
        | {"standstill, steps": statistics.median(parts["standstill"]) / statistics.median(parts["step"])}
        for name, parts in measured.items()
    ]
    records.write("checkpoint", flags, lines, times=measured)


if __name__ == "__main__":
    main()
