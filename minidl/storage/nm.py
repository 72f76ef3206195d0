"""N of every M weights in a row: the values, and in 1, 2 or 4 bits each its place among the M."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.storage.base import Packed


class NM(Packed):
    """w[i, g m + place] = values[i, g, j] for each place, and 0 elsewhere.

    Args:
        values: float32 (N, G, n), G = ceil(K / m) groups.
        indices: uint8, the places, packed by `minidl_kernels.pack_nm`.
        m: neighbours in a group, 2 ... 16.
        k: the number of columns K.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for what does not fit.
    """

    kind = "nm"
    able = "linear"

    def __init__(self, values: np.ndarray, indices: np.ndarray, m: int, k: int, mask: Any = None):
        try:
            dense = kernels.unpack_nm(values, indices, m, k)
        except (TypeError, IndexError) as error:
            raise ValueError(f"NM: {error}") from error
        if dense.dtype != np.float32:
            raise ValueError(f"NM takes float32, got {dense.dtype}")
        self.values, self.indices, self.m = values, indices, int(m)
        self.shape, self.mask = dense.shape, mask

    @classmethod
    def from_dense(cls, w: np.ndarray, n: int, m: int, mask: Any = None) -> NM:
        """A float32 matrix (N, K) with at most n of every m neighbours not zero. ValueError for another."""
        values, indices = kernels.pack_nm(w, n, m)
        return cls(values, indices, m, w.shape[1], mask)

    @property
    def n(self) -> int:
        """How many of every m are stored."""
        return self.values.shape[2]

    def places(self) -> np.ndarray:
        """bool of the weight's shape: what is stored."""
        ones = np.ones_like(self.values)
        return kernels.unpack_nm(ones, self.indices, self.m, self.shape[1]) != 0

    def arrays(self) -> dict[str, np.ndarray]:
        """values, indices, and m and the number of columns."""
        layout = np.array([self.m, self.shape[1]], np.int32)
        return {"values": self.values, "indices": self.indices, "layout": layout}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> NM:
        """The inverse of `arrays`."""
        layout = arrays["layout"]
        if layout.dtype != np.int32 or layout.shape != (2,):
            raise ValueError(f"NM's layout is int32 (m, columns), got {layout.dtype} {layout.shape}")
        return cls(arrays["values"], arrays["indices"], *layout.tolist())

    def copy(self) -> NM:
        """A copy in memory of its own."""
        mask = None if self.mask is None else self.mask.copy()
        return NM(self.values.copy(), self.indices.copy(), self.m, self.shape[1], mask)

    def nonzeros(self) -> int:
        """How many stored weights are not 0."""
        return int(np.count_nonzero(self.values))

    def dequantize(self) -> np.ndarray:
        """The dense matrix, float32."""
        return kernels.unpack_nm(self.values, self.indices, self.m, self.shape[1])

    def linear(self, x: Any, b: Any) -> Any:
        """y = x W^T + b on the sparse kernel."""
        return kernels.nm_linear(x, self.values.astype(x.dtype, copy=False), self.indices, self.m, b)

    def rows(self, start: int, stop: int) -> NM:
        """Outputs start ... stop - 1."""
        mask = None if self.mask is None else self.mask[start:stop]
        return NM(self.values[start:stop], self.indices[start:stop], self.m, self.shape[1], mask)

    def __repr__(self) -> str:
        return f"NM(shape={self.shape}, {self.n}:{self.m}, {self.nbytes} bytes)"
