"""Units: numbers from 1 up, which of them are one and the same, and which have to stay."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


class Units:
    """A union-find over units, with the reasons that keep some of them."""

    def __init__(self) -> None:
        self.parent = [0]  # unit 0 is none
        self.fixed: dict[int, str] = {}  # unit -> why it cannot be cut
        self.used: set[int] = set()  # units that some product would miss

    def new(self, n: int) -> np.ndarray:
        """n new units."""
        first = len(self.parent)
        self.parent.extend(range(first, first + n))
        return np.arange(first, first + n)

    def find(self, unit: int) -> int:
        """The one that stands for all that are the same."""
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def roots(self, units: Array) -> np.ndarray:
        """`find` of each."""
        found, places = np.unique(units, return_inverse=True)
        return np.array([self.find(int(u)) for u in found], np.int64)[places].reshape(np.shape(units))

    def join(self, a: Array, b: Array) -> None:
        """Where both are units, they are one."""
        a, b = np.broadcast_arrays(a, b)
        both = (a > 0) & (b > 0) & (a != b)
        if both.any():
            for x, y in np.unique(np.stack([a[both], b[both]], 1), axis=0).tolist():
                x, y = self.find(x), self.find(y)
                if x != y:
                    self.parent[max(x, y)] = min(x, y)

    def keep(self, units: Array, why: str) -> None:
        """These cannot be cut."""
        for u in np.unique(units).tolist():
            if u:
                self.fixed.setdefault(u, why)

    def use(self, units: Array, nothing: Array) -> None:
        """A product reads these; where `nothing`, it would not miss them."""
        self.used.update(np.unique(units[(units > 0) & ~nothing]).tolist())
