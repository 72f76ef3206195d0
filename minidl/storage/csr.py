"""Compressed sparse rows: only the weights that are not zero, each with its column."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.storage.base import Packed


class CSR(Packed):
    """w[n, indices[j]] = values[j] for indptr[n] <= j < indptr[n + 1], and 0 elsewhere.

    Args:
        values: float32 (Z,).
        indices: the columns, uint16 or int32 (Z,).
        indptr: int64 (N + 1,), where each row begins.
        k: the number of columns.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for what does not fit.
    """

    kind = "csr"
    able = "linear"

    def __init__(self, values: np.ndarray, indices: np.ndarray, indptr: np.ndarray, k: int, mask: Any = None):
        fits = values.dtype == np.float32 and indices.dtype in (np.uint16, np.int32) and indptr.dtype == np.int64
        if not fits or values.ndim != 1 or indices.shape != values.shape or indptr.ndim != 1 or not len(indptr):
            raise ValueError(
                f"CSR takes values float32 (Z,), indices uint16 or int32 (Z,) and indptr int64 (N + 1,), got "
                f"{values.dtype} {values.shape}, {indices.dtype} {indices.shape}, {indptr.dtype} {indptr.shape}"
            )
        rises = indptr[0] == 0 and indptr[-1] == len(values) and bool((np.diff(indptr) >= 0).all())
        if not rises or (len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < k):
            raise ValueError(f"CSR's indptr must rise from 0 to {len(values)}, its indices name columns 0 ... {k - 1}")
        self.values, self.indices, self.indptr = values, indices, indptr
        self.shape, self.mask = (len(indptr) - 1, int(k)), mask

    @classmethod
    def from_dense(cls, w: np.ndarray, mask: Any = None) -> CSR:
        """The weights of a float32 matrix (N, K) that are not zero."""
        values, indices, indptr = kernels.pack_csr(w)
        return cls(values, indices, indptr, w.shape[1], mask)

    def arrays(self) -> dict[str, np.ndarray]:
        """values, indices, indptr, and the number of columns."""
        columns = np.array([self.shape[1]], np.int64)
        return {"values": self.values, "indices": self.indices, "indptr": self.indptr, "columns": columns}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> CSR:
        """The inverse of `arrays`."""
        return cls(arrays["values"], arrays["indices"], arrays["indptr"], int(arrays["columns"].item()))

    def copy(self) -> CSR:
        """A copy in memory of its own."""
        mask = None if self.mask is None else self.mask.copy()
        return CSR(self.values.copy(), self.indices.copy(), self.indptr.copy(), self.shape[1], mask)

    def nonzeros(self) -> int:
        """How many are stored."""
        return int(np.count_nonzero(self.values))

    def dequantize(self) -> np.ndarray:
        """The dense matrix, float32."""
        return kernels.unpack_csr(self.values, self.indices, self.indptr, self.shape[1])

    def linear(self, x: Any, b: Any) -> Any:
        """y = x W^T + b on the sparse kernel."""
        return kernels.csr_linear(x, self.values.astype(x.dtype, copy=False), self.indices, self.indptr, b)

    def rows(self, start: int, stop: int) -> CSR:
        """Outputs start ... stop - 1."""
        first, last = self.indptr[start], self.indptr[stop]
        mask = None if self.mask is None else self.mask[start:stop]
        ends = self.indptr[start : stop + 1] - first
        return CSR(self.values[first:last], self.indices[first:last], ends, self.shape[1], mask)

    def __repr__(self) -> str:
        share = 100 * (1 - len(self.values) / self.size) if self.size else 0.0
        return f"CSR(shape={self.shape}, {share:.1f} % zeros, {self.nbytes} bytes)"
