"""From dense weights to stored ones and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from .reference import columns_of, index_bits, refuse, refuse_groups, valid, valid_groups

if TYPE_CHECKING:  # numpy.typing takes 10 ms to import, and this page is imported with the package
    from numpy.typing import NDArray

    Array = NDArray[Any]


def pack_csr(w: Array) -> tuple[Array, Array, Array]:
    """W in compressed sparse rows.    w (N, K) float -> values (Z,), indices (Z,), indptr (N + 1,)

    Whatever is not equal to zero is stored, NaN too. indices are uint16 where K allows it (6 bytes per stored float32),
    else int32; indptr is int64. Raises ValueError and TypeError for anything but a float matrix.

    >>> import numpy as np
    >>> values, indices, indptr = pack_csr(np.array([[0.0, 2.0], [0.0, 0.0], [3.0, 4.0]], np.float32))
    >>> values.tolist(), indices.tolist(), indptr.tolist()
    ([2.0, 3.0, 4.0], [1, 0, 1], [0, 1, 1, 3])
    """
    checks.array("pack_csr", "w", w, 2, "(N, K)")
    checks.same_float("pack_csr", w=w)
    rows, columns = np.nonzero(w)
    indptr = np.zeros(len(w) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(w)), out=indptr[1:])
    return w[rows, columns], columns.astype(np.uint16 if w.shape[1] <= 1 << 16 else np.int32), indptr


def unpack_csr(values: Array, indices: Array, indptr: Array, k: int) -> Array:
    """The dense W (N, K) again. Raises IndexError for indices that do not fit.

    >>> import numpy as np
    >>> w = np.array([[0.0, 2.0], [3.0, 0.0]], np.float32)
    >>> unpack_csr(*pack_csr(w), 2).tolist()
    [[0.0, 2.0], [3.0, 0.0]]
    """
    checks.csr("unpack_csr", values, indices, indptr)
    checks.integer("unpack_csr", "k", k, 0)
    if not valid(indices, indptr, len(values), k):
        raise refuse("unpack_csr", len(values), k)
    w = np.zeros((len(indptr) - 1, k), values.dtype)
    np.add.at(w, (np.repeat(np.arange(len(w)), np.diff(indptr)), indices), values)
    return w


def pack_nm(w: Array, n: int, m: int) -> tuple[Array, Array]:
    """W with at most n of every m neighbours in a row.    w (N, K) float -> values (N, G, n), indices (N, R) uint8

    G = ceil(K / m) groups, the last of which may be cut. indices: for each value its place in the group, 0 .. m - 1, in
    1, 2 or 4 bits (m up to 2, 4 or 16), lowest bits first, each row begun in a byte of its own. Places rise within a
    group; one with fewer numbers holds zeros, too. 2:4 in float32 takes 17 / 32 of the dense bytes.
    Raises ValueError unless 1 <= n <= m, 2 <= m <= 16, and for a group with more numbers or more than it has columns;
    TypeError for anything but a float matrix.

    >>> import numpy as np
    >>> values, indices = pack_nm(np.array([[0.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0]], np.float32), 2, 4)
    >>> values.tolist(), [f"{byte:08b}" for byte in indices[0]]
    ([[[2.0, 3.0], [4.0, 0.0]]], ['01001101'])
    """
    checks.array("pack_nm", "w", w, 2, "(N, K)")
    checks.same_float("pack_nm", w=w)
    n, m = checks.integer("pack_nm", "n", n, 1), checks.integer("pack_nm", "m", m, 2)
    if n > m or m > 16:
        raise ValueError(f"pack_nm takes n of m with n <= m <= 16, got {n}:{m}")
    rows, k = w.shape
    groups, cut = -(-k // m), k % m
    if cut and cut < n:
        raise ValueError(f"pack_nm: the last group of {k} columns has {cut}, fewer than the {n} of {n}:{m}")
    wide = np.zeros((rows, groups * m), w.dtype)
    wide[:, :k] = w
    wide = wide.reshape(rows, groups, m)
    absent = wide == 0  # NaN is there
    if (m - absent.sum(2) > n).any():
        row, group = map(int, np.argwhere(m - absent.sum(2) > n)[0])
        raise ValueError(
            f"pack_nm: row {row} has more than {n} numbers in columns {group * m} .. {min(group * m + m, k) - 1}; "
            f"prune to {n}:{m} first"
        )
    # what is not 0 first, then zeros from the left; of these, in order of column
    places = np.sort(np.argsort(absent, axis=2, kind="stable")[:, :, :n], axis=2)
    values = np.take_along_axis(wide, places, 2)
    bits = index_bits(m)
    each = (places.reshape(rows, groups * n, 1) >> np.arange(bits)) & 1
    return values, np.packbits(each.reshape(rows, groups * n * bits).astype(bool), axis=1, bitorder="little")


def unpack_nm(values: Array, indices: Array, m: int, k: int) -> Array:
    """The dense W (N, K) again. Raises IndexError for places outside a group or beyond K.

    >>> import numpy as np
    >>> w = np.array([[0.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0]], np.float32)
    >>> bool((unpack_nm(*pack_nm(w, 2, 4), 4, 8) == w).all())
    True
    """
    k = checks.integer("unpack_nm", "k", k, 0)
    checks.groups("unpack_nm", values, indices, m, k)
    columns = columns_of(indices, values.shape[1], values.shape[2], m)
    if not valid_groups(columns, values.shape[2], m, k):
        raise refuse_groups("unpack_nm", m, k)
    w = np.zeros((len(values), k), values.dtype)
    np.add.at(w, (np.arange(len(w))[:, None], columns), values.reshape(columns.shape))
    return w
