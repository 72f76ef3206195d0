"""How a Tensor is shown: ``tensor([1., 2.], requires_grad=True)``, as torch shows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes


def tensor_repr(t: Any) -> str:
    """The text of a tensor: values to four digits, then what is not the default: dtype, device, history."""
    name = type(t).__name__
    prefix = "tensor(" if name == "Tensor" else f"{name} containing:\ntensor("
    if not hasattr(t.array, "dtype") or not hasattr(t.array, "strides"):  # packed storage
        return f"{name} containing:\n{t.array!r}"
    a = t.array.get() if t.is_cuda else t.array
    values = _values(a, len("tensor("))
    parts = [values]
    if a.size == 0 and a.ndim != 1:
        parts.append(f"size={tuple(a.shape)}")
    if a.dtype not in (dtypes.default(), np.dtype("int64"), np.dtype("bool")) or (
        a.size == 0 and a.dtype != dtypes.default()
    ):
        parts.append(f"dtype={t.dtype}")
    if t.is_cuda:
        parts.append(f"device='{t.device}'")
    if t.node is not None:
        parts.append(f"grad_fn=<{type(t.node).__name__}>")
    elif t.requires_grad:
        parts.append("requires_grad=True")
    return prefix + ", ".join(parts) + ")"


def _values(a: np.ndarray, indent: int) -> str:
    if a.size == 0:
        return "[]"
    formatter: Any = {}
    options: dict[str, Any] = {"precision": 4, "threshold": 1000, "edgeitems": 3, "max_line_width": 80}
    if a.dtype.kind == "f":
        finite = a[np.isfinite(a)].astype(np.float64)
        if finite.size and np.all(finite == np.rint(finite)) and np.abs(finite).max() < 1e8:
            formatter["float_kind"] = lambda v: f"{v:.0f}." if np.isfinite(v) else str(v)
        else:
            size = np.abs(finite[finite != 0])
            scientific = bool(size.size) and (size.max() >= 1e8 or size.min() < 1e-4 or size.max() / size.min() > 1e3)
            formatter["float_kind"] = lambda v: (f"{v:.4e}" if scientific else f"{v:.4f}") if np.isfinite(v) else str(v)
    elif a.dtype.kind == "b":
        formatter["bool"] = lambda v: str(bool(v))
    flat = a.reshape(-1)[:: max(1, a.size // 2000)] if a.size > 2000 else a.reshape(-1)
    key = next(iter(formatter), None)
    if key is not None:
        width = max(len(formatter[key](v)) for v in flat)
        plain = formatter[key]
        formatter[key] = lambda v: plain(v).rjust(width) if a.ndim else plain(v)
    return np.array2string(a, separator=", ", formatter=formatter, prefix=" " * indent, **options)
