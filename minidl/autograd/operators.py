"""``a + b``: the operators, and the short way they take through the call of an op.

Most of what a small program does is an operator between two Tensors of one float dtype, or between such a Tensor and a
number. Then nothing has to be cast, counted or bound to keywords, and what :class:`OpType` does for any op is a few
steps here. All other operands go the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd.contract import OpType, ShapeError, explain, ndarray, new
from minidl.autograd.modes import state
from minidl.autograd.source import caller
from minidl.tensors import Tensor

_call = OpType.__call__  # calling it directly spares the way through the metaclass
_OPERANDS = (Tensor, ndarray, int, float, bool, np.generic)


def is_operand(x: Any) -> bool:
    """Whether a Tensor can be combined with it."""
    return isinstance(x, _OPERANDS) or devices.is_cuda_array(x)


def as_operator(cls: OpType) -> Callable[[Tensor, Any], Any]:
    """The method behind the operator of an op with two operands."""
    page: Any = cls
    forward, differentiable = page.forward, page.differentiable

    def operate(self: Tensor, other: Any) -> Any:
        a = self.array
        b = other.array if isinstance(other, Tensor) else other
        mode = state.__dict__
        if type(a) is not ndarray or a.dtype.kind != "f" or mode["watch"]:
            short = False
        elif type(b) is ndarray:
            short = b.dtype is a.dtype
        else:
            short = type(b) is float or type(b) is int
        if not short:
            return _call(cls, self, other) if is_operand(other) else NotImplemented

        ctx = new(cls)
        record = False
        if differentiable and mode["grad"]:
            a_from = b_from = None  # their places in the graph
            if self._requires_grad or self._view is not None:
                a_from = self._node if self._view is None else self.node
                if a_from is None and self._requires_grad:
                    a_from = self
            if b is not other and (other._requires_grad or other._view is not None):
                b_from = other._node if other._view is None else other.node
                if b_from is None and other._requires_grad:
                    b_from = other
            if a_from is not None or b_from is not None:
                record = ctx.recording = True
                ctx.parents = (a_from, b_from)
                if self.index or (b is not other and other.index):
                    ctx.indices = (self.index, 0 if b is other else other.index)
                ctx.where = caller(2)  # above this function
                if mode["scope"]:
                    ctx.scope = mode["scope"]
        try:
            y = forward(ctx, a, b)
        except Exception as error:
            raise explain(cls, (a, b), (self, other), {}, error) from (None if isinstance(error, ShapeError) else error)
        out: Any = new(Tensor)
        out.array = y if type(y) is ndarray else np.asarray(y)
        if record:
            out._requires_grad = True  # floats give floats
            out._node = ctx
            if ctx._saved is not None:
                ctx.pin((self, other), (a, b), y, out)
        return out

    return operate
