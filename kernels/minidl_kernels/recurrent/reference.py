"""Recurrences by definition, in NumPy, a step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def steps(sizes: Sequence[int], reverse: bool) -> Iterator[tuple[slice, slice]]:
    """The rows of each step among those of all steps, and in the state; in the order in which steps run."""
    ends = np.cumsum([0, *sizes]).tolist()
    found = [(slice(end - b, end), slice(b)) for end, b in zip(ends[1:], sizes)]
    return iter(found[::-1] if reverse else found)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def rnn(
    gx: Array, h: Array, w: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str, keep: bool
) -> tuple[Any, ...]:
    h, y, before = h.copy(), np.empty_like(gx, order="C"), np.empty_like(gx, order="C")
    with np.errstate(all="ignore"):
        for at, rows in steps(sizes, reverse):
            before[at] = h[rows]
            a = gx[at] + h[rows] @ w.T
            h[rows] = y[at] = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
    return y, h, before if keep else None


def rnn_backward(
    dy: Array, dh: Array, w: Array, y: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Any, ...]:
    dh, da = dh.copy(), np.empty_like(y, order="C")
    with np.errstate(all="ignore"):
        for at, rows in steps(sizes, not reverse):
            d = dh[rows] + dy[at]
            da[at] = d * (1 - y[at] * y[at]) if nonlinearity == "tanh" else np.where(y[at] <= 0, 0, d)
            dh[rows] = da[at] @ w
    return da, dh


def lstm(gx: Array, h: Array, c: Array, w: Array, sizes: Sequence[int], reverse: bool, keep: bool) -> tuple[Any, ...]:
    h, c, n = h.copy(), c.copy(), h.shape[1]
    gates = np.empty_like(gx, order="C")
    y, cells, before = (np.empty((len(gx), n), gx.dtype) for _ in range(3))
    with np.errstate(all="ignore"):
        for at, rows in steps(sizes, reverse):
            before[at] = h[rows]
            i, f, g, o = np.split(gx[at] + h[rows] @ w.T, 4, axis=1)
            i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
            gates[at] = np.concatenate([i, f, g, o], axis=1)
            c[rows] = cells[at] = f * c[rows] + i * g
            h[rows] = y[at] = o * np.tanh(c[rows])
    return (y, h, c, gates, cells, before) if keep else (y, h, c, None, None, None)


def lstm_backward(
    dy: Array, dh: Array, dc: Array, w: Array, c: Array, gates: Array, cells: Array, sizes: Sequence[int],
    reverse: bool,
) -> tuple[Any, ...]:  # fmt: skip
    dh, dc, da = dh.copy(), dc.copy(), np.empty_like(gates, order="C")
    c_before, state = np.empty_like(cells, order="C"), c.copy()
    for at, rows in steps(sizes, reverse):
        c_before[at], state[rows] = state[rows], cells[at]
    with np.errstate(all="ignore"):
        for at, rows in steps(sizes, not reverse):
            i, f, g, o = np.split(gates[at], 4, axis=1)
            s, d = np.tanh(cells[at]), dh[rows] + dy[at]
            e = dc[rows] + d * o * (1 - s * s)
            parts = [
                e * g * (i * (1 - i)),
                e * c_before[at] * (f * (1 - f)),
                e * i * (1 - g * g),
                d * s * (o * (1 - o)),
            ]
            da[at] = np.concatenate(parts, axis=1)
            dc[rows] = e * f
            dh[rows] = da[at] @ w
    return da, dh, dc


def gru(
    gx: Array, h: Array, w: Array, b: Array | None, sizes: Sequence[int], reverse: bool, keep: bool
) -> tuple[Any, ...]:
    h, m = h.copy(), h.shape[1]
    gates = np.empty_like(gx, order="C")
    y, inner, before = (np.empty((len(gx), m), gx.dtype) for _ in range(3))
    with np.errstate(all="ignore"):
        for at, rows in steps(sizes, reverse):
            before[at] = h[rows]
            p = h[rows] @ w.T
            p = p if b is None else p + b
            rz, inner[at] = _sigmoid(gx[at, : 2 * m] + p[:, : 2 * m]), p[:, 2 * m :]
            n = np.tanh(gx[at, 2 * m :] + rz[:, :m] * inner[at])
            gates[at] = np.concatenate([rz, n], axis=1)
            h[rows] = y[at] = (h[rows] - n) * rz[:, m:] + n
    return (y, h, gates, inner, before) if keep else (y, h, None, None, None)


def gru_backward(
    dy: Array, dh: Array, w: Array, gates: Array, inner: Array, before: Array, sizes: Sequence[int], reverse: bool
) -> tuple[Any, ...]:
    dh, da, dp = dh.copy(), np.empty_like(gates, order="C"), np.empty_like(gates, order="C")
    with np.errstate(all="ignore"):
        for at, rows in steps(sizes, not reverse):
            r, z, n = np.split(gates[at], 3, axis=1)
            d = dh[rows] + dy[at]
            dn = d * (1 - z) * (1 - n * n)
            both = [dn * inner[at] * (r * (1 - r)), d * (before[at] - n) * (z * (1 - z))]
            da[at] = np.concatenate([*both, dn], axis=1)
            dp[at] = np.concatenate([*both, dn * r], axis=1)
            dh[rows] = d * z + dp[at] @ w
    return da, dp, dh
