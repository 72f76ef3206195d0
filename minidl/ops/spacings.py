"""Tensors of evenly spaced numbers and of windows: logspace, range, hann_window ...; asarray, scalar_tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import require
from minidl.autograd.out import creates_out
from minidl.ops.common import number_for
from minidl.ops.copies import to
from minidl.ops.create import _finish, _float, _generator, tensor
from minidl.tensors import Tensor, wrap


@creates_out
def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """base^start to base^end in `steps` numbers of one ratio. Raises RuntimeError for negative steps."""
    require(steps >= 0, "number of steps must be non-negative, got {}", steps)
    for name, v in (("start", start), ("end", end)):
        require(not isinstance(v, Tensor) or v.ndim == 0, "logspace only supports 0-dimensional {}", name)
    start, end = (v.item() if isinstance(v, Tensor) else v for v in (start, end))
    kind = _float(dtype)
    if kind.kind != "f":  # torch's exponents are whole at both ends then
        start, end = int(start), int(end)
    wide = np.float64
    values = np.power(wide(base), np.linspace(start, end, steps).astype(wide))
    return _finish(values.astype(kind), device, requires_grad)


@creates_out
def range(
    start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step ... up to `end` and with it, floats: torch's older arange."""
    if end is None:
        start, end = 0, start
    require(step != 0, "step must be nonzero")
    require((end - start) * step >= 0, "upper bound and lower bound inconsistent with step sign")
    n = math.floor((end - start) / step) + 1
    values = start + step * np.arange(n, dtype=np.float64)
    return _finish(values.astype(_float(dtype)), device, requires_grad)


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A number as a 0-d tensor of the default float dtype."""
    return _finish(np.asarray(number_for(s, _float(dtype)), _float(dtype)), device, requires_grad)


def asarray(
    obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None, requires_grad: bool | None = None
) -> Tensor:
    """A tensor of `obj`: Tensors and NumPy arrays share their memory unless copy, dtype or device asks for another.

    With copy=False one that cannot be shared raises ValueError.
    """
    if isinstance(obj, Tensor):
        y = obj.clone() if copy else obj
        y = to(y, dtype=dtype, device=device)
        if not requires_grad and y.requires_grad:
            y = y.detach()
        shared = y.array is obj.array or np.may_share_memory(y.array, obj.array)
    elif isinstance(obj, np.ndarray) and not copy:
        dtypes.dtype_of(obj.dtype)
        y = to(wrap(obj), dtype=dtype, device=device)
        shared = y.array is obj
    else:
        y, shared = tensor(obj, dtype=dtype, device=device), False
    if copy is False and not shared:
        raise ValueError("asarray(): the object cannot be shared without a copy")
    return y.requires_grad_() if requires_grad else y


def _window(length: int, periodic: bool, dtype: Any, device: Any, requires_grad: bool, formula: Any) -> Tensor:
    require(length >= 0, "a window's length must be non-negative, got {}", length)
    kind = _float(dtype)
    require(kind.kind == "f", "windows are of floating point dtypes, not {}", kind)
    n = length if periodic else length - 1
    values = np.ones(1) if length == 1 else formula(np.arange(length), max(n, 1))
    return _finish(values.astype(kind), device, requires_grad)


def _cosines(*a: float) -> Any:
    return lambda i, n: sum(c * np.cos(2 * math.pi * k * i / n) for k, c in enumerate(a))


def hann_window(
    window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Hann's window, (1 - cos(2 pi i / n)) / 2, n = window_length, or one less for one that is not periodic."""
    return _window(window_length, periodic, dtype, device, requires_grad, _cosines(0.5, -0.5))


def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *, dtype: Any = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Hamming's window, alpha - beta cos(2 pi i / n), n as in :func:`hann_window`."""
    return _window(window_length, periodic, dtype, device, requires_grad, _cosines(alpha, -beta))


def blackman_window(
    window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Blackman's window, 0.42 - 0.5 cos(2 pi i / n) + 0.08 cos(4 pi i / n), n as in :func:`hann_window`."""
    return _window(window_length, periodic, dtype, device, requires_grad, _cosines(0.42, -0.5, 0.08))


def bartlett_window(
    window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Bartlett's window, a triangle: 1 - |2 i / n - 1|, n as in :func:`hann_window`."""
    return _window(window_length, periodic, dtype, device, requires_grad, lambda i, n: 1 - np.abs(2 * i / n - 1))


def poisson(input: Tensor, generator: Any = None) -> Tensor:
    """Numbers of events, each drawn with its rate from input, in its dtype. Raises RuntimeError for negative rates."""
    rate = input.array.astype(np.float64)
    require(not (rate < 0).any(), "invalid Poisson rate, expected rate to be non-negative")
    return wrap(_counts(rate, _generator(generator)).astype(input.array.dtype))


def _counts(rate: Any, g: Any) -> Any:
    """By inversion in pieces: a Poisson number of rate r is the sum of ones with rates that add up to r."""
    pieces = np.maximum(np.ceil(rate / 8), 1)
    total = np.zeros_like(rate)
    for k in np.arange(pieces.max(initial=0)):
        part = np.where(k < pieces, rate / pieces, 0.0)
        u = g.uniform(rate.shape, dtype=np.dtype(np.float64))
        term = np.exp(-part)
        below, n = term.copy(), np.zeros_like(rate)
        while (more := (u > below) & (n < 200)).any():
            n = np.where(more, n + 1, n)
            term = term * part / np.maximum(n, 1)
            below = np.where(more, below + term, below)
        total = total + n
    return total
