"""Scaled dot-product attention and its gradients.

    q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, E) -> out (B, H, T, E), lse (B, H, T)

float32 and float64; sums are taken in the dtype of the arrays. A score that is masked (by False, by -inf, by causal) takes no part, whatever
k and v hold there... except that a NaN score stays NaN; a row with no key left gives zeros, lse = -inf and zero gradients. T = 0, S = 0, D = 0 are legal.
Every variant takes (q, k, v, mask, causal, scale), and (dout, q, k, v, out, lse, mask, causal, scale), all positional.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

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
        ),
    )
    for name, check in (("attention", checks.attention), ("attention_backward", checks.attention_backward))
)
