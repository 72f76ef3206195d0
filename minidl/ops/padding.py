"""A frame around a tensor: constant, reflected, repeated or wrapped around."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minidl.autograd import Op, op, require
from minidl.ops.copies import clone


@op()
class pad_constant(Op):
    """x surrounded by `value`; pads are (before, after) for each dimension, negative ones crop;    dx = the middle
    of dy

    Why: the middle copies x, the border is constant: dy's middle goes back, the rest to nobody.
    Try: pad_constant(randn(2, 3), ((1, 0), (0, 2)))
    """

    def shape(x: Any, pads: Any, value: float = 0.0) -> Any:  # type: ignore[override]
        out = tuple(n + a + b for n, (a, b) in zip(x, pads, strict=True))
        require(builtins.all(n >= 0 for n in out), "padding {} leaves nothing of {}", pads, x)
        return out

    def forward(ctx, x: Any, pads: Any, value: float = 0.0) -> Any:
        ctx.pads = pads
        size = pad_constant.shape(x.shape, pads)
        y = np.full_like(x, value, shape=size, order="C")
        inner = tuple(slice(builtins.max(a, 0), n - builtins.max(b, 0)) for (a, b), n in zip(pads, size, strict=True))
        outer = tuple(
            slice(builtins.max(-a, 0), n - builtins.max(-b, 0)) for (a, b), n in zip(pads, x.shape, strict=True)
        )
        y[inner] = x[outer]
        return y

    def backward(ctx, dy: Any) -> Any:
        return pad_constant(dy, tuple((-a, -b) for a, b in ctx.pads))


@op(namespace="nn.functional")
def pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """Pad the last dimensions: pad = (left, right, top, bottom, ...), innermost dimension first.

    mode is "constant" (with `value`, 0 by default), "reflect", "replicate" or "circular". Raises ShapeError when
    there are more pads than dimensions.

    Try: pad(randn(2, 3), (1, 2))
    """
    require(
        len(pad) % 2 == 0 and len(pad) <= 2 * x.ndim,
        "pad {} does not fit a tensor of shape {}",
        tuple(pad),
        tuple(x.shape),
    )
    pads = [(0, 0)] * (x.ndim - len(pad) // 2)
    for i in range(len(pad) // 2 - 1, -1, -1):
        pads.append((int(pad[2 * i]), int(pad[2 * i + 1])))
    if mode == "constant":
        return pad_constant(x, tuple(pads), 0.0 if value is None else value)
    y = x
    for d, (before, after) in enumerate(pads):
        if before or after:
            n = x.shape[d]
            require(n + before + after >= 0, "padding {} leaves nothing of {}", tuple(pad), tuple(x.shape))
            at = np.arange(-before, n + after)
            if mode == "replicate":
                at = np.clip(at, 0, n - 1)
            elif mode == "circular":
                require(
                    before <= n and after <= n, "circular padding {} is larger than the size {}", (before, after), n
                )
                first = builtins.max(-before, 0)  # cropped first, then wrapped
                kept = n + builtins.min(before, 0) + builtins.min(after, 0)
                require(kept > 0, "padding {} leaves nothing of the size {} to wrap around", (before, after), n)
                at = first + np.arange(-builtins.max(before, 0), kept + builtins.max(after, 0)) % kept
            elif mode == "reflect":
                require(
                    before < n and after < n, "reflect padding {} must be smaller than the size {}", (before, after), n
                )
                at = np.abs(at)
                at = np.where(at >= n, 2 * (n - 1) - at, at)
            else:
                raise NotImplementedError(f"unknown padding mode {mode!r}: constant, reflect, replicate or circular")
            y = y[(slice(None),) * d + (at,)]
    return clone(y) if y is x else y
