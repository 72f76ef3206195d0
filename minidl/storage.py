"""Packed storage that a Parameter can hold in place of a float array: shape, dtype, nbytes, dequantize().

A packed array is smaller, and the ops that know it (linear, conv2d, embedding) run kernels made for it. Any other
op that meets one raises with advice, so nothing is unpacked behind the user's back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels


class PackedError(TypeError, AttributeError):
    """Something was asked of a packed array that only the float array can do."""


class Packed:
    """Base of packed arrays; ``shape`` and ``dtype`` are those of the array it stands for."""

    shape: tuple[int, ...]
    dtype = np.dtype("float32")
    kind = "packed"
    mask: Any = None  # bool, False where a weight is pruned and its code is 0; None: nothing is pruned

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that the packed arrays take."""
        return sum(a.nbytes for a in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are stored, by name."""
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Any:
        """The storage with these arrays, the inverse of `arrays`. Raises ValueError if they do not fit."""
        raise NotImplementedError

    def dequantize(self) -> np.ndarray:
        """The float32 array it stands for."""
        raise NotImplementedError

    def linear(self, x: Any, b: Any) -> Any:
        """y = x W^T + b with this weight."""
        raise NotImplementedError(self._advice("linear"))

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """The convolution with this weight."""
        raise NotImplementedError(self._advice("conv2d"))

    def _advice(self, name: str) -> str:
        return (
            f"{name} cannot use a weight of shape {self.shape} packed as {self.kind}: only linear and conv2d can; call "
            "minidl.compress.dequantize_(model), or .dequantize() on the storage, for the float array"
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise PackedError(self._advice("this op"))

    def __array_ufunc__(self, ufunc: Any, *_: Any, **__: Any) -> Any:
        raise PackedError(self._advice(ufunc.__name__))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise PackedError(self._advice(f"array.{name}"))

    def _refuse(self, *_: Any) -> Any:
        raise PackedError(self._advice("arithmetic"))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __matmul__ = __rmatmul__ = __neg__ = __pow__ = __getitem__ = __gt__ = __lt__ = _refuse


class Int8(Packed):
    """Symmetric int8 with one scale per output channel: w[n, ...] = q[n, ...] * scale[n].

    Args:
        q: int8, in [-127, 127], of the weight's shape (N, ...).
        scale: float32 (N,), positive.
        x_scale: the scale of the input's activations when they are quantized statically; None: measured on each input.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for dtypes or shapes that do not fit, -128, and scales that are not positive and finite.
    """

    kind = "int8"

    def __init__(self, q: np.ndarray, scale: np.ndarray, x_scale: float | None = None, mask: Any = None):
        q, scale = np.ascontiguousarray(q), np.ascontiguousarray(scale, np.float32)
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
        return Int8(self.q.copy(), self.scale.copy(), self.x_scale, None if self.mask is None else self.mask.copy())

    def dequantize(self) -> np.ndarray:
        """q * scale, float32."""
        return self.q * self.scale.reshape(-1, *(1,) * (self.q.ndim - 1))

    def linear(self, x: Any, b: Any) -> Any:
        """On the integer kernel: x is quantized, multiplied in int32, rescaled."""
        return kernels.int8_linear(x, self.q, self.scale, b, x_scale=self.x_scale)

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """On the integer kernel: x is quantized, multiplied in int32, rescaled."""
        return kernels.int8_conv2d(x, self.q, self.scale, b, stride, padding, dilation, groups, x_scale=self.x_scale)

    def __repr__(self) -> str:
        how = "dynamic" if self.x_scale is None else f"x_scale={self.x_scale:.3g}"
        return f"Int8(shape={self.shape}, {self.nbytes} bytes, activations {how})"
