"""Being asked to stop: the signal is noted, and the loop saves before the process ends."""

import signal
from types import FrameType


class StopSignals:
    """True once SIGTERM or SIGINT has come, while it is entered. A second signal ends the process at once."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._received is not None

    @property
    def name(self) -> str:
        """The name of the signal that came."""
        return self._received.name if self._received else ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
