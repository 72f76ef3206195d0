"""Normalisation: zero mean, unit variance, over the batch (batch_norm) or over the features (layer_norm).

Each is one fused op for speed, with its definition in plain ops beside it; second derivatives are the definition's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import Op, ShapeError, op, require, state
from minidl.autograd.anomaly import check_training
from minidl.autograd.blame import scope
from minidl.ops.common import compiled, prod, row_major, total
from minidl.ops.copies import cast, clone
from minidl.ops.powers import rsqrt
from minidl.ops.reduce import mean
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor, wrap


@op()
class standardize(Op):
    """y = (x - mean) / sqrt(var + eps), mean and biased var over `dims`, then times w plus b where they are given.

    w and b broadcast to x. With g = dy w and h the mean over dims:
    dx = (g - h(g) - xhat h(g xhat)) / sqrt(var + eps),   dw = sum dy xhat,   db = sum dy

    `statistics`, if given, is a list to which mean and var are appended.

    Why: xhat does not change when x is shifted or stretched: from g its mean and its part along xhat are taken away,
         and what is left is divided by the deviation.
    Try: standardize(randn(3, 4), rand(1, 4) + 0.5, randn(1, 4), (1,), 1e-05)
    """

    def forward(ctx, x: Any, w: Any, b: Any, dims: Any, eps: float, statistics: Any = None) -> Any:
        ctx.kernel, ctx.dims = _kernel(x, w, b, dims), dims
        if ctx.kernel:
            return standardize.by_kernel(ctx, x, w, b, eps, statistics)
        n = prod([x.shape[d] for d in dims])
        m = total(x, dims, True) / x.dtype.type(n)
        y = x - m
        var = total(y * y, dims, True) / x.dtype.type(n)
        rstd = 1 / np.sqrt(var + x.dtype.type(eps))
        y *= rstd
        if statistics is not None:
            statistics += [m.reshape(-1), var.reshape(-1)]
        ctx.mean, ctx.rstd = m, rstd
        ctx.save(x, w)
        if w is not None:
            y *= w
        if b is not None:
            y += b
        return row_major(y) if dims == tuple(range(x.ndim - len(dims), x.ndim)) else y

    def by_kernel(ctx, x: Any, w: Any, b: Any, eps: float, statistics: Any) -> Any:
        """forward, where one pass of a compiled kernel does it."""
        run: Any = kernels.layer_norm if ctx.kernel == "rows" else kernels.batch_norm
        y, *ctx.found = run(_as_kernel(ctx.kernel, x, ctx.dims), _flat(w), _flat(b), eps)
        ctx.eps, ctx.sizes = eps, (None if w is None else w.shape, None if b is None else b.shape)
        if statistics is not None:
            statistics += ctx.found
        ctx.save(x, w)
        return y.reshape(x.shape)

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved
        if ctx.kernel:
            run: Any = kernels.layer_norm_backward if ctx.kernel == "rows" else kernels.batch_norm_backward
            dy, seen = (_as_kernel(ctx.kernel, a, ctx.dims) for a in (dy, x))
            found = run(dy, seen, _flat(w), *ctx.found, ctx.eps)
            return tuple(
                d.reshape(shape) if need else None for d, shape, need in zip(found, (x.shape, *ctx.sizes), ctx.needs)
            )
        xhat = (x - ctx.mean) * ctx.rstd

        def dx() -> Any:
            g = dy if w is None else dy * w
            n = prod([x.shape[d] for d in ctx.dims])
            h = total(g, ctx.dims, True) / x.dtype.type(n)
            hx = total(g * xhat, ctx.dims, True) / x.dtype.type(n)
            return ctx.rstd * (g - h - xhat * hx)

        def fold(d: Any, like: Any) -> Any:
            lead = d.ndim - len(like)
            kept = (*range(lead), *(lead + i for i, n in enumerate(like) if n == 1))
            return total(d, kept, True).reshape(like)

        shape = None if w is None else w.shape
        return ctx.wanted(dx, lambda: fold(dy * xhat, shape), lambda: fold(dy, shape))

    def definition(x: Any, w: Any, b: Any, dims: Any, eps: float, _: Any = None) -> Any:  # type: ignore[override]
        centred = x - mean(x, dims, True)
        y = centred * rsqrt(mean(centred * centred, dims, True) + eps)
        y = y if w is None else y * w
        return y if b is None else y + b


def _kernel(x: Any, w: Any, b: Any, dims: tuple[int, ...]) -> str:
    """Which compiled kernel standardises this: "rows" (the last dimensions) or "channels" (all but dimension 1)."""
    if not compiled(x, w, b) or 0 in x.shape:
        return ""
    lead = x.ndim - len(dims)
    if dims == tuple(range(lead, x.ndim)):
        full = x.shape[lead:]
        return "rows" if all(a is None or a.shape in (full, (1,) * lead + full) for a in (w, b)) else ""
    if dims == (0, *range(2, x.ndim)):
        full = (1, x.shape[1]) + (1,) * (x.ndim - 2)
        return "channels" if all(a is None or a.shape == full for a in (w, b)) else ""
    return ""


def _as_kernel(kind: str, x: Any, dims: tuple[int, ...]) -> Any:
    """x as the kernel takes it: rows as (N, D)."""
    return x.reshape(prod(x.shape[: x.ndim - len(dims)]), -1) if kind == "rows" else x


def _flat(a: Any) -> Any:
    return None if a is None else a.reshape(-1)


@op()
class rms_standardize(Op):
    """y = x / sqrt(mean x^2 + eps) w over the last dimension

    x (N, D), w (D,) or None. With g = dy w, h the mean over a row and r = 1 / sqrt(mean x^2 + eps):
    dx = r (g - x r h(g x r)),   dw = sum dy x r

    Why: xhat does not change when x is stretched: from g its part along x is taken away, the rest is divided by the
         root of the mean square.
    Try: rms_standardize(randn(3, 4), rand(4) + 0.5, 1e-05)
    """

    def forward(ctx, x: Any, w: Any, eps: float) -> Any:
        y, ctx.square = kernels.rms_norm(x, w, eps)
        ctx.eps = eps
        ctx.save(x, w)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved
        dx, dw = kernels.rms_norm_backward(dy, x, w, ctx.square, ctx.eps)
        return ctx.wanted(lambda: dx, lambda: dw)

    def definition(x: Any, w: Any, eps: float) -> Any:  # type: ignore[override]
        y = x * rsqrt(mean(x * x, -1, True) + eps)
        return y if w is None else y * w


def _affine(t: Any, shape: tuple[int, ...]) -> Any:
    return None if t is None else reshape(t, shape)


def _scale_and_shift(x: Any, w: Any, b: Any, dims: Any, eps: float, statistics: Any = None) -> Any:
    """standardize, when only one of w and b is there."""
    if (w is None) == (b is None):
        return standardize(x, w, b, dims, eps, statistics)
    y = standardize(x, None, None, dims, eps, statistics)
    return y * w if b is None else y + b


@op(namespace="nn.functional")
def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalise over the last dimensions, of `normalized_shape`; Ba, Kiros & Hinton 2016 (arXiv:1607.06450).

    Try: layer_norm(randn(2, 4), 4, rand(4) + 0.5, randn(4))
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    n = len(shape)
    if n == 0 or tuple(input.shape[input.ndim - n :]) != shape:
        raise ShapeError(
            f"layer_norm{scope()}: the input {tuple(input.shape)} does not end in normalized_shape {shape}; "
            f"normalized_shape={tuple(input.shape[-max(n, 1) :])} would take it, if those are the features"
        )
    dims = tuple(range(input.ndim - n, input.ndim))
    for name, t in (("weight", weight), ("bias", bias)):
        require(
            t is None or tuple(t.shape) == shape,
            "the {} must have shape {}, got {}",
            name,
            shape,
            t is not None and tuple(t.shape),
        )
    return _scale_and_shift(input, weight, bias, dims, eps)


@op(namespace="nn.functional")
def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """y = x / sqrt(mean x^2 + eps) w, over the last dimensions; Zhang & Sennrich 2019 (arXiv:1910.07467).

    Try: rms_norm(randn(2, 4), (4,))
    """
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
    if not half and compiled(*(a.array if isinstance(a, Tensor) else a for a in (x, weight))):
        flat = None if weight is None else reshape(weight, (-1,))
        return reshape(rms_standardize(reshape(x, (-1, prod(shape))), flat, eps), tuple(input.shape))
    y = x * rsqrt(mean(x * x, dims, True) + eps)
    y = y if weight is None else y * weight
    return cast(y, dtype) if half else y


def _of_nothing(x: Any, w: Any, b: Any) -> Any:
    """x, which has no elements; w and b take part, so that their gradient is 0."""
    full = (1, -1) + (1,) * (x.ndim - 2) if x.ndim > 1 and x.shape[1] else (-1,) + (1,) * max(x.ndim - 2, 0)
    y = clone(x)
    y = y if w is None else y * reshape(w, full)
    return y if b is None else y + reshape(b, full)


EVALUATED = 1 << 11  # elements, from which on batch norm in evaluation is one pass where no gradient is recorded


def evaluated(x: Any, parts: Any, eps: float, f: str = "", out: Any = None) -> Any:
    """batch_norm in evaluation, of arrays, with the roundings of its ops, and f ("relu", "relu6" or "") behind it.

    parts: mean, var, weight and bias, of which the last two may be None.
    """
    mean, var, w, b = parts
    scale = 1 / np.sqrt(var + eps)
    scale = scale if w is None else scale * w
    shift = mean * scale
    return kernels.channel_affine(x, scale, -shift if b is None else b - shift, f, out)


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

    Try: batch_norm(randn(4, 2), None, None, rand(2) + 0.5, randn(2), training=True)
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
        if not state.grad and not state.watch and type(input) is Tensor:
            parts = (running_mean, running_var, weight, bias)
            arrays = [a.array if isinstance(a, Tensor) else a for a in parts]
            if compiled(input.array, *arrays, least=EVALUATED):
                return wrap(evaluated(input.array, arrays, eps))
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
    statistics: list[Any] = []
    y = _scale_and_shift(input, w, b, dims, eps, statistics)
    if running_mean is not None:
        m, var = statistics
        for running, batch in ((running_mean, m), (running_var, var * (n / (n - 1)))):
            a = running.array
            a += momentum * (batch.astype(a.dtype) - a)
            running.bump()
    return y
