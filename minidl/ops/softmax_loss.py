"""Cross entropy of class indices in one op: what a classifier's every step computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import TABLE, Op
from minidl.ops.common import compiled
from minidl.ops.softmax import ROWS, log_softmax


class softmax_loss(Op):
    """y = mean of ln(sum_c e^(x[n, c])) - x[n, t[n]] over all n but those where t is `ignore_index`;

    dx[n] = dy (softmax(x[n]) - onehot(t[n])) / count, 0 where ignored.    x (N, C), t (N,) int array -> y ()

    The same as log_softmax, then nll_loss (its `definition`), with a quarter of the calls.

    Why: -ln of a softmax is -x_t + ln sum e^x: its slope is the softmax, minus 1 at the class t.
    """

    def forward(ctx, x: Any, t: Any, ignore_index: int) -> Any:
        ctx.lse = None
        if type(x) is not np.ndarray:
            return ctx.on_device(x, t, ignore_index)
        keep = t != ignore_index
        count = int(np.count_nonzero(keep))
        if compiled(x, least=ROWS):
            # The probabilities are not stored: backward computes them again, from x and each row's log-sum-exp.
            losses, ctx.lse = kernels.cross_entropy(x, t, None, ignore_index)
            ctx.t, ctx.ignore_index, ctx.count = t, ignore_index, count or math.nan
            ctx.save(x)
            return np.add.reduce(losses) / x.dtype.type(ctx.count)
        some = count < len(t)  # are ignored
        at = (np.arange(len(t)), np.where(keep, t, 0) if some else t)
        y = x - np.maximum.reduce(x, 1, keepdims=True)
        picked = y[at]
        np.exp(y, out=y)
        sums = np.add.reduce(y, 1, keepdims=True)
        picked -= np.log(sums[:, 0])
        if some:
            picked = np.where(keep, picked, 0)
        ctx.count = count or math.nan
        if ctx.recording:
            y /= sums
            ctx.keep, ctx.at, ctx.work = keep if some else None, at, y
            ctx.save()
        return -np.add.reduce(picked) / x.dtype.type(ctx.count)

    def on_device(ctx, x: Any, t: Any, ignore_index: int) -> Any:
        """forward on a GPU, where even the number of examples stays: the host waits for nothing."""
        losses, ctx.lse = kernels.cross_entropy(x, t, None, ignore_index)
        ctx.t, ctx.ignore_index, ctx.count = t, ignore_index, (t != ignore_index).sum().astype(x.dtype)
        ctx.save(x)
        return losses.sum() / ctx.count

    def backward(ctx, dy: Any) -> Any:
        saved = ctx.saved  # raises if it is gone
        each = dy / ctx.count
        if ctx.lse is not None:
            each = np.broadcast_to(each, len(ctx.t)).astype(ctx.lse.dtype)
            return kernels.cross_entropy_backward(each, saved[0], ctx.t, ctx.lse, None, ctx.ignore_index)
        if ctx.keep is not None:
            each = np.where(ctx.keep, each, 0).astype(dy.dtype)[:, None]
        dx = ctx.work * each
        dx[ctx.at] -= each if ctx.keep is None else each[:, 0]
        return dx

    def definition(x: Any, t: Any, ignore_index: int) -> Any:  # type: ignore[override]
        return TABLE["nll_loss"](log_softmax(x, 1), t, ignore_index=ignore_index)
