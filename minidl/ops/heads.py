"""Heads of attention that were removed from under code with their number written into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Heads:
    """Sizes as code means them and as they are, while a module runs whose heads `minidl.compress.slim` cut.

    A GPT's attention, say, ends in ``y.view(B, T, C)``, C being the width of its input: with one of four heads removed
    y has 3/4 of that. What fits is not touched, only sizes that fail, and only if they are those of the heads.

    Attributes:
        meant: numbers of heads that the code may have in mind.
        each: the size of a head.
        left: how many there are.
    """

    meant: tuple[int, ...]
    each: int
    left: int

    def reshape(self, have: tuple, wanted: tuple) -> tuple | None:
        """What `wanted` is with the heads that are left, for elements of shape `have`; None if that fits no better.

        >>> Heads((4,), 16, 3).reshape((2, 5, 48), (2, 5, 4, 16)), Heads((4,), 16, 3).reshape((2, 5, 48), (2, 5, 64))
        ((2, 5, 3, 16), (2, 5, 48))
        >>> Heads((4,), 16, 3).reshape((2, 5, 144), (2, 5, 3, 3, 64 // 3))  # where self.heads was set to 3
        (2, 5, 3, 3, 16)
        """
        same = 0  # batch and time, which have nothing to do with it
        while same < min(len(have), len(wanted)) and have[same] == wanted[same]:
            same += 1
        size = math.prod(have)
        tries = []
        for n in self.meant:
            pairs = ((n, self.each), (self.left, n * self.each // self.left))
            found = [i for i in range(same, len(wanted) - 1) if tuple(wanted[i : i + 2]) in pairs]
            tries += [(*wanted[:i], self.left, self.each, *wanted[i + 2 :]) for i in found]
            for old, new in (
                (n, self.left), (n * self.each, self.left * self.each), (n * self.each // self.left, self.each),
            ):  # fmt: skip
                tries += [(*wanted[:i], new, *wanted[i + 1 :]) for i in range(same, len(wanted)) if wanted[i] == old]
        return next((t for t in tries if -1 not in t and math.prod(t) == size), None)

    def split(self, n: int, sizes: Any) -> Any:
        """The sizes of pieces of `n` elements: queries, keys and values side by side, or two of them."""
        now = self.left * self.each
        whole = [m * self.each for m in self.meant]
        if isinstance(sizes, int):
            return now if sizes in whole and n in (2 * now, 3 * now) else sizes
        if len(set(sizes)) == 1 and sizes[0] in whole and n == len(sizes) * now:
            return [now] * len(sizes)
        return sizes
