"""What is made of an array once and kept: only of arrays that cannot be written, and as long as they live.

A layer's weights are packed for the tile. That costs as much as multiplying a few rows by them, so it should not be
done at every call; but a kernel sees arrays, and the numbers in an array may be others the next time. The owner of the
weights decides: where he has made them read-only (`w.flags.writeable = False`, and the memory is no other writable
array's), their packed form is kept beside them and dies with them. Of any other array it is made at every call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_kept: dict[int, tuple[Any, dict[Hashable, Any]]] = {}  # by id: a weak reference, and what was made


def frozen(a: Any) -> bool:
    """Whether nobody can write the array: neither it nor what it is a view of. Kernels keep packed weights then.

    >>> w = np.zeros((2, 3), np.int8)
    >>> w.flags.writeable = False
    >>> frozen(w), frozen(w.T), frozen(w.copy())
    (True, True, False)
    """
    while isinstance(a, np.ndarray):
        if a.flags.writeable:
            return False
        a = a.base
    return a is None or isinstance(a, bytes)


def once(a: np.ndarray, key: Hashable, make: Callable[[], T]) -> T:
    """make(), or what it gave the last time with this array and this key, if the array is frozen."""
    held = _kept.get(id(a))
    if held is None or held[0]() is not a:
        if not frozen(a):
            return make()
        number = id(a)
        held = (weakref.ref(a, lambda _: _kept.pop(number, None)), {})
        _kept[number] = held
    elif a.flags.writeable:  # somebody has thawed it
        _kept.pop(id(a), None)
        return make()
    made: T | None = held[1].get(key)
    if made is None:
        made = held[1][key] = make()
    return made
