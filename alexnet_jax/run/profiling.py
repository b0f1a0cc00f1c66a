"""A trace of some training steps for TensorBoard and Perfetto; `docs/performance.md` explains how to read it."""

from pathlib import Path
from typing import Any

import jax

WARM_UP = 10  # steps before the trace: the first ones compile and allocate their memory


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
            print(f"Trace of steps {self._steps[0] + 1} to {self._last + 1}: {self._folder}", flush=True)
