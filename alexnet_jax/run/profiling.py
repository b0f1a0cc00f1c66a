"""A trace of some training steps, for TensorBoard and Perfetto; how to read it: `docs/performance.md`."""

from pathlib import Path
from typing import Any

import jax

WARM_UP = 10  # steps before the trace: the first ones compile, and take their memory


class Profile:
    """Traces `steps` steps of a run in `folder`, from the tenth after its start on; process 0 does, of what it runs."""

    def __init__(self, folder: Path, start: int, steps: int):
        self._folder = folder
        self._steps = range(start + WARM_UP, start + WARM_UP + steps) if jax.process_index() == 0 else range(0)
        self._running = False
        self._last = start  # the step that was traced last, as `_steps` counts

    def step_begins(self, step: int) -> None:
        """Starts the trace if this is the first step of it; `step` steps precede this one."""
        if self._steps and step == self._steps[0]:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call of Python would hide what the device does
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._running = True

    def step_called(self, step: int, metrics: Any) -> None:
        """Waits for this step and ends the trace if it is the last of it."""
        self._last = step
        if self._running and step == self._steps[-1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes what was traced, if a trace is under way."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(f"Trace of steps {self._steps[0] + 1} to {self._last + 1}: {self._folder}", flush=True)
