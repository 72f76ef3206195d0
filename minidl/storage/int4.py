"""Four bits a weight in groups of inputs, for matrices; the activations stay float."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.storage.base import Packed


class Int4(Packed):
    """w[n, k] = (q[n, k] - zero[n, k // G]) * scale[n, k // G] with q in 0 ... 15.

    Args:
        q: uint8 (N, K / 2), from :func:`minidl_kernels.pack_int4`.
        scale: float32 (N, K / G), positive; the group G is a multiple of 32.
        zero: uint8 (N, K / G) in 0 ... 15; None: 8 everywhere, the symmetric form.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for dtypes, shapes or values that do not fit.
    """

    kind, able = "int4", "linear and embedding"

    def __init__(self, q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, mask: Any = None):
        q, scale = np.ascontiguousarray(q), np.ascontiguousarray(scale, np.float32)
        if q.dtype != np.uint8 or q.ndim != 2 or scale.ndim != 2 or len(scale) != len(q):
            raise ValueError(
                f"Int4 takes q uint8 (N, K / 2) and scale (N, K / G), got {q.dtype} {q.shape} and {scale.shape}"
            )
        columns, groups = 2 * q.shape[1], scale.shape[1]
        if not groups or columns % groups or columns // groups % 32:
            raise ValueError(f"Int4's groups are a multiple of 32 and divide K = {columns}, got {groups} of them")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("Int4 scales must be positive and finite")
        if zero is not None:
            zero = np.ascontiguousarray(zero)
            if zero.dtype != np.uint8 or zero.shape != scale.shape or zero.max(initial=0) > 15:
                raise ValueError(f"Int4's zero is uint8 {scale.shape} in 0 ... 15, got {zero.dtype} {zero.shape}")
        self.q, self.scale, self.zero, self.mask = q, scale, zero, mask
        self.shape = (len(q), columns)

    def arrays(self) -> dict[str, np.ndarray]:
        """q and scale, and zero if affine."""
        return {"q": self.q, "scale": self.scale} | ({} if self.zero is None else {"zero": self.zero})

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Int4:
        """From q, scale and, if affine, zero."""
        return cls(arrays["q"], arrays["scale"], arrays.get("zero"))

    def copy(self) -> Int4:
        """A copy in memory of its own."""
        return self._each(lambda a: a.copy())

    def dequantize(self) -> np.ndarray:
        """(q - zero) * scale, float32."""
        q = kernels.unpack_int4(self.q).reshape(self.scale.size, self.size // max(self.scale.size, 1))
        zero = 8 if self.zero is None else self.zero.reshape(-1)
        return kernels.dequantize(q, self.scale.reshape(-1), zero, axis=0).reshape(self.shape)

    def linear(self, x: Any, b: Any) -> Any:
        """y = x W^T + b, weights converted on the way."""
        return kernels.int4_linear(x, self.q, self.scale, self.zero, b)

    def embedding(self, x: Any) -> Any:
        """The rows that x names."""
        at = x.reshape(-1)
        some = Int4(self.q[at], self.scale[at], None if self.zero is None else self.zero[at])
        return some.dequantize().reshape(*x.shape, self.shape[1])

    def rows(self, start: int, stop: int) -> Int4:
        """Outputs start ... stop - 1."""
        return self._each(lambda a: a[start:stop])

    def _each(self, f: Any) -> Int4:
        zero, mask = (None if a is None else f(a) for a in (self.zero, self.mask))
        return Int4(f(self.q), f(self.scale), zero, mask)

    def __repr__(self) -> str:
        form = "symmetric" if self.zero is None else "affine"
        return f"Int4(shape={self.shape}, group {self.shape[1] // self.scale.shape[1]}, {form}, {self.nbytes} bytes)"
