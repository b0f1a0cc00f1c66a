"""What a run says of itself: `metrics.jsonl`, TensorBoard, lines on the console, and two warnings.

A record is a flat dict. Every record has `step`, `epoch`, `split`, `loss`, `top1_error` and `top5_error` (percent);
those of training have `learning_rate`, `images_per_second` and `input_wait_fraction` besides, those of an evaluation
`views` and `num_examples`.
"""

import collections
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import DivergedError, UserError
from alexnet_jax.run.tensorboard import Event, EventsWriter, SessionLog, Summary

Record = Mapping[str, Any]

FILE_NAME = "metrics.jsonl"
_LARGEST = 2.0**128  # of the numbers in a record: no float32 is as large, and figures can be drawn below it
_NOT_PLOTTED = ("step", "epoch", "split", "views", "num_examples")


class MetricWriter:
    """Writes the records of a training to `metrics.jsonl` and to a TensorBoard event file in the workdir.

    `resumed_step` is the step of the checkpoint that training goes on from (0 for a new run). What an earlier
    process wrote of later steps belongs to training that was lost, and is dropped, in TensorBoard too; so the file
    of a resumed run reads like that of an uninterrupted one. Where several processes train, one of them writes:
    the others pass `enabled=False`. A UserError says why the workdir can't be written.
    """

    def __init__(self, workdir: str | os.PathLike[str], resumed_step: int, enabled: bool = True):
        self._workdir = Path(workdir)
        self._events: EventsWriter | None = None
        if enabled:
            with _writing_to(self._workdir):
                self._workdir.mkdir(parents=True, exist_ok=True)
                _drop_records_after(resumed_step, self._workdir / FILE_NAME)
                # tensorboardX's SummaryWriter writes from a thread, where a full disk would go unnoticed.
                self._events = EventsWriter(str(self._workdir / "events"), f".{resumed_step}.{os.getpid()}")
                start = SessionLog(status=SessionLog.START)  # TensorBoard drops what it has from this step on
                self._events.write_event(Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))

    def write(self, record: Record) -> None:
        """Appends a record to both. Its numbers may be NumPy or JAX scalars; None is a number not known yet."""
        if self._events is None:
            return
        append_record(self._workdir, record)
        plotted = {key: value for key, value in record.items() if key not in _NOT_PLOTTED and value is not None}
        values = [Summary.Value(tag=f"{record['split']}/{key}", simple_value=float(v)) for key, v in plotted.items()]
        event = Event(wall_time=time.time(), step=int(record["step"]), summary=Summary(value=values))
        with _writing_to(self._workdir):
            self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            with _writing_to(self._workdir):
                self._events.close()


def append_record(workdir: str | os.PathLike[str], record: Record) -> None:
    """Appends one line to the workdir's `metrics.jsonl`; a line that a killed process left half written goes first.

    Numbers that JSON can't express (NaN, infinity) become null. UserError if the file can't be written.
    """
    path = Path(workdir) / FILE_NAME
    line = json.dumps({key: _json_value(value) for key, value in record.items()}, allow_nan=False) + "\n"
    with _writing_to(path), open(path, "a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def read_records(workdir: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The complete records of the workdir's `metrics.jsonl`, in order; none if there is no file."""
    path = Path(workdir) / FILE_NAME
    if path.exists():
        for line in path.read_bytes().splitlines():
            if (record := _record(line)) is not None:
                yield record


def _drop_records_after(step: int, path: Path) -> None:
    """Keeps the complete records up to this step. Killed at any moment, it leaves the old file or the new one."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and (record := _record(line)) and record["step"] <= step]
    if kept != lines:
        new = path.with_suffix(".jsonl.tmp")
        new.write_bytes(b"".join(kept))
        os.replace(new, path)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it is none (after a power failure, for one): a step, text and finite numbers."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not _is_number(record.get("step")):
        return None
    split = record.get("split", "")
    numbers = [value for key, value in record.items() if key != "split" and value is not None]
    return record if isinstance(split, str) and all(map(_is_number, numbers)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _json_value(value: Any) -> Any:
    """A str, bool, int, float or None that equals this value; None for NaN and infinity."""
    if value is None or isinstance(value, str):
        return value
    scalar = np.asarray(value)[()]
    # str gives float32(0.01) as 0.01 where item would give 0.009999999776482582
    number = float(str(scalar)) if isinstance(scalar, np.float32) else scalar.item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


@contextlib.contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write to {path}: {error.strerror or error}; make it writable, or free some space."
        ) from error


class Speed(NamedTuple):
    """How fast training was since the last lap; None where no step has been timed yet."""

    images_per_second: float | None
    input_wait_fraction: float | None  # share of the time that the loop waited for a batch


class Throughput:
    """Times training steps. The first step, which compiles, and pauses (evaluation, checkpoints) don't count.

    `clock` returns seconds.
    """

    def __init__(self, batch_size: int, clock: Callable[[], float] = time.perf_counter):
        self._batch_size = batch_size
        self._clock = clock
        self._compiled = False
        self._laps: collections.deque[tuple[int, float]] = collections.deque(maxlen=10)  # steps, seconds
        self._start_lap()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for the next batch."""
        start = self._clock()
        yield
        self._waited += self._clock() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around anything that isn't training."""
        start = self._clock()
        yield
        self._paused += self._clock() - start

    def step_done(self) -> None:
        """After every training step."""
        if self._compiled:
            self._steps += 1
        else:
            self._compiled = True
            self._start_lap()

    def lap(self) -> Speed:
        """The speed since the last lap; starts the next one."""
        steps, seconds, waited = self._steps, self._clock() - self._started - self._paused, self._waited
        self._start_lap()
        if steps == 0 or seconds <= 0:
            return Speed(None, None)
        self._laps.append((steps, seconds))
        return Speed(steps * self._batch_size / seconds, waited / seconds)

    def seconds_left(self, steps: int) -> float | None:
        """How long so many steps take at the speed of the last ten laps; None if nothing has been timed yet."""
        if not self._laps:
            return None
        done, seconds = (sum(column) for column in zip(*self._laps, strict=True))
        return steps * seconds / done

    def _start_lap(self) -> None:
        self._started, self._steps, self._waited, self._paused = self._clock(), 0, 0.0, 0.0


def training_line(record: Record, num_steps: int, num_epochs: float, seconds_left: float | None) -> str:
    """The line on the console for a record of training."""
    parts = [
        f"step {record['step']:>{len(f'{num_steps:,}')},}/{num_steps:,}",
        f"epoch {record['epoch']:.2f}/{num_epochs:g}",
        f"loss {record['loss']:.4f}",
        f"top-1 error {record['top1_error']:5.1f} %",
        f"rate {record['learning_rate']:.3g}",
    ]
    if record["images_per_second"] is not None:
        parts.append(f"{record['images_per_second']:,.0f} images/s")
        parts.append(f"{100 * record['input_wait_fraction']:.0f} % waiting for input")
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return "  ".join(parts)


def evaluation_line(record: Record) -> str:
    """The line on the console for a record of an evaluation."""
    views = "1 view" if record["views"] == 1 else f"{record['views']} views"
    return (
        f"step {record['step']:,}  {record['split']}: top-1 error {record['top1_error']:.2f} %, top-5 error "
        f"{record['top5_error']:.2f} %, loss {record['loss']:.4f} ({record['num_examples']:,} images, {views})"
    )


def duration(seconds: float) -> str:
    """Seconds for people, in the two largest units: `3 min 20 s`."""
    total = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    largest = next((i for i, (_, size) in enumerate(units) if total >= size), len(units) - 1)
    parts = []
    for name, size in units[largest : largest + 2]:
        parts.append(f"{total // size} {name}")
        total %= size
    return " ".join(parts)


class PlateauWatch:
    """Warns once if the loss still sits at ln(num_classes), the loss of guessing, after so many steps."""

    def __init__(self, num_classes: int, after_steps: int):
        self._guessing = math.log(num_classes)
        self._num_classes = num_classes
        self._after_steps = after_steps
        self._losses: collections.deque[float] = collections.deque(maxlen=10)
        self._judged = False

    def warning(self, step: int, loss: float) -> str | None:
        """To be told every loss that is logged. The mean of the last ten is judged, within 1 %, the first time."""
        self._losses.append(loss)
        if self._judged or step < self._after_steps:
            return None
        self._judged = True
        mean = sum(self._losses) / len(self._losses)
        if abs(mean - self._guessing) > 0.01 * self._guessing:
            return None
        return (
            f"The loss is still {mean:.3f} after {step:,} steps, which is ln({self._num_classes}): the net guesses. "
            "Check that images reach it on the 0-255 scale with the mean subtracted and no division by a standard "
            "deviation; that conv3, conv4 and conv5 start with a standard deviation of 0.03, as in "
            "model.variant=original (the 0.01 that the paper prints leaves a fourteenth of the signal); that "
            "optimizer.learning_rate is neither too small nor too large; and that the labels belong to the images."
        )


def check_finite(loss: float, step: int, last_checkpoint_step: int | None) -> None:
    """Raises DivergedError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise diverged(f"The loss is {loss} at step {step:,}", last_checkpoint_step)


def diverged(what: str, last_checkpoint_step: int | None) -> DivergedError:
    """The error for a number that is not finite; `what` says which, and at which step."""
    checkpoint = (
        "no checkpoint was saved" if last_checkpoint_step is None else f"the last one is step {last_checkpoint_step:,}"
    )
    return DivergedError(
        f"{what}: training diverged, and was stopped before another checkpoint ({checkpoint}). Try a smaller "
        "optimizer.learning_rate or precision=float32 in a new workdir, and check that images are on the 0-255 scale "
        "with the mean subtracted."
    )
