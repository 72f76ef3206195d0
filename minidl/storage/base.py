"""What all packed arrays share: shape, dtype, nbytes, dequantize(), and the advice where they cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices


class PackedError(TypeError, AttributeError):
    """Something was asked of a packed array that only the float array can do."""


class Packed:
    """Base of packed arrays; ``shape`` and ``dtype`` are those of the array it stands for."""

    shape: tuple[int, ...]
    dtype = np.dtype("float32")
    kind = "packed"
    able = "linear, conv1d, conv2d and embedding"  # the ops that know it
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

    @property
    def device(self) -> devices.Device:
        """Where its arrays are."""
        return devices.device_of(next(iter(self.arrays().values())))

    def to(self, device: Any) -> Any:
        """The same on another device; itself where it is there already. Raises RuntimeError when no GPU answers."""
        if devices.Device(device) == self.device:
            return self
        from copy import copy

        out = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Packed):
                setattr(out, name, value.to(device))
            elif isinstance(value, np.ndarray) or devices.is_cuda_array(value):
                setattr(out, name, devices.move(value, device))
        return out.copy() if devices.Device(device).type == "cpu" else out

    def nonzeros(self) -> int:
        """How many of the weights are not 0."""
        return int(np.count_nonzero(self.dequantize()))

    def linear(self, x: Any, b: Any) -> Any:
        """y = x W^T + b with this weight."""
        raise NotImplementedError(self._advice("linear"))

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """The convolution with this weight."""
        raise NotImplementedError(self._advice("conv2d"))

    def tall(self) -> Any:
        """A weight of signals (N, C, L) as one of images of height 1, (N, C, 1, L); made once, and kept."""
        if "_tall" not in vars(self):
            self._tall = self._as_images((*self.shape[:2], 1, *self.shape[2:]))
        return vars(self)["_tall"]

    def _as_images(self, shape: tuple[int, ...]) -> Any:
        """The same numbers in another shape, which has the first axis in common."""
        raise NotImplementedError(self._advice("conv1d"))

    def embedding(self, x: Any) -> Any:
        """The rows of this table that x (...) names, as floats (..., D); x was checked."""
        raise NotImplementedError(self._advice("embedding"))

    def rows(self, start: int, stop: int) -> Any:
        """The packed array of outputs start ... stop - 1."""
        raise NotImplementedError(self._advice("a part of its rows"))

    def _advice(self, name: str) -> str:
        return (
            f"{name} cannot use a weight of shape {self.shape} packed as {self.kind}: only {self.able} can; call "
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
