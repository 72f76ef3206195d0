"""What is known of a tensor: the unit of each element, and where it is 0 whatever the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any


@dataclass
class Shadow:
    """tags: int64, the unit of each element, 0 for none; zero: bool, known to be 0. Both of the tensor's shape."""

    tags: Array
    zero: Array

    def line(self, axis: int) -> tuple[Array, Array, bool]:
        """Along an axis: units, whether known zero, and whether elements of one index are of one unit.

        An element of no unit (padding) among those of one does no harm if it is a zero.
        """
        tags = np.moveaxis(self.tags, axis, -1).reshape(-1, self.tags.shape[axis])
        zero = np.moveaxis(self.zero, axis, -1).reshape(tags.shape)
        if not len(tags):
            return np.zeros(tags.shape[1], np.int64), np.ones(tags.shape[1], bool), True
        units = tags.max(0)
        return units, zero.all(0), bool(((tags == units) | ((tags == 0) & zero)).all())


@dataclass
class Weight:
    """A parameter of several axes: an element belongs to a unit along each of them.

    units: per present axis its units (None for axes of size 1 and of taps); zero: where it is 0; home: the parameter's
    name and, per present axis, which of the parameter's axes it is.
    """

    units: list[Any]
    zero: Array
    name: str
    home: list[int | None]

    def all_units(self) -> np.ndarray:
        """The units along all axes."""
        return np.concatenate([np.zeros(0, np.int64), *(u for u in self.units if u is not None)])

    def moved(self, order: list[int | None], zero: np.ndarray) -> Weight:
        """With axes in another order; None for a new one of size 1."""
        pick = lambda a: [None if i is None else a[i] for i in order]
        return Weight(pick(self.units), zero, self.name, pick(self.home))

    def as_shadow(self) -> Shadow | None:
        """Elementwise, where only one axis has units: a bias of shape (1, C, 1, 1), say."""
        axes = [i for i, u in enumerate(self.units) if u is not None]
        if len(axes) > 1:
            return None
        tags = np.zeros(self.zero.shape, np.int64)
        if axes:
            tags += self.units[axes[0]].reshape([-1 if i == axes[0] else 1 for i in range(tags.ndim)])
        return Shadow(tags, self.zero)
