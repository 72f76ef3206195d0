"""Recurrences on a GPU: a product with the state and one kernel of cells.cu for each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cuda.launch import ceil_div, contiguous, counted, cupy, kernel
from ..gemm.cuda import product
from .reference import steps

_MATMUL = "register_tiles"


def _cell(name: str, like: Any, rows: int, units: int, *args: Any) -> None:
    kernel("recurrent/cells.cu", name, like.dtype)(ceil_div(counted(name, rows * units), 256), 256, *args)


def _start(*states: Any) -> tuple[Any, ...]:
    """Copies of states that are written step by step."""
    return tuple(s.copy(order="C") for s in states)


def _kept(keep: bool, *like: Any) -> tuple[Any, ...]:
    """Arrays for what the backward needs, None where it is not wanted."""
    return tuple(cupy().empty_like(a) if keep else None for a in like)


def rnn(gx: Any, h: Any, w: Any, sizes: Sequence[int], reverse: bool, nonlinearity: str, keep: bool) -> tuple[Any, ...]:
    ((gx,), (h,)), xp = (contiguous(gx), _start(h)), cupy()
    y, (before,), n = xp.empty_like(gx), _kept(keep, gx), h.shape[1]
    for at, rows in steps(sizes, reverse):
        state = h[rows]
        if keep:
            before[at] = state
        p = product(_MATMUL, state, w.T)
        _cell("rnn_cell", gx, len(state), n, gx[at], p, state, y[at], len(state), n, nonlinearity == "relu")
    return y, h, before


def rnn_backward(
    dy: Any, dh: Any, w: Any, y: Any, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Any, ...]:
    (dy, y), (dh,) = contiguous(dy, y), _start(dh)
    da, n = cupy().empty_like(y), dh.shape[1]
    for at, rows in steps(sizes, not reverse):
        state = dh[rows]
        args = (dy[at], state, y[at], da[at], len(state), n, nonlinearity == "relu")
        _cell("rnn_cell_backward", y, len(state), n, *args)
        dh[rows] = product(_MATMUL, da[at], w)
    return da, dh


def lstm(gx: Any, h: Any, c: Any, w: Any, sizes: Sequence[int], reverse: bool, keep: bool) -> tuple[Any, ...]:
    ((gx,), (h, c)), xp, n = (contiguous(gx), _start(h, c)), cupy(), h.shape[1]
    y = xp.empty((len(gx), n), gx.dtype)
    gates, cells, before = _kept(keep, gx, y, y)
    for at, rows in steps(sizes, reverse):
        state = h[rows]
        if keep:
            before[at] = state
        p = product(_MATMUL, state, w.T)
        kept = (gates[at], cells[at]) if keep else (None, None)
        _cell("lstm_cell", gx, len(state), n, gx[at], p, state, c[rows], y[at], *kept, len(state), n)
    return y, h, c, gates, cells, before


def lstm_backward(
    dy: Any, dh: Any, dc: Any, w: Any, c: Any, gates: Any, cells: Any, sizes: Sequence[int], reverse: bool
) -> tuple[Any, ...]:
    (dy, gates, cells), (dh, dc, state) = contiguous(dy, gates, cells), _start(dh, dc, c)
    xp, n = cupy(), dh.shape[1]
    da, c_before = xp.empty_like(gates), xp.empty_like(cells)
    for at, rows in steps(sizes, reverse):
        c_before[at] = state[rows]
        state[rows] = cells[at]
    for at, rows in steps(sizes, not reverse):
        d = dh[rows]
        args = (dy[at], d, dc[rows], gates[at], cells[at], c_before[at], da[at], len(d), n)
        _cell("lstm_cell_backward", gates, len(d), n, *args)
        dh[rows] = product(_MATMUL, da[at], w)
    return da, dh, dc


def gru(gx: Any, h: Any, w: Any, b: Any, sizes: Sequence[int], reverse: bool, keep: bool) -> tuple[Any, ...]:
    ((gx,), (h,)), xp, n = (contiguous(gx), _start(h)), cupy(), h.shape[1]
    y = xp.empty((len(gx), n), gx.dtype)
    gates, inner, before = _kept(keep, gx, y, y)
    for at, rows in steps(sizes, reverse):
        state = h[rows]
        if keep:
            before[at] = state
        p = product(_MATMUL, state, w.T, b)
        kept = (gates[at], inner[at]) if keep else (None, None)
        _cell("gru_cell", gx, len(state), n, gx[at], p, state, y[at], *kept, len(state), n)
    return y, h, gates, inner, before


def gru_backward(
    dy: Any, dh: Any, w: Any, gates: Any, inner: Any, before: Any, sizes: Sequence[int], reverse: bool
) -> tuple[Any, ...]:
    (dy, gates, inner, before), (dh,) = contiguous(dy, gates, inner, before), _start(dh)
    da, dp, n = cupy().empty_like(gates), cupy().empty_like(gates), dh.shape[1]
    for at, rows in steps(sizes, not reverse):
        d = dh[rows]
        args = (dy[at], d, gates[at], inner[at], before[at], da[at], dp[at], len(d), n)
        _cell("gru_cell_backward", gates, len(d), n, *args)
        d += product(_MATMUL, dp[at], w)
    return da, dp, dh
