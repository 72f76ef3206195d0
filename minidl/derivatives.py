"""torch.autograd.functional's names, found as minidl.autograd.functional: derivatives of a function at given inputs.

Inputs and outputs are Tensors or tuples of them; results come in the same form. `minidl.func` has the newer spelling,
where a derivative is itself a function, for any trees of Tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import grad, modes
from minidl.ops.create import zeros, zeros_like
from minidl.ops.joining import stack
from minidl.tensors import Tensor, wrap

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


def _tuple(name: str, x: Any) -> tuple[tuple, bool]:
    """As a tuple, and whether it was one. Raises TypeError for anything but Tensors."""
    several = isinstance(x, tuple)
    parts = x if several else (x,)
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(f"{name} must be a Tensor or a tuple of Tensors, not {type(part).__name__}")
    return parts, several


def _form(parts: list, several: bool) -> Any:
    return tuple(parts) if several else parts[0]


class _Point:
    """A function applied to fresh copies of its inputs, whose gradients are then asked for."""

    def __init__(self, func: Callable, inputs: Any, create_graph: bool, strict: bool) -> None:
        given, self.several_in = _tuple("inputs", inputs)
        self.inputs = [
            x.view(tuple(x.shape)) if create_graph and x.requires_grad else x.detach().clone() for x in given
        ]
        self.live, self.strict = create_graph, strict
        with modes.enable_grad():
            for x in self.inputs:
                if not x.requires_grad:
                    x.requires_grad_()
            outputs, self.several_out = _tuple("the outputs of the function", func(*self.inputs))
        self.outputs = list(outputs)
        for i, y in enumerate(self.outputs):
            if strict and not y.requires_grad:
                raise RuntimeError(f"Output {i} of the user-provided function does not require gradients (strict=True)")

    def grads(self, ys: list, dys: list, live: bool) -> list:
        """d ys / d inputs, zeros where there is no way from one to the other (an error under strict)."""
        pairs = [(y, dy) for y, dy in zip(ys, dys, strict=True) if y.requires_grad]
        found: Any = [None] * len(self.inputs)
        if pairs:
            found = grad(
                [y for y, _ in pairs], self.inputs, [dy for _, dy in pairs], retain_graph=True, create_graph=live,
                allow_unused=True,
            )  # fmt: skip
        if self.strict and any(g is None for g in found):
            i = next(k for k, g in enumerate(found) if g is None)
            raise RuntimeError(f"the output of the user-provided function is independent of input {i} (strict=True)")
        return [zeros_like(x) if g is None else g for g, x in zip(found, self.inputs, strict=True)]

    def done(self, parts: list) -> list:
        """Without a graph, unless create_graph asked for one."""
        return parts if self.live else [p.detach() for p in parts]

    def values(self) -> Any:
        return _form(self.done(self.outputs), self.several_out)


def _vectors(name: str, v: Any, like: list) -> list:
    """v as a list that fits `like`; a single 1 where v is None and there is one element. Raises RuntimeError."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"{name}: the vector v can only be None for a function with a single element")
        return [wrap(np.ones_like(like[0].array))]
    parts, _ = _tuple("v", v)
    if [tuple(p.shape) for p in parts] != [tuple(x.shape) for x in like]:
        raise RuntimeError(
            f"{name}: v has shapes {[tuple(p.shape) for p in parts]}, wanted are {[tuple(x.shape) for x in like]}"
        )
    return list(parts)


def jacobian(
    func: Callable, inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """d outputs / d inputs, each (*output, *input); of several outputs and inputs a tuple of tuples.

    create_graph keeps it differentiable; strict raises RuntimeError for an output that does not depend on an input.
    One row is computed at a time, whatever `vectorize` and `strategy`.

    >>> import minidl
    >>> jacobian(lambda x: x ** 2, minidl.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    at = _Point(func, inputs, create_graph, strict)
    rows = []
    for y in at.outputs:
        grads: list[list] = [[] for _ in at.inputs]
        for k in range(y.numel()):
            seed = zeros(y.numel(), dtype=y.dtype)
            seed.array[k] = 1
            for column, g in zip(grads, at.grads([y], [seed.reshape(y.shape)], create_graph), strict=True):
                column.append(g)
        parts = [
            stack(column).reshape((*y.shape, *x.shape)) if column else zeros((*y.shape, *x.shape), dtype=x.dtype)
            for column, x in zip(grads, at.inputs, strict=True)
        ]
        rows.append(_form(at.done(parts), at.several_in))
    return _form(rows, at.several_out)


def vjp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(outputs, v J): a vector of the outputs' shape times the Jacobian, by one backward pass."""
    at = _Point(func, inputs, create_graph, strict)
    found = at.grads(at.outputs, _vectors("vjp", v, at.outputs), create_graph)
    return at.values(), _form(at.done(found), at.several_in)


def jvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(outputs, J v): the Jacobian times a vector of the inputs' shape, by differentiating a vjp twice."""
    at = _Point(func, inputs, create_graph, strict)
    vector = _vectors("jvp", v, at.inputs)
    probes = [zeros_like(y).requires_grad_() for y in at.outputs]
    with modes.enable_grad():
        back = at.grads(at.outputs, probes, True)
    pairs = [(g, d) for g, d in zip(back, vector, strict=True) if g.requires_grad]
    found: Any = [None] * len(probes)
    if pairs:
        found = grad(
            [g for g, _ in pairs], probes, [d for _, d in pairs], retain_graph=True, create_graph=create_graph,
            allow_unused=True,
        )  # fmt: skip
    parts = [zeros_like(y) if g is None else g for g, y in zip(found, at.outputs, strict=True)]
    return at.values(), _form(at.done(parts), at.several_out)


def _scalar(name: str, at: _Point) -> Tensor:
    if at.several_out or at.outputs[0].numel() != 1:
        raise RuntimeError(f"{name}: the function must return a Tensor with a single element")
    return at.outputs[0]


def hessian(
    func: Callable, inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """d^2 f / d inputs^2 of a function with a single element, each (*input, *input): the Jacobian of the gradient."""
    several = isinstance(inputs, tuple)

    def gradient(*given: Any) -> Any:
        x = given if several else given[0]
        at = _Point(func, x, True, strict)
        y = _scalar("hessian", at)
        return _form(at.grads([y], [wrap(np.ones_like(y.array))], True), several)

    return jacobian(gradient, inputs, create_graph, strict)


def vhp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(f, v H): a vector times the Hessian, by a gradient of the gradient."""
    at = _Point(func, inputs, create_graph, strict)
    y, vector = _scalar("vhp", at), _vectors("vhp", v, at.inputs)
    with modes.enable_grad():
        first = at.grads([y], [wrap(np.ones_like(y.array))], True)
    return at.values(), _form(at.done(at.grads(first, vector, create_graph)), at.several_in)


def hvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(f, H v): the same as :func:`vhp`, since a Hessian is symmetric."""
    return vhp(func, inputs, v, create_graph, strict)
