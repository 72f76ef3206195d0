"""Attention by its definition, all scores at once: what a NumPy user would write, with care where no key is allowed.

Vaswani et al. 2017, "Attention Is All You Need", equation 1. Heads are grouped as in Ainslie et al. 2023,
arXiv:2305.13245.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float | None
) -> tuple[Array, Array]:
    """p = exp(scores - max), out = p v / sum(p), lse = max + log(sum(p))"""
    b, h, t, _ = q.shape
    scores, allowed = _scores(q, k, mask, causal, scale)  # (B, Hkv, H / Hkv, T, S)
    m = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        p = np.exp(scores - np.where(m == -np.inf, 0, m).astype(q.dtype))
        total = p.sum(axis=-1, keepdims=True)
        out = _combine(p, allowed, v[:, :, None]) / np.where(total == 0, 1, total).astype(q.dtype)
        lse = m + np.log(total)
    return out.reshape(b, h, t, v.shape[3]), lse.reshape(b, h, t)


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    mask: Array | None,
    causal: bool,
    scale: float | None,
) -> tuple[Array, Array, Array]:
    """p = exp(scores - lse), ds = p * (dout v^T - sum(dout * out)); dq = ds k, dk = ds^T q, dv = p^T dout"""
    scores, allowed = _scores(q, k, mask, causal, scale)
    q5, k5, v5, dout5 = _heads(q, k), k[:, :, None], v[:, :, None], _heads(dout, k)
    lse5 = lse.reshape(*scores.shape[:-1], 1)
    with np.errstate(invalid="ignore", over="ignore"):
        p = np.where(allowed & (lse5 != -np.inf), np.exp(scores - lse5), 0).astype(q.dtype)
        delta = (dout * out).sum(axis=-1).reshape(lse5.shape)
        dp = dout5 @ v5.swapaxes(-1, -2)  # (B, Hkv, H / Hkv, T, S)
        ds = np.where(allowed, p * (dp - delta), 0).astype(q.dtype) * _scale(q, scale)
        dq = _combine(ds, allowed, k5)
        dk = _combine(ds.swapaxes(-1, -2), allowed.swapaxes(-1, -2), q5).sum(axis=2)
        dv = _combine(p.swapaxes(-1, -2), allowed.swapaxes(-1, -2), dout5).sum(axis=2)
    return dq.reshape(q.shape), dk, dv


def _scale(q: Array, scale: float | None) -> Any:
    d = q.shape[3]
    return q.dtype.type((1 / math.sqrt(d) if d else 1.0) if scale is None else scale)


def _heads(q: Array, k: Array) -> Array:
    """Query heads by the key head that they read.    (B, H, T, D) -> (B, Hkv, H / Hkv, T, D)"""
    b, h, t, d = q.shape
    g = k.shape[1]
    return q.reshape(b, g, h // g if g else 0, t, d)


def _scores(q: Array, k: Array, mask: Array | None, causal: bool, scale: float | None) -> tuple[Array, Array]:
    """Scores, -inf where not allowed, and where they are allowed.    both (B, Hkv, H / Hkv, T, S)"""
    (b, h, t, _), s = q.shape, k.shape[2]
    with np.errstate(invalid="ignore", over="ignore"):
        scores = _heads(q, k) @ k[:, :, None].swapaxes(-1, -2) * _scale(q, scale)
    allowed = np.ones((t, s), bool)
    if causal:
        allowed = np.tril(allowed)
    if mask is None:
        allowed = np.broadcast_to(allowed, scores.shape)
    else:
        full = np.broadcast_to(mask, (b, h, t, s)).reshape(scores.shape)
        if mask.dtype == bool:
            allowed = allowed & full
        else:
            allowed = allowed & (full != -np.inf)
            scores = scores + full
    return np.where(allowed, scores, -np.inf).astype(q.dtype, copy=False), allowed


def _combine(weights: Array, allowed: Array, values: Array) -> Array:
    """weights @ values, where a value that is not allowed takes no part even if it is NaN or Inf (0 * NaN is NaN)."""
    finite = np.isfinite(values)
    if finite.all():
        return weights @ values
    y = weights @ np.where(finite, values, 0).astype(values.dtype)
    odd = np.where(finite, 0, values).astype(values.dtype)
    terms = weights[..., None] * odd[..., None, :, :]
    return y + np.where(allowed[..., None] & ~finite[..., None, :, :], terms, 0).sum(axis=-2, dtype=y.dtype)
