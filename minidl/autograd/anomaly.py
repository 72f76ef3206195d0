"""Anomaly mode: the first op that makes a NaN, forward or backward, raises and says where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import blame
from minidl.autograd.modes import state
from minidl.autograd.source import caller, source_line
from minidl.autograd.watch import Watcher
from minidl.tensors import Tensor


class AnomalyError(RuntimeError):
    """An op made a NaN while anomaly mode was on."""


def _first_nan(a: Any) -> tuple | None:
    if getattr(a, "dtype", None) is None or a.dtype.kind != "f" or not bool((a != a).any()):
        return None
    flat = int((a != a).argmax())
    return tuple(int(i) for i in np.unravel_index(flat, a.shape))


def check_forward(ctx: Any, inputs: Sequence[Any], out: Any) -> None:
    for t in out if type(out) is tuple else (out,):
        at = _first_nan(t.array)
        if at is None or any(isinstance(a, Tensor) and _first_nan(a.array) is not None for a in inputs):
            continue  # a NaN that came in is not this op's doing
        where = ctx.where or caller()
        seen = []
        for i, a in enumerate(inputs):
            if isinstance(a, Tensor) and a.array.dtype.kind == "f":
                value = f" = {a.array[at]}" if a.array.shape == t.array.shape else ""
                low, high = (a.array.min(), a.array.max()) if a.array.size else ("-", "-")
                seen.append(f"input {i} {tuple(a.shape)}{value} (range {low} .. {high})")
        raise AnomalyError(
            f"op {type(ctx).__name__}{f' in module {state.scope}' if state.scope else ''} made a NaN at element "
            f"{list(at)} of its output {tuple(t.shape)}.\n  at {source_line(where)}\n  " + "\n  ".join(seen)
        )


def check_training(name: str) -> None:
    """Warn of a layer in training mode where nothing is recorded: eval() was probably forgotten."""
    if not state.grad:
        blame.warn(
            f"{name}{blame.scope()} runs in training mode, but under no_grad(): to evaluate or predict call "
            "model.eval() first (minidl.train.evaluate and predict do), and model.train() before training goes on"
        )


def mark_used(g: Tensor) -> None:
    """An optimizer's step has used this gradient: it should be cleared before the next backward."""
    g.__dict__["_used"] = True


def check_leftover(leaf: Tensor, have: Tensor) -> None:
    """Warn when backward is about to add to a gradient that a step has used and nobody has cleared."""
    if have.__dict__.pop("_used", False) and bool(have.array.any()):
        blame.warn(
            f"backward adds to the gradient of a parameter {blame.given(leaf)} which an optimizer's step has used "
            "already: gradients of all steps pile up. Call optimizer.zero_grad() before each backward(), or after "
            "each step()"
        )


def check_backward(node: Any, grads_out: Sequence[Any], grads_in: Sequence[Any]) -> None:
    for i, g in enumerate(grads_in):
        a = g.array if isinstance(g, Tensor) else g
        at = _first_nan(a) if a is not None else None
        if at is None:
            continue
        if any(_first_nan(d.array if isinstance(d, Tensor) else d) is not None for d in grads_out if d is not None):
            continue
        raise AnomalyError(
            f"backward of op {type(node).__name__}{f' in module {node.scope}' if node.scope else ''} made a NaN at "
            f"element {list(at)} of the gradient of input {i}.\n  the op ran at {source_line(node.where)}"
        )


class _Anomaly(Watcher):
    """What detect_anomaly sets to look on."""

    finds_nan = True

    def ran(self, ctx: Any, inputs: Sequence[Any], args: tuple, kwargs: dict, out: Any) -> None:
        check_forward(ctx, inputs, out)

    def stepped(self, node: Any, slots: Sequence[Any], grads: Sequence[Any]) -> None:
        check_backward(node, slots, grads)


WATCHER = _Anomaly()
