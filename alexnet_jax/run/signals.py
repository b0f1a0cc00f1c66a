"""Requests to stop: SIGTERM and SIGINT are recorded instead of ending the process; a training then saves."""

import signal
from types import FrameType
from typing import Self


class NotedSignals:
    """True once SIGTERM or SIGINT has arrived inside the context. A second Ctrl-C (SIGINT) ends the process at once."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.number > 0

    @property
    def name(self) -> str:
        """Return the name of the signal, "" before one has arrived."""
        return signal.Signals(self.number).name if self else ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:  # but schedulers and launchers send SIGTERM more than once
            signal.signal(number, signal.SIG_DFL)


class StopSignals(NotedSignals):
    """True once SIGTERM or SIGINT has reached any of the processes, as of the last `poll`: the same in all of them."""

    def __init__(self) -> None:
        import jax  # a second that a sweep, which starts its runs as processes, does without

        from alexnet_jax.cluster.agreement import LargestOfAll

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
