"""Running products along a dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import Op, op
from minidl.ops.common import one_dim, row_major
from minidl.ops.copies import cast
from minidl.ops.joining import cat
from minidl.ops.reduce import computed_in


@op(method="cumprod", inplace=True)
class cumprod(Op):
    """y_i = x_0 x_1 ... x_i along `dim`;    dx_j = (x_0 ... x_(j-1)) r_j,  r_j = dy_j + x_(j+1) r_(j+1)

    No division, so zeros in x are no special case. Integers and bools are multiplied as int64.

    Why: x_j is a factor of y_j and of all later ones; Horner's scheme from the end sums their products without dividing
         by x_j.
    Try: cumprod(randn(3, 5), 0)
    """

    def shape(x: Any, dim: int, **_: Any) -> Any:  # type: ignore[override]
        one_dim(dim, len(x))
        return x

    def forward(ctx, x: Any, dim: int, *, dtype: Any = None) -> Any:
        ctx.dim, ctx.dtype = one_dim(dim, x.ndim), x.dtype
        dtype = computed_in(ctx, dtype) if dtype is not None else np.int64 if x.dtype.kind in "bui" else x.dtype
        ctx.save(x)
        x = x.astype(dtype, copy=False)
        return row_major(x.cumprod(ctx.dim, dtype)) if x.ndim else x.copy()

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        if len(x.shape) == 0 or 0 in x.shape:
            return cast(dy, ctx.dtype)
        x = cast(x, dy.dtype)
        lead, n = (slice(None),) * ctx.dim, x.shape[ctx.dim]
        one = x[(*lead, slice(0, 1))] * 0 + 1
        before = cat([one, cumprod(x[(*lead, slice(0, n - 1))], ctx.dim)], ctx.dim)
        # r solves r_j = a_j + b_j r_(j+1): after each round a_j and b_j reach twice as far (Hillis & Steele 1986)
        a, b = dy, cat([x[(*lead, slice(1, n))], one * 0], ctx.dim)
        step = 1
        while step < n:
            near, far = (*lead, slice(0, n - step)), (*lead, slice(step, n))
            last = (*lead, slice(n - step, n))
            a = cat([a[near] + b[near] * a[far], a[last]], ctx.dim)
            b = cat([b[near] * b[far], b[last]], ctx.dim)
            step *= 2
        return cast(before * a, ctx.dtype)
