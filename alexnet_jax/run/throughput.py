"""How fast a training runs, and how long the rest will take."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator


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
