"""A packed weight whose inputs are scaled on the way in, so that columns of very different size can share a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.storage.base import Packed
from minidl.storage.codes import Codes
from minidl.storage.int4 import Int4
from minidl.storage.int8 import Int8


def along(columns: np.ndarray, w: Any) -> np.ndarray:
    """A number for each input channel (C,) as factors of a weight (N, C / groups, ...): (N or 1, C / groups, 1,
    ...).
    """
    n, k, *taps = w.shape
    factors = columns.reshape(-1, k)
    factors = factors if len(factors) == 1 else np.repeat(factors, n // len(factors), 0)
    return factors.reshape(*factors.shape, *(1 for _ in taps))


_INNER: dict[str, Any] = {kind.kind: kind for kind in (Int8, Int4, Codes)}


class Scaled(Packed):
    """w[n, k, ...] = inner[n, k, ...] * columns[k];    y = inner.linear(x * columns, b), and so for convolutions

    Args:
        inner: Int8, Int4 or Codes of a matrix (N, K) or a convolution's weight (N, C / groups, ...).
        columns: float32, positive, one for each input (K,) or input channel (C,); the outputs of a convolution's g-th
            group read the g-th part of them.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for what does not fit.
    """

    kind, able = "scaled", "linear, conv1d and conv2d"

    def __init__(self, inner: Any, columns: np.ndarray, mask: Any = None):
        columns = np.ascontiguousarray(columns, np.float32)
        if type(inner) not in _INNER.values() or not 2 <= len(inner.shape) <= 4 or columns.ndim != 1:
            raise ValueError(f"Scaled takes a packed weight and columns (K,), got {inner!r}, {columns.shape}")
        n, k = inner.shape[:2]
        groups = len(columns) // k if k else 1
        if len(columns) != groups * k or not groups or n % groups or (len(inner.shape) == 2 and groups > 1):
            raise ValueError(f"Scaled takes a packed weight and columns (K,), got {inner!r}, {columns.shape}")
        if not (np.isfinite(columns).all() and (columns > 0).all()):
            raise ValueError("Scaled's columns must be positive and finite")
        self.inner, self.columns, self.shape, self.mask = inner, columns, inner.shape, mask

    def arrays(self) -> dict[str, np.ndarray]:
        """columns, and those of the inner storage under its kind's name."""
        return {"columns": self.columns} | {f"{self.inner.kind}.{k}": a for k, a in self.inner.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Scaled:
        """The inverse of `arrays`."""
        kinds = {name.partition(".")[0] for name in arrays} - {"columns"}
        if len(kinds) != 1 or not kinds <= set(_INNER):
            raise ValueError(f"Scaled has arrays {sorted(arrays)}")
        (kind,) = kinds
        inner = {name.partition(".")[2]: a for name, a in arrays.items() if name != "columns"}
        return cls(_INNER[kind].from_arrays(inner), arrays["columns"])

    def copy(self) -> Scaled:
        """A copy in memory of its own."""
        return Scaled(self.inner.copy(), self.columns.copy(), None if self.mask is None else self.mask.copy())

    def dequantize(self) -> np.ndarray:
        """inner * columns, float32."""
        return self.inner.dequantize() * along(self.columns, self)

    def linear(self, x: Any, b: Any) -> Any:
        """On the inner storage's kernel."""
        return self.inner.linear(x * self.columns.astype(x.dtype, copy=False), b)

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """On the inner storage's kernel."""
        wide = self.columns.astype(x.dtype, copy=False)[:, None, None]
        return self.inner.conv2d(x * wide, b, stride, padding, dilation, groups)

    def _as_images(self, shape: tuple[int, ...]) -> Scaled:
        return Scaled(self.inner._as_images(shape), self.columns)

    def rows(self, start: int, stop: int) -> Scaled:
        """Outputs start ... stop - 1, of a matrix."""
        return Scaled(self.inner.rows(start, stop), self.columns, None if self.mask is None else self.mask[start:stop])

    def __repr__(self) -> str:
        return f"Scaled({self.inner!r}, {self.nbytes} bytes)"
