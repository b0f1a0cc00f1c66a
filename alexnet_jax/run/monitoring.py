"""How fast a training runs, and whether it learns: it is stopped if it diverged, and warns if it only guesses."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.errors import DivergedError
from alexnet_jax.signals import say

MEAN_OF = 10  # losses that a plateau is judged on: that of a single batch may be anything
WARM_UP = 10  # steps before the trace: the first ones compile and allocate their memory


class Throughput:
    """Times training steps, except for the first, which compiles, and for pauses (evaluation, checkpoints)."""

    def __init__(self, batch_size: int, clock: Callable[[], float] = time.perf_counter):
        """Start the first lap; `clock` returns seconds."""
        self._batch_size = batch_size
        self._clock = clock
        self._compiled = False
        self._laps: collections.deque[tuple[int, float]] = collections.deque(maxlen=10)  # steps, seconds
        self._start_lap()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for the next batch."""
        start = self._clock()
        yield
        self._waited += self._clock() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude anything that isn't training."""
        start = self._clock()
        yield
        self._paused += self._clock() - start

    def step_done(self) -> None:
        """Count a training step; call it after each one."""
        if self._compiled:
            self._steps += 1
        else:
            self._compiled = True
            self._start_lap()

    def lap(self) -> dict[str, float | None]:
        """Return images per second and the fraction of time spent waiting for input since the last lap; start the next.

        Both are None if no step has been timed.
        """
        steps, seconds, waited = self._steps, self._clock() - self._started - self._paused, self._waited
        self._start_lap()
        if steps == 0 or seconds <= 0:
            return {"images_per_second": None, "input_wait_fraction": None}
        self._laps.append((steps, seconds))
        return {"images_per_second": steps * self._batch_size / seconds, "input_wait_fraction": waited / seconds}

    def seconds_left(self, steps: int) -> float | None:
        """Return how long `steps` steps take at the speed of the last ten laps; None if none has been timed yet."""
        if not self._laps:
            return None
        done, seconds = (sum(column) for column in zip(*self._laps, strict=True))
        return steps * seconds / done

    def _start_lap(self) -> None:
        self._started, self._steps, self._waited, self._paused = self._clock(), 0, 0.0, 0.0


class PlateauWatch:
    """Warns once if the loss is still ln(num_classes), which is the loss of guessing, after `after_steps` steps."""

    def __init__(self, num_classes: int, after_steps: int):
        self._guessing = math.log(num_classes)
        self._num_classes = num_classes
        self._after_steps = after_steps
        self._losses: collections.deque[float] = collections.deque(maxlen=MEAN_OF)
        self._judged = False

    def warning(self, step: int, loss: float) -> str | None:
        """Return the warning or None; call it with every logged loss. The mean of the last ten counts, within 1 %."""
        self._losses.append(loss)
        if self._judged or step < self._after_steps or len(self._losses) < MEAN_OF:
            return None
        self._judged = True
        mean = sum(self._losses) / len(self._losses)
        if abs(mean - self._guessing) > 0.01 * self._guessing:
            return None
        return (
            f"The loss is still {mean:.3f} after {step:,} steps, which is ln({self._num_classes}): the net only "
            "guesses. Check that images reach it on the 0-255 scale, minus the mean and not divided by a standard "
            "deviation; that conv3, conv4 and conv5 start with a standard deviation of 0.03, as in "
            "model.variant=original (the 0.01 printed in the paper leaves a fourteenth of the signal), or, in a net of "
            "another width, with model.initialization=he; that optimizer.learning_rate is neither too small nor too "
            "large; and that the labels belong to the images."
        )


def check_finite(loss: float, step: int, last_checkpoint_step: int | None) -> None:
    """Raise DivergedError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise diverged(f"The loss is {loss} at step {step:,}", last_checkpoint_step)


def diverged(fact: str, last_checkpoint_step: int | None) -> DivergedError:
    """Return the error for a number that is not finite; `fact` says which number, at which step."""
    checkpoint = (
        "no checkpoint was saved" if last_checkpoint_step is None else f"the last one is step {last_checkpoint_step:,}"
    )
    return DivergedError(
        f"{fact}: training diverged, and was stopped before another checkpoint ({checkpoint}). Try a smaller "
        "optimizer.learning_rate or precision=float32 in a new workdir, and check that images are on the 0-255 scale, "
        "minus the mean."
    )


class Profile:
    """Traces `steps` steps into `folder`, from the tenth after `start` on: those of process 0, on its devices."""

    def __init__(self, folder: Path, start: int, steps: int):
        self._folder = folder
        self._steps = range(start + WARM_UP, start + WARM_UP + steps) if jax.process_index() == 0 else range(0)
        self._running = False
        self._last = start  # the step traced last, counted as in `_steps`

    def step_begins(self, step: int) -> None:
        """Start the trace if this is its first step; `step` steps precede it."""
        if self._steps and step == self._steps[0]:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # a trace of every Python call would hide what the device does
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._running = True

    def step_called(self, step: int, metrics: Any) -> None:
        """Wait for this step and end the trace if it is the last one."""
        self._last = step
        if self._running and step == self._steps[-1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Write the trace, if one is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            say(f"Trace of steps {self._steps[0] + 1} to {self._last + 1}: {self._folder}")
