"""How many operations a computation makes: counted while it runs, not estimated.

The computation runs once on arrays that count what NumPy does with them: one operation for each element that a
function of one or two numbers gives (an add, a multiply, a comparison, an exp: each is one), n - 1 for a sum of n, and
two for each multiply-add of a product, which is one MAC. Kernels are replaced by their reference, the plain NumPy
definition, so that the count is that of the mathematics, whatever variant runs. Copies and moves are no operations.
Of LAPACK's routines, which NumPy only calls, the leading terms of the textbook stand (Golub & Van Loan).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

import minidl_kernels
from minidl_kernels import registry

__all__ = ["Count", "Counting", "counted"]

_MOVES = {"positive", "copyto", "isnan", "isfinite", "isinf", "signbit"}


@dataclass
class Count:
    """`flops`: operations on numbers, a multiply-add being two; `macs`: multiply-adds in products of matrices."""

    flops: int = 0
    macs: int = 0


class _Now(threading.local):
    count: Count | None = None


_now = _Now()


def _add(flops: float, macs: float = 0) -> None:
    if _now.count is not None:
        _now.count.flops += int(flops)
        _now.count.macs += int(macs)


class Counting(np.ndarray):
    """An array that counts what is computed with it."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        plain = [_plain(a) for a in inputs]
        if out is not None:
            kwargs["out"] = tuple(_plain(o) for o in out)
        y = getattr(ufunc, method)(*plain, **kwargs)
        first = y[0] if isinstance(y, tuple) else y
        floats = any(getattr(a, "dtype", np.dtype(object)).kind == "f" for a in (*plain, first))
        if ufunc is np.matmul:
            k = np.shape(plain[0])[-1] if np.ndim(plain[0]) else 1
            _add(2 * np.size(first) * k if floats else 0, np.size(first) * k)
        elif floats and ufunc.__name__ not in _MOVES:
            if method == "__call__":
                _add(np.size(first) * (2 if ufunc.nout == 2 else 1))
            elif method == "reduce":
                _add(max(0, np.size(plain[0]) - np.size(first)))
            elif method in ("accumulate", "reduceat"):
                _add(np.size(plain[0]))
            elif method == "outer":
                _add(np.size(first))
            elif method == "at":
                _add(np.size(plain[-1]) if len(plain) > 2 else np.size(plain[0]))
        return out[0] if out is not None and len(out) == 1 else _counting(y)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = _RULES.get(func.__name__)
        if rule is None and func.__module__ != "numpy.linalg" and func.__name__ in _VIA_UFUNCS:
            return super().__array_function__(func, types, args, kwargs)  # made of ufuncs, which count
        y = func(*_plain(args), **_plain(kwargs))
        if rule is not None:
            rule(y, *_plain(args), **_plain(kwargs))
        return _counting(y)


def _plain(a: Any) -> Any:
    if isinstance(a, Counting):
        return a.view(np.ndarray)
    if isinstance(a, (list, tuple)) and not hasattr(a, "_fields"):
        return type(a)(_plain(v) for v in a)
    if isinstance(a, dict):
        return {k: _plain(v) for k, v in a.items()}
    return a


def _counting(a: Any) -> Any:
    if type(a) is np.ndarray:
        return a.view(Counting)
    if isinstance(a, np.floating):
        return np.asarray(a).view(Counting)
    if isinstance(a, tuple) and not hasattr(a, "_fields"):
        return tuple(_counting(v) for v in a)
    if isinstance(a, tuple):
        return type(a)(*map(_counting, a))
    return [_counting(v) for v in a] if isinstance(a, list) else a


_VIA_UFUNCS = {
    "sum", "mean", "prod", "max", "min", "amax", "amin", "cumsum", "cumprod", "var", "std", "clip", "nan_to_num", "cov",
    "nansum", "nanmean", "diff", "cross", "linspace", "logaddexp", "trace", "all", "any", "ptp",
}  # fmt: skip


def _batches(a: Any) -> int:
    return prod(np.shape(a)[:-2])


def _sizes(a: Any) -> tuple[int, int, int]:
    """(number of matrices, M, N)"""
    return _batches(a), *np.shape(a)[-2:]


def _product(y: Any, a: Any, b: Any, *rest: Any, **kwargs: Any) -> None:
    """dot, inner, vdot: one inner size."""
    n = np.size(a) * np.size(b) / max(np.size(y), 1)
    k = round(n**0.5) if np.ndim(a) and np.ndim(b) else 1
    _add(2 * np.size(y) * k if k > 1 else np.size(y), np.size(y) * k)


def _tensordot(y: Any, a: Any, b: Any, axes: Any = 2, **kwargs: Any) -> None:
    lead = range(np.ndim(a) - axes, np.ndim(a)) if isinstance(axes, int) else axes[0]
    k = prod(np.shape(a)[i] for i in ([lead] if isinstance(lead, int) else lead))
    _add(2 * np.size(y) * k, np.size(y) * k)


def _einsum(y: Any, *operands: Any, **kwargs: Any) -> None:
    """Every index runs over its size; each further operand is one multiplication, the sums are one addition each."""
    if not isinstance(operands[0], str):
        return
    subscripts, *arrays = operands
    left, _, _ = subscripts.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for names, a in zip(left.split(","), arrays):
        shape = list(np.shape(a))
        if "..." in names:
            head, _, tail = names.partition("...")
            rest = shape[len(head) : len(shape) - len(tail)]
            sizes["..."] = max(sizes.get("...", 1), prod(rest))
            shape = shape[: len(head)] + shape[len(shape) - len(tail) :]
            names = head + tail
        sizes.update(zip(names, shape))
    n = prod(sizes.values())
    products = n * (len(arrays) - 1)
    _add(products + max(0, n - np.size(y)), products if n > np.size(y) else 0)


def _lapack(flops: Callable[[int, int], float]) -> Callable[..., None]:
    def rule(y: Any, a: Any, *rest: Any, **kwargs: Any) -> None:
        batches, m, n = _sizes(a)
        _add(batches * flops(m, n))

    return rule


def _solve(y: Any, a: Any, b: Any) -> None:
    batches, n, _ = _sizes(a)
    _add(batches * 2 * n**3 / 3 + 2 * n * np.size(y))


_RULES: dict[str, Callable[..., None]] = {
    "dot": _product,
    "inner": _product,
    "vdot": _product,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "outer": lambda y, *_, **__: _add(np.size(y)),
    "bincount": lambda y, x, weights=None, *_, **__: _add(0 if weights is None else np.size(weights)),
    "inv": _lapack(lambda m, n: 2 * n**3),
    "solve": _solve,
    "cholesky": _lapack(lambda m, n: n**3 / 3),
    "det": _lapack(lambda m, n: 2 * n**3 / 3),
    "slogdet": _lapack(lambda m, n: 2 * n**3 / 3),
    "qr": _lapack(lambda m, n: 4 * max(m, n) * min(m, n) ** 2 - 4 * min(m, n) ** 3 / 3),
    "eigh": _lapack(lambda m, n: 9 * n**3),
    "svd": _lapack(lambda m, n: 6 * max(m, n) * min(m, n) ** 2 + 20 * min(m, n) ** 3),
    "pinv": _lapack(lambda m, n: 6 * max(m, n) * min(m, n) ** 2 + 20 * min(m, n) ** 3 + 2 * m * n * min(m, n)),
}


class counted:
    """``with counted() as count:`` what this thread computes with `Counting` arrays is added to ``count``.

    >>> a, b = (np.ones(s, np.float32).view(Counting) for s in ((2, 3), (3, 4)))
    >>> with counted() as count:
    ...     y = np.exp(a @ b)
    >>> count
    Count(flops=56, macs=24)
    """

    def __enter__(self) -> Count:
        self._outer, _now.count = _now.count, Count()
        self._calls = _Calls()
        self._calls.__enter__()
        return _now.count

    def __exit__(self, *_: Any) -> None:
        self._calls.__exit__()
        _now.count = self._outer


class _Calls:
    """While somebody counts, calls of kernels with counting arrays go to the reference."""

    _lock = threading.RLock()
    _users = 0

    def __enter__(self) -> None:
        with self._lock:
            if not _Calls._users:
                minidl_kernels.call = _call
            _Calls._users += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            _Calls._users -= 1
            if not _Calls._users:
                minidl_kernels.call = registry.call


def _call(name: Any, args: tuple) -> Any:
    if not any(isinstance(a, Counting) for a in args):
        return registry.call(name, args)
    op = registry.ops()[name]
    op.check(*[registry._normal(a) for a in args])
    kernel = next(v for v in op.variants if v.name == "reference").kernel()
    return _counting(kernel(*[_counting(registry._normal(a)) for a in args]))
