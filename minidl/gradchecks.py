"""Is a gradient right? Compare backward with finite differences, in float64.

For y = f(x) every entry of the Jacobian is measured as (f(x + eps e) - f(x - eps e)) / (2 eps), whose error is of order
eps^2 from the curvature and u / eps from rounding (u = 1.1e-16): with eps = 1e-6 about 1e-10 for functions of
ordinary size. The same check on the gradient itself, as a function of x and dy, proves second derivatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.autograd import grad
from minidl.tensors import Tensor, wrap


class GradcheckError(RuntimeError):
    """backward disagrees with finite differences."""


def gradcheck(
    func: Callable,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Compare func's backward with finite differences at `inputs`, entry by entry.

    Args:
        func: function of the inputs that returns a Tensor or a tuple of them. An op, a function or a model.
        inputs: a Tensor or a sequence; float64 Tensors that require gradients are checked, anything else is passed on.
        eps: step of the finite differences.
        atol, rtol: an entry passes when |backward - measured| <= atol + rtol |measured|; NaN never passes.
        raise_exception: raise GradcheckError naming the input, the output and the worst entry; otherwise return False.

    Raises ValueError if no input is a float64 Tensor that requires gradients.

    >>> import minidl
    >>> x = minidl.randn(3, dtype=minidl.float64, requires_grad=True)
    >>> gradcheck(minidl.exp, x)
    True
    """
    return _check(func, func, inputs, eps, atol, rtol, raise_exception)


def gradgradcheck(
    func: Callable,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """gradcheck of the gradient itself: second derivatives, with respect to the inputs and to the incoming gradient.

    What is differentiated is the gradient under create_graph, what is measured is the plain one: they are proved to be
    the same too. Arguments as gradcheck; grad_outputs are drawn at random unless given.
    """
    args = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
    outputs = [y for y in _outputs(func(*args)) if y.requires_grad]
    if grad_outputs is None:
        gen = random.Generator(20)
        grads = [wrap(np.asarray(gen.normal(y.array.shape, dtype=np.float64)), True) for y in outputs]
    else:
        grads = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)

    def gradient(*both: Any, create_graph: bool) -> tuple:
        xs, dys = both[: len(args)], both[len(args) :]
        ys = [y for y in _outputs(func(*xs)) if y.requires_grad]
        wrt = [xs[i] for i in checked]
        found = grad(ys, wrt, list(dys), create_graph=create_graph, allow_unused=True)
        return tuple(wrap(np.zeros_like(x.array)) if g is None else g for g, x in zip(found, wrt, strict=True))

    recorded, plain = (functools.partial(gradient, create_graph=create_graph) for create_graph in (True, False))
    return _check(recorded, plain, [*args, *grads], eps, atol, rtol, raise_exception)


def _check(
    func: Callable, plain: Callable, inputs: Any, eps: float, atol: float, rtol: float, raise_exception: bool
) -> bool:
    """gradcheck of `func`, whose differences are those of `plain`, the same function without a graph behind it."""
    args = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input requires gradients")
    for i in checked:
        if args[i].array.dtype != np.float64:
            raise ValueError(
                f"gradcheck: input {i} is {args[i].dtype}; finite differences need float64 (tensor.double())"
            )
    leaves = [wrap(a.array.copy(order="C"), True) if i in checked else a for i, a in enumerate(args)]
    outputs = _outputs(func(*leaves))
    try:
        floats = {k: y for k, y in enumerate(outputs) if y.array.dtype.kind == "f"}
        measured = [_measure(plain, leaves, i, floats, eps) for i in checked]
        for k, y in floats.items():
            computed = _jacobian(y, [leaves[i] for i in checked])
            for i, n, a in zip(checked, measured, computed, strict=True):
                _compare(n[k], a, atol, rtol, f"output {k} with respect to input {i} (shape {tuple(leaves[i].shape)})")
            _same_twice(y, [leaves[i] for i in checked])
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _outputs(y: Any) -> Sequence[Tensor]:
    return (y,) if isinstance(y, Tensor) else tuple(t for t in y if isinstance(t, Tensor))


def _measure(func: Callable, leaves: list, i: int, floats: dict[int, Tensor], eps: float) -> dict[int, np.ndarray]:
    """The Jacobian (inputs, outputs) of every float output by central differences in the entries of input i."""
    flat = leaves[i].array.reshape(-1)
    found = {k: np.zeros((flat.size, y.array.size)) for k, y in floats.items()}
    for j, before in enumerate(flat.copy()):
        flat[j] = before + eps
        # a copy, as an output may be a view of the input
        up = {k: y.array.astype(np.float64) for k, y in enumerate(_outputs(func(*leaves))) if k in floats}
        flat[j] = before - eps
        down = _outputs(func(*leaves))
        for k in floats:
            found[k][j] = ((up[k] - down[k].array) / (2 * eps)).reshape(-1)
        flat[j] = before
    return found


def _jacobian(y: Tensor, xs: list) -> list[np.ndarray]:
    """For each x the Jacobian (inputs, outputs) by backward, one output element at a time."""
    columns: list[list] = [[] for _ in xs]
    if not y.requires_grad:
        return [np.zeros((x.array.size, y.array.size)) for x in xs]
    for j in range(y.array.size):
        dy = np.zeros(y.array.shape, y.array.dtype)
        dy.reshape(-1)[j] = 1
        found = grad(y, xs, wrap(dy), retain_graph=True, allow_unused=True)
        for column, g, x in zip(columns, found, xs, strict=True):
            column.append(np.zeros(x.array.size) if g is None else g.array.reshape(-1).copy())
    return [np.array(c).reshape(y.array.size, x.array.size).T for c, x in zip(columns, xs, strict=True)]


def _compare(measured: np.ndarray, computed: np.ndarray, atol: float, rtol: float, what: str) -> None:
    bad = ~(np.abs(computed - measured) <= atol + rtol * np.abs(measured))  # written so that NaN fails
    if bad.any():
        gap = np.where(np.isfinite(computed - measured), np.abs(computed - measured), np.inf) * bad
        i, j = np.unravel_index(int(gap.argmax()), gap.shape)
        raise GradcheckError(
            f"gradcheck: {what}: d y[{j}] / d x[{i}] is {computed[i, j]:.9g} by backward and {measured[i, j]:.9g} by "
            f"finite differences (flat indices; {int(bad.sum())} of {bad.size} entries disagree)"
        )


def _same_twice(y: Tensor, xs: list) -> None:
    """Backward must give the same bits when run again."""
    if not y.requires_grad:
        return
    dy = wrap(np.ones_like(y.array))
    first = grad(y, xs, dy, retain_graph=True, allow_unused=True)
    again = grad(y, xs, dy, retain_graph=True, allow_unused=True)
    for a, b in zip(first, again, strict=True):
        if a is not None and b is not None and not np.array_equal(a.array, b.array, equal_nan=True):
            raise GradcheckError("gradcheck: backward gave different results when run twice")
