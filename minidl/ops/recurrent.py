"""Recurrent networks: what happens after the input projections, one op for a whole sequence of one layer.

A layer's products with its inputs need no loop: W_ih x_t + b for all steps is one product, made before (gx here). What
is left is the recurrence proper, step by step one small product with the state, and the gates: a kernel for all steps.

Sequences of different lengths lie packed: step t has batch_sizes[t] rows, those of the sequences that still run, the
longest first, and the rows of all steps stand one after the other, L = sum(batch_sizes). A plain batch is the case
where all steps have B rows. In reverse, sequences start at their own last step, with their rows of the initial state.

Backward in a plain pass is a kernel again, and dW one product over all steps. Second derivatives are the definition's.
int8 weights have an integer product, with its own scale of every state: there the steps are a loop here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

import minidl_kernels as kernels
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


def _integer(w: Any) -> bool:
    """Whether the products with w are integer ones; other packed weights become floats once for a whole sequence."""
    return isinstance(w, Packed) and w.kind == "int8"


def _times(w: Any, dtype: Any, b: Any = None) -> Any:
    """h -> h W^T + b: integers for int8 weights, floats for all others."""
    if _integer(w):
        return lambda h: w.linear(h, b)
    w = _dense(w, dtype)
    return lambda h: kernels.linear(h, w, b)


def _dense(w: Any, dtype: Any) -> Any:
    return (w.dequantize() if isinstance(w, Packed) else w).astype(dtype, copy=False)


def _as(dtype: Any, *arrays: Any) -> list:
    return [a.astype(dtype, copy=False) for a in arrays]


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


# -- forward with a product that no kernel of whole sequences has: step by step, to the results of kernels.rnn, ... ----


def _packed_rnn(
    gx: Any, h: Any, product: Any, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Any, ...]:
    y, h, before = gx.copy(), h.copy(), np.empty_like(gx)
    for start, end, b in _steps(sizes, reverse):
        a, hb = y[start:end], h[:b]
        before[start:end] = hb
        a += product(hb)
        np.tanh(a, out=a) if nonlinearity == "tanh" else np.maximum(a, 0, out=a)
        hb[...] = a
    return y, h, before


def _packed_lstm(gx: Any, h: Any, c: Any, product: Any, sizes: Sequence[int], reverse: bool) -> tuple[Any, ...]:
    gates, h, c, n = gx.copy(), h.copy(), c.copy(), h.shape[1]
    y, cells, before = (np.empty((len(gx), n), gx.dtype) for _ in range(3))
    with np.errstate(over="ignore"):
        for start, end, b in _steps(sizes, reverse):
            a, hb, cb = gates[start:end], h[:b], c[:b]
            before[start:end] = hb
            a += product(hb)
            _sigmoid(a[:, : 2 * n])
            np.tanh(a[:, 2 * n : 3 * n], out=a[:, 2 * n : 3 * n])
            _sigmoid(a[:, 3 * n :])
            cb *= a[:, n : 2 * n]
            cb += a[:, :n] * a[:, 2 * n : 3 * n]
            cells[start:end] = cb
            y[start:end] = hb[...] = a[:, 3 * n :] * np.tanh(cb)
    return y, h, c, gates, cells, before


def _packed_gru(gx: Any, h: Any, product: Any, sizes: Sequence[int], reverse: bool) -> tuple[Any, ...]:
    gates, h, m = gx.copy(), h.copy(), h.shape[1]
    y, inner, before = (np.empty((len(gx), m), gx.dtype) for _ in range(3))
    with np.errstate(over="ignore"):
        for start, end, b in _steps(sizes, reverse):
            a, hb = gates[start:end], h[:b]
            p = product(hb)
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
    return y, h, gates, inner, before


@op()
class rnn_scan(Op):
    """h_t = tanh(gx_t + W_hh h_(t-1)), or relu.    (Elman 1990, doi 10.1207/s15516709cog1402_1)

    gx (L, H): W_ih x_t + b of all steps; h (B, H); w (H, H) -> y (L, H): every h_t; h_n (B, H)

    Why: back through time: with s_t = dh_t + (what h_(t+1) gives), da_t = s_t act'(h_t) is the gradient of gx_t, and
         da_t W_hh goes on to h_(t-1).
    Try: rnn_scan(randn(5, 2), randn(3, 2), randn(2, 2), [3, 2])
    """

    dtype: Any = None
    how: tuple = ()  # sizes, reverse, nonlinearity

    def shape(gx: Any, h: Any, w: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        _check(1, gx, [h], w, batch_sizes)
        return gx, h

    def forward(
        ctx, gx: Any, h: Any, w: Any, batch_sizes: Any, reverse: bool = False, nonlinearity: str = "tanh"
    ) -> Any:
        _check(1, gx.shape, [h.shape], w.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, w)
        ctx.dtype, ctx.how = dtype, (tuple(batch_sizes), reverse, nonlinearity)
        gx, h, keep = gx.astype(work, copy=False), h.astype(work, copy=False), ctx.recording
        if _integer(w):
            y, h, before = _packed_rnn(gx, h, _times(w, work), *ctx.how)
        else:
            y, h, before = kernels.rnn(gx, h, _dense(w, work), *ctx.how, keep)
        if keep:  # y is the caller's, who may change it
            ctx.work = y.copy(), before
        return y.astype(dtype, copy=False), h.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any) -> Any:
        (_, _, w), (y, before), dtype = ctx.saved, ctx.work, ctx.dtype
        weight, (dy, dh) = _dense(w, y.dtype), _as(y.dtype, dy, dh)
        da, dh = kernels.rnn_backward(dy, dh, weight, y, *ctx.how)
        return ctx.wanted(
            lambda: da.astype(dtype, copy=False),
            lambda: dh.astype(dtype, copy=False),
            lambda: kernels.matmul(da.T, before).astype(dtype, copy=False),
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

    Why: back through time: dc_t = dh_t o (1 - tanh^2 c_t) + dc_(t+1) f_(t+1); each gate gets dc_t or dh_t times its
         partner and its own slope; their sum through W_hh is dh_(t-1).
    Try: lstm_scan(randn(5, 8), randn(3, 2), randn(3, 2), randn(8, 2), [3, 2])
    """

    dtype: Any = None
    how: tuple = ()  # sizes, reverse

    def shape(gx: Any, h: Any, c: Any, w: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        _check(4, gx, [h, c], w, batch_sizes)
        return (gx[0], w[1]), h, c

    def forward(ctx, gx: Any, h: Any, c: Any, w: Any, batch_sizes: Any, reverse: bool = False) -> Any:
        _check(4, gx.shape, [h.shape, c.shape], w.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, c, w)
        ctx.dtype, ctx.how = dtype, (tuple(batch_sizes), reverse)
        gx, h, c = _as(work, gx, h, c)
        if _integer(w):
            y, h, c, *kept = _packed_lstm(gx, h, c, _times(w, work), *ctx.how)
        else:
            y, h, c, *kept = kernels.lstm(gx, h, c, _dense(w, work), *ctx.how, ctx.recording)
        if ctx.recording:
            ctx.work = kept
        return y.astype(dtype, copy=False), h.astype(dtype, copy=False), c.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any, dc: Any) -> Any:
        (_, _, c, w), (gates, cells, before), dtype = ctx.saved, ctx.work, ctx.dtype
        weight, (dy, dh, dc, c) = _dense(w, gates.dtype), _as(gates.dtype, dy, dh, dc, c)
        da, dh, dc = kernels.lstm_backward(dy, dh, dc, weight, c, gates, cells, *ctx.how)
        return ctx.wanted(
            lambda: da.astype(dtype, copy=False),
            lambda: dh.astype(dtype, copy=False),
            lambda: dc.astype(dtype, copy=False),
            lambda: kernels.matmul(da.T, before).astype(dtype, copy=False),
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

    Why: back through time: dz = dh (h_(t-1) - n), dn = dh (1 - z), r through the product; through W_hh, and z dh
         directly, they reach h_(t-1).
    Try: gru_scan(randn(5, 6), randn(3, 2), randn(6, 2), randn(6), [3, 2])
    """

    dtype: Any = None
    how: tuple = ()  # sizes, reverse

    def shape(gx: Any, h: Any, w: Any, b: Any, batch_sizes: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        _check(3, gx, [h], w, batch_sizes)
        require(b is None or tuple(b) == (w[0],), "the bias {} does not fit the weight {}", b, w)
        return (gx[0], w[1]), h

    def forward(ctx, gx: Any, h: Any, w: Any, b: Any, batch_sizes: Any, reverse: bool = False) -> Any:
        gru_scan.shape(gx.shape, h.shape, w.shape, None if b is None else b.shape, batch_sizes)
        dtype, work = gx.dtype, _work(gx.dtype)
        ctx.save(gx, h, w, b)
        ctx.dtype, ctx.how = dtype, (tuple(batch_sizes), reverse)
        gx, h = _as(work, gx, h)
        b = None if b is None else b.astype(work, copy=False)
        if _integer(w):
            y, h, *kept = _packed_gru(gx, h, _times(w, work, b), *ctx.how)
        else:
            y, h, *kept = kernels.gru(gx, h, _dense(w, work), b, *ctx.how, ctx.recording)
        if ctx.recording:
            ctx.work = kept
        return y.astype(dtype, copy=False), h.astype(dtype, copy=False)

    def backward(ctx, dy: Any, dh: Any) -> Any:
        (_, _, w, _), (gates, inner, before), dtype = ctx.saved, ctx.work, ctx.dtype
        weight, (dy, dh) = _dense(w, gates.dtype), _as(gates.dtype, dy, dh)
        da, dp, dh = kernels.gru_backward(dy, dh, weight, gates, inner, before, *ctx.how)
        return ctx.wanted(
            lambda: da.astype(dtype, copy=False),
            lambda: dh.astype(dtype, copy=False),
            lambda: kernels.matmul(dp.T, before).astype(dtype, copy=False),
            lambda: total(dp, 0).astype(dtype, copy=False),
        )

    def definition(gx: Any, h: Any, w: Any, b: Any, batch_sizes: Any, reverse: bool = False) -> Any:  # type: ignore[override]
        pieces = []
        for start, end, size in _steps(batch_sizes, reverse):
            (x_r, x_z, x_n), (h_r, h_z, h_n) = chunk(gx[start:end], 3, -1), chunk(linear(h[:size], w, b), 3, -1)
            z, n = sigmoid(x_z + h_z), tanh(x_n + sigmoid(x_r + h_r) * h_n)
            pieces.append((1 - z) * n + z * h[:size])
            h = _join(pieces[-1], h, size)
        return _in_time(pieces, reverse), h
