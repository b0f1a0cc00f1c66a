"""Which images a net sees as alike: the nearest in feature space, by Euclidean distance.

Source: paper section 6.1 and figure 4, right; the released code's findsimilar.py, which compares squared distances.
"""

from collections.abc import Sequence

import numpy as np


class Nearest:
    """The `count` images nearest to each of some queries, among images that are added batch by batch."""

    def __init__(self, queries: np.ndarray, count: int, identities: Sequence[str] | None = None):
        """Take the queries' features, [Q, ...], and what identifies each: no query is its own neighbor."""
        self._queries = queries.reshape(len(queries), -1).astype(np.float64)  # [Q, D]
        self._count = count
        self._identities: Sequence[str | None] = identities or [None] * len(queries)
        self._nearest: list[list[tuple[float, str]]] = [[] for _ in queries]  # by query: squared distance, name

    def add(self, features: np.ndarray, names: Sequence[str], identities: Sequence[str] | None = None) -> None:
        """Compare more images: their features [n, ...], names, and what identifies them, by default their names."""
        rows = features.reshape(len(features), -1).astype(np.float64)  # [n, D]
        for query, itself, nearest in zip(self._queries, self._identities, self._nearest, strict=True):
            squared = np.square(rows - query).sum(axis=1).tolist()  # [n]
            found = zip(squared, names, identities or names, strict=True)
            nearest += [(distance, name) for distance, name, identity in found if identity != itself]
            nearest.sort(key=lambda pair: pair[0])  # stable: of equals, the one added first
            del nearest[self._count :]

    def neighbors(self) -> list[list[tuple[str, float]]]:
        """Return for each query the names and distances of its nearest images, the nearest first."""
        return [[(name, squared**0.5) for squared, name in nearest] for nearest in self._nearest]
