"""Comparing results, as torch.testing does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.devices import move
from minidl.tensors import Tensor

__all__ = ["assert_close"]

_TOLERANCES = {"float16": (1e-3, 1e-5), "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}  # rtol, atol; others: 0, 0


def assert_close(
    actual: Any, expected: Any, *, allow_subclasses: bool = True, rtol: float | None = None, atol: float | None = None,
    equal_nan: bool = False, check_device: bool = True, check_dtype: bool = True, check_layout: bool = True,
    check_stride: bool = False, msg: str | Callable[[str], str] | None = None,
) -> None:  # fmt: skip
    """Raise AssertionError unless |actual - expected| <= atol + rtol |expected| everywhere, shapes and types included.

    Args:
        actual, expected: Tensors, arrays, numbers, None, or sequences or mappings of those, nested.
        rtol, atol: both or none; by default from the dtype (the coarser of two): float16 1e-3 and 1e-5, float32 1.3e-6
            and 1e-5, float64 and Python floats 1e-7 and 1e-7, all others 0 and 0.
        equal_nan: whether NaN matches NaN.
        check_device, check_dtype, check_stride: whether those must be equal, too. `check_layout` is torch's: all
            Tensors here have one layout.
        msg: replaces the message, or makes it from the usual one.

    Raises ValueError for one tolerance without the other, TypeError for what cannot be compared.

    >>> import minidl
    >>> assert_close(minidl.tensor([1.0, 2.0]), minidl.tensor([1.0, 2.000001]))
    >>> assert_close([1.0], [1.1])
    Traceback (most recent call last):
        ...
    AssertionError: Scalars are not close!
    <BLANKLINE>
    Expected 1.1 but got 1.0.
    Absolute difference: 0.10000000000000009 (up to 1e-07 allowed)
    Relative difference: 0.09090909090909098 (up to 1e-07 allowed)
    <BLANKLINE>
    The failure occurred for item [0]
    """
    if (rtol is None) != (atol is None):
        given, missing = ("atol", "rtol") if rtol is None else ("rtol", "atol")
        raise ValueError(
            f"rtol and atol must both be specified or both be unspecified, but got {given} without {missing}"
        )
    checks = {"device": check_device, "dtype": check_dtype, "stride": check_stride}
    tolerances = None if rtol is None or atol is None else (rtol, atol)
    for x, y, at in _pairs(actual, expected, "", allow_subclasses, msg):
        problem = _compare(x, y, tolerances, equal_nan, checks)
        if problem:
            raise AssertionError(_message(problem, at, msg))


def _message(problem: str, at: str, msg: str | Callable[[str], str] | None) -> str:
    problem += f"\n\nThe failure occurred for item {at}" if at else ""
    return problem if msg is None else msg(problem) if callable(msg) else msg


def _pairs(x: Any, y: Any, at: str, subclasses: bool, msg: Any) -> Any:
    """The leaves of two structures side by side, with their place. Raises where the structures differ."""
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        if set(x) != set(y):
            missing, extra = [k for k in y if k not in x], [k for k in x if k not in y]
            text = "The keys of the mappings do not match:"
            text += f"\nMissing keys in the actual mapping: {sorted(missing, key=str)}" if missing else ""
            text += f"\nAdditional keys in the actual mapping: {sorted(extra, key=str)}" if extra else ""
            raise AssertionError(_message(text, at, msg))
        for key in x:
            yield from _pairs(x[key], y[key], f"{at}[{key!r}]", subclasses, msg)
        return
    listed = [isinstance(v, Sequence) and not isinstance(v, (str, bytes)) for v in (x, y)]
    if all(listed):
        if len(x) != len(y):
            text = f"The length of the sequences mismatch: {len(x)} != {len(y)}"
            raise AssertionError(_message(text, at, msg))
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            yield from _pairs(a, b, f"{at}[{i}]", subclasses, msg)
        return
    related = isinstance(x, type(y)) or isinstance(y, type(x)) if subclasses else type(x) is type(y)
    fits = (
        (x is None or y is None)
        or (_is_number(x) and _is_number(y))
        or (
            _is_array(x)
            and _is_array(y)
            and (related or (isinstance(x, Tensor) and isinstance(y, Tensor) and subclasses))
        )
    )
    if not fits or any(listed):
        place = f"\n\nThe failure occurred for item {at}" if at else ""
        raise TypeError(f"No comparison pair was able to handle inputs of type {type(x)} and {type(y)}.{place}")
    yield x, y, at


def _is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float, np.number, np.bool_))


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor) or (hasattr(x, "dtype") and hasattr(x, "shape") and not isinstance(x, np.generic))


def _compare(x: Any, y: Any, tolerances: Any, equal_nan: bool, checks: dict[str, bool]) -> str | None:
    """What is wrong with a pair of leaves, None if nothing is."""
    if x is None or y is None:
        return None if x is y else f"None mismatch: {x} is not {y}"
    if _is_number(x):
        if checks["dtype"] and type(x) is not type(y):
            return f"The (d)types do not match: {type(x)} != {type(y)}."
        rtol, atol = tolerances or _coarser([_dtype_of_number(v) for v in (x, y)])
        if bool(_close(np.asarray(x), np.asarray(y), rtol, atol, equal_nan)):
            return None
        if rtol == atol == 0:
            text = f"Scalars are not equal!\n\nExpected {y} but got {x}."
        else:
            text = f"Scalars are not close!\n\nExpected {y} but got {x}."
        away = abs(float(x) - float(y))
        rate = away / abs(float(y)) if y else float("inf")
        return f"{text}\n{_difference('Absolute', away, atol)}\n{_difference('Relative', rate, rtol)}"
    for name, left, right in (
        ("shape", tuple(x.shape), tuple(y.shape)),
        ("device", getattr(x, "device", "cpu"), getattr(y, "device", "cpu")),
        ("dtype", x.dtype, y.dtype),
        ("stride()", _strides(x), _strides(y)),
    ):
        if checks.get(name.removesuffix("()"), True) and left != right:
            return f"The values for attribute '{name}' do not match: {left} != {right}."
    a, b = (move(v.array if isinstance(v, Tensor) else v, "cpu") for v in (x, y))
    rtol, atol = tolerances or _coarser([a.dtype, b.dtype])
    fine = _close(a, b, rtol, atol, equal_nan)
    if fine.all():
        return None
    kind = "equal" if rtol == atol == 0 else "close"
    with np.errstate(all="ignore"):
        errors = np.where(fine, 0, np.abs(_wide(a) - _wide(b)))
        rates = np.where(fine, 0, errors / np.abs(_wide(b)))
    wrong = int(fine.size - np.count_nonzero(fine))
    text = f"Tensor-likes are not {kind}!\n\nMismatched elements: {wrong} / {fine.size} ({wrong / fine.size:.1%})"
    for name, values, allowed in (("absolute", errors, atol), ("relative", rates, rtol)):
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
        text += f"\n{_difference(f'Greatest {name}', values[at].item(), allowed, f' at index {at}')}"
    return text


def _difference(name: str, value: float, allowed: float, at: str = "") -> str:
    return f"{name} difference: {value}{at}" + (f" (up to {allowed} allowed)" if allowed else "")


def _strides(x: Any) -> Any:
    return x.stride() if isinstance(x, Tensor) else x.strides


def _dtype_of_number(x: Any) -> Any:
    return np.dtype("float64") if isinstance(x, float) else np.asarray(x).dtype


def _coarser(dtypes_: list) -> tuple[float, float]:
    pairs = [_TOLERANCES.get(np.dtype(d).name, (0.0, 0.0)) for d in dtypes_]
    return max(p[0] for p in pairs), max(p[1] for p in pairs)


def _wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) if a.dtype.kind == "f" else a.astype(np.int64)


def _close(a: np.ndarray, b: np.ndarray, rtol: float, atol: float, equal_nan: bool) -> np.ndarray:
    """torch.isclose, computed in float64 (or, for integers without tolerance, exactly)."""
    if a.dtype.kind != "f" and b.dtype.kind != "f" and not rtol and not atol:
        return np.asarray(a == b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        fine = (x == y) | (np.isfinite(y) & np.isfinite(x) & (np.abs(x - y) <= atol + rtol * np.abs(y)))
    return np.asarray(fine | (np.isnan(x) & np.isnan(y)) if equal_nan else fine)
