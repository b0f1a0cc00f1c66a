"""Progress of long work on images: how much is done, how fast it is, and how long it will take."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

from alexnet_jax.metrics import duration


class Progress(tqdm):
    """One line, rewritten in place on a terminal; in a log, a new line at most every 30 s.

    Counts images, and estimates the time left by the position in some `total`, such as the bytes of the source.
    """

    monitor_interval = 0  # no thread of tqdm's to redraw the line

    def __init__(self, total: int, stream: TextIO | None = None, of: str | None = None):
        """Show nothing until images are counted. `of` is the total as text; by default, in bytes."""
        stream = stream or sys.stderr
        interval = 0.5 if stream.isatty() else 30.0
        options = {"bar_format": "{desc}", "miniters": 0, "position": 0, "dynamic_ncols": True}
        super().__init__(total=total, file=stream, mininterval=interval, **options)
        self.last_print_t = 0.0  # the first line is due at once
        self._of = of or self.format_sizeof(total, "B")
        self._num_images = 0
        self._first_image: int | None = None  # speed and time left are measured from here

    def found(self, num_images: int) -> None:
        """Show how many images a search has found so far, if it takes long."""
        self.last_print_t = self.last_print_t or time.time()
        self.set_description_str(f"{num_images:,} images found", refresh=False)
        self.update(0)

    def images(self, num_images: int, position: int, skipped: bool) -> None:
        """Count images, up to a position in the total; `skipped` ones don't count towards the speed."""
        self._num_images += num_images
        if skipped or self._first_image is None:
            self.start_t, self.initial, self.n, self._first_image = time.time(), position, position, self._num_images
            return
        seconds = max(time.time() - self.start_t, 1e-6)
        share = min(position / max(self.total, 1), 1.0)
        speed = (self._num_images - self._first_image) / seconds
        left = duration(seconds * (self.total - position) / max(position - self.initial, 1))
        text = f"{self._num_images:,} images, {share:.1%} of {self._of}, {speed:,.0f} images/s, {left} left"
        self.set_description_str(text, refresh=False)
        self.update(position - self.n)

    def shards(self, split: str, number: int, num_shards: int) -> None:
        """Show that shard `number` of a split, counted from 1, has been written."""
        is_last = number == num_shards
        self.set_description_str(f"shuffling {split}: {number:,} of {num_shards:,} shards", refresh=is_last)
        if not is_last:
            self.update(0)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Rewrite the line on a terminal; add a line to a log."""
        if self.desc and self.fp.isatty():
            super().display(msg, pos)
        elif self.desc:
            print(self, file=self.fp, flush=True)

    def close(self) -> None:
        """End the line."""
        if self.fp.isatty():
            super().close()
