"""Truth values: and, or, xor, not; finite or not; are two tensors close or equal; which elements are not zero."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, OpType, op
from minidl.ops.common import Binary, Elementwise, many_dims, need_arrays, of_tensors
from minidl.tensors import Tensor, wrap


def raw(x: Any) -> Any:
    """The array of a Tensor; an array as it is."""
    return x.array if isinstance(x, Tensor) else x


def like(x: Any, index: Any) -> Any:
    """An index array as a Tensor where x is one."""
    return wrap(index) if isinstance(x, Tensor) else index


def _logical(name: str, words: str, function: Any) -> Any:
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        need_arrays(name, a, b)
        return function(a, b)

    body = {
        "forward": forward,
        "promote": of_tensors(None, name),
        "differentiable": False,
        "__doc__": f"""Whether {words}, bool; 0 is False

    Why: the result is a truth value: it has no slope.
    Try: {name}(rand(3, 4) > 0.5, rand(4) > 0.5)
    """,
        "__module__": __name__,
    }
    return op(method=name, inplace=True)(OpType(name, (Binary,), body))


logical_and = _logical("logical_and", "a and b are both true", np.logical_and)
logical_or = _logical("logical_or", "a, b or both are true", np.logical_or)
logical_xor = _logical("logical_xor", "exactly one of a and b is true", np.logical_xor)


@op(method="isclose")
class isclose(Binary):
    """Whether |a - b| <= atol + rtol |b|, or a = b (so that equal infinities are close); NaN is close to nothing,
    with `equal_nan` to NaN

    Raises RuntimeError when the dtypes differ or a tolerance is negative.

    Why: the result is a truth value: it has no slope.
    Try: isclose(randn(8), randn(8))
    """

    promote = staticmethod(of_tensors(None, "isclose"))
    differentiable = False

    def shape(a: Any, b: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return Binary.shape(a, b)

    def forward(ctx, a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
        need_arrays("isclose", a, b)
        if a.dtype != b.dtype:
            raise RuntimeError(f"isclose: {a.dtype} did not match {b.dtype}")
        if rtol < 0 or atol < 0:
            raise RuntimeError(f"isclose: rtol ({rtol}) and atol ({atol}) must be greater than or equal to zero")
        close = a == b
        if equal_nan:
            close = close | ((a != a) & (b != b))
        if a.dtype.kind != "f":
            a, b = a.astype(dtypes.default()), b.astype(dtypes.default())
        off = np.abs(a - b)
        return close | (np.isfinite(off) & (off <= atol + np.abs(rtol * b)))


@op(method="allclose")
def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> builtins.bool:
    """Whether all elements are close, a Python bool. See :func:`isclose`.

    Try: allclose(x := randn(3), x)
    """
    return builtins.bool(isclose(input, other, rtol, atol, equal_nan).all())


@op(method="equal")
def equal(input: Any, other: Any) -> builtins.bool:
    """Whether two tensors have the same shape and the same values, a Python bool; NaN equals nothing.

    Try: equal(x := randn(3), x)
    """
    a, b = raw(input), raw(other)
    return a.shape == b.shape and builtins.bool((a == b).all())


@op(method="is_same_size")
def is_same_size(input: Any, other: Any) -> builtins.bool:
    """Whether two tensors have the same shape, a Python bool.

    Try: is_same_size(randn(2, 3), randn(2, 3))
    """
    return tuple(input.shape) == tuple(other.shape)


@op(method="count_nonzero")
class count_nonzero(Op):
    """How many elements are not 0, over `dim` (an int, several, or all); int64. NaN is not 0

    Why: a count jumps: it has no slope.
    Try: count_nonzero(randint(0, 2, (3, 4)))
    """

    differentiable = False

    def forward(ctx, x: Any, dim: Any = None) -> Any:
        return devices.as_array((x != 0).sum(axis=many_dims(dim, x.ndim), dtype=np.int64))


@op(method="nonzero")
def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    """Where input is not 0: int64 (count, ndim), one row for each place in row-major order.

    With ``as_tuple`` one vector for each dimension, ready to index with; a 0-d tensor counts as (1,) then.

    Try: nonzero(randint(0, 2, (3, 4)))
    """
    x = raw(input)
    if as_tuple:
        places = np.nonzero(x if x.ndim else x.reshape(1))
        return tuple(like(input, devices.contiguous(at, np.int64)) for at in places)
    return like(input, np.argwhere(x).astype(np.int64, copy=False))


@op(method="argwhere")
def argwhere(input: Any) -> Any:
    """Where input is not 0: int64 (count, ndim).

    Try: argwhere(randint(0, 2, (3, 4)))
    """
    return nonzero(input)


def _test(name: str, words: str, function: Any, inplace: bool = False) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        return function(x)

    doc = f"""{words}

    Why: the result is a truth value: it has no slope.
    Try: {name}(tensor([0.0, 1.0, nan, inf]))
    """
    body = {"forward": forward, "promote": None, "differentiable": False, "__doc__": doc, "__module__": __name__}
    return op(method=name, inplace=inplace)(OpType(name, (Elementwise,), body))


isnan = _test("isnan", "Whether x is not a number", np.isnan)
isinf = _test("isinf", "Whether x is infinite", np.isinf)
isfinite = _test("isfinite", "Whether x is a finite number", np.isfinite)
logical_not = _test("logical_not", "Whether x is 0 or False", np.logical_not, True)
