"""The formula of quantization, on arrays: scales, codes, and back.

    q = clip(rint(w / s) + z, lo, hi),        w ~ (q - z) s,        |error| <= s / 2 inside the range

Weights take the symmetric form (z = 0, s = max|w| / 127), so that a product of two quantized numbers is a product of
integers: y = (q_x q_w) (s_x s_w). Activations may be affine: after a relu half of a symmetric range would be unused.
Jacob et al. 2017, arXiv:1712.05877, equations 1 to 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.devices import array_module

__all__ = ["absmax_scale", "affine", "dequantize_array", "minmax_scale", "nearest_scale", "quantize_array"]

Array = Any


def absmax_scale(w: Array, bits: int = 8, axis: int | None = 0) -> Array:
    """The symmetric scale s = max|w| / (2**(bits - 1) - 1), float32, one for each index of `axis` (None: one for all).

    A channel of zeros gets scale 1: scale 0 would turn its zeros into NaN, and pruning makes such channels. Raises
    ValueError for bits outside 2 ... 8 and for weights that are not finite.

    >>> absmax_scale(np.float32([[127, 1], [0, 0]])).tolist()
    [1.0, 1.0]
    """
    _check_bits(bits)
    xp = array_module(w)
    _finite(w)
    axes = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    top = xp.abs(w).max(axis=axes, initial=0)
    scale = (top / np.float32(2 ** (bits - 1) - 1)).astype(np.float32)
    # A scale below float32's normal numbers has too few bits left to divide by; such a channel is zero in all but name.
    return xp.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)


def nearest_scale(w: Array, bits: int, axis: int | None = 0) -> Array:
    """The symmetric scale of least squared error, float32, of the shares 1, .95 ... .3 of `absmax_scale`'s.

    In few bits it pays to cut off the largest weights: the others then have finer steps. At 8 bits it does not, and the
    scale is `absmax_scale`'s. Raises as `absmax_scale`.

    >>> w = np.float32([[1] * 20 + [4]])
    >>> [round(float(f(w, 2)[0]), 3) for f in (absmax_scale, nearest_scale)]
    [4.0, 1.2]
    """
    whole = absmax_scale(w, bits, axis)
    if bits == 8:
        return whole
    xp, axes = array_module(w), None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    best, found = None, whole
    for share in np.arange(20, 5, -1) / np.float32(20):
        scale = (whole * np.float32(share)).astype(np.float32)
        scale = xp.where(scale < np.finfo(np.float32).tiny, whole, scale)
        back = dequantize_array(quantize_array(w, scale, bits=bits, axis=axis), scale, axis=axis)
        error = xp.square(back - w).sum(axis=axes)
        found = scale if best is None else xp.where(error < best, scale, found)
        best = error if best is None else xp.minimum(error, best)
    return found


def minmax_scale(w: Array, bits: int = 8, axis: int | None = 0) -> tuple[Array, Array]:
    """The affine (scale, zero point) that maps min(w, 0) ... max(w, 0) to -2**(bits - 1) ... 2**(bits - 1) - 1.

    s = (max - min) / (2**bits - 1) and z = lo - rint(min / s), float32 and int32, one for each index of `axis`. 0 is in
    the range, so it is exact: z stands for it. Constant zeros get scale 1. Raises as `absmax_scale`.

    >>> minmax_scale(np.float32([[0, 255], [-1, 0]]))[1].tolist()
    [-128, 127]
    """
    _check_bits(bits)
    xp = array_module(w)
    _finite(w)
    axes = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    low, high = w.min(axis=axes, initial=0), w.max(axis=axes, initial=0)
    return affine(low, high, bits, xp)


def affine(low: Array, high: Array, bits: int, xp: Any = np) -> tuple[Array, Array]:
    """(scale, zero point) of the ranges low ... high, arrays of one shape with low <= 0 <= high."""
    # Halves: the difference of two float32 may be more than float32 holds.
    scale = 2 * ((high / 2 - low / 2).astype(np.float32) / np.float32(2**bits - 1))
    scale = xp.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)
    lo = -(2 ** (bits - 1))
    zero = xp.clip(lo - xp.rint(low.astype(np.float32) / scale), lo, -lo - 1)
    return scale, zero.astype(np.int32)


def quantize_array(w: Array, scale: Array, zero_point: Array | int = 0, bits: int = 8, axis: int | None = 0) -> Array:
    """int8 codes: clip(rint(w / scale) + zero_point, lo, hi), rounding half to even, by the kernel `quantize`.

    With zero_point 0, a number, the range is symmetric, -(2**(bits-1) - 1) ... 2**(bits-1) - 1, else it has one code
    more below. `scale` and `zero_point` are one number, or one for each index of `axis`. Raises ValueError for bits
    outside 2 ... 8, scales that are not positive, and zero points outside the range.

    >>> quantize_array(np.float32([[0.5, 1.5, -300.0]]), 1.0).tolist()
    [[0, 2, -127]]
    """
    _check_bits(bits)
    high = 2 ** (bits - 1) - 1
    symmetric = np.ndim(zero_point) == 0 and zero_point == 0
    low = -high if symmetric else -high - 1
    z = _along(zero_point, w, axis)
    if not ((z >= low) & (z <= high)).all():
        raise ValueError(f"zero_point must lie in {low} ... {high} for {bits} bits, got {zero_point}")
    s = _along(scale, w, axis)
    if not ((s > 0) & array_module(s).isfinite(s)).all():
        raise ValueError("scales must be positive and finite")
    floats = w if w.dtype in (np.float32, np.float64) else w.astype(np.float32)
    if axis is None:
        return kernels.quantize(floats[None], s, z.astype(np.int8), low, high, 0).reshape(w.shape)
    return kernels.quantize(floats, s, z.astype(np.int8), low, high, axis)


def dequantize_array(q: Array, scale: Array, zero_point: Array | int = 0, axis: int | None = 0) -> Array:
    """(q - zero_point) * scale of codes int8 or uint8, float32, by the kernel `dequantize`.

    >>> dequantize_array(np.int8([[2, -127]]), 0.5).tolist()
    [[1.0, -63.5]]
    """
    s, z = _along(scale, q, axis), _along(zero_point, q, axis).astype(q.dtype)
    if axis is None:
        return kernels.dequantize(q[None], s, z, 0).reshape(q.shape)
    return kernels.dequantize(q, s, z, axis)


def _along(value: Array, w: Array, axis: int | None) -> Array:
    """Scales or zero points as a line, one for each index of `axis` of w; a single one for None."""
    xp = array_module(w)
    return xp.broadcast_to(xp.asarray(value, dtype=np.float32).reshape(-1), (1 if axis is None else w.shape[axis],))


def _finite(w: Array) -> None:
    if not array_module(w).isfinite(w).all():
        raise ValueError(f"cannot quantize an array of shape {tuple(w.shape)} that holds NaN or infinity")


def _check_bits(bits: Any) -> None:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer in 2 ... 8, got {bits!r}")
