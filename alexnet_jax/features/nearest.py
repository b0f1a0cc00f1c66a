"""Which images a net sees as alike: the nearest in feature space, by Euclidean distance.

Source: paper section 6.1 and figure 4, right; the released code's findsimilar.py, which compares squared distances.
"""

from collections.abc import Sequence

import numpy as np


class Nearest:
    """Of images that pass by, the `count` nearest to each of some queries."""

    def __init__(self, queries: np.ndarray, count: int):
        """`queries`: features [q, ...]."""
        self._queries = queries.reshape(len(queries), -1).astype(np.float64)
        self._count = count
        self._found: list[list[tuple[float, str]]] = [[] for _ in queries]

    def see(self, features: np.ndarray, names: Sequence[str]) -> None:
        """More images: features [n, ...] and their names."""
        rows = features.reshape(len(features), -1).astype(np.float64)
        for query, found in zip(self._queries, self._found, strict=True):
            squared = np.square(rows - query).sum(axis=1)
            found += zip(squared.tolist(), names, strict=True)
            found.sort(key=lambda pair: pair[0])  # stable: of equals, the one that came first
            del found[self._count :]

    def found(self) -> list[list[tuple[str, float]]]:
        """For each query the names and distances of its nearest images, the nearest first."""
        return [[(name, squared**0.5) for squared, name in found] for found in self._found]
