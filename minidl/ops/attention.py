"""Scaled dot-product attention: each query takes the mean of the values, weighted by how well their keys match it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices
from minidl.autograd import Op, op, require
from minidl.ops.axes import transpose
from minidl.ops.common import broadcast, widened
from minidl.ops.dropout import dropout
from minidl.ops.linalg import matmul
from minidl.ops.masks import where
from minidl.ops.shapes import reshape
from minidl.ops.softmax import softmax
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor


@op()
class attention(Op):
    """y = softmax(q k^T scale + mask) v    (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)

    q (B, H, T, D), k (B, G, S, D), v (B, G, S, E) -> y (B, H, T, E); G divides H (grouped heads, arXiv:2305.13245).
    mask: bool, True = attend, or numbers to add, broadcast to (B, H, T, S). causal: row t sees columns s <= t. A
    row that
    sees nothing gives 0. The scores are never stored: backward computes them again from each row's log-sum-exp.

    Why: out = P V with P = softmax(S), S = scale Q K^T: dV = P^T dout, dP = dout V^T, dS = P (dP - row sums of dP P),
         dQ = scale dS K, dK = scale dS^T Q.
    Try: attention(randn(1, 2, 3, 2), randn(1, 2, 3, 2), randn(1, 2, 3, 2))
    """

    def shape(q: Any, k: Any, v: Any, mask: Any = None, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        require(len(q) == len(k) == len(v) == 4, "q, k and v must be (B, H, T, D), got {}, {} and {}", q, k, v)
        require(q[3] == k[3], "q {} and k {} must have the same last size", q, k)
        require(k[:3] == v[:3], "k {} and v {} must have the same batch, heads and length", k, v)
        require(
            q[0] == k[0] and k[1] > 0 and q[1] % k[1] == 0, "q {} and k {}: batch sizes must agree, heads divide", q, k
        )
        return (*q[:3], v[3])

    def forward(ctx, q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None) -> Any:
        attention.shape(q.shape, k.shape, v.shape)
        ctx.how = (mask, causal, scale)
        y, ctx.lse = widened(kernels.attention, q, k, v, mask, causal, scale)
        ctx.save(q, k, v, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        q, k, v, y = ctx.saved
        return widened(kernels.attention_backward, dy, q, k, v, y, ctx.lse, *ctx.how)

    def definition(  # type: ignore[override]
        q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None
    ) -> Any:
        scores, seen = attention_scores(q, k, mask, causal, scale)
        p = softmax(scores, -1)
        p = p if seen is None else where(seen.any(-1, keepdims=True), p, 0.0)
        return matmul(p, repeat_heads(v, q.shape[1]))


def repeat_heads(x: Any, heads: int) -> Any:
    """(B, G, S, D) -> (B, H, S, D): each group's head for all of its queries."""
    b, g, s, d = x.shape
    if g == heads:
        return x
    return reshape(broadcast_to(reshape(x, (b, g, 1, s, d)), (b, g, heads // g, s, d)), (b, heads, s, d))


def attention_scores(q: Any, k: Any, mask: Any, causal: bool, scale: float | None) -> tuple[Any, Any]:
    """q k^T scale + mask, -inf where unseen (0 in rows that see nothing), and what is seen, a bool array or None."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = matmul(q, transpose(repeat_heads(k, q.shape[1]), -2, -1)) * scale
    seen = np.tril(np.ones((q.shape[-2], k.shape[-2]), bool)) if causal else None
    if mask is not None:
        plain = mask.array if isinstance(mask, Tensor) else mask
        seen = None if seen is None else devices.move(seen, devices.device_of(plain))
        if plain.dtype == bool:
            seen = plain if seen is None else seen & plain
        else:
            scores = scores + mask
            hidden = plain == -np.inf
            if devices.is_cuda_array(hidden) or hidden.any():  # on a GPU the host does not wait to find out
                seen = ~hidden if seen is None else seen & ~hidden
    if seen is not None:
        some = seen.any(-1, keepdims=True)
        none_hides = not devices.is_cuda_array(seen) and bool(some.all())
        plain = scores.array if isinstance(scores, Tensor) else scores
        seen = np.broadcast_to(devices.move(seen, devices.device_of(plain)), plain.shape)
        scores = where(seen, scores, -np.inf)
        if not none_hides:
            empty = ~seen.any(-1, keepdims=True)
            scores = where(np.broadcast_to(empty, seen.shape), 0.0, scores)
    return scores, seen


@op(namespace="nn.functional")
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k^T / sqrt(D) + mask) v, torch's arguments; any leading dimensions.

    query (..., T, D), key (..., S, D), value (..., S, E) -> (..., T, E). A bool mask is True where a query may
    look; a float
    mask is added. Raises RuntimeError for a mask together with is_causal, and ShapeError for shapes that do not fit.

    Try: scaled_dot_product_attention(randn(1, 2, 3, 2), randn(1, 2, 3, 2), randn(1, 2, 3, 2))
    """
    if attn_mask is not None and is_causal:
        raise RuntimeError("Explicit attn_mask should not be set when is_causal=True")
    q, k, v, mask = query, key, value, attn_mask
    require(min(q.ndim, k.ndim, v.ndim) >= 2, "query, key and value need at least two dimensions")
    if not enable_gqa:
        lead = broadcast(tuple(q.shape[:-2]), tuple(k.shape[:-2]), tuple(v.shape[:-2]))
        q, k, v = (x if tuple(x.shape[:-2]) == lead else broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v))
    lead = tuple(q.shape[:-2])
    full = (*lead, q.shape[-2], k.shape[-2])
    needs_grad = isinstance(mask, Tensor) and mask.requires_grad
    q4, k4, v4 = (
        x
        if x.ndim == 4
        else reshape(x, (1,) * (4 - x.ndim) + tuple(x.shape))
        if x.ndim < 4
        else reshape(x, (-1, *x.shape[-3:]))
        for x in (q, k, v)
    )
    if mask is not None:
        plain = mask.array if isinstance(mask, Tensor) else mask
        if plain.dtype == bool or not needs_grad:
            mask = np.broadcast_to(plain, full).reshape(*q4.shape[:3], k4.shape[2]) if len(lead) != 2 else plain
    if dropout_p > 0.0 or needs_grad:
        mask4 = reshape(broadcast_to(mask, full), (*q4.shape[:3], k4.shape[2])) if needs_grad else mask
        scores, seen = attention_scores(q4, k4, mask4, is_causal, scale)
        p = softmax(scores, -1)
        p = p if seen is None else where(np.broadcast_to(seen.any(-1, keepdims=True), seen.shape), p, 0.0)
        y = matmul(dropout(p, dropout_p), repeat_heads(v4, q4.shape[1]))
    else:
        y = attention(q4, k4, v4, mask, is_causal, scale)
    return y if q.ndim == 4 else reshape(y, (*lead, y.shape[-2], y.shape[-1]))
