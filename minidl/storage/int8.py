"""Eight bits a weight, multiplied as integers."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.storage.base import Packed


def _read_only(q: np.ndarray) -> np.ndarray:
    """q without gaps, where nobody can write it."""
    if not (kernels.frozen(q) and q.flags.c_contiguous):
        q = np.array(q, order="C")
        q.flags.writeable = False
    return q


class Int8(Packed):
    """Symmetric int8 with one scale per output channel: w[n, ...] = q[n, ...] * scale[n].

    `q` is held read-only, so kernels pack it once for their tile and keep that beside it: as many bytes again in memory
    once a layer has run, none of them in a file.

    Args:
        q: int8, in [-127, 127], of the weight's shape (N, ...); copied unless it is read-only.
        scale: float32 (N,), positive.
        x_scale: the scale of the input's activations when they are quantized statically; None: measured on each input.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for dtypes or shapes that do not fit, -128, and scales that are not positive and finite.
    """

    kind = "int8"

    def __init__(self, q: np.ndarray, scale: np.ndarray, x_scale: float | None = None, mask: Any = None):
        q, scale = _read_only(q), np.ascontiguousarray(scale, np.float32)
        if q.dtype != np.int8 or scale.shape != q.shape[:1]:
            raise ValueError(f"Int8 takes q int8 (N, ...) and scale (N,), got {q.dtype} {q.shape} and {scale.shape}")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("Int8 scales must be positive and finite")
        if x_scale is not None and not 0 < x_scale < np.inf:
            raise ValueError(f"Int8's x_scale must be positive and finite, got {x_scale}")
        if q.min(initial=0) < -127:
            raise ValueError("Int8 is symmetric: its codes are -127 ... 127")
        self.q, self.scale, self.x_scale, self.shape, self.mask = q, scale, x_scale, q.shape, mask

    def arrays(self) -> dict[str, np.ndarray]:
        """q and scale, and x_scale if static."""
        out = {"q": self.q, "scale": self.scale}
        if self.x_scale is not None:
            out["x_scale"] = np.array([self.x_scale], np.float32)
        return out

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Int8:
        """From q, scale and, if static, x_scale."""
        x_scale = arrays.get("x_scale")
        return cls(arrays["q"], arrays["scale"], None if x_scale is None else float(x_scale.item()))

    def copy(self) -> Int8:
        """A copy in memory of its own."""
        q = self.q.copy()
        q.flags.writeable = False
        return Int8(q, self.scale.copy(), self.x_scale, None if self.mask is None else self.mask.copy())

    def dequantize(self) -> np.ndarray:
        """q * scale, float32."""
        return kernels.dequantize(self.q, self.scale, axis=0)

    def linear(self, x: Any, b: Any) -> Any:
        """On the integer kernel: x is quantized, multiplied in int32, rescaled."""
        return kernels.int8_linear(x, self.q, self.scale, b, x_scale=self.x_scale)

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """On the integer kernel: x is quantized, multiplied in int32, rescaled."""
        return kernels.int8_conv2d(x, self.q, self.scale, b, stride, padding, dilation, groups, x_scale=self.x_scale)

    def _as_images(self, shape: tuple[int, ...]) -> Int8:
        q = self.q.reshape(shape)
        q.flags.writeable = False
        return Int8(q, self.scale, self.x_scale)

    def embedding(self, x: Any) -> Any:
        """q[x] * scale[x]"""
        q = self.q[x]
        return kernels.dequantize(q.reshape(-1, q.shape[-1]), self.scale[x].reshape(-1), axis=0).reshape(q.shape)

    def rows(self, start: int, stop: int) -> Int8:
        """Outputs start ... stop - 1."""
        mask = None if self.mask is None else self.mask[start:stop]
        return Int8(self.q[start:stop], self.scale[start:stop], self.x_scale, mask)

    def __repr__(self) -> str:
        how = "dynamic" if self.x_scale is None else f"x_scale={self.x_scale:.3g}"
        return f"Int8(shape={self.shape}, {self.nbytes} bytes, activations {how})"
