"""Cases of the table of ops: trigonometry, exponentials, logic, blends, limits, activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import Const, S, big, bools, case, distinct, ints, normal, pairs, positive, shapes, unit

import minidl

# -- trigonometry, exponentials ---------------------------------------------------------------------------------------

for name in ("atan", "sinh", "cosh", "asinh", "expm1", "exp2"):
    case(name, *shapes(normal), S(ints(-3, 4, 4)), S(bools(3)))
for name in ("tan", "asin", "acos", "atanh"):
    case(name, *shapes(unit), S(-unit(4)))
case("acosh", *shapes(lambda *n: np.asarray(1 + positive(*n))), S(ints(1, 9, 4)))
for name in ("log2", "log10"):
    case(name, *shapes(positive), S(ints(1, 9, 4)))


def tensors(samples: list) -> list:
    """Those without Python numbers."""
    return [s for s in samples if isinstance(s.args[1], (np.ndarray, Const))]


case("atan2", *tensors(pairs(distinct, positive)), S(distinct(4), -positive(4)), S(ints(-3, 4, 5), ints(1, 4, 5)))
case("logaddexp", *tensors(pairs(normal, normal))[:-1], S(300 * normal(4), 300 * normal(4)))

# -- logic ------------------------------------------------------------------------------------------------------------

for name in ("logical_and", "logical_or", "logical_xor"):
    case(
        name,
        S(bools(3, 4), bools(4)),
        S(np.array([0.0, 1.0, np.nan, 0.0]), np.array([0.0, 0.0, 1.0, 2.0])),
        S(ints(0, 2, 6), bools(6)),
        S(bools(), bools(2, 0)),
        smooth=False,
    )
NEAR = np.array([1.0, 1.0 + 1e-6, 1.1, np.inf, np.inf, -np.inf, np.nan, 0.0])
case(
    "isclose",
    S(NEAR, np.array([1.0, 1.0, 1.0, np.inf, 1.0, np.inf, np.nan, 1e-9])),
    S(NEAR, np.array([1.0, 1.0, 1.0, np.inf, 1.0, np.inf, np.nan, 1e-9]), equal_nan=True),
    S(NEAR, NEAR[:1], 0.2, 0.1),
    S(ints(0, 4, 5), ints(0, 4, 5), atol=1),
    S(bools(4), bools(4)),
    smooth=False,
)


def yes_or_no(name: str, *samples: Any) -> None:
    """Answers that are Python bools, compared as tensors."""

    def in_library(library: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(library, name)(*args, **kwargs)
            assert type(answer) is bool
            return library.tensor(answer)

        return run

    case(name, *samples, ours=in_library(minidl), theirs=in_library(torch), smooth=False)


yes_or_no(
    "allclose",
    S(np.ones(3), np.ones(3)),
    S(np.ones((2, 3)), np.array([1.0, 1.0, 1.1])),
    S(np.ones(3), np.array([1.0, 1.0, 1.1]), 0.2),
    S(np.array([np.nan]), np.array([np.nan])),
    S(np.array([np.nan]), np.array([np.nan]), equal_nan=True),
    S(normal(0), normal(0)),
)
yes_or_no(
    "equal",
    S(np.ones(3), np.ones(3)),
    S(np.ones(3), np.ones((1, 3))),
    S(np.ones(2), np.array([1.0, 2.0])),
    S(np.array([np.nan]), np.array([np.nan])),
    S(normal(0, 3), normal(0, 3)),
)
yes_or_no("is_same_size", S(normal(2, 3), normal(2, 3)), S(normal(2, 3), normal(3, 2)))
case(
    "count_nonzero",
    S(ints(0, 2, 3, 4)),
    S(ints(0, 2, 3, 4), 1),
    S(bools(2, 3, 4), (0, -1)),
    S(np.array([0.0, np.nan, -0.0, 2.0])),
    S(bools()),
    S(bools(0, 2), dim=0),
    smooth=False,
)
case(
    "nonzero",
    S(ints(0, 2, 3, 4)),
    S(ints(0, 2, 3, 4), as_tuple=True),
    S(bools(5)),
    S(np.array(1.0)),
    S(np.array(0.0)),
    S(np.array(1.0), as_tuple=True),
    S(bools(0, 3)),
    smooth=False,
)
case("argwhere", S(ints(0, 2, 3, 4)), S(np.array(2)), S(np.zeros(3)), smooth=False)

# -- blends and limits ------------------------------------------------------------------------------------------------

THREE = [((2, 3), (2, 3), (2, 3)), ((3,), (2, 1), (1, 3)), ((), (2,), ()), ((0, 3), (3,), (1, 3))]
for name in ("addcmul", "addcdiv"):
    case(
        name,
        *[S(normal(*a), normal(*b), positive(*c)) for a, b, c in THREE],
        S(normal(3), normal(3), positive(3), value=-0.5),
        S(Const(normal(3)), normal(3), Const(positive(3)), value=2),
        S(normal(3), ints(0, 4, 3), positive(3)),
    )
case(
    "lerp",
    *[S(normal(*a), normal(*b), unit(*c)) for a, b, c in THREE],
    S(normal(3), normal(3), 0.2),
    S(normal(3), normal(3), 0.7),
    S(normal(3), normal(3), 1),
    S(normal(3), Const(normal(3)), 1.5),
)
case("rsub", *pairs(normal, normal), S(normal(2, 3), normal(3), alpha=2), S(ints(0, 5, 3), 4), S(normal(2), 1, alpha=3))
case(
    "__rdiv__",
    S(positive(3), normal(3)),
    S(positive(2, 3), 2),
    S(ints(1, 5, 3), 2.5),
    ours=lambda x, y: x.__rdiv__(y),
    theirs=lambda x, y: x.__rdiv__(y),
)
case(
    "fmod",
    *pairs(distinct, positive),
    S(distinct(3, 4), -positive(4)),
    S(ints(-9, 9, 12), 4),
    S(ints(-9, 9, 5), ints(-9, -1, 5)),
    big(np.array([1.5, -1.5, np.inf, np.nan]), Const(np.array([np.inf, 0.0, 1.0, 1.0]))),
)
ODD = np.array([1.5, np.nan, np.inf, -np.inf, -2.0])
case(
    "nan_to_num",
    *shapes(normal),
    big(ODD[:2]),
    big(ODD[:2], 7.0),
    big(ODD, nan=1.0, posinf=5.0, neginf=-3.0),
    S(ints(0, 9, 3)),
)

# -- activations ------------------------------------------------------------------------------------------------------


def _torch_unit(x: Any, alpha: float = 1.0, scale: float = 1.0, slope: float = 1.0) -> Any:
    return scale * torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, torch.zeros_like(x), x) * slope))


case("exponential_unit", *shapes(distinct), S(distinct(5), 1.5, 0.7, 2.0), theirs=_torch_unit)
case("elu", *shapes(distinct), S(distinct(5), 0.5), S(distinct(5), alpha=-2.0), theirs=F.elu)
case("celu", *shapes(distinct), S(distinct(5), 0.5), S(distinct(5), alpha=-2.0), theirs=F.celu)
case("hard_range", *[S(s.args[0], -1, 2.5) for s in shapes(distinct)], theirs=F.hardtanh)
case("hardtanh", *shapes(distinct), S(distinct(9), -0.5, 2.2), S(ints(-5, 5, 7)), theirs=F.hardtanh)
case("relu6", *shapes(distinct), S(4 * distinct(9)), S(ints(-3, 9, 7)), theirs=F.relu6)
for name in ("selu", "hardswish", "mish", "softsign", "tanhshrink", "logsigmoid"):
    case(name, *shapes(distinct), S(9 * distinct(9)), theirs=getattr(F, name))
# torch computes this gradient with a sixth in float32, even for float64.
case("hardsigmoid", *shapes(distinct), S(9 * distinct(9)), theirs=lambda x: F.relu6(x + 3) / 6)
for name in ("hardshrink", "softshrink"):
    case(name, *shapes(distinct), S(distinct(9), 1.3), S(np.array([0.5, -0.5, 0.0]), 1.0), theirs=getattr(F, name))
case("threshold", S(distinct(3, 4), 0.5, 7.0), S(distinct(), 0, -1), S(ints(-3, 3, 5), 0, 9), theirs=F.threshold)
case(
    "prelu",
    S(distinct(3, 4), positive(4)),
    S(distinct(2, 3, 2), positive(3)),
    S(distinct(2, 3), positive(1)),
    S(distinct(5), positive(1)),
    S(distinct(), positive()),
    S(distinct(0, 2), positive(2)),
    theirs=F.prelu,
)
case("glu", S(normal(2, 4)), S(normal(4, 3), 0), S(normal(2, 2, 3), dim=-2), S(normal(0, 4)), theirs=F.glu)
case(
    "softmin",
    S(normal(3, 4), 1),
    S(normal(3, 4), dim=0),
    S(ints(0, 4, 2, 3), 1, dtype=minidl.float64),
    S(normal(4), 0, dtype=minidl.float64),
    theirs=F.softmin,
)
