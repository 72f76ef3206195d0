"""Padding as layers: zeros, a constant, mirrored, repeated or wrapped around; for signals, images and volumes."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.conv import ntuple
from minidl.nn.module import Module

__all__ = [
    f"{kind}Pad{dims}d" for dims in (1, 2, 3) for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
]


class _Pad(Module):
    dims, mode, value = 0, "constant", 0.0

    def __init__(self, padding: Any):
        super().__init__()
        self.padding = ntuple(padding, 2 * self.dims, "padding")

    def forward(self, x: Any) -> Any:
        """Each padded dimension grows by its two pads."""
        if x.ndim not in (self.dims + 1, self.dims + 2) and not (self.mode == "constant" and x.ndim >= self.dims):
            raise ValueError(f"expected {self.dims + 1}D or {self.dims + 2}D input (got {x.ndim}D input)")
        return F.pad(x, self.padding, self.mode, self.value if self.mode == "constant" else None)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _Constant(_Pad):
    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ZeroPad1d(_Pad):
    """Zeros around a signal: (left, right), or one number for both.    (..., L) -> (..., L + left + right)

    Try: ZeroPad1d(1)(randn(1, 2, 3))
    """

    dims = 1


class ZeroPad2d(_Pad):
    """Zeros around an image: (left, right, top, bottom), or one number for all.    (..., H, W)

    Try: ZeroPad2d(1)(randn(1, 2, 3, 3))
    """

    dims = 2


class ZeroPad3d(_Pad):
    """Zeros around a volume: (left, right, top, bottom, front, back), or one number for all.    (..., D, H, W)

    Try: ZeroPad3d(1)(randn(1, 2, 3, 3, 3))
    """

    dims = 3


class ConstantPad1d(_Constant):
    """`value` around a signal; pads as ZeroPad1d's.

    Try: ConstantPad1d(1, 2.0)(randn(1, 2, 3))
    """

    dims = 1


class ConstantPad2d(_Constant):
    """`value` around an image; pads as ZeroPad2d's.

    Try: ConstantPad2d(1, 2.0)(randn(1, 2, 3, 3))
    """

    dims = 2


class ConstantPad3d(_Constant):
    """`value` around a volume; pads as ZeroPad3d's.

    Try: ConstantPad3d(1, 2.0)(randn(1, 2, 3, 3, 3))
    """

    dims = 3


class ReflectionPad1d(_Pad):
    """A signal mirrored at its first and last value; pads as ZeroPad1d's, less than L.

    Try: ReflectionPad1d(1)(randn(1, 2, 3))
    """

    dims, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """An image mirrored at its border; pads as ZeroPad2d's, less than the image.

    Try: ReflectionPad2d(1)(randn(1, 2, 3, 3))
    """

    dims, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """A volume mirrored at its border; pads as ZeroPad3d's, less than the volume.

    Try: ReflectionPad3d(1)(randn(1, 2, 3, 3, 3))
    """

    dims, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """A signal whose ends are repeated; pads as ZeroPad1d's.

    Try: ReplicationPad1d(1)(randn(1, 2, 3))
    """

    dims, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """An image whose border is repeated; pads as ZeroPad2d's.

    Try: ReplicationPad2d(1)(randn(1, 2, 3, 3))
    """

    dims, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """A volume whose border is repeated; pads as ZeroPad3d's.

    Try: ReplicationPad3d(1)(randn(1, 2, 3, 3, 3))
    """

    dims, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """A signal that goes on from its other end; pads as ZeroPad1d's, at most L.

    Try: CircularPad1d(1)(randn(1, 2, 3))
    """

    dims, mode = 1, "circular"


class CircularPad2d(_Pad):
    """An image that goes on from its other side; pads as ZeroPad2d's, at most the image.

    Try: CircularPad2d(1)(randn(1, 2, 3, 3))
    """

    dims, mode = 2, "circular"


class CircularPad3d(_Pad):
    """A volume that goes on from its other side; pads as ZeroPad3d's, at most the volume.

    Try: CircularPad3d(1)(randn(1, 2, 3, 3, 3))
    """

    dims, mode = 3, "circular"
