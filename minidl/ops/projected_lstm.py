"""Long short-term memory whose output is projected to fewer numbers before it goes back: a large memory at less cost.

Layout of the steps, and what is done outside the recurrence, as in minidl/ops/recurrent.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices
from minidl.autograd import Op, op, require
from minidl.ops.exponentials import sigmoid
from minidl.ops.linalg import linear
from minidl.ops.recurrent import _dense, _in_time, _join, _sigmoid, _steps, _times, _work
from minidl.ops.splitting import chunk
from minidl.ops.trigonometry import tanh


@op()
class projected_lstm_scan(Op):
    """LSTM with a projection of its output (Sak et al. 2014, arXiv:1402.1128).

        a_t = gx_t + W_hh h_(t-1),  split into i, f, g, o as in lstm_scan;    c_t = f c_(t-1) + i g
        u_t = o tanh(c_t);    h_t = W_hr u_t

    gx (L, 4 H): W_ih x_t + b of all steps; h (B, P), c (B, H); w (4 H, P); r (P, H), P < H -> y (L, P): every h_t; h_n
    (B, P), c_n (B, H). Backward is lstm_scan's with du = dh W_hr in place of dh, and dW_hr = sum_t dh_t u_t.

    Why: as for the LSTM, with one product more: dh_t goes back through W_hr before it meets the gates.
    Try: projected_lstm_scan(randn(5, 12), randn(3, 2), randn(3, 3), randn(12, 2), randn(2, 3), [3, 2])
    """

    gates: Any = None  # i, f, g, o of every step
    squashed: Any = None  # tanh(c_t)
    h_before: Any = None
    c_before: Any = None

    def shape(gx: Any, h: Any, c: Any, w: Any, r: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        require(
            len(gx) == len(w) == len(r) == 2 and gx[1] == w[0] == 4 * r[1] and w[1] == r[0],
            "gx must be (L, 4 H), w_hh (4 H, P) and w_hr (P, H), got {}, {} and {}", gx, w, r,
        )  # fmt: skip
        sizes = list(batch_sizes)
        require(sum(sizes) == gx[0], "batch_sizes add up to {} rows, gx {} has others", sum(sizes), gx)
        require(sizes == sorted(sizes, reverse=True), "batch_sizes must not grow from step to step, got {}", sizes)
        rows = sizes[0] if sizes else h[0]
        require(
            tuple(h) == (rows, r[0]) and tuple(c) == (rows, r[1]),
            "the states must be h (B, P) = {} and c (B, H) = {}, got {} and {}", (rows, r[0]), (rows, r[1]), h, c,
        )  # fmt: skip
        return (gx[0], r[0]), h, c

    def forward(
        ctx, gx: Any, h: Any, c: Any, w: Any, r: Any, batch_sizes: Any, reverse: bool = False
    ) -> Any:  # fmt: skip
        projected_lstm_scan.shape(gx.shape, h.shape, c.shape, w.shape, r.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, c, w, r)
        ctx.steps = _steps(batch_sizes, reverse)
        rows, n, m = len(gx), c.shape[1], h.shape[1]
        xp, keep = devices.array_module(gx), ctx.recording
        gates, h, c = gx.astype(work), h.astype(work), c.astype(work)
        product, project = _times(w, work), _times(r, work)
        y, squashed = xp.empty((rows, m), work), xp.empty((rows, n), work)
        h_before: Any = xp.empty((rows, m), work) if keep else None
        c_before: Any = xp.empty((rows, n), work) if keep else None
        with np.errstate(over="ignore"):
            for start, end, b in ctx.steps:
                a, hb, cb, s = gates[start:end], h[:b], c[:b], squashed[start:end]
                if keep:
                    h_before[start:end], c_before[start:end] = hb, cb
                a += product(hb)
                _sigmoid(a[:, : 2 * n])
                np.tanh(a[:, 2 * n : 3 * n], out=a[:, 2 * n : 3 * n])
                _sigmoid(a[:, 3 * n :])
                cb *= a[:, n : 2 * n]
                cb += a[:, :n] * a[:, 2 * n : 3 * n]
                np.tanh(cb, out=s)
                hb[...] = project(a[:, 3 * n :] * s)
                y[start:end] = hb
        if keep:
            ctx.gates, ctx.squashed, ctx.h_before, ctx.c_before = gates, squashed, h_before, c_before
        return y.astype(dtype, copy=False), h.astype(dtype, copy=False), c.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any, dc: Any) -> Any:
        gx, _, _, w, r = ctx.saved
        work = ctx.gates.dtype
        rows, n = ctx.squashed.shape
        gates = ctx.gates.reshape(rows, 4, n)
        i, f, g, o = (gates[:, k] for k in range(4))
        s = ctx.squashed
        da = gates * (1 - gates)  # the part of da that does not depend on the gradient; the loop multiplies it in
        da[:, 0] *= g
        da[:, 1] *= ctx.c_before
        np.multiply(i, 1 - g * g, out=da[:, 2])
        da[:, 3] *= s
        through = o * (1 - s * s)
        weight, projection = _dense(w, work), _dense(r, work)
        each = dy.astype(work)  # becomes dh_t of every step
        dh, dc = dh.astype(work), dc.astype(work)
        flat = da.reshape(rows, 4 * n)
        for start, end, b in reversed(ctx.steps):
            d, dhb, dcb = da[start:end], dh[:b], dc[:b]
            each[start:end] += dhb
            du = kernels.matmul(each[start:end], projection)
            dcb += du * through[start:end]
            d[:, :3] *= dcb[:, None]
            d[:, 3] *= du
            dcb *= f[start:end]
            dhb[...] = kernels.matmul(flat[start:end], weight)
        return ctx.wanted(
            lambda: flat.astype(gx.dtype, copy=False),
            lambda: dh.astype(gx.dtype, copy=False),
            lambda: dc.astype(gx.dtype, copy=False),
            lambda: kernels.matmul(flat.T, ctx.h_before).astype(gx.dtype, copy=False),
            lambda: kernels.matmul(each.T, o * s).astype(gx.dtype, copy=False),
        )

    def definition(  # type: ignore[override]
        gx: Any, h: Any, c: Any, w: Any, r: Any, batch_sizes: Any, reverse: bool = False
    ) -> Any:
        pieces = []
        for start, end, b in _steps(batch_sizes, reverse):
            i, f, g, o = chunk(gx[start:end] + linear(h[:b], w), 4, -1)
            cell = sigmoid(f) * c[:b] + sigmoid(i) * tanh(g)
            pieces.append(linear(sigmoid(o) * tanh(cell), r))
            h, c = _join(pieces[-1], h, b), _join(cell, c, b)
        return _in_time(pieces, reverse), h, c
