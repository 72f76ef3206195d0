"""Softmax and cross-entropy on a GPU: prob.cu, a block for each row."""

from __future__ import annotations

from typing import Any

from ..cuda.launch import check_index, contiguous, cupy, kernel, lanes, rows

_SOURCE = "prob/prob.cu"


def _each_row(name: str, *arrays: Any) -> Any:
    """A kernel of arrays of one shape."""
    first, *rest = contiguous(*arrays)
    y, n = cupy().empty_like(first), first.shape[-1]
    kernel(_SOURCE, name, y.dtype)(rows(y) if n else 0, lanes(n), first, *rest, y, n)
    return y


def softmax(x: Any) -> Any:
    return _each_row("softmax", x)


def softmax_backward(dy: Any, y: Any) -> Any:
    return _each_row("softmax_backward", dy, y)


def log_softmax(x: Any) -> Any:
    return _each_row("log_softmax", x)


def log_softmax_backward(dy: Any, y: Any) -> Any:
    return _each_row("log_softmax_backward", dy, y)


def cross_entropy(x: Any, t: Any, w: Any, ignore_index: int, smoothing: float) -> tuple[Any, Any]:
    """A class that does not exist gives NaN, unless the debug switch of launch.py is on."""
    (x, w), (n, c) = contiguous(x, w), x.shape
    check_index("cross_entropy", "class", t, c, ignore_index)
    t = cupy().ascontiguousarray(t, "int64")
    loss, lse = cupy().zeros(n, x.dtype), cupy().full(n, -float("inf"), x.dtype)
    how = (c, ignore_index, 1 - smoothing, smoothing / c if c else 0)
    kernel(_SOURCE, "cross_entropy", x.dtype)(n if c else 0, lanes(c), x, t, w, loss, lse, *how)
    return loss, lse


def cross_entropy_backward(dy: Any, x: Any, t: Any, lse: Any, w: Any, ignore_index: int, smoothing: float) -> Any:
    (dy, x, lse, w), (n, c) = contiguous(dy, x, lse, w), x.shape
    check_index("cross_entropy_backward", "class", t, c, ignore_index)
    t, dx = cupy().ascontiguousarray(t, "int64"), cupy().empty_like(x)
    how = (c, ignore_index, 1 - smoothing, smoothing / c if c else 0)
    kernel(_SOURCE, "cross_entropy_backward", x.dtype)(n if c else 0, lanes(c), dy, x, t, lse, w, dx, *how)
    return dx
