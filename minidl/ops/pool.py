"""Pooling: the greatest or the mean of each window."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices
from minidl.autograd import Op, op, require
from minidl.ops.common import pair, total
from minidl.ops.reduce import squeeze_dim
from minidl.ops.shapes import reshape, unsqueeze
from minidl.tensors import Tensor


def window_count(n: int, k: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows fit; with ceil_mode a last partial one counts if it starts inside the input or left padding."""
    span = n + 2 * padding - dilation * (k - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= n + padding:
        out -= 1
    return out


def _geometry(size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> tuple:
    k = pair(kernel_size, "kernel_size")
    s = k if stride is None or stride == () or stride == [] else pair(stride, "stride")
    p, d = pair(padding, "padding"), pair(dilation, "dilation")
    require(
        min(k) > 0 and min(s) > 0 and min(d) > 0, "kernel size {}, stride {} and dilation {} must be positive", k, s, d
    )
    require(
        all(0 <= pi <= ((ki - 1) * di + 1) // 2 for pi, ki, di in zip(p, k, d, strict=True)),
        "pad should be at most half of effective kernel size, but got pad={} and kernel_size={}",
        p,
        k,
    )
    out = tuple(window_count(n, *v, ceil_mode) for n, v in zip(size, zip(k, s, p, d, strict=True), strict=True))
    require(min(out) > 0, "windows of {} leave nothing of an input of {}", k, tuple(size))
    return k, s, p, d, out


def _tap(padded: Any, i: int, j: int, s: Any, d: Any, out: Any) -> Any:
    """Element (i, j) of every window."""
    top, left = i * d[0], j * d[1]
    return padded[..., top : top + (out[0] - 1) * s[0] + 1 : s[0], left : left + (out[1] - 1) * s[1] + 1 : s[1]]


def _padded(x: Any, k: Any, s: Any, p: Any, d: Any, out: Any, value: Any) -> Any:
    """x with a border of `value` wide enough for every window."""
    need = [(o - 1) * si + (ki - 1) * di + 1 for o, si, ki, di in zip(out, s, k, d, strict=True)]
    h, w = x.shape[-2:]
    if p == (0, 0) and need[0] <= h and need[1] <= w:
        return x
    y = np.full_like(x, value, shape=(*x.shape[:-2], max(need[0], h + p[0]), max(need[1], w + p[1])))
    y[..., p[0] : p[0] + h, p[1] : p[1] + w] = x
    return y


class _MaxPool2d(Op):
    """y = the greatest element of each window and its flat place in the plane; dy goes back to that place

    x (N, C, H, W) -> y, index (N, C, P, Q)

    Why: y copies the greatest element of each window, so dy is added to where that was.
    """

    def forward(ctx, x: Any, window: Any, stride: Any, padding: Any, dilation: Any, size: Any) -> Any:
        y, index = kernels.max_pool2d(x, window, stride, padding, dilation, size)
        ctx.index, ctx.plane = index, x.shape[2:]
        return y, index

    def backward(ctx, dy: Any, _: Any) -> Any:
        n, c, p, q = ctx.index.shape
        h, w = ctx.plane
        dx = scatter_plane(reshape(dy, (n, c, p * q)), ctx.index.reshape(n, c, p * q), h * w)
        return reshape(dx, (n, c, h, w))


_MaxPool2d.__name__ = "max_pool2d"


@op()
def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """y = the greatest element of each window; the gradient goes to that element: the first of equals, NaN wins.

    input (N, C, H, W) or (C, H, W); stride is kernel_size unless given. With return_indices also where, flat in H x W.

    Try: max_pool2d(randn(1, 2, 4, 4), 2)
    """
    require(len(input.shape) in (3, 4), "the input must be (N, C, H, W) or (C, H, W), got {}", tuple(input.shape))
    if len(input.shape) == 3:
        y, index = max_pool2d(unsqueeze(input, 0), kernel_size, stride, padding, dilation, ceil_mode, True)
        y, index = squeeze_dim(y, 0), squeeze_dim(index, 0)
    else:
        y, index = _MaxPool2d(input, *_geometry(input.shape[2:], kernel_size, stride, padding, dilation, ceil_mode))
    return (y, index) if return_indices else y


@op()
class gather_plane(Op):
    """y[..., i] = x[..., index[..., i]];    dx = dy added at index, repeated places summed

    Why: y copies elements of x, so each dy is added at the place it was read from.
    Try: gather_plane(randn(2, 5), randint(0, 5, (2, 3)).array)
    """

    def forward(ctx, x: Any, index: Any) -> Any:
        ctx.index, ctx.width = index, x.shape[-1]
        return kernels.gather_plane(x, index)

    def backward(ctx, dy: Any) -> Any:
        return scatter_plane(dy, ctx.index, ctx.width)


@op()
class scatter_plane(Op):
    """y[..., index[..., i]] += x[..., i] on zeros of `width`;    dx = dy gathered

    Why: each x is added at one place, so its gradient is read there.
    Try: scatter_plane(randn(2, 3), randint(0, 5, (2, 3)).array, 5)
    """

    def forward(ctx, x: Any, index: Any, width: int) -> Any:
        ctx.index = index
        return kernels.scatter_plane(x, index, width)

    def backward(ctx, dy: Any) -> Any:
        return gather_plane(dy, ctx.index)


@op()
def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """As max_pool2d, on (N, C, L) or (C, L).

    Try: max_pool1d(randn(2, 2, 5), 2)
    """
    shape = tuple(input.shape)
    require(
        len(shape) in (2, 3) and 0 not in shape[-2:],
        "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input, but got: {}",
        shape,
    )
    k, s, p, d = (v[0] if isinstance(v, (tuple, list)) and v else v for v in (kernel_size, stride, padding, dilation))
    y = max_pool2d(
        unsqueeze(input, -2), (1, k), None if s is None else (1, s), (0, p), (1, d), ceil_mode, return_indices
    )
    return tuple(squeeze_dim(v, v.ndim - 2) for v in y) if return_indices else squeeze_dim(y, y.ndim - 2)


class _AvgPool2d(Op):
    """y = sum of each window times its weight;    dx = each dy spread over its window

    The weight of a window is 1 over its number of elements: padding counted or not, or a given divisor.

    Why: each x enters every window over it with the window's weight, the same for all.
    """

    def forward(ctx, x: Any, k: Any, s: Any, p: Any, out: Any, weight: Any) -> Any:
        ctx.how = (k, s, p, out, weight)
        ctx.size = x.shape
        padded = _padded(x, k, s, p, (1, 1), out, 0)
        if x.dtype.kind != "f" and x.dtype != np.int64:
            raise NotImplementedError(f"avg_pool2d is not implemented for {x.dtype}; convert with .float()")
        sums = np.zeros_like(x, shape=(*x.shape[:-2], *out))
        for i in range(k[0]):
            for j in range(k[1]):
                sums += _tap(padded, i, j, s, (1, 1), out)
        if x.dtype.kind == "f":
            return sums * weight.astype(x.dtype)
        divisor = np.rint(1 / weight).astype(x.dtype)  # integers are divided, rounding towards 0
        return np.sign(sums) * np.sign(divisor) * (np.abs(sums) // np.abs(divisor))

    def backward(ctx, dy: Any) -> Any:
        return avg_pool2d_dx(dy, ctx.size, *ctx.how)


_AvgPool2d.__name__ = "avg_pool2d"


@op()
class avg_pool2d_dx(Op):
    """Each dy times its window's weight, added to every element of the window;    its own gradient is avg_pool2d

    Why: it is linear in dy; its transpose is the pooling itself.
    Try: avg_pool2d_dx(randn(1, 2, 2, 2), (1, 2, 4, 4), (2, 2), (2, 2), (0, 0), (2, 2), full((2, 2), 0.25).array)
    """

    def forward(ctx, dy: Any, size: Any, k: Any, s: Any, p: Any, out: Any, weight: Any) -> Any:
        ctx.how = (k, s, p, out, weight)
        share = dy * weight.astype(dy.dtype)
        need = [(o - 1) * si + ki for o, si, ki in zip(out, s, k, strict=True)]
        h, w = size[-2:]
        padded = np.zeros_like(dy, shape=(*size[:-2], max(need[0], h + p[0]), max(need[1], w + p[1])))
        for i in range(k[0]):
            for j in range(k[1]):
                tap = _tap(padded, i, j, s, (1, 1), out)
                tap += share
        return devices.contiguous(padded[..., p[0] : p[0] + h, p[1] : p[1] + w])

    def backward(ctx, ddx: Any) -> Any:
        return _AvgPool2d(ddx, *ctx.how)


@op()
def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """y = the mean of each window of (N, C, H, W) or (C, H, W).

    Try: avg_pool2d(randn(1, 2, 4, 4), 2)
    """
    require(len(input.shape) in (3, 4), "the input must be (N, C, H, W) or (C, H, W), got {}", tuple(input.shape))
    h, w = input.shape[-2:]
    array = input.array if isinstance(input, Tensor) else input
    k, s, p, _, out = _geometry((h, w), kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None:
        require(divisor_override != 0, "divisor must be not zero")
        weight = np.full(out, 1 / divisor_override)
    else:
        counts = []
        for n, ki, si, pi, oi in zip((h, w), k, s, p, out, strict=True):
            start = np.arange(oi) * si - pi
            end = np.minimum(start + ki, n + pi)
            counts.append(end - start if count_include_pad else np.minimum(end, n) - np.maximum(start, 0))
        weight = 1 / (counts[0][:, None] * counts[1])
    return _AvgPool2d(input, k, s, p, out, devices.move(weight, devices.device_of(array)))


@op()
def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """As avg_pool2d, on (N, C, L) or (C, L).

    Try: avg_pool1d(randn(2, 2, 5), 2)
    """
    k, s, p = (v[0] if isinstance(v, (tuple, list)) and v else v for v in (kernel_size, stride, padding))
    y = avg_pool2d(unsqueeze(input, -2), (1, k), None if s is None else (1, s), (0, p), ceil_mode, count_include_pad)
    return squeeze_dim(y, y.ndim - 2)


@op()
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """The mean of each of P x Q regions that cover the input, (N, C, H, W) or (C, H, W).

    Region i along a dimension is from floor(i H / P) to ceil((i + 1) H / P), so regions may overlap. A None in
    output_size keeps that size. NaN and Inf stay within the regions that hold them.

    Try: adaptive_avg_pool2d(randn(1, 2, 4, 4), 2)
    """
    shape = tuple(input.shape)
    require(len(shape) in (3, 4), "the input must be (N, C, H, W) or (C, H, W), got {}", shape)
    h, w = shape[-2:]
    require(h > 0 and w > 0, "height and width must not be 0, got {}", shape)
    size = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    require(len(size) == 2, "output_size must be a number or two, got {}", output_size)
    p, q = (n if o is None else int(o) for o, n in zip(size, (h, w), strict=True))
    require(p >= 0 and q >= 0, "output_size must not be negative, got {}", size)
    if np.dtype(input.dtype).kind != "f":
        raise NotImplementedError(f"adaptive_avg_pool2d is not implemented for {input.dtype}; convert with .float()")
    if p and q and h % p == 0 and w % q == 0:
        return avg_pool2d(input, (h // p, w // q))
    y = input
    for dim, parts in ((len(shape) - 2, p), (len(shape) - 1, q)):
        y = _RegionMeans(y, dim, parts) if y.shape[dim] != parts else y
    return y


def _regions(n: int, parts: int) -> list[slice]:
    """The regions along a dimension of n elements."""
    return [slice(i * n // parts, -(-(i + 1) * n // parts)) for i in range(parts)]


class _RegionMeans(Op):
    """y_i = mean of region i along `dim`;    dx = dy_i / size of the region, added to each of its elements

    Why: each x enters every region over it with one over the region's size.
    """

    def forward(ctx, x: Any, dim: int, parts: int) -> Any:
        ctx.dim, ctx.n = dim, x.shape[dim]
        lead, wide = (slice(None),) * dim, np.promote_types(x.dtype, np.float32)
        y = np.empty_like(x, shape=(*x.shape[:dim], parts, *x.shape[dim + 1 :]), order="C")
        for i, region in enumerate(_regions(ctx.n, parts)):
            part = x[(*lead, region)]
            y[(*lead, i)] = total(part, dim, False, wide) / wide.type(part.shape[dim])
        return y

    def backward(ctx, dy: Any) -> Any:
        return _spread_regions(dy, ctx.dim, ctx.n)


class _spread_regions(Op):
    """Each x_i over the size of region i, added to every element of the region;    its own gradient is the means

    Why: it is linear in dy, and its transpose is the pooling itself.
    """

    def forward(ctx, x: Any, dim: int, n: int) -> Any:
        ctx.dim, ctx.parts = dim, x.shape[dim]
        lead = (slice(None),) * dim
        y = np.zeros_like(x, shape=(*x.shape[:dim], n, *x.shape[dim + 1 :]), order="C")
        for i, region in enumerate(_regions(n, ctx.parts)):
            y[(*lead, region)] += x[(*lead, slice(i, i + 1))] / x.dtype.type(region.stop - region.start)
        return y

    def backward(ctx, dy: Any) -> Any:
        return _RegionMeans(dy, ctx.dim, ctx.parts)


_RegionMeans.__name__, _spread_regions.__name__ = "adaptive_avg_pool", "adaptive_avg_pool_dx"


@op()
def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """As adaptive_avg_pool2d, on (N, C, L) or (C, L).

    Try: adaptive_avg_pool1d(randn(1, 2, 4), 2)
    """
    require(
        not isinstance(output_size, (tuple, list)) or len(output_size) == 1,
        "output_size must be one number, got {}",
        output_size,
    )
    size = output_size[0] if isinstance(output_size, (tuple, list)) else output_size
    y = adaptive_avg_pool2d(unsqueeze(input, -2), (1, size))
    return squeeze_dim(y, y.ndim - 2)
