"""Normalisation: zero mean, unit variance, over the batch (batch_norm) or over the features (layer_norm).

Each is one fused op for speed, with its definition in plain ops beside it; second derivatives are the definition's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import Op, ShapeError, op, require, state
from minidl.autograd.anomaly import check_training
from minidl.autograd.blame import scope
from minidl.ops.common import prod, total
from minidl.ops.copies import cast, clone
from minidl.ops.powers import rsqrt
from minidl.ops.reduce import mean
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor


@op()
class standardize(Op):
    """y = (x - mean) / sqrt(var + eps), mean and biased var over `dims`, then times w plus b where they are given.

    w and b have the shape of x, or 1 where they broadcast. With g = dy w and h the mean over dims:
    dx = (g - h(g) - xhat h(g xhat)) / sqrt(var + eps),   dw = sum dy xhat,   db = sum dy
    """

    def forward(ctx, x: Any, w: Any, b: Any, dims: Any, eps: float) -> Any:
        n = prod([x.shape[d] for d in dims])
        m = total(x, dims, True) / x.dtype.type(n)
        y = x - m
        rstd = 1 / np.sqrt(total(y * y, dims, True) / x.dtype.type(n) + x.dtype.type(eps))
        y *= rstd
        ctx.mean, ctx.rstd, ctx.dims = m, rstd, dims
        ctx.save(x, w)
        if w is not None:
            y *= w
        if b is not None:
            y += b
        return y

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved
        xhat = (x - ctx.mean) * ctx.rstd

        def dx() -> Any:
            g = dy if w is None else dy * w
            n = prod([x.shape[d] for d in ctx.dims])
            h = total(g, ctx.dims, True) / x.dtype.type(n)
            hx = total(g * xhat, ctx.dims, True) / x.dtype.type(n)
            return ctx.rstd * (g - h - xhat * hx)

        def fold(d: Any, like: Any) -> Any:
            kept = tuple(i for i, n in enumerate(like) if n == 1)
            return total(d, kept, True)

        shape = None if w is None else w.shape
        return ctx.wanted(dx, lambda: fold(dy * xhat, shape), lambda: fold(dy, shape))

    def definition(x: Any, w: Any, b: Any, dims: Any, eps: float) -> Any:  # type: ignore[override]
        centred = x - mean(x, dims, True)
        y = centred * rsqrt(mean(centred * centred, dims, True) + eps)
        y = y if w is None else y * w
        return y if b is None else y + b


def _affine(t: Any, shape: tuple[int, ...]) -> Any:
    return None if t is None else reshape(t, shape)


def _scale_and_shift(x: Any, w: Any, b: Any, dims: Any, eps: float) -> Any:
    """standardize, when only one of w and b is there."""
    if (w is None) == (b is None):
        return standardize(x, w, b, dims, eps)
    y = standardize(x, None, None, dims, eps)
    return y * w if b is None else y + b


@op(namespace="nn.functional")
def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalise over the last dimensions, of `normalized_shape`; Ba, Kiros & Hinton 2016 (arXiv:1607.06450)."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    n = len(shape)
    if n == 0 or tuple(input.shape[input.ndim - n :]) != shape:
        raise ShapeError(
            f"layer_norm{scope()}: the input {tuple(input.shape)} does not end in normalized_shape {shape}; "
            f"normalized_shape={tuple(input.shape[-max(n, 1) :])} would take it, if those are the features"
        )
    dims = tuple(range(input.ndim - n, input.ndim))
    full = (1,) * (input.ndim - n) + shape
    for name, t in (("weight", weight), ("bias", bias)):
        require(
            t is None or tuple(t.shape) == shape,
            "the {} must have shape {}, got {}",
            name,
            shape,
            t is not None and tuple(t.shape),
        )
    return _scale_and_shift(input, _affine(weight, full), _affine(bias, full), dims, eps)


@op(namespace="nn.functional")
def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """y = x / sqrt(mean x^2 + eps) w, over the last dimensions; Zhang & Sennrich 2019 (arXiv:1910.07467)."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    require(
        len(shape) > 0 and tuple(input.shape[input.ndim - len(shape) :]) == shape,
        "the input {} does not end in normalized_shape {}",
        tuple(input.shape),
        shape,
    )
    dims = tuple(range(input.ndim - len(shape), input.ndim))
    eps = float(np.finfo(input.dtype.numpy if isinstance(input, Tensor) else input.dtype).eps) if eps is None else eps
    dtype = input.dtype
    half = dtype == np.float16
    x = cast(input, np.float32) if half else input  # squares of float16 overflow at 256
    y = x * rsqrt(mean(x * x, dims, True) + eps)
    y = y if weight is None else y * weight
    return cast(y, dtype) if half else y


def _of_nothing(x: Any, w: Any, b: Any) -> Any:
    """x, which has no elements; w and b take part, so that their gradient is 0."""
    full = (1, -1) + (1,) * (x.ndim - 2) if x.ndim > 1 and x.shape[1] else (-1,) + (1,) * max(x.ndim - 2, 0)
    y = clone(x)
    y = y if w is None else y * reshape(w, full)
    return y if b is None else y + reshape(b, full)


@op(namespace="nn.functional")
def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalise each channel (dimension 1) over all other dimensions; Ioffe & Szegedy 2015 (arXiv:1502.03167).

    In training the batch's own statistics are used, and the running ones move towards them by `momentum`, the
    variance in
    its unbiased form. Otherwise the running ones are used. Raises ValueError when a batch has one value per channel
    and for eps of 0 or less; an empty batch comes back as it is and moves nothing.
    """
    if eps <= 0:
        raise ValueError(f"batch_norm{scope()}: eps must be positive, got {eps}")
    if 0 in input.shape:
        return _of_nothing(input, weight, bias)
    require(input.ndim >= 2, "expected at least (N, C), got {}", tuple(input.shape))
    c = input.shape[1]
    for name, t in (("weight", weight), ("bias", bias), ("running_mean", running_mean), ("running_var", running_var)):
        if t is not None and tuple(t.shape) != (c,):
            raise ShapeError(
                f"batch_norm{scope()}: the input {tuple(input.shape)} has {c} channels (dimension 1), but {name} has "
                f"shape {tuple(t.shape)}; make num_features {c}, or let the layer before give {t.shape[0]}"
            )
    full = (1, c) + (1,) * (input.ndim - 2)
    w, b = _affine(weight, full), _affine(bias, full)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        scale = rsqrt(reshape(running_var, full) + eps)
        scale = scale if w is None else scale * w
        shift = -reshape(running_mean, full) * scale
        return input * scale + (shift if b is None else shift + b)
    if state.anomaly:
        check_training("batch_norm")
    dims = (0, *range(2, input.ndim))
    n = prod([input.shape[d] for d in dims])
    if n <= 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}: one value has "
            "no variance. To predict, call model.eval() first; in training use larger batches, with drop_last=True in "
            "the DataLoader if the last one is left with a single example"
        )
    y = _scale_and_shift(input, w, b, dims, eps)
    if running_mean is not None:
        x = input.array if isinstance(input, Tensor) else input
        m = total(x, dims, True) / x.dtype.type(n)
        square = total((x - m) ** 2, dims) / x.dtype.type(n - 1)
        for running, batch in ((running_mean, m.reshape(-1)), (running_var, square)):
            a = running.array
            a += momentum * (batch.astype(a.dtype) - a)
            running.bump()
    return y
