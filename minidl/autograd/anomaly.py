"""Anomaly mode: the first op that makes a NaN (or an Inf), forward or backward, raises and says where."""

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
    """An op made a NaN, or an Inf, while anomaly mode was on."""


def _bad(a: Any, looks_for: tuple[bool, bool]) -> Any:
    """Which elements are a NaN, or an Inf, that is looked for; None if there are none."""
    a = a.array if isinstance(a, Tensor) else a
    if getattr(a, "dtype", None) is None or a.dtype.kind != "f":
        return None
    nan, inf = looks_for
    bad = ~np.isfinite(a) if nan and inf else np.isinf(a) if inf else a != a
    return bad if (nan or inf) and bool(bad.any()) else None


def _first(bad: Any) -> tuple:
    return tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))


def _what(value: Any) -> str:
    return "a NaN" if value != value else "an Inf" if value > 0 else "a -Inf"


def _given(looks_for: tuple[bool, bool], tensors: Sequence[Any], numbers: Sequence[Any] = ()) -> bool:
    """Whether what is looked for came in: then it is not the op's doing."""
    floats = [a for a in numbers if isinstance(a, float)]
    return any(_bad(a, looks_for) is not None for a in tensors if a is not None) or (
        looks_for[1] and any(np.isinf(a) for a in floats)
    )


def check_forward(
    ctx: Any, inputs: Sequence[Any], out: Any, looks_for: tuple[bool, bool], numbers: Sequence[Any] = ()
) -> None:
    """Raise AnomalyError if the op made what is looked for. `numbers`: its arguments, among them plain numbers."""
    for t in out if type(out) is tuple else (out,):
        bad = _bad(t, looks_for)
        if bad is None or _given(looks_for, [a for a in inputs if isinstance(a, Tensor)], numbers):
            continue
        at = _first(bad)
        where = ctx.where or caller()
        seen = []
        for i, a in enumerate(inputs):
            if isinstance(a, Tensor) and a.array.dtype.kind == "f":
                value = f" = {a.array[at]}" if a.array.shape == t.array.shape else ""
                low, high = (a.array.min(), a.array.max()) if a.array.size else ("-", "-")
                seen.append(f"input {i} {tuple(a.shape)}{value} (range {low} .. {high})")
        raise AnomalyError(
            f"op {type(ctx).__name__}{f' in module {state.scope}' if state.scope else ''} made {_what(t.array[at])} at "
            f"element {list(at)} of its output {tuple(t.shape)}.\n  at {source_line(where)}\n  " + "\n  ".join(seen)
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


def check_backward(node: Any, grads_out: Sequence[Any], grads_in: Sequence[Any], looks_for: tuple[bool, bool]) -> None:
    """The same of a node's backward."""
    for i, g in enumerate(grads_in):
        bad = _bad(g, looks_for)
        if bad is None or _given(looks_for, grads_out):
            continue
        at = _first(bad)
        value = (g.array if isinstance(g, Tensor) else g)[at]
        where = f" in module {node.scope}" if node.scope else ""
        raise AnomalyError(
            f"backward of op {type(node).__name__}{where} made {_what(value)} at element {list(at)} of the gradient of "
            f"input {i}.\n  the op ran at {source_line(node.where)}"
        )


class Anomaly(Watcher):
    """What detect_anomaly sets to look on."""

    looks_for: tuple[bool, bool]

    def __init__(self, nan: bool, inf: bool):
        self.looks_for = nan, inf

    def ran(self, ctx: Any, inputs: Sequence[Any], args: tuple, kwargs: dict, out: Any) -> None:
        check_forward(ctx, inputs, out, self.looks_for, [*args, *kwargs.values()])

    def stepped(self, node: Any, slots: Sequence[Any], grads: Sequence[Any]) -> None:
        check_backward(node, slots, grads, self.looks_for)
