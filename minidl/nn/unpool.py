"""MaxUnpool1d and MaxUnpool2d: values laid back where max pooling found them."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.conv import ntuple
from minidl.nn.module import Module

__all__ = ["MaxUnpool1d", "MaxUnpool2d"]


class _Unpool(Module):
    dims = 0

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        super().__init__()
        self.kernel_size = ntuple(kernel_size, self.dims, "kernel_size")
        self.stride = self.kernel_size if stride is None else ntuple(stride, self.dims, "stride")
        self.padding = ntuple(padding, self.dims, "padding")

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_Unpool):
    """The partial inverse of MaxPool1d(return_indices=True).    (N, C, M) -> (N, C, L)

    Try: MaxUnpool1d(2)(randn(1, 1, 2), tensor([[[1, 2]]]))
    """

    dims = 1

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:
        """Values and their places -> the signal, 0 elsewhere; `output_size` picks among its possible lengths."""
        return F.max_unpool1d(x, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(_Unpool):
    """The partial inverse of MaxPool2d(return_indices=True).    (N, C, P, Q) -> (N, C, H, W)

    Try: MaxUnpool2d(2)(randn(1, 1, 2, 2), tensor([[[[0, 3], [8, 15]]]]))
    """

    dims = 2

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:
        """Values and their places -> the image, 0 elsewhere; `output_size` picks among its possible sizes."""
        return F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)
