"""The recurrences of minidl.ops.recurrent for the table of ops; torch runs its layers with the unit matrix as W_ih."""

from __future__ import annotations

from typing import Any

import torch
from cases import S, case, normal


def _torch(name: str) -> Any:
    def theirs(gx: Any, *rest: Any) -> Any:
        *tensors, sizes, reverse = rest
        states, w, b = (tensors[:2], tensors[2], None) if name == "lstm" else (tensors[:1], *tensors[1:], None)[:3]
        eye = torch.eye(gx.shape[1], dtype=gx.dtype)
        weights = [eye, w] if b is None else [eye, w, torch.zeros_like(b), b]
        # Only the second half of a bidirectional layer runs backwards; its first half is left out of the result.
        weights, states = (
            (weights * 2, [torch.stack([h, h]) for h in states]) if reverse else (weights, [h[None] for h in states])
        )
        run = getattr(torch._VF, name)
        y, *last = run(
            gx,
            torch.tensor(sizes),
            states if name == "lstm" else states[0],
            weights,
            b is not None,
            1,
            0.0,
            True,
            reverse,
        )
        half = slice(y.shape[1] // 2, None) if reverse else slice(None)
        return (y[:, half], *(h[-1] for h in last))

    return theirs


def _samples(gates: int, states: int, bias: bool) -> list:
    return [
        S(normal(sum(sizes), gates * 2), *(normal(sizes[0], 2) for _ in range(states)), normal(gates * 2, 2),
          *([normal(gates * 2)] if bias else []), sizes, reverse)
        for sizes, reverse in (([3, 2, 2], False), ([3, 1], True), ([1], False))
    ]  # fmt: skip


case("rnn_scan", *_samples(1, 1, False), theirs=_torch("rnn_tanh"))
case("lstm_scan", *_samples(4, 2, False), theirs=_torch("lstm"))
case("gru_scan", *_samples(3, 1, True), theirs=_torch("gru"))


def _torch_projected(gx: Any, h: Any, c: Any, w: Any, r: Any, sizes: Any, reverse: bool) -> Any:
    weights, states = [torch.eye(gx.shape[1], dtype=gx.dtype), w, r], [h[None], c[None]]
    if reverse:  # as in _torch
        weights, states = weights * 2, [torch.stack([s, s]) for s in (h, c)]
    y, *last = torch._VF.lstm(gx, torch.tensor(sizes), states, weights, False, 1, 0.0, True, reverse)
    half = slice(y.shape[1] // 2, None) if reverse else slice(None)
    return (y[:, half], *(s[-1] for s in last))


case(
    "projected_lstm_scan",
    *[
        S(normal(sum(sizes), 12), normal(sizes[0], 2), normal(sizes[0], 3), normal(12, 2), normal(2, 3), sizes, reverse)
        for sizes, reverse in (([3, 2, 2], False), ([3, 1], True), ([1], False))
    ],
    theirs=_torch_projected,
)
