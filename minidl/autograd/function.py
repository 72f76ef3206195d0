"""torch.autograd.Function: an op of one's own that is written on Tensors, with static forward and backward.

`minidl.Op` is the engine's own way, on arrays; programs written for torch bring this one.

>>> import minidl
>>> class Cube(Function):
...     @staticmethod
...     def forward(ctx, x):
...         ctx.save_for_backward(x)
...         return x**3
...     @staticmethod
...     def backward(ctx, dy):
...         (x,) = ctx.saved_tensors
...         return dy * 3 * x**2
>>> x = minidl.tensor(2.0, requires_grad=True)
>>> Cube.apply(x).backward()
>>> x.grad
tensor(12.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from minidl.autograd.contract import Op, new, place
from minidl.autograd.modes import no_grad, state
from minidl.autograd.source import caller, source_line
from minidl.tensors import Tensor, wrap

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class FunctionCtx:
    """What forward leaves for backward: tensors by `save_for_backward`, anything else as plain attributes."""

    needs_input_grad: tuple[bool, ...] = ()
    _kept: tuple | None = ()  # (tensor or None, or the array and number of an output), version and its count
    _dirty: tuple = ()
    _not_differentiable: tuple = ()
    _node: Any = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward; an in-place change of one in between is then detected."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(
                    f"save_for_backward can only save tensors, got {type(t).__name__}: keep it as an attribute, "
                    "ctx.size = size"
                )
        self._kept = tensors

    def mark_dirty(self, *args: Tensor) -> None:
        """Say which inputs forward changed in place; it must return them."""
        self._dirty = args

    def mark_non_differentiable(self, *args: Tensor) -> None:
        """Say which outputs have no gradient."""
        self._not_differentiable = args

    def set_materialize_grads(self, value: bool) -> None:
        """Of no effect: an output without a gradient always brings zeros to backward, never None."""

    @property
    def saved_tensors(self) -> tuple:
        """What was saved. Raises RuntimeError if it was changed in place since, or freed by a first backward."""
        if self._kept is None:
            raise RuntimeError(
                f"{self._node}: trying to run backward through the graph a second time, but what it saved was freed "
                "after the first time; call backward(retain_graph=True) the first time"
            )
        found = []
        for kept in self._kept:
            if not isinstance(kept, tuple):  # still in forward
                found.append(kept)
                continue
            t, index, version, count = kept
            if version.count != count:
                raise RuntimeError(
                    f"a tensor of shape {tuple(t.shape)} that {self._node} saved for backward was changed by an "
                    f"in-place operation at {source_line(version.changed_at)}; clone() it first"
                )
            if index is not None:  # an output: kept without its history, which would make a cycle
                t = wrap(t, True)
                t._node, t.index = self._node, index
            found.append(t)
        return tuple(found)

    def _pin(self, outputs: dict[int, Tensor]) -> None:
        kept: list = []
        for t in self._kept or ():
            if t is None:
                kept.append(None)
                continue
            out = outputs.get(id(t))
            if out is not None and out._node is self._node:
                kept.append((out.array, out.index, out.version, out.version.count))
            else:
                kept.append((t, None, t.version, t.version.count))
        self._kept = tuple(kept)


class Function:
    """Base of an op with ``forward(ctx, *args)`` and ``backward(ctx, *grad_outputs)``, both static, on Tensors.

    ``MyFunction.apply(*args)`` runs it. forward is not recorded; backward returns one gradient for each argument of
    forward, None for what is no Tensor or wants none, and may itself be differentiated if its ops can. With a static
    ``setup_context(ctx, inputs, output)``, forward is written without ctx.

    Raises RuntimeError when backward returns another number of gradients than forward has arguments.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the outputs: a Tensor, or a tuple of Tensors and others."""
        raise NotImplementedError("a Function must define a static forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradient of each argument of forward, given that of each output."""
        raise NotImplementedError("a Function must define a static backward(ctx, *grad_outputs) to be differentiated")

    setup_context: Any = None

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward, and leave a node for backward if a Tensor among the arguments wants a gradient."""
        ctx = FunctionCtx()
        places = [place(a) for a in args]
        ctx.needs_input_grad = tuple([p is not None for p in places])
        record = state.grad and any(ctx.needs_input_grad)
        indices = [a.index if isinstance(a, Tensor) else 0 for a in args]
        with no_grad():
            if cls.setup_context is None:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        several = isinstance(result, (tuple, list))
        results = list(result) if several else [result]
        if not any(isinstance(y, Tensor) for y in results):
            raise TypeError(f"{cls.__name__}.forward must return a Tensor or several, got {type(result).__name__}")
        node: Any = new(_Applied)
        node.function, node.context, ctx._node = cls, ctx, node
        node.parents, node.indices, node.scope, node.where = places, indices, state.scope, caller(1)
        outputs: dict[int, Tensor] = {}
        dirty = {id(t) for t in ctx._dirty}
        constant = {id(t) for t in ctx._not_differentiable}
        for k, y in enumerate(results):
            if not isinstance(y, Tensor):
                continue
            differentiable = record and y.array.dtype.kind == "f" and id(y) not in constant
            if id(y) in dirty:
                if y._view is not None and differentiable:
                    raise NotImplementedError(f"{cls.__name__}: mark_dirty of a view; clone() it first")
                if y.is_leaf and y.requires_grad and record:
                    raise RuntimeError("a leaf Tensor that requires grad has been used in an in-place operation")
                out = y
            else:
                out = wrap(y.array)
                if any(y is a for a in args):  # the same memory under another history
                    out._changes = y.version
            if differentiable:
                out._node, out.index, out._requires_grad = node, k, True
            outputs[id(y)] = results[k] = out
        if several:
            import numpy as np

            node.outputs = [
                (y.array.shape, y.array.dtype) if isinstance(y, Tensor) else ((), np.dtype(bool)) for y in results
            ]
        if record:
            ctx._pin(outputs)
        result = tuple(results) if several else results[0]
        for watcher in state.watch:
            watcher.ran(node, args, args, {}, result)
        return result


class _Applied(Op):
    """The node that one application of a Function leaves behind."""

    function: Any
    context: Any

    def backward(ctx, *dy: Any) -> Any:
        arguments = [g if g is None or isinstance(g, Tensor) else wrap(g) for g in dy]
        grads = ctx.function.backward(ctx.context, *arguments)
        grads = grads if isinstance(grads, (tuple, list)) else (grads,)
        n = len(ctx.parents)
        if len(grads) < n or any(g is not None for g in grads[n:]):
            raise RuntimeError(
                f"function {ctx.name()} returned an incorrect number of gradients (expected {n}, got {len(grads)}): "
                "one for each argument of forward, None for what needs none"
            )
        return tuple(grads[:n])

    def again(ctx, *args: Any, **kwargs: Any) -> Any:
        return ctx.function.apply(*args, **kwargs)

    def release(ctx) -> None:
        ctx.context._kept = None if ctx.context._kept else ctx.context._kept

    def name(ctx) -> str:
        return f"{ctx.function.__name__}Backward"

    def __repr__(ctx) -> str:
        return f"<{ctx.name()}{f' in {ctx.scope}' if ctx.scope else ''}>"


class _Once(Op):
    """The identity, of which no gradient can be taken."""

    def forward(ctx, x: Any) -> Any:
        return x.copy()

    def backward(ctx, dy: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")


def once_differentiable(fn: Callable) -> Callable:
    """Decorator of a Function's backward that is not to be differentiated: to do so raises RuntimeError."""

    @wraps(fn)
    def backward(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            found = fn(ctx, *grads)
        if not state.grad or not any(isinstance(g, Tensor) and g.requires_grad for g in grads):
            return found
        several = isinstance(found, (tuple, list))
        out = [
            _Once(wrap(g.array, True)) if isinstance(g, Tensor) else g for g in (found if several else (found,))
        ]  # fmt: skip
        return tuple(out) if several else out[0]

    return backward
