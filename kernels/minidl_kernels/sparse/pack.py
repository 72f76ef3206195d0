"""From dense weights to stored ones and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from .reference import refuse, valid

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
