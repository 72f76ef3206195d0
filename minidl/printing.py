"""How a Tensor is shown: ``tensor([1., 2.], requires_grad=True)``, line by line as torch shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import dtypes

INDENT = len("tensor(")


@dataclass
class Options:
    """How numbers are shown."""

    precision: int = 4  # digits behind the point
    threshold: float = 1000  # elements beyond which a tensor is shown in part
    edgeitems: int = 3  # elements shown at either end of a long dimension
    linewidth: int = 80  # columns
    sci_mode: bool | None = None  # powers of ten: always, never, or where the numbers ask for it


options = Options()
_PROFILES: dict[str, dict[str, Any]] = {
    "default": dict(precision=4, threshold=1000, edgeitems=3, linewidth=80),
    "short": dict(precision=2, threshold=1000, edgeitems=2, linewidth=80),
    "full": dict(precision=4, threshold=math.inf, edgeitems=3, linewidth=80),
}


def set_printoptions(
    precision: int | None = None, threshold: float | None = None, edgeitems: int | None = None,
    linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None,
) -> None:  # fmt: skip
    """Change how tensors are shown from here on; what is None stays. As torch's.

    Args:
        precision: digits behind the point, 4 at first.
        threshold: elements beyond which a tensor is shown in part, 1000 at first.
        edgeitems: how many elements are shown at either end then, 3 at first.
        linewidth: columns of a line, 80 at first.
        profile: "default", "short" or "full": a set of the above, taken first.
        sci_mode: powers of ten always or never; None: where the numbers ask for it.

    Raises ValueError for an unknown profile.

    >>> import minidl
    >>> minidl.set_printoptions(precision=2)
    >>> minidl.tensor([1 / 3])
    tensor([0.33])
    >>> minidl.set_printoptions(profile="default")
    """
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(f"unknown profile {profile!r}; there are: {', '.join(_PROFILES)}")
        vars(options).update(_PROFILES[profile])
    given = dict(precision=precision, threshold=threshold, edgeitems=edgeitems, linewidth=linewidth)
    vars(options).update({name: value for name, value in given.items() if value is not None})
    options.sci_mode = sci_mode


def tensor_repr(t: Any) -> str:
    """The text of a tensor: values to four digits, then what is not the default: device, size, dtype, history."""
    name = type(t).__name__
    if not hasattr(t.array, "dtype") or not hasattr(t.array, "strides"):  # packed storage
        return f"{name} containing:\n{t.array!r}"
    a = t.array.get() if t.is_cuda else t.array
    text = ("" if name == "Tensor" else f"{name} containing:\n") + "tensor(" + (values(a) if a.size else "[]")
    notes = [f"device='{t.device}'"] if t.is_cuda else []
    if a.size == 0 and a.ndim != 1:
        notes.append(f"size={tuple(a.shape)}")
    usual = (dtypes.default(),) if a.size == 0 else (dtypes.default(), np.dtype("int64"), np.dtype("bool"))
    if a.dtype not in usual:
        notes.append(f"dtype={t.dtype}")
    if t.node is not None:
        notes.append(f"grad_fn=<{type(t.node).__name__}>")
    elif t.requires_grad:
        notes.append("requires_grad=True")
    column = len(text) - text.rfind("\n") + 1
    for note in notes:
        if column + len(note) + 2 > options.linewidth:
            text += ",\n" + " " * INDENT + note
            column = INDENT + len(note)
        else:
            text += ", " + note
            column += len(note) + 2
    return text + ")"


def values(a: np.ndarray) -> str:
    """The elements in brackets, all of them or, of a long array, the edges."""
    partly = a.size > options.threshold
    return _block(a, INDENT, partly, _Format(_edges(a) if partly else a))


class _Format:
    """One format for all elements: whole numbers, four digits, or powers of ten, right-aligned to one width."""

    def __init__(self, a: np.ndarray):
        self.floats = a.dtype.kind == "f"
        self.spec, self.width = "", 1
        if not self.floats:
            self.width = max(len(str(v)) for v in a.reshape(-1).tolist())
            return
        x = a.astype(np.float64).reshape(-1)
        x = x[np.isfinite(x) & (x != 0)]
        self.spec, self.whole = ".0f", True
        scientific = options.sci_mode
        if not x.size:
            return
        low, high = np.abs(x).min(), np.abs(x).max()
        whole = bool((x == np.ceil(x)).all())
        if scientific is None:
            scientific = bool(high / low > 1000 or high > 1e8 or (not whole and low < 1e-4))
        self.whole = whole and not scientific
        if scientific:
            self.spec = f".{options.precision}e"
        elif not whole:
            self.spec = f".{options.precision}f"
        self.width = max(len(self(v).strip()) for v in x.tolist())

    def __call__(self, v: Any) -> str:
        if not self.floats:
            return str(v).rjust(self.width)
        text = format(v, self.spec)
        if self.whole and math.isfinite(v):
            text += "."
        return text.rjust(self.width)


def _block(a: np.ndarray, indent: int, partly: bool, form: _Format) -> str:
    if a.ndim == 0:
        return form(a.item())
    edge = options.edgeitems
    cut = partly and a.shape[0] > 2 * edge
    if a.ndim == 1:
        if cut:
            words = [*map(form, a[:edge].tolist()), " ...", *map(form, a[-edge:].tolist())]
        else:
            words = [form(v) for v in a.tolist()]
        per_line = max(1, (options.linewidth - indent) // (form.width + 2))
        lines = [", ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    if cut:
        parts = [_block(row, indent + 1, partly, form) for row in a[:edge]]
        parts += ["...", *(_block(row, indent + 1, partly, form) for row in a[-edge:])]
    else:
        parts = [_block(row, indent + 1, partly, form) for row in a]
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _edges(a: np.ndarray) -> np.ndarray:
    """The elements that are shown of a long array."""
    edge = options.edgeitems
    for d, n in enumerate(a.shape):
        if n > 2 * edge:
            before = (slice(None),) * d
            a = np.concatenate([a[(*before, slice(edge))], a[(*before, slice(n - edge, n))]], axis=d)
    return a
