"""What a task gives to the process that measures it."""

from collections.abc import Callable
from typing import Any, NamedTuple

# Does a piece of work the given number of times, and returns when the device has finished.
Piece = Callable[[int], object]


class Work(NamedTuple):
    """What a task builds: its pieces by name, and notes for the row (settings of the process, results) as JSON."""

    pieces: dict[str, Piece]
    notes: dict[str, Any]
