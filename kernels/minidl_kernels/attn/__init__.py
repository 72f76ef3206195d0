"""Scaled dot-product attention and its gradients.

    q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, E) -> out (B, H, T, E), lse (B, H, T)

float32 and float64; sums are taken in the dtype of the arrays. A key that a query may not attend to (by False, by a
mask of -inf, by causal) takes no part, whatever k and v hold there, NaN included. A query without keys gives zeros,
lse = -inf and zero gradients. T = 0, S = 0, D = 0 are legal.

Every variant takes (q, k, v, mask, causal, scale), or (dout, q, k, v, out, lse, mask, causal, scale), all positional.
"""

from __future__ import annotations

from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _few_queries(q: Any, k: Any, *rest: Any) -> bool:
    """Whether a block of queries would be mostly empty. Measured on Zen 4 (AVX-512) against `blas`."""
    t, s = q.shape[2], k.shape[2]
    return t == 1 or (t <= 4 and s < 512)


def _backward_cost(dout: Any, q: Any, k: Any, *rest: Any) -> float:
    return 1.0 if _few_queries(q, k) else 3.0


def _fits(q: Any, v: Any) -> bool:
    """What the kernels of attn.cu have registers and shared memory for."""
    most = 256 if q.dtype == "float32" else 128
    return bool(max(q.shape[3], v.shape[3]) <= most)


def _fits_forward(q: Any, k: Any, v: Any, *rest: Any) -> bool:
    return _fits(q, v)


def _fits_backward(dout: Any, q: Any, k: Any, v: Any, *rest: Any) -> bool:
    return _fits(q, v)


OPS = tuple(
    Op(
        name,
        check=check,
        variants=(
            Variant(
                "reference",
                load=f"minidl_kernels.attn.reference:{name}",
                cost=REFERENCE,
                note="softmax(q k^T * scale + mask) v, all scores at once",
            ),
            Variant(
                "blas",
                load=f"minidl_kernels.attn.blas:{name}",
                cost=cost,
                note="the same, on one BLAS thread",
            ),
            Variant(
                "streaming",
                load=f"minidl_kernels.attn.cpu:{name}",
                cost=2.0,
                note="blocks of keys stream past blocks of queries; scores never leave the cache",
            ),
            Variant(
                "streaming",
                load=f"minidl_kernels.attn.cuda:{name}",
                device="cuda",
                accepts=fits,
                needs="at most 256 features (float64: 128)",
                note="blocks of keys stream past queries through shared memory; scores are never stored",
            ),
        ),
    )
    for name, check, cost, fits in (
        ("attention", checks.attention, 3.0, _fits_forward),
        ("attention_backward", checks.attention_backward, _backward_cost, _fits_backward),
    )
)
