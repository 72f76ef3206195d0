"""Rules for ops that sum over units: products, convolutions, attention, recurrences."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.compress.anatomy.shadows import Shadow, Weight

Array = Any


def linear(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """x (..., K), w (N, K), b (N,) -> (..., N)"""
    x, w, b = (*ins, None)[:3]
    if not isinstance(x, Shadow) or not isinstance(w, Weight) or len(w.units) != 2:
        return watch.unknown(ctx, ins, shape)
    units, zero, clear = x.line(-1)
    if not clear:
        watch.unknown(ctx, [x, None, None], shape)
        units = np.zeros_like(units)
    _read(watch, ctx, w, 1, units, zero, w.zero.all(0))
    rows = (w.zero | zero[None]).all(1)
    return _made(watch, w, 0, rows, b, shape, -1)


def matmul(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """a (..., M, K), b (..., K, N). A parameter on the right is a weight; two tensors: queries and keys, say."""
    a, b = ins[:2]
    if isinstance(a, Shadow) and isinstance(b, Weight) and len(b.units) == 2:
        units, zero, clear = a.line(-1)
        if clear:
            _read(watch, ctx, b, 0, units, zero, b.zero.all(1))
            return _made(watch, b, 1, (b.zero | zero[:, None]).all(0), None, shape, -1)
    if not isinstance(a, Shadow) or not isinstance(b, Shadow) or min(a.tags.ndim, b.tags.ndim) < 2:
        return watch.unknown(ctx, ins, shape)
    k = a.tags.shape[-1]
    passing_a, over_a = _sides(a, -1)  # (..., M, 1), (..., 1, K)
    passing_b, over_b = _sides(b, -2)  # (..., 1, N), (..., K, 1)
    over_b = np.swapaxes(over_b, -1, -2)  # (..., 1, K)
    if k == 1 or not _side_by_side(watch, ctx, passing_a, passing_b):
        return watch.unknown(ctx, ins, shape)
    watch.product(shape, k)
    over_a, over_b = np.broadcast_arrays(over_a, over_b)
    watch.units.join(over_a, over_b)
    alone = np.where((over_a > 0) != (over_b > 0), np.maximum(over_a, over_b), 0)
    watch.units.keep(alone, f"it meets elements of no unit{watch.at(ctx)}")
    nothing = np.swapaxes(b.zero.all(-1, keepdims=True), -1, -2) | a.zero.all(-2, keepdims=True)
    watch.units.use(np.maximum(over_a, over_b), np.broadcast_to(nothing, over_a.shape))
    tags = np.maximum(np.broadcast_to(passing_a, shape), np.broadcast_to(passing_b, shape))
    zero = np.broadcast_to(a.zero.all(-1, keepdims=True), shape) | np.broadcast_to(b.zero.all(-2, keepdims=True), shape)
    return Shadow(tags, zero)


def _side_by_side(watch: Any, ctx: Any, a: Array, b: Array) -> bool:
    """Whether the units that pass by on both sides lie along axes that both have, such as heads: then they are one."""
    if not (a.any() and b.any()):
        return True
    if not (a == a[..., :1, :]).all() or not (b == b[..., :1]).all():
        return False
    x, y = np.broadcast_arrays(a[..., :1, :], b[..., :1])
    watch.units.join(x, y)
    watch.units.keep(np.where((x > 0) != (y > 0), np.maximum(x, y), 0), f"it meets elements of no unit{watch.at(ctx)}")
    return True


def _sides(x: Shadow, axis: int) -> tuple[Array, Array]:
    """Units that pass by a sum over `axis`, being one all along it; and those that lie along it and are summed over."""
    top = x.tags.max(axis, initial=0, keepdims=True)
    same = (x.tags == top).all(axis, keepdims=True)
    across = -1 if axis == -2 else -2
    summed = np.where(same, 0, x.tags)
    lines = summed.max(across, initial=0, keepdims=True)
    return np.where(same, top, 0), lines


def conv2d(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """x (N, C, H, W), w (K, C / G, R, S), b (K,) -> (N, K, P, Q).

    Without groups as `linear`. In a depthwise convolution (C = G) an output is its input's unit. With G groups of
    several channels, the channels in the same place of all groups are one unit, so that the groups stay equal.
    """
    x, w, b = (*ins, None)[:3]
    groups = args[6] if len(args) > 6 else 1
    if not isinstance(x, Shadow) or not isinstance(w, Weight) or len(w.units) != 4:
        return watch.unknown(ctx, ins, shape)
    units, zero, clear = x.line(1)
    if not clear:
        watch.unknown(ctx, [x, None, None], shape)
        units = np.zeros_like(units)
    taps: Any = w.zero.all((2, 3))  # K, C / G
    watch.taps |= {(w.name, w.home[2]), (w.name, w.home[3])}
    k, each = taps.shape
    watch.groups[w.name] = groups
    seen: Any = zero.reshape(groups, 1, each)
    rows = (taps.reshape(groups, -1, each) | seen).all(2).reshape(k)
    if groups == 1:
        _read(watch, ctx, w, 1, units, zero, taps.all(0))
        return _made(watch, w, 0, rows, b, shape, 1)
    by_group = units.reshape(groups, each)
    if each == 1:
        made = w.units[0].reshape(groups, -1) if w.units[0] is not None else np.zeros((groups, 1), np.int64)
        watch.units.join(by_group, made)
        watch.units.keep(made * (by_group == 0), f"its input cannot be cut{watch.at(ctx)}")
    else:
        watch.units.join(by_group, by_group[:1])
        _read(watch, ctx, w, 1, by_group.max(0), seen.all((0, 1)), taps.all(0))
        made = w.units[0].reshape(groups, -1)
        watch.units.join(made, made[:1])
    return _made(watch, w, 0, rows, b, shape, 1)


def conv2d_dx(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """The transposed convolution: x (N, C, P, Q), w (C, K, R, S) -> (N, K, H, W)."""
    x, w = ins[:2]
    groups = args[6] if len(args) > 6 else 1
    if not isinstance(x, Shadow) or not isinstance(w, Weight) or len(w.units) != 4 or groups != 1:
        return watch.unknown(ctx, ins, shape)
    units, zero, clear = x.line(1)
    if not clear:
        return watch.unknown(ctx, ins, shape)
    taps = w.zero.all((2, 3))  # C, K
    watch.taps |= {(w.name, w.home[2]), (w.name, w.home[3])}
    _read(watch, ctx, w, 0, units, zero, taps.all(1))
    return _made(watch, w, 1, (taps | zero[:, None]).all(0), None, shape, 1)


def lookup(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """Rows of a table: its columns are units, its rows stay."""
    w = ins[1]
    if not isinstance(w, Weight):
        return watch.unknown(ctx, ins, shape)
    if w.units[0] is not None:
        watch.units.keep(w.units[0], f"a row for each index{watch.at(ctx)}")
    return _made(watch, w, 1, w.zero.all(0), None, shape, -1)


def attention(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """q (B, H, T, D), k (B, G, S, D), v (B, G, S, E) -> (B, H, T, E): the values' units pass through.

    A head that is one unit can go, queries, keys and values. Parts of a head cannot: the scores are scaled by its size.
    """
    q, k, v = ins[:3]
    if not all(isinstance(x, Shadow) for x in (q, k, v)):
        return watch.unknown(ctx, ins, shape)
    watch.attends(q.tags.shape[-3], q.tags.shape[-1])
    roots = [watch.units.roots(x.tags) for x in (q, k, v)]
    tags = roots[2].max((0, 2), keepdims=True)  # 1, G, 1, E
    if not (roots[2] == tags).all():
        return watch.unknown(ctx, ins, shape)
    repeat = shape[1] // tags.shape[1]
    for units in roots[:2]:
        head = units.max((0, 2, 3), keepdims=True)  # 1, H or G, 1, 1
        if (units == head).all() and repeat == 1:
            watch.units.join(head, tags)
        else:
            watch.units.keep(units, f"the scores are scaled by the size of queries and keys{watch.at(ctx)}")
    zero = v.zero.all((0, 2), keepdims=True)
    return Shadow(
        np.broadcast_to(np.repeat(tags, repeat, 1), shape), np.broadcast_to(np.repeat(zero, repeat, 1), shape)
    )


def scan(watch: Any, ctx: Any, ins: list, args: tuple, shape: Any) -> Any:
    """rnn, lstm, gru: hidden unit j owns row j of each gate and column j of the recurrent weight.

    With zeros in all its rows it stays 0: its candidate is tanh(0) = 0, and gates only scale it.
    """
    gx, *states = ins[: 3 if ctx.name() == "lstm_scan" else 2]
    w = ins[len(states) + 1]
    b = ins[3] if ctx.name() == "gru_scan" else None
    if not isinstance(gx, Shadow) or not isinstance(w, Weight) or not all(isinstance(s, Shadow) for s in states):
        return watch.unknown(ctx, ins, shape)
    rows, rows_zero, clear = gx.line(-1)
    hidden = w.zero.shape[1]
    units = w.units[1] if w.units[1] is not None else np.zeros(hidden, np.int64)
    if not clear:
        return watch.unknown(ctx, ins, shape)
    gates = rows.reshape(-1, hidden)
    watch.units.join(gates, units)
    watch.units.keep(units * (gates == 0).any(0), f"its gates read elements of no unit{watch.at(ctx)}")
    if w.units[0] is not None:
        watch.units.join(w.units[0].reshape(-1, hidden), units)
    quiet = rows_zero.reshape(-1, hidden).all(0)
    if isinstance(b, Shadow):
        watch.units.join(b.tags.reshape(-1, hidden), units)
        quiet = quiet & b.zero.reshape(-1, hidden).all(0)
    for s in states:
        held, zero, one = s.line(-1)
        watch.units.join(held, units)
        watch.units.keep(units * ((held == 0) & ~zero), f"its first state is given{watch.at(ctx)}")
        if not one:
            watch.units.keep(units, f"its first state is given{watch.at(ctx)}")
        quiet = quiet & zero
    while True:  # units that are 0 as long as all that they hear is 0
        heard = (w.zero | quiet[None]).all(1).reshape(-1, hidden).all(0)
        if (quiet & heard == quiet).all():
            break
        quiet = quiet & heard
    watch.inside.add((w.name, 1))
    watch.units.use(units, quiet | w.zero.all(0))
    return tuple(Shadow(np.broadcast_to(units, s), np.broadcast_to(quiet, s)) for s in shape)


# -- what they share --------------------------------------------------------------------------------------------------


def _read(watch: Any, ctx: Any, w: Weight, axis: int, units: Array, zero: Array, column: Array) -> None:
    """`w` is summed over `axis` with what has these units; a zero on either side makes nothing of it."""
    watch.inside.add((w.name, w.home[axis]))
    mine = w.units[axis]
    if mine is None:
        watch.units.keep(units, f"it is all that is read{watch.at(ctx)}")
        return
    watch.units.join(units, mine)
    watch.units.keep(mine * (units == 0), f"it reads what cannot be cut, such as the model's input{watch.at(ctx)}")
    watch.units.use(mine, zero | column)


def _made(watch: Any, w: Weight, axis: int, rows: Array, b: Any, shape: tuple, at: int) -> Shadow:
    """The product's output along `at`: a unit for each row of w, known to be 0 with the row and the bias."""
    watch.outputs.add((w.name, w.home[axis]))
    units = w.units[axis] if w.units[axis] is not None else np.zeros(w.zero.shape[axis], np.int64)
    if isinstance(b, Shadow):
        watch.units.join(b.tags, units)
        rows = rows & b.zero
    elif b is not None:
        watch.units.keep(units, f"its bias is a parameter of several axes, {b.name}")
        rows = np.zeros_like(rows)
    lie = [1] * len(shape)
    lie[at] = -1
    return Shadow(np.broadcast_to(units.reshape(lie), shape), np.broadcast_to(rows.reshape(lie), shape))
