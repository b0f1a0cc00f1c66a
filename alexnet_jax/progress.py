"""What long work on images says of itself: how far it is, how fast, how long it will take."""

import sys
import time
from typing import TextIO


class Progress:
    """One line, rewritten in place on a terminal; in a log, a new line every half minute."""

    def __init__(self, num_bytes: int, stream: TextIO | None = None, of: str | None = None):
        """`num_bytes`: of the source, which the time left is estimated by. `of`: what else that number counts."""
        self._num_bytes = num_bytes
        self._of = of or _in_bytes(num_bytes)
        self._stream = stream or sys.stderr
        self._interval = 0.5 if self._stream.isatty() else 30.0
        self._num_images = 0
        self._start: tuple[float, int, int] | None = None  # time, images and bytes where the work (re)started
        self._next = 0.0
        self._open = False  # whether the cursor stands at the end of a line

    def images(self, num_images: int, position: int, skipped: bool) -> None:
        """`num_images` more are done, the source is read up to `position`; `skipped`: they were done before a kill."""
        now = time.monotonic()
        self._num_images += num_images
        if skipped or self._start is None:
            self._start = (now, self._num_images, position)
            return
        started, first_image, first_byte = self._start
        seconds = max(now - started, 1e-6)
        speed = (self._num_images - first_image) / seconds
        left = seconds * (self._num_bytes - position) / max(position - first_byte, 1)
        share = min(position / max(self._num_bytes, 1), 1.0)
        self._say(
            f"{self._num_images:,} images, {share:.1%} of {self._of}, {speed:,.0f} images/s, {in_time(left)} left"
        )

    def shards(self, split: str, number: int, num_shards: int) -> None:
        """File `number` of a split is written."""
        self._say(f"shuffling {split}: {number:,} of {num_shards:,} files", last=number == num_shards)

    def close(self) -> None:
        """Ends the line."""
        if self._open:
            self._stream.write("\n")

    def _say(self, text: str, last: bool = False) -> None:
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + self._interval
        self._open = self._stream.isatty() and not last
        self._stream.write((f"\r\x1b[K{text}" if self._stream.isatty() else text) + ("" if self._open else "\n"))
        self._stream.flush()


def in_time(seconds: float) -> str:
    """For example "2 h 5 min" or "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _in_bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
