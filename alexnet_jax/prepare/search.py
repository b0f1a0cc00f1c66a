"""What a search for images has found: how many, and what is left out, by reason. Nothing is left out silently."""

from collections import Counter
from types import TracebackType

from alexnet_jax.progress import Progress


class Search:
    """Counts images, shows how many there are if the search takes long, and counts what is left out.

    Groups of what is left out are named by the reason; each keeps its first path.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self._progress = Progress(0)
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def __enter__(self) -> "Search":
        """Start the search."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the line of the progress."""
        self._progress.close()

    def found(self) -> None:
        """Count an image."""
        self.num_images += 1
        self._progress.found(self.num_images)

    def leave_out(self, group: str, path: str) -> None:
        """Count something that isn't read."""
        self._counts[group] += 1
        self._first.setdefault(group, path)

    def left_out(self) -> dict[str, int]:
        """Return the counts by what was left out."""
        return {f"{group}, such as {self._first[group]}": count for group, count in self._counts.items()}
