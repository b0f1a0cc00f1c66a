"""Process a stream with threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    num_threads: int,
    max_ahead: int,
    cost: Callable[[T], int] = lambda _: 1,
) -> Iterator[R]:
    """Yield the function's results in the order of the items, computed by threads in advance.

    The items are drawn by the calling thread, until the `cost` of those in advance exceeds `max_ahead`.
    """
    pending: deque[tuple[Future[R], int]] = deque()
    ahead = 0
    with ThreadPoolExecutor(num_threads) as threads:
        try:
            for item in items:
                pending.append((threads.submit(function, item), cost(item)))
                ahead += pending[-1][1]
                while ahead > max_ahead:
                    future, paid = pending.popleft()
                    ahead -= paid
                    yield future.result()
            while pending:
                yield pending.popleft()[0].result()
        finally:
            threads.shutdown(cancel_futures=True)
