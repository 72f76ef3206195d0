"""The table of variants: which implementations an operation has, and which of them runs.

Every family folder (`gemm`, `conv`, ...) lists its operations as data in its `__init__.py`:

    OPS = (
        Op(
            "matmul",
            check=checks.matmul,                       # raises ValueError / TypeError in the user's words
            variants=(
                Variant("reference", load="minidl_kernels.gemm.reference:matmul", cost=REFERENCE),
                Variant("blas", load="minidl_kernels.gemm.blas:matmul", cost=1.0),
                Variant("tiled", load="minidl_kernels.gemm.cpu:matmul", accepts=..., needs="floats", cost=...),
            ),
        ),
    )

A call travels: public function -> `call` -> (check, `choose`) -> the kernel. The two steps in brackets depend on
types, shapes, strides and plain parameters only, so their result is cached under these and a repeated call costs
about a microsecond.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "REFERENCE",
    "Op",
    "Variant",
    "add",
    "call",
    "choose",
    "device_of",
    "listen",
    "ops",
    "table",
    "use",
    "variants",
    "which",
]

# Families in the order of `minidl info`. Importing one is cheap: kernels themselves (Numba, CuPy) load on first use.
FAMILIES = (
    "gemm",
    "conv",
    "attn",
    "quant",
    "gemm_int8",
    "gemm_int4",
    "int8_static",
    "sparse",
    "pool",
    "embed",
    "prob",
    "norm",
    "pointwise",
    "drop",
    "recurrent",
    "optim",
)

# The cost of a reference: right by definition, chosen only where nothing else runs.
REFERENCE = 1e9

# A cached choice holds no array; still, a program with ever new shapes must not grow without end.
CACHE_LIMIT = 4096

Kernel = Callable[..., Any]


def _always(*args: Any) -> bool:
    return True


class Variant(NamedTuple):
    """One implementation of an operation.

    name     what `which` reports and `use` asks for
    load     "package.module:function", imported when the variant is first chosen
    device   "cpu" (NumPy arrays) or "cuda" (CuPy arrays)
    accepts  accepts(*args) -> bool: can it run these arguments and be right? All are positional, defaults filled in,
             and have passed the check
    needs    the sentence behind `accepts`, shown when a forced variant cannot run
    cost     lowest wins among the variants that accept: a rank, or cost(*args) -> rank for a measured crossover
    note     one line for `minidl info`: what the idea is
    """

    name: str
    load: str
    device: str = "cpu"
    accepts: Callable[..., bool] = _always
    needs: str = ""
    cost: float | Callable[..., float] = 1.0
    note: str = ""

    def rank(self, args: Sequence[Any]) -> float:
        """The cost of this variant on these arguments."""
        return self.cost(*args) if callable(self.cost) else self.cost

    def kernel(self) -> Kernel:
        """The function itself; imports its module."""
        module, _, function = self.load.partition(":")
        return getattr(import_module(module), function)


class Op:
    """An operation: its name, the check that guards its kernels, its variants (a ladder, slowest idea first)."""

    def __init__(self, name: str, check: Callable[..., None], variants: tuple[Variant, ...]) -> None:
        self.name, self.check, self.variants = name, check, variants
        self.cache: dict[Any, Kernel] = {}
        seen = set()
        for v in self.variants:
            if (v.device, v.name) in seen:
                raise ValueError(f"{self.name} lists variant {v.name!r} for {v.device} twice")
            seen.add((v.device, v.name))
        if not any(v.name == "reference" for v in self.variants):
            raise ValueError(f"{self.name} has no variant 'reference': it is the definition of right")


_ops: dict[str, Op] = {}
_loading = threading.RLock()


def ops() -> dict[str, Op]:
    """All operations by name, families loaded."""
    if not _ops:
        with _loading:
            if not _ops:
                found: dict[str, Op] = {}
                for family in FAMILIES:
                    for op in import_module(f"minidl_kernels.{family}").OPS:
                        if op.name in found:
                            raise ValueError(f"two families list the operation {op.name!r}")
                        found[op.name] = op
                _ops.update(found)
    return _ops


def _op(name: str) -> Op:
    op = ops().get(name)
    if op is None:
        raise ValueError(f"there is no operation {name!r}; there are: {', '.join(ops())}")
    return op


def add(name: str, variant: Variant) -> None:
    """Give an operation one more variant, for this process. ValueError if it has one of that name on that device."""
    op = _op(name)
    op.variants = Op(name, op.check, (*op.variants, variant)).variants
    op.cache.clear()


# --- devices ---

_array_types: dict[type, str] = {np.ndarray: "cpu"}


def _device_of_type(kind: type) -> str | None:
    """The device of an array type, or None if it is no array. CuPy is recognised by name: it need not be installed."""
    device = _array_types.get(kind)
    if device is None and kind.__name__ == "ndarray" and kind.__module__.partition(".")[0] == "cupy":
        device = _array_types[kind] = "cuda"
    return device


def device_of(op: str, *args: Any) -> str:
    """The one device of all arrays among `args`, and in lists of arrays there: "cpu" or "cuda". TypeError where they
    are mixed or there is none.
    """
    single = [a for arg in args for a in ({type(a): a for a in arg}.values() if type(arg) is tuple else (arg,))]
    found = [(d, a) for a in single if (d := _device_of_type(type(a))) is not None]
    devices = {d for d, _ in found}
    if len(devices) > 1:
        shapes = ", ".join(f"{tuple(a.shape)} on {d}" for d, a in found)
        raise TypeError(
            f"{op}: all arrays must be on one device, got {shapes}; move them first (cupy.asarray or array.get())"
        )
    if not devices:
        kinds = ", ".join(type(a).__name__ for a in args[:2])
        raise TypeError(f"{op}: takes NumPy or CuPy arrays, got {kinds}; convert with numpy.asarray")
    return devices.pop()


# --- forcing a variant ---


class _Forced(threading.local):
    """What this thread's `use` blocks ask for: operation name, or "" for all -> variant name."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.heard: list[tuple[str, str]] | None = None  # what `listen` notes


_forced = _Forced()


class use:
    """Force variants inside a `with` block, in this thread: `use("reference")` for all operations, or one by name.

    Inner blocks win over outer ones; within a block the name of an operation wins over the name for all. An unknown
    operation or variant raises ValueError here; a variant that cannot run the arguments it meets raises RuntimeError
    at the call and says what it needs.

    >>> import numpy as np, minidl_kernels as mk
    >>> a = np.ones((2, 3), np.float32)
    >>> with mk.use("reference"):
    ...     mk.which("matmul", a, a.T)
    'reference'
    """

    def __init__(self, variant: str | None = None, /, **per_op: str) -> None:
        if variant is None and not per_op:
            raise ValueError('use() needs a variant: use("reference") or use(matmul="blas")')
        wanted: dict[str, str] = {}
        if variant is not None:
            # Every operation is asked by name, so that a block for all also replaces what an outer block said of one.
            wanted.update(dict.fromkeys(ops(), variant))
        wanted.update(per_op)
        for name, v in wanted.items():
            if v not in (known := variants(name)):
                raise ValueError(f"{name} has no variant {v!r}; it has: {', '.join(known)}")
        self._wanted = wanted
        self._outer: list[dict[str, str]] = []

    def __enter__(self) -> use:
        self._outer.append(_forced.names)
        _forced.names = {**_forced.names, **self._wanted}
        return self

    def __exit__(self, *exc: object) -> None:
        _forced.names = self._outer.pop()


class listen:
    """Note what runs inside a `with` block in this thread: a list of (operation, variant), one for each call.

    >>> import numpy as np, minidl_kernels as mk
    >>> with mk.listen() as heard, mk.use("reference"):
    ...     y = mk.matmul(np.ones((2, 3)), np.ones((3, 2)))
    >>> heard
    [('matmul', 'reference')]
    """

    def __init__(self) -> None:
        self._outer: list[Any] = []

    def __enter__(self) -> list[tuple[str, str]]:
        self._outer.append((_forced.names, _forced.heard))
        heard: list[tuple[str, str]] = []
        # A name that is no operation's leads every call past the cache, where it is noted; nothing else has to ask.
        _forced.names, _forced.heard = {**_forced.names, _LISTENING: ""}, heard
        return heard

    def __exit__(self, *exc: object) -> None:
        _forced.names, _forced.heard = self._outer.pop()


_LISTENING = "(listening)"


# --- choosing ---


def choose(op: Op, args: Sequence[Any]) -> Variant:
    """The variant that runs these (checked) arguments: the forced one, else the cheapest that accepts them."""
    device = device_of(op.name, *args)
    mine = [v for v in op.variants if v.device == device]
    name = _forced.names.get(op.name)
    if name is not None:
        for v in mine:
            if v.name == name:
                if v.accepts(*args):
                    return v
                raise RuntimeError(
                    f"{op.name}: the forced variant {name!r} cannot run {_describe(args)}: it needs {v.needs}"
                )
        known = ", ".join(v.name for v in mine) or "none"
        raise RuntimeError(f"{op.name}: the forced variant {name!r} does not exist on {device}; there: {known}")
    able = [v for v in mine if v.accepts(*args)]
    if not able:
        raise NotImplementedError(f"{op.name}: no variant on {device} takes {_describe(args)}")
    return min(able, key=lambda v: v.rank(args))


def _describe(args: Sequence[Any]) -> str:
    return ", ".join(f"{a.dtype}{tuple(a.shape)}" if type(a) in _array_types else repr(a) for a in args)


# In the cache's key an array stands as its layout, arguments of plain types as themselves, any other as `_odd`: it has
# to be looked at every time.
_layout = attrgetter("shape", "strides", "dtype")
_plain = {int, float, bool, str, tuple, type(None)}
_odd = object()


def _rare(a: Any) -> Any:
    return (type(a), *_layout(a)) if type(a) in _array_types else _odd


def call(name: str | Op, args: tuple[Any, ...]) -> Any:
    """Check the arguments, choose a variant, run it. Families load at the first call."""
    op = (_ops.get(name) or _op(name)) if isinstance(name, str) else name
    if not _forced.names:
        found: list[Any] = []
        for a in args:
            kind = type(a)
            found.append(_layout(a) if kind is np.ndarray else a if kind in _plain else _rare(a))
        key = tuple(found)
        kernel = op.cache.get(key)
        if kernel is not None:
            return kernel(*args)
    else:
        key = None
    args = tuple([_normal(a) for a in args])
    op.check(*args)
    variant = choose(op, args)
    if _forced.heard is not None:
        _forced.heard.append((op.name, variant.name))
    kernel = variant.kernel()
    if variant.device == "cuda":
        from .cuda.launch import at_home

        kernel = at_home(kernel)
    if key is not None and _odd not in key:
        if len(op.cache) >= CACHE_LIMIT:
            op.cache.clear()
        op.cache[key] = kernel
    return kernel(*args)


def _normal(a: Any) -> Any:
    """NumPy scalars as Python's, lists as tuples, subclasses of ndarray (memory maps) as plain arrays."""
    if type(a) is np.ndarray:
        return a
    if isinstance(a, np.generic):
        return a.item()
    if isinstance(a, list):
        return tuple(_normal(v) for v in a)
    if isinstance(a, np.ndarray):
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError("a masked array would lose its mask here; pass array.filled(value) instead")
        return a.view(np.ndarray)
    return a


# --- asking ---


def which(name: str, /, *args: Any, **kw: Any) -> str:
    """The name of the variant that `name(*args, **kw)` would run here and now. Raises what the call would raise.

    >>> import numpy as np, minidl_kernels as mk
    >>> x = np.ones((1, 2, 3), np.float64)
    >>> mk.which("matmul", x, x.transpose(0, 2, 1)) in mk.variants("matmul")
    True
    """
    op = _op(name)
    bound = inspect.signature(getattr(sys.modules[__package__], name)).bind(*args, **kw)
    bound.apply_defaults()
    values = tuple(_normal(a) for a in bound.arguments.values())
    op.check(*values)
    return choose(op, values).name


def variants(name: str, device: str | None = None) -> tuple[str, ...]:
    """The names of an operation's variants, in the order of its ladder; of one device, or of all."""
    names = [v.name for v in _op(name).variants if device in (None, v.device)]
    return tuple(dict.fromkeys(names))


def table() -> list[dict[str, str]]:
    """One row per variant: op, variant, device, needs, note, source. For `minidl info` and the docs."""
    return [
        {"op": op.name, "variant": v.name, "device": v.device, "needs": v.needs, "note": v.note, "source": v.load}
        for op in ops().values()
        for v in op.variants
    ]
