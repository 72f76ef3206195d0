"""Recurrences over whole sequences: one layer in one direction, the products with its inputs already made.

    rnn            gx (L, H), h (B, H), w (H, H)            -> y (L, H), h_n, before
    lstm           gx (L, 4 H), h, c (B, H), w (4 H, H)     -> y, h_n, c_n, gates, cells, before
    gru            gx (L, 3 H), h, w (3 H, H), b (3 H,)     -> y, h_n, gates, inner, before
    rnn_backward   dy, dh_n, w, y                           -> da (L, H), dh
    lstm_backward  dy, dh_n, dc_n, w, c, gates, cells       -> da (L, 4 H), dh, dc
    gru_backward   dy, dh_n, w, gates, inner, before        -> da (L, 3 H), dp (L, 3 H), dh

gx is W_ih x_t + b of every step. s being the logistic function, a step is

    rnn    h' = tanh(gx + W h), or relu
    lstm   i, f, o = s(gx + W h),  g = tanh(gx + W h),  in the order i, f, g, o
           c' = f c + i g,  h' = o tanh c'
    gru    p = W h + b;  r, z = s(gx + p),  n = tanh(gx_n + r p_n)
           h' = (h - n) z + n

Sequences of different lengths lie packed: step t has sizes[t] rows, those of the sequences that still run, the longest
first, and the rows of all steps stand one after the other, L = sum of sizes. A plain batch has sizes (B,) * T. In
reverse, sequences start at their own last step, with their rows of the initial state.

What the backward needs is kept: the gates after their functions, cells c', before h_(t-1), inner p_n (None for all
where keep is False). da is the gradient of gx; that of W is da^T before, one product over all steps, and for gru dp^T
before, dp being the gradient of p, whose sum over rows is that of b.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=getattr(checks, name),
        variants=(
            Variant("reference", load=f"minidl_kernels.recurrent.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant("fused", load=f"minidl_kernels.recurrent.cpu:{name}", note=idea),
            Variant(
                "steps",
                load=f"minidl_kernels.recurrent.cuda:{name}",
                device="cuda",
                note="a product and a kernel for the gates at each step",
            ),
        ),
    )
    for name, idea in (
        ("rnn", "W packed once; each thread takes its rows of the batch through all steps"),
        ("lstm", "as rnn; the four gates of a vector of units are one tile, their functions follow at once"),
        ("gru", "as lstm, with three gates"),
        ("rnn_backward", "as rnn, from the last step to the first"),
        ("lstm_backward", "as rnn_backward; tanh c is computed again rather than stored"),
        ("gru_backward", "as rnn_backward"),
    )
)
