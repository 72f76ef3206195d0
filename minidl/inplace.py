"""In-place changes: how ``x += y`` and ``x[i] = y`` stay differentiable, and views see each other's changes.

Changing memory in place is two things at once. The memory gets new values, and its version goes up, so that an op that
saved the old values refuses to use them. And the tensor takes the place of a new result in the graph. When the
tensor is
a view (``row = x[0]; row += 1``) its base has changed too: the base becomes the result of :class:`view_write`, and
every other view of it is derived afresh from the base when next asked for its node.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import TABLE, Op, caller, state
from minidl.tensors import Tensor, wrap


class view_write(Op):
    """`base` after a part of it, ``view(base)``, has become `value`. The memory holds the new values already.

    Why: what was overwritten no longer reaches y; the value is copied to its place.
    """

    def forward(ctx, base: Any, value: Any, view: Any = None) -> Any:
        ctx.view = view
        ctx.size, ctx.xp = base.shape, devices.array_module(base)
        return base

    def again(ctx, base: Any, value: Any, view: Any = None) -> Any:
        op, args, kwargs = ctx.view
        y = TABLE["clone"](base)
        write(op(y, *args, **kwargs), value)
        return y

    def backward(ctx, dy: Any) -> Any:
        op, args, kwargs = ctx.view
        keep = ctx.xp.ones(ctx.size, bool)
        op(keep, *args, **kwargs)[...] = False
        return ctx.wanted(lambda: TABLE["where"](keep, dy, 0.0), lambda: op(dy, *args, **kwargs))


def write(x: Tensor, value: Any) -> Tensor:
    """``x[...] = value`` for a value of x's shape, recorded; returns x.

    Raises RuntimeError when x is a leaf that requires gradients (its history would be lost), when the shapes differ, or
    when the value's dtype is of a higher kind than x's.
    """
    new = value.array if isinstance(value, Tensor) else np.asarray(value)
    check_writable(x, isinstance(value, Tensor) and value.requires_grad)
    if new.shape != x.array.shape:
        try:
            fits = np.broadcast_shapes(new.shape, x.array.shape) == x.array.shape
        except ValueError:
            fits = False
        if not fits:
            raise RuntimeError(
                f"output with shape {list(x.shape)} doesn't match the broadcast shape {list(new.shape)} of an "
                f"in-place op"
            )
    if "buif".index(new.dtype.kind) > "buif".index(x.array.dtype.kind) and not (
        new.dtype.kind == "i" and x.array.dtype.kind == "u"
    ):
        raise RuntimeError(f"result type {new.dtype} can't be cast to the tensor's own type {x.array.dtype} in place")
    if isinstance(value, Tensor) and value.node is not None:
        _keep_operand(value.node, x)
    before = place_of(x) if state.grad and x._view is None and x.requires_grad else None
    x.array[...] = new
    x.bump(caller())
    if state.grad and isinstance(value, Tensor) and value.requires_grad:
        if new.shape != x.array.shape or new.dtype != x.array.dtype:
            value = TABLE["cast"](TABLE["broadcast_to"](value, x.array.shape), x.array.dtype)
        take_place(x, value)
    elif x._view is not None:
        if x.requires_grad and state.grad:
            take_place(x, value if isinstance(value, Tensor) else None)
        else:
            x._view.count = x.version.count
    elif before is not None:
        take_place(x, view_write(before, x.array, (TABLE["alias"], (), {})))  # all of x is new
    return x


def _keep_operand(node: Any, x: Tensor) -> None:
    """``x *= w``: the product saved x as it was. A copy takes its place, since the memory is about to change."""
    if node._saved and x._changes is not None:
        node._saved = [
            (s.copy(), source, None, 0)
            if version is x._changes and version.count == count
            else (s, source, version, count)
            for s, source, version, count in node._saved
        ]


def place_of(x: Tensor) -> Tensor:
    """A handle on x's place in the graph before it is overwritten."""
    handle = wrap(x.array, x.requires_grad)
    handle._node, handle.index = x.node, x.index
    return handle


def check_writable(x: Tensor, recorded: bool) -> None:
    """Raise RuntimeError if writing into x would lose a history, or x's memory is read-only or repeated.

    `recorded`: does the value want a gradient?
    """
    if state.grad and recorded:
        part = x
        while part._view is not None:
            if part._view.apart:
                raise RuntimeError(
                    "this view was made under no_grad and is now written with a value that requires grad: its base "
                    "would not learn of it. Make the view outside no_grad, or write under no_grad"
                )
            part = part._view.base
    if state.grad and x.requires_grad:
        root = x
        while root._view is not None:
            root = root._view.base
        if x.is_leaf or (root is not x and root.is_leaf and root.requires_grad):
            what = "a leaf tensor" if x.is_leaf else "a view of a leaf tensor"
            raise RuntimeError(
                f"{what} of shape {tuple(x.shape)} that requires grad is being changed by an in-place operation: its "
                "history would be lost. To update a weight do it under minidl.no_grad(), as optimizers do; to compute "
                "with the result write it out of place (w = w - 1), or clone() first"
            )
    a = x.array
    if 0 in a.strides and a.size and any(s == 0 and n > 1 for s, n in zip(a.strides, a.shape, strict=True)):
        raise RuntimeError(
            "several elements of this expanded tensor share one memory location: clone() it before writing to it "
            "in place"
        )
    if not devices.writeable(a):
        raise RuntimeError("this tensor's memory is read-only (it came from a read-only array): clone() it first")


def take_place(x: Tensor, value: Tensor | None) -> None:
    """Let x stand where `value` stands in the graph, and x's base where the changed base does."""
    views = []
    while x._view is not None:
        views.append(x)
        view = x._view
        x, value = (
            view.base,
            view_write(view.base, value if value is not None else x.array, (view.op, view.args, view.kwargs)),
        )
    if value is not None:
        x._node, x.index, x._requires_grad = value.node, value.index, True
        if value.node is None:  # the value is a leaf itself: x is a copy of it
            copy = TABLE["alias"](value)
            x._node, x.index = copy._node, copy.index
    for v in views:
        v._node, v._requires_grad = None, True
        v._view.count = -1  # stale: derived from the changed base when next asked for
