"""Being asked to stop: the signal is noted, and the loop saves before the process ends."""

import signal
from types import FrameType

import jax

from alexnet_jax.parallel.processes import LargestOfAll


class StopSignals:
    """True once SIGTERM or SIGINT has come, while it is entered. A second Ctrl-C (SIGINT) ends the process at once.

    `poll` is where that changes. Of several processes all stop at the same poll, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self._received = 0  # by this process
        self._agreed = 0  # as of the last poll
        self._largest = LargestOfAll() if jax.process_count() > 1 else None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._agreed > 0

    def poll(self) -> bool:
        """Whether to stop now. All processes must ask equally often, between the same steps."""
        self._agreed = self._largest(self._received) if self._largest else self._received
        return bool(self)

    @property
    def name(self) -> str:
        """The name of the signal that came."""
        return signal.Signals(self._agreed).name if self else ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:  # schedulers and launchers send SIGTERM more than once
            signal.signal(number, signal.SIG_DFL)
