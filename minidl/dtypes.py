"""The number types, under torch's names, and the rule by which two of them meet.

A :class:`DType` is a thin name over a NumPy dtype: NumPy accepts it wherever it accepts a dtype, and it compares equal
to the dtype it names.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np


class DType:
    """A number type, such as ``minidl.float32``.

    >>> import numpy as np
    >>> from minidl.dtypes import float32
    >>> float32, float32 == np.float32, np.zeros(2, float32).dtype
    (minidl.float32, True, dtype('float32'))
    """

    __slots__ = ("dtype", "is_complex", "is_floating_point", "itemsize", "name")

    def __init__(self, name: str):
        self.name = name
        self.dtype = np.dtype(name)  # NumPy reads this attribute when it is handed a DType
        self.itemsize = self.dtype.itemsize  # bytes
        self.is_floating_point = self.dtype.kind == "f"
        self.is_complex = False

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype of the same name."""
        return self.dtype

    def __repr__(self) -> str:
        return f"minidl.{self.name}"

    def __eq__(self, other: Any) -> builtins.bool:
        if other is self:
            return True
        if isinstance(other, DType) or other is None:
            return False
        try:
            return self.dtype == np.dtype(other)
        except TypeError:
            return False

    def __hash__(self) -> builtins.int:
        return hash(self.dtype)

    def __reduce__(self) -> str:
        return "long" if self.name == "int64" else self.name


float16 = half = DType("float16")
float32 = float = DType("float32")
float64 = double = DType("float64")
uint8 = DType("uint8")
int8 = DType("int8")
int16 = short = DType("int16")
int32 = int = DType("int32")
int64 = long = DType("int64")
bool = DType("bool")

ALL = (float16, float32, float64, uint8, int8, int16, int32, int64, bool)
_BY_NUMPY = {t.dtype: t for t in ALL}
_FROM_PYTHON = {builtins.float: float64.dtype, builtins.int: int64.dtype, builtins.bool: bool.dtype}
_default = float32.dtype


def dtype_of(dtype: np.dtype) -> DType:
    """The DType that names a NumPy dtype. Raises TypeError for one that minidl does not hold."""
    try:
        return _BY_NUMPY[dtype]
    except KeyError:
        names = ", ".join(t.name for t in ALL)
        raise TypeError(f"minidl tensors do not hold {dtype}; they hold {names}. Convert with .astype(...).") from None


def as_numpy(dtype: Any) -> np.dtype:
    """The NumPy dtype for a DType, a NumPy dtype or its name, or Python's float, int, bool (torch's reading of those).

    Raises TypeError for anything else.
    """
    if type(dtype) is DType:
        return dtype.dtype
    if isinstance(dtype, type) and dtype in _FROM_PYTHON:
        return _FROM_PYTHON[dtype]
    return dtype_of(np.dtype(dtype)).dtype


def get_default_dtype() -> DType:
    """The type of a tensor made from Python floats, and of what integers become under division, exp and the like."""
    return _BY_NUMPY[_default]


def set_default_dtype(dtype: Any) -> None:
    """Change it. Raises TypeError for a type that is not floating point."""
    global _default
    chosen = as_numpy(dtype)
    if chosen.kind != "f":
        raise TypeError(f"the default dtype must be a floating point type, not {dtype}")
    _default = chosen


def default() -> np.dtype:
    """The default floating point type as a NumPy dtype."""
    return _default


# -- promotion, as torch's: an array's own dtype counts before a 0-d array's, and that before a Python number's; a lower
#    rank changes the result only when it is of a higher kind (bool < integer < float).
_NUMBERS = (builtins.bool, builtins.int, builtins.float)
_KIND = {"b": 0, "u": 1, "i": 1, "f": 2}


def result_type(*args: Any) -> np.dtype:
    """The dtype in which arrays, Tensors and Python numbers meet (torch.result_type).

    >>> import numpy as np
    >>> result_type(np.zeros(2, np.float32), np.float64(1.0)), result_type(np.zeros(2, np.int32), 1.5)
    (dtype('float32'), dtype('float32'))
    """
    ranks: list[np.dtype | None] = [None, None, None]  # arrays, 0-d arrays, Python numbers
    only_numbers = all(isinstance(a, _NUMBERS) for a in args)
    for a in args:
        if isinstance(a, _NUMBERS):
            rank = 2
            dt = _FROM_PYTHON[type(a)] if type(a) in _FROM_PYTHON else np.asarray(a).dtype
            # np.float64 is a Python float too: with an array it counts as one, among numbers it keeps its precision
            if dt.kind == "f" and (type(a) is builtins.float or not only_numbers):
                dt = _default
        else:
            dt = a.dtype.dtype if isinstance(a.dtype, DType) else a.dtype
            rank = 0 if a.ndim else 1
        have = ranks[rank]
        ranks[rank] = dt if have is None else _promote(have, dt)
    result: np.dtype | None = None
    for dt_ in ranks:
        if dt_ is None:
            continue
        if result is None or _KIND[dt_.kind] > _KIND[result.kind]:
            result = dt_
    if result is None:
        raise TypeError("result_type needs at least one argument")
    return result


def _promote(a: np.dtype, b: np.dtype) -> np.dtype:
    """Two dtypes of the same rank: as NumPy, except that an integer never widens a float."""
    if a.kind == "f" and b.kind != "f":
        return a
    if b.kind == "f" and a.kind != "f":
        return b
    return np.promote_types(a, b)
