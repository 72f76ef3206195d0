"""Overlapping windows as data: unfold (im2col), fold (col2im), and Tensor.unfold, which slides along one dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import Op, attach, op, require
from minidl.ops.common import one_dim, pair
from minidl.ops.reduce import squeeze_dim
from minidl.ops.shapes import unsqueeze
from minidl.tensors import Tensor


def _places(size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple[int, int]:
    """How many windows fit along each of the two dimensions."""
    p, q = (
        (n + 2 * pad - d * (k - 1) - 1) // s + 1
        for n, k, d, pad, s in zip(size, kernel, dilation, padding, stride, strict=True)
    )
    require(
        p > 0 and q > 0,
        "windows of {} (dilation {}, padding {}, stride {}) do not fit an input of {}",
        kernel,
        dilation,
        padding,
        stride,
        tuple(size),
    )
    return p, q


def _tap(padded: Any, i: int, j: int, how: tuple, places: tuple[int, int]) -> Any:
    """Element (i, j) of every window: (N, C, P, Q), a view."""
    _, (dh, dw), _, (sh, sw) = how
    p, q = places
    top, left = i * dh, j * dw
    return padded[..., top : top + (p - 1) * sh + 1 : sh, left : left + (q - 1) * sw + 1 : sw]


@op()
class im2col(Op):
    """y[n, (c, i, j), (p, q)] = x[n, c, p stride + i dilation - padding, ...], 0 outside

    x (N, C, H, W) -> y (N, C R S, P Q) for windows of R x S;    dx = dy added up where it came from (col2im)

    Why: every element of a window copies one of x, so gradients add up where windows overlap: col2im.
    Try: im2col(randn(1, 2, 4, 3), (2, 1), (1, 2), (1, 0), (2, 1))
    """

    def forward(ctx, x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
        ctx.how, ctx.size = (kernel, dilation, padding, stride), x.shape[2:]
        n, c, h, w = x.shape
        places = _places((h, w), *ctx.how)
        (r, s), (ph, pw) = kernel, padding
        if ph or pw:
            padded = np.zeros_like(x, shape=(n, c, h + 2 * ph, w + 2 * pw), order="C")
            padded[..., ph : ph + h, pw : pw + w] = x
        else:
            padded = x
        y = np.empty_like(x, shape=(n, c, r, s, *places), order="C")
        for i in range(r):
            for j in range(s):
                y[:, :, i, j] = _tap(padded, i, j, ctx.how, places)
        return y.reshape(n, c * r * s, places[0] * places[1])

    def backward(ctx, dy: Any) -> Any:
        return col2im(dy, ctx.size, *ctx.how)


@op()
class col2im(Op):
    """The windows laid back into an image of `size`, overlaps added up;    dx = dy's windows (im2col)

    Why: every x is added at one place of y, so its gradient is read there: im2col.
    Try: col2im(randn(1, 4, 9), (4, 3), (2, 1), (1, 2), (1, 0), (2, 1))
    """

    def forward(ctx, x: Any, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
        ctx.how = (kernel, dilation, padding, stride)
        (r, s), (ph, pw), (h, w) = kernel, padding, size
        places = _places(size, *ctx.how)
        n = x.shape[0]
        c = x.shape[1] // (r * s)
        taps = x.reshape(n, c, r, s, *places)
        padded = np.zeros_like(x, shape=(n, c, h + 2 * ph, w + 2 * pw), order="C")
        for i in range(r):
            for j in range(s):
                tap = _tap(padded, i, j, ctx.how, places)
                tap += taps[:, :, i, j]
        return devices.contiguous(padded[..., ph : ph + h, pw : pw + w])

    def backward(ctx, dy: Any) -> Any:
        return im2col(dy, *ctx.how)


def _how(kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple:
    how = pair(kernel_size, "kernel_size"), pair(dilation, "dilation"), pair(padding, "padding"), pair(stride, "stride")
    kernel, dilation, padding, stride = how
    require(
        min(kernel) > 0 and min(dilation) > 0 and min(stride) > 0 and min(padding) >= 0,
        "kernel size {}, dilation {} and stride {} must be positive, padding {} not negative",
        kernel,
        dilation,
        stride,
        padding,
    )
    return how


@op(namespace="nn.functional")
def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The windows of images as columns: (N, C, H, W) -> (N, C R S, L), or (C, H, W) -> (C R S, L).

    Raises RuntimeError when no window fits.

    Try: unfold(randn(1, 2, 4, 3), 2)
    """
    shape = tuple(input.shape)
    require(len(shape) in (3, 4), "unfold: (N, C, H, W) or (C, H, W) is expected, got {}", shape)
    require(0 not in shape[-3:], "unfold: channels, height and width must not be 0, got {}", shape)
    how = _how(kernel_size, dilation, padding, stride)
    return im2col(input, *how) if len(shape) == 4 else squeeze_dim(im2col(unsqueeze(input, 0), *how), 0)


@op(namespace="nn.functional")
def fold(input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Columns laid back as windows of images of output_size, overlaps added up: (N, C R S, L) -> (N, C, H, W).

    Raises RuntimeError when the sizes do not fit.

    Try: fold(randn(1, 8, 6), (4, 3), 2)
    """
    shape = tuple(input.shape)
    require(len(shape) in (2, 3), "fold: (N, C R S, L) or (C R S, L) is expected, got {}", shape)
    size, how = pair(output_size, "output_size"), _how(kernel_size, dilation, padding, stride)
    r, s = how[0]
    require(shape[-2] % (r * s) == 0, "fold: {} rows are not divisible by the {} x {} of a window", shape[-2], r, s)
    p, q = _places(size, *how)
    require(shape[-1] == p * q, "fold: {} columns given, {} x {} windows fit {}", shape[-1], p, q, size)
    return col2im(input, size, *how) if len(shape) == 3 else squeeze_dim(col2im(unsqueeze(input, 0), size, *how), 0)


@op()
class sliding(Op):
    """y[..., i, ..., j] = x[..., i step + j, ...], a view: windows of `size` along dim, as a last dimension

    dx = dy added up where it came from

    Why: every element of a window is one of x, so gradients add up where windows overlap.
    Try: sliding(randn(7), 0, 3, 2)
    """

    is_view = True

    def forward(ctx, x: Any, dim: int, size: int, step: int) -> Any:
        ctx.how, ctx.shape_x = (dim, size, step), x.shape
        n = (x.shape[dim] - size) // step + 1
        stride = x.strides[dim]
        shape = (*x.shape[:dim], n, *x.shape[dim + 1 :], size)
        strides = (*x.strides[:dim], stride * step, *x.strides[dim + 1 :], stride)
        if devices.is_cuda_array(x):
            return devices.array_module(x).lib.stride_tricks.as_strided(x, shape, strides)
        return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=x.flags.writeable)

    def backward(ctx, dy: Any) -> Any:
        return unsliding(dy, ctx.shape_x, *ctx.how)


@op()
class unsliding(Op):
    """y = zeros of `shape` with windows added at their places along dim;    dx = dy's windows

    Why: every x is added at one place of y, so its gradient is read there.
    Try: unsliding(randn(3, 3), (7,), 0, 3, 2)
    """

    def forward(ctx, x: Any, shape: Any, dim: int, size: int, step: int) -> Any:
        ctx.how = (dim, size, step)
        y = np.zeros_like(x, shape=shape, order="C")
        n = x.shape[dim]
        for j in range(size):
            y[(slice(None),) * dim + (slice(j, j + (n - 1) * step + 1, step),)] += x[..., j]
        return y

    def backward(ctx, dy: Any) -> Any:
        return sliding(dy, *ctx.how)


def _unfold_method(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` along a dimension, every `step` elements, as a new last dimension; a view.

    Raises RuntimeError when size exceeds the dimension or step is not positive.
    """
    d = one_dim(dimension, self.ndim)
    x = self if self.ndim else self.reshape(1)
    n = x.shape[d]
    require(0 <= size <= n, "maximum size for tensor at dimension {} is {} but size is {}", d, n, size)
    require(step > 0, "step is {} but must be > 0", step)
    y = sliding(x, d, size, step)
    return y if self.ndim else y[0]


attach("unfold", _unfold_method)
