"""The definition of right, and the layout of the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..cpu.threads import one_blas_thread

if TYPE_CHECKING:  # numpy.typing takes 10 ms to import, and this page is imported with the package
    from numpy.typing import NDArray

    Array = NDArray[Any]

RUN = 16  # bytes; 32 numbers


def pack_int4(q: Array) -> Array:
    """Numbers of 4 bits, two in a byte.    q (N, K) uint8, 0 .. 15, K a multiple of 32 -> (N, K / 2) uint8

    Byte i of a run of 16 has q[k] in its low half and q[k + 16] in its high half, k = 32 * run + i. Raises ValueError
    for another K or a number above 15, TypeError for another dtype.

    >>> import numpy as np
    >>> pack_int4(np.arange(32, dtype=np.uint8)[None] % 16)[0, :3].tolist()
    [0, 17, 34]
    """
    checks.array("pack_int4", "q", q, 2, "(N, K)")
    checks.dtype("pack_int4", "q", q, "uint8")
    n, k = q.shape
    if k % (2 * RUN):
        raise ValueError(f"pack_int4: K must be a multiple of {2 * RUN}, got q {q.shape}; pad it with the zero point")
    if q.size and q.max() > 15:
        raise ValueError(f"pack_int4: q must lie in 0 .. 15, got {q.max()}")
    runs = q.reshape(n, k // (2 * RUN), 2, RUN)
    return (runs[:, :, 0] | runs[:, :, 1] << 4).reshape(n, k // 2)


def unpack_int4(w_q: Array) -> Array:
    """The numbers again.    w_q (N, K / 2) uint8 -> q (N, K) uint8; raises as `pack_int4`.

    >>> import numpy as np
    >>> unpack_int4(pack_int4(np.full((1, 32), 7, np.uint8))).tolist() == [[7] * 32]
    True
    """
    checks.array("unpack_int4", "w_q", w_q, 2, "(N, K / 2)")
    checks.dtype("unpack_int4", "w_q", w_q, "uint8")
    n, half = w_q.shape
    if half % RUN:
        raise ValueError(f"unpack_int4: K / 2 must be a multiple of {RUN}, got w_q {w_q.shape}")
    runs = w_q.reshape(n, half // RUN, 1, RUN)
    return np.concatenate((runs & 15, runs >> 4), axis=2).reshape(n, 2 * half)


def weights(w_q: Array, scale: Array, zero: Array | None) -> Array:
    """W (N, K) float32."""
    n, groups = scale.shape
    q = unpack_int4(w_q).astype(np.float32)
    if not q.size:
        return q
    q = q.reshape(n, groups, -1) - (np.float32(8) if zero is None else zero[:, :, None].astype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        return (q * scale[:, :, None]).reshape(n, -1)


def int4_linear(x: Array, w_q: Array, scale: Array, zero: Array | None, b: Array | None) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        y = x.astype(np.float64) @ weights(w_q, scale, zero).astype(np.float64).T
        return (y if b is None else y + b).astype(x.dtype)


def int4_linear_by_blas(x: Array, w_q: Array, scale: Array, zero: Array | None, b: Array | None) -> Array:
    with one_blas_thread, np.errstate(over="ignore", invalid="ignore"):
        y: Array = x @ weights(w_q, scale, zero).T.astype(x.dtype, copy=False)
        if b is not None:
            y += b
        return y
