"""Attention on a GPU: attn.cu, keys streaming past queries, scores never stored."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import ceil_div, contiguous, cupy, kernel

_SOURCE = "attn/attn.cu"
_WARPS, _KEYS = 8, 32  # as attn.cu


def _shared(d: int, e: int, itemsize: int) -> int:
    """Bytes of shared memory of the largest kernel: two blocks of 32 rows; a row of both and two of scores a warp."""
    return (_KEYS * (d + 1 + e + 1) + _WARPS * (d + e + 2 * _KEYS)) * itemsize


def _mask(mask: Any, q: Any, k: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """The mask as bytes or as numbers, and its steps along (B, H, T, S): 0 where it is the same for all."""
    if mask is None:
        return None, None, (0, 0, 0, 0)
    (mask,) = contiguous(mask.reshape((1,) * (4 - mask.ndim) + mask.shape))
    steps = [0 if size == 1 else step // mask.itemsize for size, step in zip(mask.shape, mask.strides)]
    if mask.dtype == bool:
        return mask.view("uint8"), None, tuple(steps)
    return None, mask.astype(q.dtype, copy=False), tuple(steps)


def _scale(q: Any, scale: float | None) -> float:
    return scale if scale is not None else 1 / math.sqrt(q.shape[3]) if q.shape[3] else 1.0


def attention(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float | None) -> tuple[Any, Any]:
    (b, h, t, d), (hk, s, e), xp = q.shape, v.shape[1:], cupy()
    q, k, v = contiguous(q, k, v)
    allowed, added, steps = _mask(mask, q, k)
    out, lse = xp.empty((b, h, t, e), q.dtype), xp.empty((b, h, t), q.dtype)
    sizes = (h, h // hk if hk else 1, t, s, d, e, *steps, causal, _scale(q, scale))
    run = kernel(_SOURCE, "attention", q.dtype)
    shared = _shared(d, e, q.dtype.itemsize)
    run(ceil_div(t, _WARPS) * b * h, _WARPS * 32, q, k, v, allowed, added, out, lse, *sizes, shared=shared)
    return out, lse


def attention_backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, mask: Any, causal: bool, scale: float | None
) -> tuple[Any, Any, Any]:
    (b, h, t, d), (hk, s, e), xp = q.shape, v.shape[1:], cupy()
    dout, q, k, v, out, lse = contiguous(dout, q, k, v, out, lse)
    allowed, added, steps = _mask(mask, q, k)
    delta, (dq, dk, dv) = xp.zeros_like(lse), (xp.empty_like(a) for a in (q, k, v))
    run = kernel(_SOURCE, "row_products", q.dtype)
    run(ceil_div(b * h * t, _WARPS), _WARPS * 32, dout, out, delta, b * h * t, e)
    sizes = (h, h // hk if hk else 1, t, s, d, e, *steps, causal, _scale(q, scale))
    shared, what = _shared(d, e, q.dtype.itemsize), (dout, q, k, v, lse, delta, allowed, added)
    run = kernel(_SOURCE, "attention_dq", q.dtype)
    run(ceil_div(t, _WARPS) * b * h, _WARPS * 32, *what, dq, *sizes, shared=shared)
    run = kernel(_SOURCE, "attention_dkv", q.dtype)
    run(ceil_div(s, _WARPS) * b * hk, _WARPS * 32, *what, dk, dv, *sizes, shared=shared)
    return dq, dk, dv
