"""Shared weights: a table of a few values, and for each weight the number of its value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.storage.base import Packed
from minidl.storage.codes import pack_bits, unpack_bits


class Codebook(Packed):
    """w = table[u] with u in 0 ... 2**bits - 1, packed bit by bit.

    Args:
        stream: uint8, from :func:`pack_bits`.
        table: float32 (n,), 2 ... 256 values; bits are as few as number them.
        shape: of the weight.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for what does not fit.
    """

    kind = "codebook"

    def __init__(self, stream: np.ndarray, table: np.ndarray, shape: tuple[int, ...], mask: Any = None):
        if table.dtype != np.float32 or table.ndim != 1 or not 2 <= len(table) <= 256:
            raise ValueError(f"Codebook takes a float32 table of 2 ... 256 values, got {table.dtype} {table.shape}")
        if not np.isfinite(table).all():
            raise ValueError("Codebook's values must be finite")
        self.bits = (len(table) - 1).bit_length()
        codes = unpack_bits(stream, self.bits, math.prod(shape))  # raises for a stream of another size
        if codes.max(initial=0) >= len(table):
            raise ValueError(f"Codebook of {len(table)} values has none of number {codes.max()}")
        self.stream, self.table, self.shape, self.mask = stream, table, tuple(int(n) for n in shape), mask

    def arrays(self) -> dict[str, np.ndarray]:
        """stream, table, and the shape."""
        return {"stream": self.stream, "table": self.table, "layout": np.array(self.shape, np.int32)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Codebook:
        """The inverse of `arrays`."""
        layout = arrays["layout"]
        if layout.dtype != np.int32 or layout.ndim != 1 or not layout.size or (layout < 0).any():
            raise ValueError(f"Codebook's layout is its shape in int32, got {layout.dtype} {layout.shape}")
        return cls(arrays["stream"], arrays["table"], tuple(layout.tolist()))

    def copy(self) -> Codebook:
        """A copy in memory of its own."""
        mask = None if self.mask is None else self.mask.copy()
        return Codebook(self.stream.copy(), self.table.copy(), self.shape, mask)

    def codes(self) -> np.ndarray:
        """u, uint8 of the weight's shape."""
        return unpack_bits(self.stream, self.bits, self.size).reshape(self.shape)

    def dequantize(self) -> np.ndarray:
        """table[u], float32."""
        return self.table[self.codes()]

    def linear(self, x: Any, b: Any) -> Any:
        """On the float kernel."""
        return kernels.linear(x, self.dequantize().astype(x.dtype, copy=False), b)

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """On the float kernel."""
        w = self.dequantize().astype(x.dtype, copy=False)
        return kernels.conv2d(x, w, b, stride, padding, dilation, groups)

    def _as_images(self, shape: tuple[int, ...]) -> Codebook:
        return Codebook(self.stream, self.table, shape)

    def embedding(self, x: Any) -> Any:
        """The rows that x names."""
        return self.table[self.codes()[x]]

    def rows(self, start: int, stop: int) -> Codebook:
        """Outputs start ... stop - 1."""
        mask = None if self.mask is None else self.mask[start:stop]
        part = pack_bits(self.codes()[start:stop], self.bits)
        return Codebook(part, self.table, (stop - start, *self.shape[1:]), mask)

    def __repr__(self) -> str:
        return f"Codebook(shape={self.shape}, {len(self.table)} values, {self.nbytes} bytes)"
