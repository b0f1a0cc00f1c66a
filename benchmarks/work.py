"""What a task hands to the process that measures it."""

from collections.abc import Callable
from typing import Any, NamedTuple

# Does a piece of work so many times over and returns when the device is done with all of it.
Piece = Callable[[int], object]


class Work(NamedTuple):
    """What a task builds: its pieces by name, and what is worth writing down of its settings."""

    pieces: dict[str, Piece]
    facts: dict[str, Any]
