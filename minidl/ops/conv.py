"""Convolution and its two gradients. Each is bilinear, and each one's gradients are the other two."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import Op, ShapeError, op, require
from minidl.autograd.blame import scope
from minidl.ops import hints, integer_conv
from minidl.ops.common import pair, widened
from minidl.ops.padding import pad, pad_constant
from minidl.ops.reduce import squeeze_dim, sum
from minidl.ops.shapes import reshape, unsqueeze
from minidl.storage import Packed


def output_size(n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """How many places a window of k taps takes on n elements: floor((n + 2 padding - dilation (k - 1) - 1) /
    stride) + 1."""
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


class _Conv2d(Op):
    """y[n,k,p,q] = b[k] + sum over c,r,s of x[n, c, p stride + r dilation - padding, ...] w[k,c,r,s]

    x (N, C, H, W), w (K, C/groups, R, S), b (K,) -> y (N, K, P, Q). No flipping: a cross-correlation, as everywhere in
    deep learning. A weight packed as int8 runs on the integer kernel; gradients then pass straight through the rounding
    of the activations.

    Why: y is linear in x and in w: each x meets the taps of w that were laid over it, each tap of w all the x that it
         was laid on.
    """

    packed: Packed | None = None
    x_size: tuple = ()

    def shape(  # type: ignore[override]
        x: Any, w: Any, b: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        if len(x) != 4:
            fix = "x[None, None] adds batch and channel" if len(x) == 2 else "a single image needs unsqueeze(0)"
            raise ShapeError(f"the input must be (N, C, H, W), got {x}; {fix}")
        require(len(w) == 4, "the weight must be (out_channels, in_channels / groups, height, width), got {}", w)
        if x[1] != w[1] * groups:
            raise ShapeError(
                f"the input {x} has {x[1]} channels, the weight {w} with groups={groups} takes {w[1] * groups}; "
                f"{hints.channels(x, w[1] * groups)}"
            )
        require(w[0] % groups == 0, "{} output channels are not divisible by {} groups", w[0], groups)
        require(b is None or tuple(b) == (w[0],), "the bias {} does not fit {} output channels", b, w[0])
        out = [output_size(*v) for v in zip(x[2:], w[2:], pair(stride), pair(padding), pair(dilation), strict=True)]
        if min(out) <= 0:
            padded = tuple(n + 2 * p for n, p in zip(x[2:], pair(padding), strict=True))
            raise ShapeError(
                f"the kernel {w[2:]} (dilation {dilation}) is larger than the padded input {padded}; "
                f"{hints.window(x[2:])}"
            )
        return (x[0], w[0], *out)

    def forward(
        ctx, x: Any, w: Any, b: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        ctx.how = (stride, padding, dilation, groups)
        if isinstance(w, Packed) and w.ndim == 3:  # conv1d's, as it is
            w = w.tall()
        size = _size(x.shape, w.shape, None if b is None else b.shape, *ctx.how)
        ctx.x_size = x.shape
        if isinstance(w, Packed):
            ctx.packed = w
            return w.conv2d(x, b, *ctx.how)
        if x.dtype != w.dtype:
            raise RuntimeError(
                f"the input is {x.dtype} and the weight is {w.dtype}: they must have the same dtype; "
                f"{hints.dtypes(str(x.dtype), str(w.dtype))}"
            )
        if b is not None and b.dtype != x.dtype:
            raise RuntimeError(f"the input is {x.dtype} and the bias is {b.dtype}: they must have the same dtype")
        ctx.save(x, w)
        if x.dtype == np.int64:
            return integer_conv.conv2d(x, w, b, *ctx.how, size[2:])
        return widened(kernels.conv2d, x, w, b, *ctx.how)

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved if ctx.packed is None else (None, ctx.packed.dequantize())
        return ctx.wanted(
            lambda: conv2d_dx(dy, w, tuple(ctx.x_size), *ctx.how),
            lambda: conv2d_dw(dy, x, tuple(w.shape), *ctx.how),
            lambda: sum(dy, (0, 2, 3)),
        )


_size = functools.lru_cache(maxsize=1024)(_Conv2d.shape)  # the rule takes longer than a small kernel
_Conv2d.__name__ = "conv2d"
conv2d_op = _Conv2d


@op()
class conv2d_dx(Op):
    """The gradient of conv2d's input: every dy spreads over the window it came from (also known as transposed conv)

    Why: it is linear in dy and in w. Its transpose in dy is conv2d itself; seen from w it is conv2d_dw with the roles
         of x and dy exchanged.
    Try: conv2d_dx(randn(2, 3, 3, 2), randn(3, 2, 2, 2), (2, 2, 4, 3), 1, 0, 1, 1)
    """

    packed: Packed | None = None

    def forward(ctx, dy: Any, w: Any, x_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        ctx.how = (stride, padding, dilation, groups)
        if isinstance(w, Packed):
            ctx.packed = w.tall() if w.ndim == 3 else w
            w = ctx.packed.dequantize().astype(dy.dtype, copy=False)
        else:
            ctx.save(dy, w)
        if dy.dtype == np.int64:
            return integer_conv.conv2d_dx(dy, w, x_shape, *ctx.how)
        return widened(kernels.conv2d_dx, dy, w, x_shape, *ctx.how)

    def backward(ctx, ddx: Any) -> Any:
        dy, w = ctx.saved if ctx.packed is None else (None, ctx.packed.dequantize())
        return ctx.wanted(
            lambda: conv2d_op(ddx, w, None, *ctx.how), lambda: conv2d_dw(dy, ddx, tuple(w.shape), *ctx.how)
        )


@op()
class conv2d_dw(Op):
    """The gradient of conv2d's weight: dy against the patches of x

    Why: it is linear in dy and in x. Its transpose in dy is conv2d with dw as the filter; in x it is conv2d_dx.
    Try: conv2d_dw(randn(2, 3, 3, 2), randn(2, 2, 4, 3), (3, 2, 2, 2), 1, 0, 1, 1)
    """

    def forward(ctx, dy: Any, x: Any, w_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        ctx.save(dy, x)
        ctx.how = (stride, padding, dilation, groups)
        return widened(kernels.conv2d_dw, dy, x, w_shape, *ctx.how)

    def backward(ctx, ddw: Any) -> Any:
        dy, x = ctx.saved
        return ctx.wanted(
            lambda: conv2d_op(x, ddw, None, *ctx.how), lambda: conv2d_dx(dy, ddw, tuple(x.shape), *ctx.how)
        )


def _same(x: Any, size: Any, stride: Any, dilation: Any) -> Any:
    """x padded so that the output has its size; an odd surplus goes to the right and bottom, as in torch."""
    require(set(stride) == {1}, "padding='same' is not supported for strided convolutions (stride {})", stride)
    pads: list[int] = []
    for k, d in zip(reversed(size), reversed(dilation), strict=True):
        total = d * (k - 1)
        pads += [total // 2, total - total // 2]
    return pad(x, tuple(pads)) if any(pads) else x


@op()
def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """2-d convolution of (N, C, H, W), or of one image (C, H, W). padding: numbers, "same" or "valid".

    See :class:`conv2d_op`. Raises ShapeError when the shapes do not fit.

    Try: conv2d(randn(2, 2, 5, 5), randn(3, 2, 3, 3), randn(3), padding=1)
    """
    if len(input.shape) == 3:
        takes = weight.shape[1] * groups
        if input.shape[0] != takes:
            x = tuple(input.shape)
            raise ShapeError(
                f"conv2d{scope()}: the input {x}, one image (C, H, W), has {x[0]} channels, the weight "
                f"{tuple(weight.shape)} with groups={groups} takes {takes}; {hints.channels(x, takes, batched=False)}"
            )
        return squeeze_dim(conv2d(unsqueeze(input, 0), weight, bias, stride, padding, dilation, groups), 0)
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    require(min(stride) > 0 and min(dilation) > 0, "stride {} and dilation {} must be positive", stride, dilation)
    if padding == "same":
        require(len(weight.shape) in (3, 4), "the weight must have 4 dimensions, not {}", tuple(weight.shape))
        taps = tuple(weight.shape[2:]) if len(weight.shape) == 4 else (1, *weight.shape[2:])  # a packed one of signals
        input, padding = _same(input, taps, stride, dilation), 0
    elif padding == "valid":
        padding = 0
    elif isinstance(padding, str):
        raise ValueError(f"padding must be numbers, 'same' or 'valid', not {padding!r}")
    padding = pair(padding, "padding")
    require(min(padding) >= 0, "negative padding {} is not supported", padding)
    return conv2d_op(input, weight, bias, stride, padding, dilation, groups)


def _of_images(w: Any) -> Any:
    """A weight of signals as one of images of height 1; a packed one as it is, for the op to see whose it is."""
    return w if isinstance(getattr(w, "array", w), Packed) else unsqueeze(w, -2)


@op()
def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """1-d convolution of (N, C, L) with weight (K, C/groups, R), as a conv2d of height 1.

    Try: conv1d(randn(2, 2, 5), randn(3, 2, 2), randn(3))
    """
    first = [v[0] if isinstance(v, (tuple, list)) else v for v in (stride, padding, dilation)]
    stride, padding, dilation = first
    require(
        len(weight.shape) == 3,
        "the weight must be (out_channels, in_channels / groups, length), got {}",
        tuple(weight.shape),
    )
    require(len(input.shape) in (2, 3), "the input must be (N, C, L) or (C, L), got {}", tuple(input.shape))
    if not isinstance(padding, str):
        padding = (0, padding)
    x = unsqueeze(input, -2)
    y = conv2d(x, _of_images(weight), bias, (1, stride), padding, (1, dilation), groups)
    return reshape(y, (*y.shape[:-2], y.shape[-1]))


@op()
def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Transposed convolution: the gradient of a conv2d as a layer. weight (C_in, C_out/groups, R, S).

    P = (H - 1) stride - 2 padding + dilation (R - 1) + output_padding + 1.

    Try: conv_transpose2d(randn(1, 2, 3, 2), randn(2, 3, 2, 2))
    """
    if len(input.shape) == 3:
        y = conv_transpose2d(unsqueeze(input, 0), weight, bias, stride, padding, output_padding, groups, dilation)
        return squeeze_dim(y, 0)
    require(len(input.shape) == 4, "the input must be (N, C, H, W) or (C, H, W), got {}", tuple(input.shape))
    s, p, o, d = (pair(v) for v in (stride, padding, output_padding, dilation))
    n, c, h, w = input.shape
    require(
        c == weight.shape[0],
        "the input {} has {} channels, the weight {} takes {}",
        tuple(input.shape),
        c,
        tuple(weight.shape),
        weight.shape[0],
    )
    require(
        all(oi < max(si, di) for oi, si, di in zip(o, s, d, strict=True)),
        "output padding {} must be smaller than stride {} or dilation {}",
        o,
        s,
        d,
    )
    taps = tuple(weight.shape[2:]) if len(weight.shape) == 4 else (1, *weight.shape[2:])  # a packed one of signals
    size = [
        (m - 1) * si - 2 * pi + di * (k - 1) + oi + 1
        for m, k, si, pi, oi, di in zip((h, w), taps, s, p, o, d, strict=True)
    ]
    require(min(size) > 0, "the output would have no elements: {}", size)
    channels = weight.shape[1] * groups
    require(
        bias is None or tuple(bias.shape) == (channels,),
        "a weight {} of {} groups wants a bias of {} elements, got {}",
        tuple(weight.shape),
        groups,
        channels,
        () if bias is None else tuple(bias.shape),
    )
    if all(oi < si for oi, si in zip(o, s, strict=True)):
        y = conv2d_dx(input, weight, (n, channels, *size), s, p, d, groups)
    else:  # a convolution of so much would have one more output: compute without padding, then cut and extend
        whole = tuple(m + 2 * pi - oi for m, pi, oi in zip(size, p, o, strict=True))
        y = conv2d_dx(input, weight, (n, channels, *whole), s, (0, 0), d, groups)
        y = pad_constant(y, ((0, 0), (0, 0), *((-pi, oi - pi) for pi, oi in zip(p, o, strict=True))))
    return y if bias is None else y + reshape(bias, (1, -1, 1, 1))


@op()
def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """As conv_transpose2d, on (N, C, L) or (C, L); weight (C_in, C_out/groups, R).

    Try: conv_transpose1d(randn(2, 2, 3), randn(2, 3, 2), randn(3))
    """
    require(
        len(weight.shape) == 3,
        "the weight must be (in_channels, out_channels / groups, length), got {}",
        tuple(weight.shape),
    )
    require(len(input.shape) in (2, 3), "the input must be (N, C, L) or (C, L), got {}", tuple(input.shape))
    s, p, o, d = (v[0] if isinstance(v, (tuple, list)) else v for v in (stride, padding, output_padding, dilation))
    y = conv_transpose2d(unsqueeze(input, -2), _of_images(weight), bias, (1, s), (0, p), (0, o), groups, (1, d))
    return reshape(y, (*y.shape[:-2], y.shape[-1]))
