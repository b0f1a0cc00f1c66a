"""Which images a net sees as alike: the nearest in feature space, by Euclidean distance.

Source: paper section 6.1 and figure 4, right; the released code's findsimilar.py, which compares squared distances.
"""

from collections.abc import Sequence

import numpy as np


class Nearest:
    """The `count` images nearest to each of some queries, among images that are added batch by batch."""

    def __init__(self, queries: np.ndarray, count: int):
        """Take the queries' features, [Q, ...]."""
        self._queries = queries.reshape(len(queries), -1).astype(np.float64)  # [Q, D]
        self._count = count
        self._nearest: list[list[tuple[float, str]]] = [[] for _ in queries]  # by query: squared distance, name

    def add(self, features: np.ndarray, names: Sequence[str]) -> None:
        """Compare more images: their features [n, ...] and names."""
        rows = features.reshape(len(features), -1).astype(np.float64)  # [n, D]
        for query, nearest in zip(self._queries, self._nearest, strict=True):
            squared = np.square(rows - query).sum(axis=1)  # [n]
            nearest += zip(squared.tolist(), names, strict=True)
            nearest.sort(key=lambda pair: pair[0])  # stable: of equals, the one added first
            del nearest[self._count :]

    def neighbors(self) -> list[list[tuple[str, float]]]:
        """Return for each query the names and distances of its nearest images, the nearest first."""
        return [[(name, squared**0.5) for squared, name in nearest] for nearest in self._nearest]
