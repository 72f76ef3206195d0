"""Recurrent networks: what happens after the input projections, one op for a whole sequence of one layer.

A layer's products with its inputs need no loop: W_ih x_t + b for all steps is one product, made before (gx here). What
is left is the recurrence proper, which these ops run step by step: one small product with the state, and the gates.

Sequences of different lengths lie packed: step t has batch_sizes[t] rows, those of the sequences that still run, the
longest first, and the rows of all steps stand one after the other, L = sum(batch_sizes). A plain batch is the case
where all steps have B rows. In reverse, sequences start at their own last step, with their rows of the initial state.

Backward in a plain pass: all factors that do not depend on the gradient are made for all steps at once, so the loop
back is as lean as the one forward, and dW is one product over all steps. Second derivatives are the definition's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices
from minidl.autograd import Op, op, require
from minidl.ops.common import total
from minidl.ops.exponentials import sigmoid
from minidl.ops.hard_activations import relu
from minidl.ops.joining import cat
from minidl.ops.linalg import linear
from minidl.ops.splitting import chunk
from minidl.ops.trigonometry import tanh
from minidl.storage import Packed


def _steps(batch_sizes: Sequence[int], reverse: bool) -> list[tuple[int, int, int]]:
    """(first row, end row, number of rows) of each step, in the order in which they run."""
    steps = [(end - b, end, b) for end, b in zip(accumulate(batch_sizes), batch_sizes, strict=True)]
    return steps[::-1] if reverse else steps


def _check(gates: int, gx: Any, states: Sequence[Any], w: Any, batch_sizes: Sequence[int]) -> None:
    """The shape rule that the three share; kernels must not meet anything else."""
    require(
        len(gx) == 2 and len(w) == 2 and w[0] == gates * w[1] == gx[1],
        "gx must be (L, {} H) and w_hh ({} H, H), got {} and {}", gates, gates, gx, w,
    )  # fmt: skip
    sizes = list(batch_sizes)
    require(sum(sizes) == gx[0], "batch_sizes add up to {} rows, gx {} has others", sum(sizes), gx)
    require(sizes == sorted(sizes, reverse=True), "batch_sizes must not grow from step to step, got {}", sizes)
    for h in states:
        require(
            len(h) == 2 and h[1] == w[1] and (not sizes or h[0] == sizes[0]),
            "a state must be (B, H) = ({}, {}), got {}", sizes[0] if sizes else 0, w[1], h,
        )  # fmt: skip


def _work(dtype: Any) -> Any:
    """float16 is computed in float32 and rounded at the end."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _times(w: Any, dtype: Any, b: Any = None) -> Any:
    """h -> h W^T + b for a float or an int8 weight."""
    if isinstance(w, Packed):
        return lambda h: w.linear(h, b)
    w = w.astype(dtype, copy=False)
    return lambda h: kernels.linear(h, w, b)


def _dense(w: Any, dtype: Any) -> Any:
    return (w.dequantize() if isinstance(w, Packed) else w).astype(dtype, copy=False)


def _sigmoid(x: Any) -> None:
    """1 / (1 + e^-x), in place. e^-x may overflow to infinity, whose inverse is the right 0."""
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    np.reciprocal(x, out=x)


def _join(new: Any, old: Any, b: int) -> Any:
    """The state after a step of b rows: sequences that do not run at that step keep theirs."""
    return new if b == old.shape[0] else cat([new, old[b:]], 0)


def _in_time(pieces: list, reverse: bool) -> Any:
    return cat(pieces[::-1] if reverse else pieces, 0)


@op()
class rnn_scan(Op):
    """h_t = tanh(gx_t + W_hh h_(t-1)), or relu.    (Elman 1990, doi 10.1207/s15516709cog1402_1)

    gx (L, H): W_ih x_t + b of all steps; h (B, H); w (H, H) -> y (L, H): every h_t; h_n (B, H)
    """

    before: Any = None  # h_(t-1) of every step
    y: Any = None

    def shape(gx: Any, h: Any, w: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        _check(1, gx, [h], w, batch_sizes)
        return gx, h

    def forward(
        ctx, gx: Any, h: Any, w: Any, batch_sizes: Any, reverse: bool = False, nonlinearity: str = "tanh"
    ) -> Any:
        _check(1, gx.shape, [h.shape], w.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, w)
        ctx.steps, ctx.nonlinearity = _steps(batch_sizes, reverse), nonlinearity
        xp = devices.array_module(gx)
        y, state, product = gx.astype(work), h.astype(work), _times(w, work)
        ctx.before = xp.empty_like(y) if ctx.recording else None
        for start, end, b in ctx.steps:
            a, hb = y[start:end], state[:b]
            if ctx.before is not None:
                ctx.before[start:end] = hb
            a += product(hb)
            np.tanh(a, out=a) if nonlinearity == "tanh" else np.maximum(a, 0, out=a)
            hb[...] = a
        ctx.y = y if ctx.recording else None
        return y.astype(dtype), state.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any) -> Any:
        gx, _, w = ctx.saved
        y, work = ctx.y, ctx.y.dtype
        da = 1 - y * y if ctx.nonlinearity == "tanh" else (y > 0).astype(work)
        weight, dh, dy = _dense(w, work), dh.astype(work), dy.astype(work, copy=False)
        for start, end, b in reversed(ctx.steps):
            d, dhb = da[start:end], dh[:b]
            dhb += dy[start:end]
            d *= dhb
            dhb[...] = kernels.matmul(d, weight)
        return ctx.wanted(
            lambda: da.astype(gx.dtype, copy=False),
            lambda: dh.astype(gx.dtype, copy=False),
            lambda: kernels.matmul(da.T, ctx.before).astype(gx.dtype, copy=False),
        )

    def definition(  # type: ignore[override]
        gx: Any, h: Any, w: Any, batch_sizes: Any, reverse: bool = False, nonlinearity: str = "tanh"
    ) -> Any:
        f = tanh if nonlinearity == "tanh" else relu
        pieces = []
        for start, end, b in _steps(batch_sizes, reverse):
            pieces.append(f(gx[start:end] + linear(h[:b], w)))
            h = _join(pieces[-1], h, b)
        return _in_time(pieces, reverse), h


@op()
class lstm_scan(Op):
    """Long short-term memory with forget gates (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

        a_t = gx_t + W_hh h_(t-1),  split into four: i, f, o through sigmoid, g through tanh, in the order i, f, g, o
        c_t = f c_(t-1) + i g
        h_t = o tanh(c_t)

    gx (L, 4 H): W_ih x_t + b of all steps; h, c (B, H); w (4 H, H) -> y (L, H): every h_t; h_n, c_n (B, H). Backward:

        dc_t += dh_t o (1 - tanh(c_t)^2);    da_i = dc g i (1 - i),  da_f = dc c_(t-1) f (1 - f),  da_g = dc i (1 - g^2)
        da_o = dh tanh(c) o (1 - o);         dh_(t-1) = da W_hh,  dc_(t-1) = dc f
    """

    gates: Any = None  # i, f, g, o of every step
    squashed: Any = None  # tanh(c_t)
    h_before: Any = None
    c_before: Any = None

    def shape(gx: Any, h: Any, c: Any, w: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        _check(4, gx, [h, c], w, batch_sizes)
        return (gx[0], w[1]), h, c

    def forward(ctx, gx: Any, h: Any, c: Any, w: Any, batch_sizes: Any, reverse: bool = False) -> Any:
        _check(4, gx.shape, [h.shape, c.shape], w.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, c, w)
        ctx.steps = _steps(batch_sizes, reverse)
        rows, n = len(gx), h.shape[1]
        xp, keep = devices.array_module(gx), ctx.recording
        gates, h, c, product = gx.astype(work), h.astype(work), c.astype(work), _times(w, work)
        y = xp.empty((rows, n), work)
        squashed = xp.empty((rows, n), work)  # tanh(c_t)
        h_before: Any = xp.empty((rows, n), work) if keep else None
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
                np.multiply(a[:, 3 * n :], s, out=hb)
                y[start:end] = hb
        if keep:
            ctx.gates, ctx.squashed, ctx.h_before, ctx.c_before = gates, squashed, h_before, c_before
        return y.astype(dtype, copy=False), h.astype(dtype, copy=False), c.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any, dc: Any) -> Any:
        gx, _, _, w = ctx.saved
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
        weight, dy = _dense(w, work), dy.astype(work, copy=False)
        dh, dc = dh.astype(work), dc.astype(work)
        flat = da.reshape(rows, 4 * n)
        for start, end, b in reversed(ctx.steps):
            d, dhb, dcb = da[start:end], dh[:b], dc[:b]
            dhb += dy[start:end]
            dcb += dhb * through[start:end]
            d[:, :3] *= dcb[:, None]
            d[:, 3] *= dhb
            dcb *= f[start:end]
            dhb[...] = kernels.matmul(flat[start:end], weight)
        return ctx.wanted(
            lambda: flat.astype(gx.dtype, copy=False),
            lambda: dh.astype(gx.dtype, copy=False),
            lambda: dc.astype(gx.dtype, copy=False),
            lambda: kernels.matmul(flat.T, ctx.h_before).astype(gx.dtype, copy=False),
        )

    def definition(gx: Any, h: Any, c: Any, w: Any, batch_sizes: Any, reverse: bool = False) -> Any:  # type: ignore[override]
        pieces = []
        for start, end, b in _steps(batch_sizes, reverse):
            i, f, g, o = chunk(gx[start:end] + linear(h[:b], w), 4, -1)
            cell = sigmoid(f) * c[:b] + sigmoid(i) * tanh(g)
            pieces.append(sigmoid(o) * tanh(cell))
            h, c = _join(pieces[-1], h, b), _join(cell, c, b)
        return _in_time(pieces, reverse), h, c


@op()
class gru_scan(Op):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), in torch's variant: r acts after the product.

        r = sigmoid(gx_r + W_r h + b_r),  z = sigmoid(gx_z + W_z h + b_z)
        n = tanh(gx_n + r (W_n h + b_n))        (Cho et al.: W_n (r h))
        h_t = (1 - z) n + z h

    gx (L, 3 H): W_ih x_t + b_ih of all steps, in the order r, z, n; h (B, H); w (3 H, H); b (3 H,), the bias b_hh, or
    None -> y (L, H): every h_t; h_n (B, H). Backward, all of it linear in dh:

        da_n = dh (1 - z) (1 - n^2),  da_z = dh (h - n) z (1 - z),  da_r = da_n (W_n h + b_n) r (1 - r)
        dh_(t-1) = dh z + [da_r, da_z, r da_n] W
    """

    gates: Any = None  # r, z, n of every step
    before: Any = None  # h_(t-1)
    inner: Any = None  # W_n h_(t-1) + b_n

    def shape(gx: Any, h: Any, w: Any, b: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        _check(3, gx, [h], w, batch_sizes)
        require(b is None or tuple(b) == (w[0],), "the bias {} does not fit the weight {}", b, w)
        return (gx[0], w[1]), h

    def forward(ctx, gx: Any, h: Any, w: Any, b: Any, batch_sizes: Any, reverse: bool = False) -> Any:
        gru_scan.shape(gx.shape, h.shape, w.shape, None if b is None else b.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, w, b)
        ctx.steps = _steps(batch_sizes, reverse)
        rows, m = len(gx), h.shape[1]
        xp, keep = devices.array_module(gx), ctx.recording
        gates, h = gx.astype(work), h.astype(work)
        product = _times(w, work, None if b is None else b.astype(work, copy=False))
        y = xp.empty((rows, m), work)
        before: Any = xp.empty((rows, m), work) if keep else None
        inner: Any = xp.empty((rows, m), work) if keep else None
        with np.errstate(over="ignore"):
            for start, end, size in ctx.steps:
                a, hb = gates[start:end], h[:size]
                p = product(hb)
                if keep:
                    before[start:end], inner[start:end] = hb, p[:, 2 * m :]
                rz, z, n = a[:, : 2 * m], a[:, m : 2 * m], a[:, 2 * m :]
                rz += p[:, : 2 * m]
                _sigmoid(rz)
                n += a[:, :m] * p[:, 2 * m :]
                np.tanh(n, out=n)
                hb -= n
                hb *= z
                hb += n
                y[start:end] = hb
        if keep:
            ctx.gates, ctx.before, ctx.inner = gates, before, inner
        return y.astype(dtype, copy=False), h.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any) -> Any:
        gx, _, w, _ = ctx.saved
        work = ctx.gates.dtype
        rows, m = ctx.before.shape
        gates = ctx.gates.reshape(rows, 3, m)
        r, z, n = (gates[:, k] for k in range(3))
        da = gates * (1 - gates)  # times dh, at the end: the gradient of gx
        da[:, 1] *= ctx.before - n
        np.multiply(1 - z, 1 - n * n, out=da[:, 2])
        da[:, 0] *= ctx.inner
        da[:, 0] *= da[:, 2]
        dp = da.copy()  # times dh, in the loop: the gradient of W h + b
        dp[:, 2] *= r
        flat = dp.reshape(rows, 3 * m)
        weight, dy, dh = _dense(w, work), dy.astype(work, copy=False), dh.astype(work)
        for start, end, size in reversed(ctx.steps):
            dhb = dh[:size]
            dhb += dy[start:end]
            d = dhb[:, None]
            da[start:end] *= d
            dp[start:end] *= d
            dhb *= z[start:end]
            dhb += kernels.matmul(flat[start:end], weight)
        return ctx.wanted(
            lambda: da.reshape(rows, 3 * m).astype(gx.dtype, copy=False),
            lambda: dh.astype(gx.dtype, copy=False),
            lambda: kernels.matmul(flat.T, ctx.before).astype(gx.dtype, copy=False),
            lambda: total(flat, 0).astype(gx.dtype, copy=False),
        )

    def definition(gx: Any, h: Any, w: Any, b: Any, batch_sizes: Any, reverse: bool = False) -> Any:  # type: ignore[override]
        pieces = []
        for start, end, size in _steps(batch_sizes, reverse):
            (x_r, x_z, x_n), (h_r, h_z, h_n) = chunk(gx[start:end], 3, -1), chunk(linear(h[:size], w, b), 3, -1)
            z, n = sigmoid(x_z + h_z), tanh(x_n + sigmoid(x_r + h_r) * h_n)
            pieces.append((1 - z) * n + z * h[:size])
            h = _join(pieces[-1], h, size)
        return _in_time(pieces, reverse), h
