"""The table of ops: for every entry of minidl.autograd.TABLE sample inputs and torch's function of the same meaning.

In a sample's arguments a float64 array is an input that wants a gradient, ``Const(array)`` one that does not, and
anything else is passed on as it is (dtypes under both libraries' own names). Values stay away from kinks by more than
the step of the finite differences; kinks have tests of their own in test_conventions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import minidl

# Imports that enter ops into the table.
import minidl.nn.functional
from minidl.autograd.later import all_ops

TABLE = all_ops()


@dataclass
class Const:
    """An array that wants no gradient."""

    array: np.ndarray


@dataclass(eq=False)
class Sample:
    args: tuple
    kwargs: dict = field(default_factory=dict)
    check: bool = True  # small enough for finite differences
    second: bool = True


@dataclass(eq=False)
class Case:
    name: str
    samples: list[Sample]
    ours: Callable
    theirs: Callable | None  # None: random or uninitialised values, tested elsewhere
    smooth: bool = True  # has a gradient

    def __repr__(self) -> str:
        return self.name


CASES: dict[str, Case] = {}
_rng = np.random.default_rng(7)


def case(
    name: str, *samples: Sample, theirs: Any = ..., ours: Any = None, smooth: bool = True, table: Any = None
) -> None:
    assert name not in CASES, name
    if theirs is ...:
        theirs = getattr(torch, name, None) or getattr(F, name)
    CASES[name] = Case(name, list(samples), ours or TABLE[name], theirs, smooth)


def S(*args: Any, **kwargs: Any) -> Sample:
    return Sample(args, kwargs)


def big(*args: Any, **kwargs: Any) -> Sample:
    """Too big for finite differences, or not meant to agree with them."""
    return Sample(args, kwargs, check=False)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(_rng.standard_normal(shape))


def positive(*shape: int) -> np.ndarray:
    return np.asarray(_rng.uniform(0.3, 2.5, shape))


def unit(*shape: int) -> np.ndarray:
    return np.asarray(_rng.uniform(0.05, 0.95, shape))


def distinct(*shape: int) -> np.ndarray:
    """All values different, and from every integer and from 0, by at least 0.01; few of their sums are equal."""
    n = int(np.prod(shape))
    values = (np.arange(n) - n / 2) * 0.37 + 0.183 + 0.05 * np.modf(np.arange(n) * 0.618034)[0]
    near = np.abs(values - np.rint(values)) < 0.02
    values[near] += 0.05
    return np.asarray(_rng.permutation(values)).reshape(shape)


def ints(low: int, high: int, *shape: int, dtype: Any = np.int64) -> np.ndarray:
    return np.asarray(_rng.integers(low, high, shape, dtype=dtype))


def bools(*shape: int) -> np.ndarray:
    return np.asarray(_rng.random(shape) < 0.5)


def probabilities(*shape: int) -> np.ndarray:
    p = positive(*shape)
    return p / p.sum(1, keepdims=True)


# -- to either library ------------------------------------------------------------------------------------------------


def to_minidl(value: Any, dtype: Any, leaves: list | None = None) -> Any:
    """Arrays as Tensors, float ones cast to `dtype`; those that want a gradient are appended to `leaves`."""
    if isinstance(value, Const):
        a = value.array
        return minidl.tensor(a.astype(dtype) if a.dtype.kind == "f" else a)
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        t = minidl.tensor(value.astype(dtype), requires_grad=leaves is not None)
        if leaves is not None:
            leaves.append(t)
        return t
    if isinstance(value, np.ndarray):
        return minidl.tensor(value)
    if isinstance(value, list) and any(isinstance(v, (np.ndarray, Const)) for v in value):
        return [to_minidl(v, dtype, leaves) for v in value]
    if isinstance(value, tuple) and any(isinstance(v, (np.ndarray, Const)) for v in value):
        return tuple(to_minidl(v, dtype, leaves) for v in value)
    return value


def to_torch(value: Any, dtype: Any, leaves: list | None = None) -> Any:
    """As to_minidl, for torch."""
    if isinstance(value, Const):
        a = value.array
        return torch.tensor(a.astype(dtype) if a.dtype.kind == "f" else a)
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        t = torch.tensor(value.astype(dtype), requires_grad=leaves is not None)
        if leaves is not None:
            leaves.append(t)
        return t
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, list) and any(isinstance(v, (np.ndarray, Const)) for v in value):
        return [to_torch(v, dtype, leaves) for v in value]
    if isinstance(value, tuple) and any(isinstance(v, (np.ndarray, Const)) for v in value):
        return tuple(to_torch(v, dtype, leaves) for v in value)
    if isinstance(value, minidl.dtype):
        return getattr(torch, value.name)
    return value


def run_minidl(case: Case, sample: Sample, dtype: Any, grad: bool = False) -> tuple[Any, list]:
    leaves: list | None = [] if grad else None
    args = [to_minidl(a, dtype, leaves) for a in sample.args]
    kwargs = {k: to_minidl(v, dtype, leaves) for k, v in sample.kwargs.items()}
    return case.ours(*args, **kwargs), leaves or []


def run_torch(case: Case, sample: Sample, dtype: Any, grad: bool = False, as_dtype: Any = None) -> tuple[Any, list]:
    """`as_dtype`: round the inputs to `dtype`, then compute in this one."""
    leaves: list | None = [] if grad else None

    def convert(v: Any) -> Any:
        if as_dtype is not None:
            v = _rounded(v, dtype)
        return to_torch(v, as_dtype or dtype, leaves)

    args = [convert(a) for a in sample.args]
    kwargs = {k: convert(v) for k, v in sample.kwargs.items()}
    assert case.theirs is not None
    return case.theirs(*args, **kwargs), leaves or []


def _rounded(v: Any, dtype: Any) -> Any:
    if isinstance(v, np.ndarray) and v.dtype == np.float64:
        return v.astype(dtype).astype(np.float64)
    if isinstance(v, Const) and v.array.dtype == np.float64:
        return Const(v.array.astype(dtype).astype(np.float64))
    if isinstance(v, (list, tuple)):
        return type(v)(_rounded(u, dtype) for u in v)
    return v


def flat_outputs(y: Any) -> list:
    """A result's tensors, in order."""
    if isinstance(y, (minidl.Tensor, torch.Tensor)):
        return [y]
    return [t for part in y for t in flat_outputs(part)]


def shapes(make: Callable) -> list[Sample]:
    """One-tensor samples over the shapes that matter."""
    return [S(make(3, 4)), S(make()), S(make(0)), S(make(2, 0, 3)), S(make(2, 1, 3)), S(make(1))]


# -- arithmetic -------------------------------------------------------------------------------------------------------


def pairs(a: Callable, b: Callable) -> list[Sample]:
    return [
        S(a(3, 4), b(3, 4)),
        S(a(3, 4), b(4)),
        S(a(3, 1), b(1, 4)),
        S(a(), b(2, 3)),
        S(a(2, 3), b()),
        S(a(), b()),
        S(a(0, 3), b(3)),
        S(a(1, 1), b(2, 2)),
        S(a(2, 3), 1.5),
        S(a(2, 3), 2),
        S(a(2, 3), Const(b(3))),
        S(Const(a(2, 3)), b(3)),
        S(a(2, 2), ints(1, 5, 2, 2)),
    ]


case("add", *pairs(normal, normal), S(normal(2, 3), normal(3), alpha=-0.5))
case("sub", *pairs(normal, normal), S(normal(2, 3), normal(3), alpha=2), S(ints(0, 5, 3), ints(0, 5, 3)))
case("mul", *pairs(normal, normal), S(ints(0, 5, 3), normal(3)))
case("true_divide", *pairs(normal, positive))
case(
    "rounded_divide",
    S(distinct(2, 3), positive(3), "floor"),
    S(distinct(2, 3), 1.5, "trunc"),
    S(ints(-9, 9, 20), 4, "trunc"),
    S(ints(-9, 9, 20), -4, "floor"),
    S(ints(-9, 9, 5), ints(-9, -1, 5), "trunc"),
    theirs=lambda a, b, mode: torch.div(a, b, rounding_mode=mode),
)
case(
    "div",
    *pairs(normal, positive),
    S(ints(0, 5, 3), ints(1, 5, 3)),
    S(distinct(3, 4), positive(4), rounding_mode="floor"),
    S(distinct(3, 4), positive(4), rounding_mode="trunc"),
)
case("pow", *pairs(positive, normal), S(normal(2, 3), 3), S(positive(2, 3), 0.5), S(normal(2, 3), 0), S(normal(3), 1))
case("pow_of_scalar", S(2.0, normal(2, 3)), ours=minidl.pow, theirs=torch.pow)
case("maximum", *[s for s in pairs(distinct, positive) if isinstance(s.args[1], (np.ndarray, Const))])
case("minimum", *[s for s in pairs(distinct, positive) if isinstance(s.args[1], (np.ndarray, Const))])
case("remainder", *pairs(distinct, positive), S(distinct(3, 4), -positive(4)), S(ints(-9, 9, 5), 3))
case(
    "floor_divide",
    S(Const(distinct(3, 4)), Const(positive(3, 4))),
    S(Const(distinct(2, 1)), Const(positive(3))),
    S(ints(-9, 9, 5), 3),
    S(ints(-9, 9, 5), -2),
    smooth=False,
)
for name in ("eq", "ne", "lt", "le", "gt", "ge"):
    case(name, *pairs(normal, normal), S(ints(0, 3, 6), ints(0, 3, 6)), S(bools(4), bools(4)), smooth=False)
for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    case(
        name,
        S(bools(3, 4), bools(4)),
        S(ints(0, 99, 5), ints(0, 99, 5)),
        S(ints(0, 99, 5), 6),
        S(bools(4), True),
        S(ints(0, 99, 3, dtype=np.uint8), ints(0, 99, 3)),
        smooth=False,
    )

# -- pointwise --------------------------------------------------------------------------------------------------------

for name in ("neg", "exp", "square", "sin", "cos", "tanh", "sigmoid", "erf"):
    case(name, *shapes(normal))
for name in ("abs", "sign", "relu", "floor", "ceil", "trunc"):
    case(name, *shapes(distinct), S(ints(-5, 5, 4)))
for name in ("log", "sqrt", "rsqrt", "reciprocal", "log1p"):
    case(name, *shapes(positive), S(ints(1, 9, 4)))
case("round", *shapes(distinct), S(distinct(5), decimals=1), S(ints(-5, 5, 4)))
case("leaky_relu", *shapes(distinct), S(distinct(3, 4), 0.2), S(distinct(5), negative_slope=-0.1), theirs=F.leaky_relu)
case("gelu", *shapes(normal), S(3 * normal(3, 4), approximate="tanh"), S(3 * normal(12)))
case("silu", *shapes(normal), theirs=F.silu)
case(
    "softplus", *shapes(normal), S(30 * distinct(4, 3)), S(normal(5), 2.0, 1.0), S(normal(5), beta=3), theirs=F.softplus
)
case(
    "clamp",
    S(distinct(3, 4), -1.0, 1.0),
    S(distinct(3, 4), min=0),
    S(distinct(3, 4), max=0.5),
    S(distinct(), 0, 1),
    S(distinct(0), 0, 1),
    S(ints(-5, 5, 6), -1, 2),
    S(ints(-5, 5, 6), min=0.5),
    S(distinct(3, 4), Const(np.full(4, -1.0)), Const(np.ones((3, 1)))),
    S(distinct(3, 4), -unit(4), positive(3, 1)),
)
for name in ("isnan", "isinf", "isfinite"):
    case(name, S(np.array([1.0, np.nan, np.inf, -np.inf])), S(ints(0, 3, 3)), S(normal()), smooth=False)
case("logical_not", S(np.array([1.0, 0.0])), S(ints(0, 3, 4)), S(bools(3)), smooth=False)
case("bitwise_not", S(bools(3)), S(ints(-4, 4, 5)), S(ints(0, 9, 3, dtype=np.uint8)), smooth=False)
case(
    "softmax",
    S(normal(3, 4), 1),
    S(normal(3, 4), 0),
    S(normal(2, 3, 2), dim=-2),
    S(normal(), 0),
    S(normal(0, 3), 1),
    S(normal(3, 0), 1),
    S(50 * normal(2, 5), 1),
    S(ints(0, 4, 2, 3), 1, dtype=minidl.float32),
)
case(
    "log_softmax",
    S(normal(3, 4), 1),
    S(normal(3, 4), 0),
    S(normal(2, 3, 2), dim=-2),
    S(normal(), 0),
    S(normal(0, 3), 1),
    S(normal(3, 0), 1),
    S(50 * normal(2, 5), 1),
)
case(
    "logsumexp",
    S(normal(3, 4), 1),
    S(normal(3, 4), (0, 1)),
    S(normal(2, 3, 2), -2, True),
    S(normal(2, 3, 2), (0, 2)),
    S(normal(), 0),
    S(normal(2, 5) * 50, 1),
    S(normal(0, 3), 1),
)

# -- reductions -------------------------------------------------------------------------------------------------------

REDUCTION = [
    ((3, 4), (), {}),
    ((3, 4), (0,), {}),
    ((2, 3, 4), (-1,), {"keepdim": True}),
    ((2, 3, 4), ((0, 2),), {}),
    ((2, 3, 4), ((0, -1), True), {}),
    ((), (), {}),
    ((), (0,), {}),
    ((1,), (0,), {}),
    ((2, 1, 3), (1,), {}),
]


def reductions(make: Callable, tuples: bool = True) -> list[Sample]:
    return [S(make(*s), *a, **k) for s, a, k in REDUCTION if tuples or not (a and isinstance(a[0], tuple))]


empty_ok = [S(normal(0)), S(normal(2, 0), 1), S(normal(2, 0), 0)]
case("sum", *reductions(normal), *empty_ok, S(ints(0, 9, 3, 4), 1), S(bools(5)), S(normal(3), dtype=minidl.float32))
case("mean", *reductions(normal), *empty_ok, S(ints(0, 9, 3), dtype=minidl.float64))
case(
    "prod",
    *reductions(normal, tuples=False),
    *empty_ok,
    S(ints(1, 4, 3, 2), 0),
    S(np.array([2.0, 0.0, 3.0])),
    S(np.array([0.0, 0.0, 3.0])),
)
case("amax", *reductions(distinct), S(ints(0, 9, 3, 4), 1))
case("amin", *reductions(distinct), S(ints(0, 9, 3, 4), 1))
case("max", *reductions(distinct, tuples=False), S(distinct(3, 4), positive(4)), S(ints(0, 4, 3, 5), 1))
case("min", *reductions(distinct, tuples=False), S(distinct(3, 4), positive(4)), S(ints(0, 4, 3, 5), 1))
case("argmax", *reductions(distinct, tuples=False), S(ints(0, 3, 4, 5), 1), smooth=False)
case("argmin", *reductions(distinct, tuples=False), S(ints(0, 3, 4, 5), 1), smooth=False)
case(
    "var",
    *[s for s in reductions(normal) if s.args[0].size > 1 and s.args[0].shape != (2, 1, 3)],
    S(normal(3, 4), 1, correction=0),
    S(normal(3, 4), unbiased=False),
    S(normal(5), correction=2),
)
case(
    "std",
    *[s for s in reductions(normal) if s.args[0].size > 1 and s.args[0].shape != (2, 1, 3)],
    S(normal(3, 4), 1, correction=0),
    S(normal(3, 4), unbiased=False),
)
case(
    "all",
    S(bools(3, 4)),
    S(bools(3, 4), 1),
    S(ints(0, 2, 3, 4), 0, True),
    S(normal(3)),
    S(bools(0)),
    S(bools()),
    smooth=False,
)
case(
    "any",
    S(bools(3, 4)),
    S(bools(3, 4), 1),
    S(ints(0, 2, 3, 4), 0, True),
    S(normal(3)),
    S(bools(0)),
    S(bools()),
    smooth=False,
)
case(
    "cumsum",
    S(normal(3, 4), 0),
    S(normal(3, 4), -1),
    S(normal(), 0),
    S(normal(0, 2), 0),
    S(ints(0, 9, 5), dim=0),
    S(bools(5), 0),
)

# -- movement ---------------------------------------------------------------------------------------------------------


def method(name: str) -> Callable:
    return lambda x, *a, **k: getattr(x, name)(*a, **k)


case(
    "reshape",
    S(normal(3, 4), (2, 6)),
    S(normal(3, 4), (-1,)),
    S(normal(), (1, 1)),
    S(normal(0, 3), (3, 0)),
    S(normal(1), ()),
    S(normal(2, 3), (3, -1)),
)
case("reshape_method", S(normal(3, 4), 2, 6), S(normal(3, 4), -1), ours=method("reshape"), theirs=method("reshape"))
case("view", S(normal(3, 4), 2, 6), S(normal(3, 4), (-1,)), ours=method("view"), theirs=method("view"))
case("view_as", S(normal(3, 4), Const(normal(2, 6))), ours=method("view_as"), theirs=method("view_as"))
case("flatten", S(normal(2, 3, 2)), S(normal(2, 3, 2), 1), S(normal(2, 3, 2), 0, 1), S(normal()), S(normal(2, 0)))
case("unflatten", S(normal(2, 6), 1, (2, 3)), S(normal(6), 0, (3, -1)))
case(
    "squeeze",
    S(normal(2, 1, 3, 1)),
    S(normal(2, 1, 3), 1),
    S(normal(2, 1, 3), 0),
    S(normal(1, 2, 1), (0, 2)),
    S(normal()),
)
case("unsqueeze", S(normal(2, 3), 0), S(normal(2, 3), -1), S(normal(), 0), S(normal(2, 3), 2))
case("permute", S(normal(2, 3, 2), (2, 0, 1)), S(normal(2, 3), (-1, 0)), S(normal(), ()))
case("permute_method", S(normal(2, 3, 2), 2, 0, 1), ours=method("permute"), theirs=method("permute"))
case("transpose", S(normal(2, 3, 2), 0, 2), S(normal(2, 3), -1, -2), S(normal(), 0, -1))
case("swapaxes", S(normal(2, 3, 2), 0, 2))
case("movedim", S(normal(2, 3, 2), 0, 2), S(normal(2, 3, 2), (0, 1), (-1, 0)))
case("t", S(normal(2, 3)), S(normal(3)), S(normal()))
case("T", S(normal(2, 3)), ours=lambda x: x.T, theirs=lambda x: x.T)
case("mT", S(normal(2, 3)), S(normal(2, 3, 2)), ours=lambda x: x.mT, theirs=lambda x: x.mT)
case("broadcast_to", S(normal(3, 1), (2, 3, 4)), S(normal(), (2, 2)), S(normal(3), (3,)), S(normal(1), (0,)))
case(
    "expand",
    S(normal(3, 1), 3, 4),
    S(normal(3, 1), 2, -1, 4),
    S(normal(1, 2), (3, 2)),
    ours=method("expand"),
    theirs=method("expand"),
)
case("expand_as", S(normal(3, 1), Const(normal(3, 4))), ours=method("expand_as"), theirs=method("expand_as"))
case(
    "repeat",
    S(normal(2, 3), 2, 1),
    S(normal(2), 2, 3),
    S(normal(), 3),
    S(normal(2), (0,)),
    ours=method("repeat"),
    theirs=method("repeat"),
)
case(
    "flip",
    S(normal(3, 4), (0,)),
    S(normal(3, 4), (0, -1)),
    S(normal(3), 0),
    S(normal(2, 0), (1,)),
    theirs=lambda x, d: torch.flip(x, (d,) if isinstance(d, int) else d),
)
case(
    "roll",
    S(normal(3, 4), 2),
    S(normal(3, 4), 1, 0),
    S(normal(3, 4), (1, -2), (0, 1)),
    S(normal(0), 2),
    S(normal(4), -3, 0),
)
case(
    "cat",
    S([normal(2, 3), normal(1, 3)]),
    S([normal(2, 1), normal(2, 3)], 1),
    S([normal(2, 1), normal(2, 3)], dim=-1),
    S([normal(0), normal(2, 3)]),
    S([normal(0, 3), normal(2, 3)]),
    S([normal(2), ints(0, 5, 3)]),
    S([normal(2)]),
    S((normal(2), normal(3))),
    S([normal(2), Const(normal(3))]),
    S([Const(normal(2)), normal(3)]),
    S([ints(0, 5, 2), bools(3)]),
)
case(
    "stack",
    S([normal(2, 3), normal(2, 3)]),
    S([normal(2, 3), normal(2, 3)], 1),
    S([normal(), normal()]),
    S([normal(2), normal(2)], dim=-1),
)
case("vstack", S([normal(3), normal(2, 3)]), S([normal(), normal()]))
case("hstack", S([normal(3), normal(2)]), S([normal(2, 3), normal(2, 1)]), S([normal(), normal(2)]))
case("split", S(normal(5, 2), 2), S(normal(2, 5), [1, 4], 1), S(normal(2, 5), 3, dim=-1), S(normal(0, 2), 3))
case("split_with_sizes", S(normal(5, 2), [2, 3]))
case("chunk", S(normal(5, 2), 2), S(normal(2, 5), 3, 1), S(normal(2), 5))
case("narrow", S(normal(5, 2), 0, 1, 3), S(normal(2, 5), 1, -2, 2), S(normal(3), 0, 3, 0))
case("unbind", S(normal(3, 2)), S(normal(3, 2), 1))
case(
    "pad",
    S(normal(2, 3), (1, 2)),
    S(normal(2, 3), (1, 0, 2, 1), value=2.5),
    S(normal(3, 4), (-1, 2)),
    S(normal(1, 2, 4), (2, 1), "reflect"),
    S(normal(1, 3, 3), (1, 2, 2, 0), mode="reflect"),
    S(normal(1, 2, 3), (2, 1), mode="replicate"),
    S(normal(1, 2, 3), (3, 1), mode="circular"),
    S(normal(), ()),
    S(normal(2, 0), (1, 1)),
    theirs=F.pad,
)
case(
    "pad_constant",
    S(normal(2, 3), ((1, 0), (-1, 2))),
    S(normal(3), ((0, 0),), 2.0),
    theirs=lambda x, p, v=0.0: F.pad(x, [n for ab in reversed(p) for n in ab], value=v),
)
case("alias", S(normal(2, 3)), S(normal()), theirs=lambda x: x.view_as(x))
case("clone", *shapes(normal))
case(
    "cast",
    S(normal(3), minidl.float64),
    S(normal(3), minidl.float32),
    S(5 * normal(4), minidl.int64),
    S(ints(0, 2, 3), minidl.bool),
    S(normal(), minidl.float32),
    theirs=lambda x, d: x.to(d, copy=True),
)
case("transfer", S(normal(3), "cpu"), theirs=lambda x, d: x.to(d))
case("contiguous", S(normal(3, 4)), theirs=method("contiguous"))
case("clone_contiguous", S(normal(3, 4)), theirs=torch.clone)
case(
    "to",
    S(normal(3), minidl.float64),
    S(normal(3), "cpu"),
    S(normal(3), "cpu", minidl.float32),
    S(normal(3), dtype=minidl.float64),
    S(normal(3), Const(normal(1))),
    S(ints(0, 5, 3), minidl.float32),
    theirs=method("to"),
)

# -- indexing ---------------------------------------------------------------------------------------------------------

INDICES = [
    ((3, 4), 1),
    ((3, 4), -1),
    ((3, 4), slice(1, 3)),
    ((5, 4), slice(None, None, 2)),
    ((3, 4), (slice(None), 2)),
    ((3, 4), (..., 0)),
    ((3, 4), None),
    ((3, 4), (None, 1, ..., None)),
    ((3, 4), (1, 2)),
    ((3, 4), np.array([0, 2, 2])),
    ((3, 4), np.array([[0, -1], [1, 1]])),
    ((3, 4), (np.array([0, 2]), np.array([1, -1]))),
    ((3, 4), (slice(None), np.array([1, 1, 3]))),
    ((3, 4), (np.array([[0], [2]]), np.array([1, 3]))),
    ((3, 4), np.array([True, False, True])),
    ((2, 3), np.array([[True, False, True], [False, False, True]])),
    ((2, 3), np.zeros((2, 3), bool)),
    ((2, 3, 4), (0, slice(None), np.array([1, 2]))),
    ((2, 3, 4), (slice(None), 1, np.array([1, 2, 0]))),
    ((2, 3, 4), (np.array([1, 0]), slice(None), np.array([3, 2]))),
    ((2, 3, 4), (np.array([1, 0]), slice(None), 2)),
    ((2, 3, 4), (np.array([1, 0]), ..., np.array([3, 2]))),
    ((2, 3, 4), (slice(None), np.array([True, False, True]), 1)),
    ((2, 3, 4), (np.array([1, 0]), None, np.array([0, 2]))),
    ((3, 4), np.array([], np.int64)),
    ((3,), [0, 2]),
    ((3, 4), ([0, 2], [1, 3])),
    ((), ()),
    ((), None),
    ((), ...),
    ((0, 3), slice(None)),
    ((3,), True),
    ((2, 3), (slice(None), np.array(1))),
]


def torch_index(i: Any) -> Any:
    return (
        tuple(torch_index(k) for k in i)
        if isinstance(i, tuple)
        else torch.tensor(i)
        if isinstance(i, np.ndarray)
        else i
    )


def minidl_index(i: Any) -> Any:
    return (
        tuple(minidl_index(k) for k in i)
        if isinstance(i, tuple)
        else minidl.tensor(i)
        if isinstance(i, np.ndarray)
        else i
    )


@dataclass
class Index:
    """An index, kept from being converted to tensors."""

    index: Any


case(
    "getitem",
    *[S(normal(*shape), Index(i)) for shape, i in INDICES],
    ours=lambda x, i: x[minidl_index(i.index)],
    theirs=lambda x, i: x[torch_index(i.index)],
)


def _torch_put(x: torch.Tensor, i: Any, size: Any) -> torch.Tensor:
    at = torch.arange(int(np.prod(size))).reshape(size)[torch_index(i.index)]
    return torch.zeros(int(np.prod(size)), dtype=x.dtype).index_add(0, at.reshape(-1), x.reshape(-1)).reshape(size)


case(
    "put",
    S(normal(2, 4), Index(np.array([0, 0])), (3, 4)),
    S(normal(4), Index(1), (3, 4)),
    S(normal(2), Index((np.array([0, 0]), np.array([1, 1]))), (3, 4)),
    S(normal(2), Index(np.array([True, False, True])), (3,)),
    ours=lambda x, i, size: TABLE["put"](x, i.index, size),
    theirs=_torch_put,
)
case(
    "where",
    S(bools(3, 4), normal(3, 4), normal(3, 4)),
    S(bools(3, 1), normal(4), normal(3, 4)),
    S(bools(3), normal(3), 0.0),
    S(bools(3), 1.5, normal(2, 3)),
    S(bools(), normal(), normal(2)),
    S(bools(0), normal(0), normal(1)),
    S(bools(3), ints(0, 3, 3), normal(3)),
    S(bools(3), ints(0, 3, 3), 1),
)
case(
    "masked_fill",
    S(normal(3, 4), bools(3, 4), 2.0),
    S(normal(3, 4), bools(4), 0),
    big(normal(3, 4), bools(3, 1), float("-inf")),
    S(ints(0, 9, 4), bools(4), 3),
    S(normal(3), bools(3), normal()),
)
case(
    "gather",
    S(normal(3, 4), 0, ints(0, 3, 2, 4)),
    S(normal(3, 4), 1, ints(0, 4, 3, 6)),
    S(normal(3, 4), -1, ints(0, 4, 2, 1)),
    S(normal(5), 0, ints(0, 5, 7)),
    S(normal(), 0, np.zeros((), np.int64)),
    S(normal(3, 4), 1, np.zeros((3, 0), np.int64)),
)
case(
    "scatter_add",
    S(normal(3, 4), 0, ints(0, 3, 2, 4), normal(2, 4)),
    S(normal(3, 4), 1, ints(0, 4, 3, 6), normal(3, 6)),
    S(Const(np.zeros(3)), 0, np.array([0, 0, 2]), normal(3)),
)
case(
    "take_along_dim",
    S(normal(3, 4), ints(0, 3, 2, 4), 0),
    S(normal(3, 4), ints(0, 4, 3, 1), dim=1),
    S(normal(3, 4), ints(0, 12, 5)),
    S(normal(1, 4), ints(0, 4, 3, 2), 1),
)
case(
    "index_select",
    S(normal(3, 4), 0, np.array([2, 0, 0])),
    S(normal(3, 4), -1, np.array([1])),
    S(normal(3), 0, np.array(1)),
)
case(
    "embedding",
    S(ints(0, 5, 3), normal(5, 2)),
    S(ints(0, 5, 2, 3), normal(5, 2)),
    big(np.array([0, 1, 1]), normal(3, 2), padding_idx=1),
    big(np.array([0, 1, 2]), normal(3, 2), -1),
    S(np.zeros((0,), np.int64), normal(3, 2)),
    S(np.array(2), normal(3, 2)),
    theirs=F.embedding,
)
case("one_hot", S(ints(0, 4, 5), 4), S(ints(0, 4, 2, 3), 6), S(np.array([0, 2])), theirs=F.one_hot, smooth=False)
case("tril", S(normal(3, 4)), S(normal(2, 3, 3), 1), S(normal(3, 4), diagonal=-1), S(ints(0, 9, 3, 3)))
case("triu", S(normal(3, 4)), S(normal(2, 3, 3), 1), S(normal(3, 4), diagonal=-1), S(ints(0, 9, 3, 3)))

# -- products ---------------------------------------------------------------------------------------------------------

PRODUCTS = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 2, 3), (3, 2)),
    ((2, 3), (2, 3, 2)),
    ((2, 1, 2, 3), (3, 3, 2)),
    ((2, 2, 3), (3,)),
    ((3,), (2, 3, 2)),
    ((0, 3), (3, 2)),
    ((2, 0), (0, 2)),
    ((0, 2, 3), (3, 2)),
    ((1, 1), (1, 1)),
]
case(
    "matmul",
    *[S(normal(*a), normal(*b)) for a, b in PRODUCTS],
    big(normal(33, 65), normal(65, 40)),
    S(ints(0, 5, 2, 3), ints(0, 5, 3, 2)),
)
case(
    "linear",
    S(normal(2, 3), normal(4, 3)),
    S(normal(2, 3), normal(4, 3), normal(4)),
    S(normal(3), normal(4, 3), normal(4)),
    S(normal(2, 2, 3), normal(2, 3), normal(2)),
    S(normal(2, 3), normal(3)),
    S(normal(0, 3), normal(4, 3), normal(4)),
    big(normal(17, 65), normal(33, 65), normal(33)),
    theirs=F.linear,
)
case("mm", S(normal(2, 3), normal(3, 2)))
case("bmm", S(normal(2, 2, 3), normal(2, 3, 2)))
case("dot", S(normal(3), normal(3)))
case("outer", S(normal(3), normal(2)))

# -- convolution and attention ----------------------------------------------------------------------------------------

CONV = [
    ((2, 2, 4, 3), (3, 2, 2, 2), {}),
    ((1, 2, 5, 4), (2, 2, 3, 2), {"stride": 2, "padding": 1}),
    ((1, 1, 5, 5), (1, 1, 2, 3), {"stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)}),
    ((1, 4, 3, 3), (4, 2, 2, 2), {"groups": 2}),
    ((1, 3, 3, 3), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    ((2, 2, 1, 1), (3, 2, 1, 1), {}),
]
case(
    "conv2d",
    *[S(normal(*x), normal(*w), normal(w[0]), **k) for x, w, k in CONV],
    *[S(normal(*x), normal(*w), **k) for x, w, k in CONV[:2]],
    S(normal(2, 3, 4), normal(2, 2, 2, 2)),
    S(normal(1, 1, 4, 3), normal(1, 1, 2, 3), padding="same"),
    S(normal(1, 1, 4, 3), normal(1, 1, 2, 3), padding="valid"),
    S(normal(0, 2, 4, 4), normal(3, 2, 2, 2), normal(3)),
    big(normal(3, 9, 10, 11), normal(17, 9, 3, 3), normal(17), padding=1),
)
case(
    "conv1d",
    S(normal(2, 2, 5), normal(3, 2, 2), normal(3)),
    S(normal(1, 2, 6), normal(2, 1, 3), stride=2, padding=1, groups=2),
    S(normal(2, 5), normal(3, 2, 2), normal(3), dilation=2),
    S(normal(1, 1, 5), normal(1, 1, 4), padding="same"),
    S(normal(1, 1, 5), normal(1, 1, 2), stride=(2,), padding=(1,)),
)
TRANSPOSED = [
    ((1, 2, 3, 2), (2, 3, 2, 2), {}),
    ((1, 2, 2, 3), (2, 2, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 4, 2, 2), (4, 1, 2, 2), {"groups": 2, "dilation": (2, 1)}),
]
case(
    "conv_transpose2d",
    *[S(normal(*x), normal(*w), **k) for x, w, k in TRANSPOSED],
    S(normal(2, 2, 2, 2), normal(2, 2, 2, 2), normal(2)),
    S(normal(2, 3, 2), normal(2, 2, 2, 2), normal(2), stride=(2, 1)),
)


def _conv_out(x: tuple, w: tuple, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> tuple:
    y = F.conv2d(torch.zeros(x), torch.zeros(w), None, stride, padding, dilation, groups)
    return tuple(y.shape)


def _how(stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> tuple:
    return stride, padding, dilation, groups


case(
    "conv2d_dx",
    *[S(normal(*_conv_out(x, w, **k)), normal(*w), x, *_how(**k)) for x, w, k in CONV],
    theirs=lambda dy, w, x_shape, *how: torch.nn.grad.conv2d_input(x_shape, w, dy, *how),
)


def _torch_dw(dy: Any, x: Any, w_shape: Any, *how: Any) -> Any:
    w = torch.zeros(w_shape, dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(F.conv2d(x, w, None, *how), w, dy, create_graph=True)[0]


case(
    "conv2d_dw",
    *[S(normal(*_conv_out(x, w, **k)), normal(*x), w, *_how(**k)) for x, w, k in CONV],
    theirs=_torch_dw,
)


def qkv(b: int, h: int, t: int, d: int, s: int | None = None, g: int | None = None, e: int | None = None) -> tuple:
    s, g, e = s or t, g or h, e or d
    return normal(b, h, t, d), normal(b, g, s, d), normal(b, g, s, e)


def some_seen(*shape: int) -> np.ndarray:
    mask = bools(*shape)
    mask[..., 0] = True
    return mask


ATTENTION = [
    (qkv(1, 2, 3, 2), {}),
    (qkv(2, 1, 3, 2, s=4), {}),
    (qkv(1, 1, 3, 2), {"causal": True}),
    (qkv(1, 1, 2, 3, s=4), {"causal": True, "scale": 0.5}),
    (qkv(1, 1, 3, 2, s=4, e=3), {"scale": 0.7}),
    (qkv(1, 2, 3, 2, s=3), {"mask": some_seen(1, 1, 3, 3)}),
    (qkv(1, 2, 2, 2, s=3), {"mask": Const(normal(2, 2, 3))}),
    (qkv(1, 4, 2, 2, s=3, g=2), {}),
]


def _torch_attention(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


case("attention", *[S(*a, **k) for a, k in ATTENTION], theirs=_torch_attention)
case(
    "scaled_dot_product_attention",
    S(*qkv(1, 2, 3, 2)),
    S(*[a[0, 0] for a in qkv(1, 1, 3, 2)]),
    S(*[a[0] for a in qkv(1, 2, 3, 2, s=2)], is_causal=True),
    S(*[a[None] for a in qkv(1, 2, 2, 2, s=3)], scale=1.0),
    S(*qkv(1, 2, 3, 2), attn_mask=some_seen(3, 3)),
    S(*[a[0] for a in qkv(1, 2, 3, 2)], attn_mask=some_seen(2, 3, 3)),
    S(*qkv(1, 2, 3, 2), attn_mask=normal(3, 3)),
    S(*qkv(2, 2, 3, 2), attn_mask=Const(normal(2, 1, 1, 3))),
    S(*qkv(1, 4, 2, 2, s=3, g=2), enable_gqa=True),
    big(*qkv(2, 3, 33, 16, s=40)),
    big(*qkv(2, 3, 33, 16), is_causal=True),
)

# -- normalisation, dropout -------------------------------------------------------------------------------------------

case(
    "layer_norm",
    S(normal(2, 4), 4),
    S(normal(3, 4), (4,), normal(4), normal(4)),
    S(normal(2, 2, 3), (2, 3), normal(2, 3), normal(2, 3)),
    S(normal(2, 4), (4,), normal(4)),
    S(normal(2, 4), (4,), None, normal(4), 0.1),
    big(normal(5, 7, 64), (64,), normal(64), normal(64)),
    theirs=lambda x, shape, *a: F.layer_norm(x, (shape,) if isinstance(shape, int) else shape, *a),
)
case(
    "rms_norm",
    S(normal(2, 4), (4,)),
    S(normal(3, 4), (4,), normal(4), 1e-5),
    S(normal(2, 2, 3), (2, 3), normal(2, 3)),
    theirs=F.rms_norm,
)


def fresh(x: Any) -> Any:
    """Running statistics are written: a copy for each run."""
    return None if x is None else x.clone().detach()


def _fresh_stats(f: Callable) -> Callable:
    def run(x: Any, m: Any, v: Any, *a: Any, **k: Any) -> Any:
        m, v = fresh(m), fresh(v)
        y = f(x, m, v, *a, **k)
        return y if m is None or not k.get("training") else (y, m, v)

    return run


case(
    "batch_norm",
    S(normal(3, 2), None, None, training=True),
    S(normal(2, 2, 3), None, None, normal(2), normal(2), training=True),
    big(normal(2, 2, 2, 2), Const(normal(2)), Const(positive(2)), normal(2), normal(2), training=True, momentum=0.3),
    S(normal(3, 2), Const(normal(2)), Const(positive(2)), normal(2), normal(2)),
    S(normal(2, 2, 3), Const(normal(2)), Const(positive(2)), eps=0.1),
    S(normal(3, 2), None, None, normal(2), None, training=True),
    S(normal(3, 2), None, None, None, normal(2), training=True),
    big(normal(8, 5, 6, 7), Const(normal(5)), Const(positive(5)), normal(5), normal(5), training=True),
    ours=_fresh_stats(TABLE["batch_norm"]),
    theirs=_fresh_stats(F.batch_norm),
)


def _torch_standardize(x: Any, w: Any, b: Any, dims: Any, eps: float) -> Any:
    y = (x - x.mean(dims, True)) / (x.var(dims, correction=0, keepdim=True) + eps).sqrt()
    return y if w is None else y * w + b


case(
    "standardize",
    S(normal(3, 4), None, None, (1,), 1e-5),
    S(normal(3, 2, 2), normal(1, 2, 1), normal(1, 2, 1), (0, 2), 1e-5),
    S(normal(2, 2, 3), normal(1, 2, 3), normal(1, 2, 3), (1, 2), 1e-3),
    theirs=_torch_standardize,
)
case(
    "rms_standardize",
    S(normal(3, 4), None, 1e-5),
    S(normal(3, 4), normal(4), 1e-3),
    theirs=lambda x, w, eps: F.rms_norm(x, x.shape[1:], w, eps),
)
case(
    "group_standardize",
    S(normal(2, 4, 5), None, None, 2, 1e-5),
    S(normal(2, 6, 2, 3), normal(6), normal(6), 3, 1e-3),
    theirs=lambda x, w, b, groups, eps: F.group_norm(x, groups, w, b, eps),
)
case(
    "mask_scale",
    S(normal(3, 4), Index(bools(3, 4)), 1.25),
    S(normal(2, 3), Index(bools(2, 1)), 2.0),
    ours=lambda x, m, s: TABLE["mask_scale"](x, m.index, s),
    theirs=lambda x, m, s: x * torch.tensor(m.index) * s,
)
case("dropout", S(normal(3, 4), 0.4, False), S(normal(3, 4), 0.0), S(normal(3, 4), p=1.0), theirs=F.dropout)
case("dropout2d", S(normal(2, 3, 2, 2), 0.4, False), S(normal(2, 3, 2, 2), p=1.0), theirs=F.dropout2d)

# -- pooling ----------------------------------------------------------------------------------------------------------

POOL = [
    ((1, 2, 4, 4), (2,), {}),
    ((2, 1, 5, 4), (3, 2), {"padding": 1}),
    ((1, 1, 5, 5), ((2, 3),), {"stride": (2, 1), "padding": (0, 1)}),
    ((1, 1, 5, 6), (2, 2), {"ceil_mode": True}),
    ((1, 1, 7, 7), (3, 3), {"ceil_mode": True, "padding": 1}),
    ((2, 4, 5), (2,), {}),
]
case(
    "max_pool2d",
    *[S(distinct(*x), *a, **k) for x, a, k in POOL],
    S(distinct(1, 1, 5, 5), 2, 1, dilation=2),
    S(distinct(1, 2, 4, 4), 2, return_indices=True),
    S(distinct(0, 2, 4, 4), 2),
    theirs=F.max_pool2d,
)
case(
    "max_pool1d",
    S(distinct(2, 2, 5), 2),
    S(distinct(2, 6), 3, 2, 1),
    S(distinct(1, 1, 6), 2, 1, 0, 2),
    S(distinct(1, 1, 7), 2, 2, return_indices=True),
    theirs=F.max_pool1d,
)
case(
    "avg_pool2d",
    *[S(normal(*x), *a, **k) for x, a, k in POOL],
    *[S(normal(*x), *a, **k, count_include_pad=False) for x, a, k in POOL[:5]],
    S(normal(1, 1, 4, 4), 2, divisor_override=3),
    theirs=F.avg_pool2d,
)
case(
    "avg_pool1d",
    S(normal(2, 2, 5), 2),
    S(normal(2, 6), 3, 2, 1),
    S(normal(1, 1, 6), 3, 2, 1, True, False),
    theirs=F.avg_pool1d,
)
case(
    "adaptive_avg_pool2d",
    S(normal(1, 2, 4, 4), 2),
    S(normal(1, 1, 5, 7), (3, 2)),
    S(normal(2, 3, 4), (None, 1)),
    S(normal(1, 2, 3, 3), 1),
    S(normal(1, 1, 2, 2), 3),
    theirs=F.adaptive_avg_pool2d,
)
case("adaptive_avg_pool1d", S(normal(1, 2, 4), 2), S(normal(2, 5), 3), theirs=F.adaptive_avg_pool1d)
case(
    "gather_plane",
    S(normal(2, 5), Index(ints(0, 5, 2, 3))),
    ours=lambda x, i: TABLE["gather_plane"](x, i.index),
    theirs=lambda x, i: torch.gather(x, -1, torch.tensor(i.index)),
)
case(
    "scatter_plane",
    S(normal(2, 3), Index(np.array([[0, 0, 4], [1, 2, 1]])), 5),
    ours=lambda x, i, n: TABLE["scatter_plane"](x, i.index, n),
    theirs=lambda x, i, n: torch.zeros(*x.shape[:-1], n, dtype=x.dtype).scatter_add(-1, torch.tensor(i.index), x),
)


def _avg_dx_ours(dy: Any, size: Any, k: Any) -> Any:
    weight = np.full(dy.shape[-2:], 1 / (k[0] * k[1]))
    return TABLE["avg_pool2d_dx"](dy, size, k, k, (0, 0), tuple(dy.shape[-2:]), weight)


def _avg_dx_theirs(dy: Any, size: Any, k: Any) -> Any:
    x = torch.zeros(size, dtype=dy.dtype, requires_grad=True)
    return torch.autograd.grad(F.avg_pool2d(x, k), x, dy, create_graph=True)[0]


case("avg_pool2d_dx", S(normal(1, 2, 2, 2), (1, 2, 4, 5), (2, 2)), ours=_avg_dx_ours, theirs=_avg_dx_theirs)

# -- losses -----------------------------------------------------------------------------------------------------------


def losses(make: Callable, target: Callable, *extra: Sample) -> list[Sample]:
    return [
        S(make(3, 4), target(3, 4)),
        S(make(3, 4), target(3, 4), reduction="sum"),
        S(make(3, 4), Const(target(3, 4)), reduction="none"),
        S(make(), target()),
        S(make(0), target(0)),
        *extra,
    ]


def apart(*shape: int) -> np.ndarray:
    """Differences to `distinct` values that stay away from 0 and 1."""
    return np.zeros(shape)


case("mse_loss", *losses(normal, normal), theirs=F.mse_loss)
case("l1_loss", *losses(distinct, apart), theirs=F.l1_loss)
case("huber_loss", *losses(distinct, apart, S(distinct(5), apart(5), delta=0.5)), theirs=F.huber_loss)
case(
    "smooth_l1_loss",
    *losses(distinct, apart, S(distinct(5), apart(5), beta=0.5), S(distinct(5), apart(5), beta=0.0)),
    theirs=F.smooth_l1_loss,
)
case(
    "binary_cross_entropy_with_logits",
    *losses(
        distinct,
        unit,
        S(distinct(3, 4), unit(3, 4), Const(positive(4))),
        S(distinct(3, 4), unit(3, 4), pos_weight=Const(positive(4))),
        S(40 * distinct(6), unit(6)),
    ),
    theirs=F.binary_cross_entropy_with_logits,
)
case(
    "binary_cross_entropy",
    *losses(unit, unit, S(unit(3, 4), unit(3, 4), Const(positive(4)))),
    theirs=F.binary_cross_entropy,
)
case(
    "kl_div",
    S(normal(3, 4), probabilities(3, 4), reduction="batchmean"),
    S(normal(3, 4), probabilities(3, 4), reduction="sum"),
    S(normal(3, 4), probabilities(3, 4), reduction="none"),
    S(normal(3, 4), normal(3, 4), log_target=True, reduction="sum"),
    S(normal(2, 2), Const(np.array([[0.0, 1.0], [0.5, 0.5]])), reduction="sum"),
    theirs=F.kl_div,
)
IGNORED = np.array([0, 2, -100, 1])
CROSS_ENTROPY = [
    S(normal(4, 3), ints(0, 3, 4)),
    S(normal(4, 3), ints(0, 3, 4), reduction="sum"),
    S(normal(4, 3), ints(0, 3, 4), reduction="none"),
    S(normal(4, 3), ints(0, 3, 4), Const(positive(3))),
    S(normal(4, 3), IGNORED),
    S(normal(4, 3), IGNORED, Const(positive(3))),
    S(normal(4, 3), IGNORED, reduction="none"),
    S(normal(4, 3), ints(0, 3, 4), ignore_index=1),
    S(normal(3), np.array(1)),
    S(normal(2, 3, 2), ints(0, 3, 2, 2)),
    S(normal(2, 3, 2, 2), ints(0, 3, 2, 2, 2), Const(positive(3))),
    S(100 * normal(4, 3), ints(0, 3, 4)),
    S(normal(0, 3), ints(0, 3, 0), reduction="sum"),
    S(normal(0, 3), ints(0, 3, 0)),
    big(normal(2, 3), np.array([-100, -100])),  # NaN, its gradient 0
]
case("nll_loss", *CROSS_ENTROPY, theirs=F.nll_loss)
case(
    "cross_entropy",
    *CROSS_ENTROPY,
    S(normal(4, 3), ints(0, 3, 4), label_smoothing=0.1),
    S(normal(4, 3), IGNORED, label_smoothing=0.2),
    S(normal(4, 3), IGNORED, Const(positive(3)), label_smoothing=0.2),
    S(normal(4, 3), IGNORED, Const(positive(3)), label_smoothing=0.2, reduction="sum"),
    S(normal(2, 3, 2), ints(0, 3, 2, 2), label_smoothing=0.2, reduction="none"),
    S(normal(4, 3), probabilities(4, 3)),
    S(normal(4, 3), Const(probabilities(4, 3)), Const(positive(3)), label_smoothing=0.1),
    S(normal(2, 3, 2), probabilities(2, 3, 2), reduction="none"),
    S(normal(3), unit(3)),
    big(normal(64, 10), ints(0, 10, 64)),
    theirs=F.cross_entropy,
)
PICK = np.array([2, 0, 1])
case(
    "pick_class",
    S(normal(3, 4), Index(PICK), None, -100),
    S(normal(3, 4), Index(PICK), Index(positive(4)), 1),
    ours=lambda x, t, w, i: TABLE["pick_class"](x, t.index, None if w is None else w.index, i),
    theirs=lambda x, t, w, i: F.nll_loss(
        x,
        torch.tensor(t.index),
        None if w is None else torch.tensor(w.index).to(x.dtype),
        ignore_index=i,
        reduction="none",
    ),
)


def _torch_spread(x: Any, at: Any, weight: Any, classes: int) -> Any:
    return torch.zeros(len(at.index), classes, dtype=x.dtype).index_put(
        (torch.arange(len(at.index)), torch.tensor(at.index)), -torch.tensor(weight.index).to(x.dtype) * x
    )


case(
    "spread_class",
    S(normal(3), Index(PICK), Index(positive(3).astype(np.float32)), 4),
    ours=lambda x, at, w, c: TABLE["spread_class"](x, at.index, w.index.astype(x.array.dtype), c),
    theirs=_torch_spread,
)

# -- made from nothing ------------------------------------------------------------------------------------------------

for name in ("zeros_like", "ones_like"):
    case(name, S(normal(2, 3)), S(ints(0, 5, 3)), S(normal(), dtype=minidl.float64), smooth=False)
for name in ("empty_like", "rand_like", "randn_like"):
    case(name, S(normal(2, 3)), theirs=None, smooth=False)

# -- the other tables -------------------------------------------------------------------------------------------------

import cases_beyond  # noqa: E402, F401
import cases_factors  # noqa: E402, F401
import cases_images  # noqa: E402, F401
import cases_losses  # noqa: E402, F401
import cases_math  # noqa: E402, F401
import cases_order  # noqa: E402, F401
import cases_products  # noqa: E402, F401
import cases_quantiles  # noqa: E402, F401
import cases_vectors  # noqa: E402, F401
