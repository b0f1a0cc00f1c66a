"""Process a stream with threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], num_threads: int, max_ahead: int) -> Iterator[R]:
    """Yield the function's results in the order of the items, computed by threads at most `max_ahead` in advance.

    The items are drawn by the calling thread.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        try:
            for item in items:
                pending.append(threads.submit(function, item))
                if len(pending) > max_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
