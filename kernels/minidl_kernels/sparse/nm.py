"""Two of four: packing, the definition, and NumPy's BLAS. After Mishra et al. 2021, arXiv:2104.08378."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..cpu.threads import one_blas_thread

if TYPE_CHECKING:  # numpy.typing takes 10 ms to import, and this page is imported with the package
    from numpy.typing import NDArray

    Array = NDArray[Any]


_SHIFTS = np.array([0, 2, 4, 6], np.uint8)


def pack_nm(w: Array) -> tuple[Array, Array]:
    """W with at most two of every four neighbours not zero.    w (N, K) -> values (N, K / 2), where (N, K / 8) uint8

    `where` has, for each value, its place among its four, 2 bits, the first in the lowest; places in a group rise.
    K is a multiple of 8. Raises ValueError for another K or a group with three numbers or more, TypeError for what is
    no float matrix.

    >>> import numpy as np
    >>> values, where = pack_nm(np.array([[0.0, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 4.0]]))
    >>> values.tolist(), [f"{byte:08b}" for byte in where[0]]
    ([[2.0, 3.0, 0.0, 4.0]], ['11001101'])
    """
    checks.array("pack_nm", "w", w, 2, "(N, K)")
    checks.same_float("pack_nm", w=w)
    n, k = w.shape
    if k % 8:
        raise ValueError(f"pack_nm: K must be a multiple of 8, got w {w.shape}; pad it with zeros")
    groups = w.reshape(n, k // 4, 4)
    kept = groups != 0
    if (kept.sum(2) > 2).any():
        row, group = np.argwhere(kept.sum(2) > 2)[0]
        raise ValueError(f"pack_nm: w[{row}, {4 * group}:{4 * group + 4}] has more than two numbers that are not zero")
    first = np.argsort(~kept, axis=2, kind="stable")[:, :, :2]  # what is kept comes first; zeros fill up
    first.sort(axis=2)
    values = np.take_along_axis(groups, first, 2).reshape(n, k // 2)
    bits = first.astype(np.uint8).reshape(n, k // 8, 4) << _SHIFTS
    return values, np.bitwise_or.reduce(bits, axis=2, dtype=np.uint8)


def unpack_nm(values: Array, where: Array) -> Array:
    """The dense W (N, K) again; raises as `pack_nm`.

    >>> import numpy as np
    >>> w = np.array([[0.0, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 4.0]])
    >>> unpack_nm(*pack_nm(w)).tolist() == w.tolist()
    True
    """
    checks.nm("unpack_nm", values, where)
    n, half = values.shape
    w = np.zeros((n, 2 * half), values.dtype)
    np.put_along_axis(w, _columns(where), values, 1)
    return w


def _columns(where: Array) -> Array:
    """The column of each value.    (N, K / 8) -> (N, K / 2)"""
    places = (where[:, :, None] >> _SHIFTS & 3).reshape(len(where), 4 * where.shape[1])
    return places + np.repeat(np.arange(2 * where.shape[1]) * 4, 2)


def nm_linear(x: Array, values: Array, where: Array, b: Array | None) -> Array:
    """The definition: sums in float64 over what is stored."""
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.promote_types(x.dtype, np.float64)
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(wide)
        y = np.empty((len(rows), len(values)), wide)
        for n, columns in enumerate(_columns(where)):
            y[:, n] = (rows[:, columns] * values[n]).sum(axis=1)
        y = y if b is None else y + b
        return y.astype(x.dtype).reshape(*x.shape[:-1], len(values))


def nm_linear_by_blas(x: Array, values: Array, where: Array, b: Array | None) -> Array:
    """The dense product, zeros and all; an infinite x, which a zero would turn into NaN, goes the other way."""
    if not np.isfinite(x).all():
        return nm_linear(x, values, where, b)
    with one_blas_thread, np.errstate(over="ignore", invalid="ignore"):
        y: Array = x @ unpack_nm(values, where).T
        return y if b is None else y + b
