"""Methods that change a tensor's shape, or how its memory is read, in place: t_, transpose_, squeeze_, unsqueeze_."""

from __future__ import annotations

from typing import Any

from minidl.autograd import attach, state
from minidl.ops.axes import t, transpose
from minidl.ops.shapes import squeeze, unsqueeze
from minidl.tensors import Tensor, wrap


def _become(x: Tensor, f: Any) -> Tensor:
    """Let x be f(x), a view of the same memory; returns x. Raises RuntimeError for a leaf that requires gradients."""
    if state.grad and x.requires_grad and x.is_leaf:
        raise RuntimeError("a leaf tensor that requires grad is being used in an in-place operation")
    before = wrap(x.array, x._requires_grad, type(x))
    before._node, before.index, before._view, before._changes = x._node, x.index, x._view, x.version
    y = f(before)
    x.array = y.array
    if y.requires_grad or x._view is not None:
        x._node, x.index, x._view, x._requires_grad = y._node, y.index, y._view, y._requires_grad
    return x


def _method(name: str, f: Any, doc: str) -> None:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _become(self, lambda x: f(x, *args, **kwargs))

    method.__name__, method.__doc__ = name, doc
    attach(name, method)


_method("t_", t, "The transpose of a matrix, in place.")
for _name in ("transpose_", "swapaxes_", "swapdims_"):
    _method(_name, transpose, "Two dimensions exchanged, in place.")
_method("squeeze_", squeeze, "Without dimensions of size 1, in place.")
_method("unsqueeze_", unsqueeze, "With a new dimension of size 1, in place.")
