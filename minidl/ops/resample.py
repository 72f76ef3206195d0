"""Changing the size of images: each output point is a weighted sum of a few input points, dimension by dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.ops.copies import clone
from minidl.ops.indexing import put
from minidl.ops.pool import adaptive_avg_pool1d, adaptive_avg_pool2d


@op()
class resample(Op):
    """y_i = sum over t of weight[t][i] x_index[t][i] along dim;    dx = dy spread with the same weights

    index (T, P) for T points that are mixed into each of P; weight (T, P), or None for 1

    Why: y is a weighted sum of points of x with constant weights; the transpose spreads with the same weights.
    Try: resample(randn(2, 3), 1, randint(0, 3, (2, 4)).array, full((2, 4), 0.5).array)
    """

    def forward(ctx, x: Any, dim: int, index: Any, weight: Any) -> Any:
        here = devices.device_of(x)
        index, weight = devices.move(index, here), None if weight is None else devices.move(weight, here)
        ctx.how, ctx.n = (dim, index, weight), x.shape[dim]
        tail = (1,) * (x.ndim - dim - 1)
        if weight is None:
            return x.take(index[0], dim)
        if x.dtype == np.uint8:
            return _of_bytes(x, dim, index, weight)
        y = 0
        for at, w in zip(index, weight):
            y = y + x.take(at, dim) * w.astype(x.dtype).reshape(-1, *tail)
        return y

    def backward(ctx, dy: Any) -> Any:
        return spread(dy, *ctx.how, ctx.n)


def _of_bytes(x: Any, dim: int, index: Any, weight: Any) -> Any:
    """The weighted sums of bytes in whole numbers, as Pillow and torch have them.

    The weights, points that are met twice taken together, become 16-bit integers of as many binary places as the
    greatest leaves room for; sums are rounded half up, and cut off at 0 and 255.
    """
    points = index.shape[1]
    matrix = np.zeros_like(weight, shape=(points, x.shape[dim]))  # P, N
    for at, w in zip(index, weight):
        matrix[np.arange(points), at] += w
    most, places = float(matrix.max()), 0
    while places < 22 and int(0.5 + most * (1 << (places + 1))) < 1 << 15:
        places += 1
    whole = np.trunc(matrix * (1 << places) + np.copysign(0.5, matrix))
    sums = whole @ np.moveaxis(x, dim, 0).reshape(x.shape[dim], -1).astype(np.float64)  # exact below 2^53
    y = np.clip(np.floor((sums + (1 << places >> 1)) / (1 << places)), 0, 255).astype(np.uint8)
    rest = x.shape[:dim] + x.shape[dim + 1 :]
    return devices.contiguous(np.moveaxis(y.reshape(points, *rest), 0, dim))


@op()
class spread(Op):
    """The gradient of resample: each dy_i, times its weights, added to the `n` points that it was mixed of

    Why: it is the transpose of resample, whose transpose is resample.
    Try: spread(randn(2, 4), 1, randint(0, 3, (2, 4)).array, full((2, 4), 0.5).array, 3)
    """

    def forward(ctx, x: Any, dim: int, index: Any, weight: Any, n: int) -> Any:
        ctx.how = (dim, index, weight)
        rows = np.moveaxis(x, dim, 0)
        here = devices.device_of(x)
        index, weight = devices.move(index, here), None if weight is None else devices.move(weight, here)
        y = np.zeros_like(x, shape=(n, *rows.shape[1:]), order="C")
        if y.size:
            for t, at in enumerate(index):
                w = 1 if weight is None else weight[t].astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
                y += put(rows * w, at, y.shape)
        return devices.contiguous(np.moveaxis(y, 0, dim))

    def backward(ctx, dy: Any) -> Any:
        return resample(dy, *ctx.how)


# -- which points, and how much of each -------------------------------------------------------------------------------


def _centres(n: int, out: int, scale: float | None, align_corners: bool, cubic: bool, real: Any) -> np.ndarray:
    """Where in the input the output points lie, computed in the precision that torch uses for the dtype."""
    if align_corners:
        step = real((n - 1) / real(out - 1)) if out > 1 else real(0)
        return np.arange(out, dtype=real) * step
    step = real(1 / scale) if scale else real(n) / real(out)
    at = (np.arange(out, dtype=real) + real(0.5)) * step - real(0.5)
    return at if cubic else np.maximum(at, real(0))


def _antialiased(
    n: int, out: int, scale: float | None, align_corners: bool, cubic: bool, real: Any
) -> tuple[np.ndarray, np.ndarray]:
    """All input points under the filter, which widens where the image shrinks; a = -0.5, as in Pillow."""
    if align_corners:
        step = float((n - 1) / (out - 1)) if out > 1 else 0.0
    else:
        step = 1 / scale if scale else n / out
    wide = max(step, 1.0)
    support, centre = (2 if cubic else 1) * wide, step * (np.arange(out) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), n)
    at = first + np.arange((last - first).max())[:, None]
    t = np.abs((at - centre + 0.5) / wide)
    if cubic:
        a = -0.5
        inner, outer = ((a + 2) * t - (a + 3)) * t * t + 1, (((t - 5) * t + 8) * t - 4) * a
        weight = np.where(t < 1, inner, np.where(t < 2, outer, 0.0))
    else:
        weight = np.maximum(1 - t, 0.0)
    weight = np.where(at < last, weight, 0.0)
    return np.minimum(at, n - 1), (weight / weight.sum(0)).astype(real)


def _nearest(n: int, out: int, scale: float | None, exact: bool) -> tuple[np.ndarray, None]:
    step = np.float32(1 / scale) if scale else np.float32(n) / np.float32(out)
    at = (np.arange(out, dtype=np.float32) + np.float32(0.5 if exact else 0.0)) * step
    return np.minimum(np.floor(at).astype(np.int64), n - 1)[None], None


def _linear(n: int, out: int, scale: float | None, align_corners: bool, real: Any) -> tuple[np.ndarray, np.ndarray]:
    at = _centres(n, out, scale, align_corners, False, real)
    left = np.minimum(np.floor(at).astype(np.int64), n - 1)
    part = np.minimum(np.maximum(at - left.astype(real), real(0)), real(1))
    return np.stack([left, np.minimum(left + 1, n - 1)]), np.stack([1 - part, part])


def _cubic(n: int, out: int, scale: float | None, align_corners: bool, real: Any) -> tuple[np.ndarray, np.ndarray]:
    """Keys 1981, with a = -0.75 as in torch; points beyond the border repeat it."""
    at = _centres(n, out, scale, align_corners, True, real)
    left = np.floor(at)
    part, a = at - left, real(-0.75)

    def near(t: Any) -> Any:  # |t| <= 1
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Any) -> Any:  # 1 < |t| < 2
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    index = np.clip(left.astype(np.int64) + np.arange(-1, 3)[:, None], 0, n - 1)
    return index, np.stack([far(part + 1), near(part), near(1 - part), far(2 - part)])


# -- the function -----------------------------------------------------------------------------------------------------

_SPATIAL = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
_MODES = ("nearest", "nearest-exact", "area", *_SPATIAL)


@op(namespace="nn.functional")
def upsample(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Any:
    """torch's older name of :func:`interpolate`.

    Try: upsample(randn(1, 2, 4), 6)
    """
    return interpolate(input, size, scale_factor, mode, align_corners)


@op(namespace="nn.functional")
def upsample_nearest(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """interpolate(mode="nearest"), under an older name.

    Try: upsample_nearest(randn(1, 2, 4), 6)
    """
    return interpolate(input, size, scale_factor)


@op(namespace="nn.functional")
def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """interpolate(mode="bilinear", align_corners=True), under an older name.

    Try: upsample_bilinear(randn(1, 1, 3, 4), 6)
    """
    return interpolate(input, size, scale_factor, "bilinear", True)


def _per_dim(value: Any, name: str, dims: int) -> list:
    if not isinstance(value, (tuple, list)):
        return [value] * dims
    if len(value) != dims:
        raise ValueError(
            f"interpolate: the input has {dims} spatial dimensions, {name} has {len(value)} values: {tuple(value)}"
        )
    return list(value)


@op(namespace="nn.functional")
def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """input (N, C, L), (N, C, H, W) or (N, C, D, H, W) at another spatial `size`, or at scale_factor times its own.

    mode "nearest", "nearest-exact", "area" (the mean of each region), "linear" (3-D input), "bilinear" or "bicubic"
    (4-D), "trilinear" (5-D). With align_corners the corner points of input and output coincide, without it their outer
    edges. Raises ValueError unless exactly one of size and scale_factor is given, NotImplementedError for a mode that
    does not fit the input. With antialias (bilinear and bicubic) the filter widens as the image shrinks. Images of
    bytes are resized in whole numbers, to the same bytes as torch's and Pillow's (nearest, bilinear and bicubic modes).

    Try: interpolate(randn(1, 2, 4), 6)
    """
    shape = tuple(input.shape)
    dims = len(shape) - 2
    if mode not in _MODES:
        raise NotImplementedError(f"interpolate: unknown mode {mode!r}; there are {', '.join(_MODES)}")
    if dims not in (1, 2, 3) or (mode in _SPATIAL and _SPATIAL[mode] != dims):
        raise NotImplementedError(f"interpolate: mode {mode!r} does not fit an input of shape {shape}")
    if antialias and not (mode in ("bilinear", "bicubic") and dims == 2):
        raise ValueError(
            "Anti-alias option is restricted to bilinear and bicubic modes and requires a 4-D tensor as input"
        )
    if mode in _SPATIAL:
        align_corners = bool(align_corners)
    elif align_corners is not None:
        raise ValueError(f"align_corners can only be set for linear, bilinear, bicubic and trilinear, not for {mode}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    require(0 not in shape[1:], "interpolate: only the batch may be empty, got {}", shape)
    if size is not None:
        if recompute_scale_factor:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        out, scales = [int(n) for n in _per_dim(size, "size", dims)], [None] * dims
    else:
        scales = _per_dim(scale_factor, "scale_factor", dims)
        out = [math.floor(n * s) for n, s in zip(shape[2:], scales)]
        if recompute_scale_factor:
            scales = [None] * dims
    require(min(out) > 0, "interpolate: input {} and output {} sizes should be greater than 0", shape[2:], tuple(out))
    if mode == "area":
        return _area(input, out)
    dtype = dtypes.as_numpy(input.dtype)
    if dtype.kind != "f" and not (mode in ("nearest", "nearest-exact", "bilinear", "bicubic") and dtype == np.uint8):
        raise NotImplementedError(f"interpolate: mode {mode!r} is not defined for {dtype}; convert with .float()")
    real = np.float32 if dtype in (np.float32, np.float16) else np.float64
    y = input
    sizes = list(enumerate(zip(shape[2:], out, scales), 2))
    for d, (n, o, s) in reversed(sizes) if dtype == np.uint8 else sizes:  # torch rounds images along their rows first
        if mode.startswith("nearest"):
            if mode == "nearest" and dims == 2 and o in (n, 2 * n):  # torch's images keep or double whole pixels then,
                s = None  # whatever the fraction of the scale
            y = resample(y, d, *_nearest(n, o, s, mode == "nearest-exact"))
        elif antialias:
            y = resample(y, d, *_antialiased(n, o, s, bool(align_corners), mode == "bicubic", real))
        elif mode == "bicubic" or o != n:  # linear modes leave a dimension alone whose size stays, as torch's do
            taps = _cubic if mode == "bicubic" else _linear
            y = resample(y, d, *taps(n, o, s, bool(align_corners), real))
    return clone(input) if y is input else y


def _regions(n: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each of `out` regions, from floor(i n / out) to ceil((i + 1) n / out)."""
    i = np.arange(out)
    first, end = i * n // out, -(-(i + 1) * n // out)
    taps = first + np.arange((end - first).max())[:, None]
    return np.minimum(taps, end - 1), np.where(taps < end, 1 / (end - first), 0.0)


def _area(input: Any, out: Sequence[int]) -> Any:
    if len(out) == 1:
        return adaptive_avg_pool1d(input, out[0])
    if len(out) == 2:
        return adaptive_avg_pool2d(input, tuple(out))
    for d, (n, o) in enumerate(zip(tuple(input.shape)[2:], out), 2):
        input = resample(input, d, *_regions(n, o))
    return input
