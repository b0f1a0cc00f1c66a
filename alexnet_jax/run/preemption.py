"""Stop requests during training: all processes stop after the same step, and save."""

import signal

import jax

from alexnet_jax.cluster.processes import LargestOfAll
from alexnet_jax.run.signals import NotedSignals


class StopSignals(NotedSignals):
    """True once SIGTERM or SIGINT has reached any of the processes, as of the last `poll`: the same in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._agreed = 0
        self._largest = LargestOfAll() if jax.process_count() > 1 else None

    def poll(self) -> bool:
        """Return whether to stop now. All processes must call this equally often, between the same steps."""
        self._agreed = self._largest(self.number) if self._largest else self.number
        return bool(self)

    def __bool__(self) -> bool:
        return self._agreed > 0

    @property
    def name(self) -> str:
        """Return the name of the signal, "" before one has arrived."""
        return signal.Signals(self._agreed).name if self else ""
