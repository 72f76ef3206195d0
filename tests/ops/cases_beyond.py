"""Cases of the table of ops: signs of floats, chances, angles, gamma, integers, grids, searches, statistics, products,
values put together at places, images looked up between pixels.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from cases import Const, S, big, bools, case, distinct, ints, normal, pairs, positive, shapes, unit

import minidl

# -- elementwise ------------------------------------------------------------------------------------------------------

FEW = np.array([-1.5, -0.0, 0.0, np.inf, -np.inf, np.nan, 2.0])
for name in ("signbit", "isposinf", "isneginf", "isreal"):
    case(name, S(FEW), S(ints(-3, 3, 4)), S(bools(3)), smooth=False)
case("positive", *shapes(normal), S(ints(-3, 3, 4)))
case("copysign", *pairs(distinct, distinct), S(distinct(4), -2.0), S(ints(-3, 3, 5), ints(-3, 3, 5)))
tensors = [s for s in pairs(distinct, positive) if isinstance(s.args[1], (np.ndarray, Const))]
case("fmax", *tensors, S(Const(FEW), Const(FEW[::-1].copy())))
case("fmin", *tensors, S(Const(FEW), Const(FEW[::-1].copy())))
case("nextafter", big(normal(4), normal(4)), big(normal(2, 3), normal(3)))
case(
    "heaviside",
    S(Const(np.array([-1.0, 0.0, 2.0])), Const(np.full(1, 0.5))),
    S(ints(-2, 3, 6), ints(0, 9, 6)),
    smooth=False,
)
case("frac", *shapes(distinct))
case("frexp", S(distinct(3, 4)), big(np.array([0.0, 1.0, -8.0, 0.3])))
case("mantissa_and_exponent", S(distinct(3, 4)), theirs=torch.frexp)
case("deg2rad", *shapes(normal), S(ints(-90, 90, 3)))
case("rad2deg", *shapes(normal), S(bools(3)))
case(
    "hypot",
    S(normal(3, 4), positive(3, 4)),
    S(normal(3, 4), positive(4)),
    S(normal(), Const(positive(2))),
    S(normal(0), normal(0)),
)
case("sinc", *shapes(distinct), big(np.array([0.0, 1.0, -2.0])))
case("logit", *shapes(unit), S(unit(4), 0.02), S(np.array([0.01, 0.5, 0.99]), eps=0.1))
case(
    "xlogy", *pairs(distinct, positive), S(2.5, positive(3)), big(np.array([0.0, 0.0, 1.0]), np.array([0.5, 2.0, 3.0]))
)
case("logaddexp2", S(normal(3, 4), normal(4)), S(300 * normal(4), 300 * normal(4)))
case("float_power", S(positive(3), normal(3)), S(positive(2, 3), 2), S(2, normal(3)), S(ints(1, 5, 3), -1))
case(
    "ldexp",
    S(normal(3), Const(np.array([1.0, -2.0, 3.0]))),
    S(Const(normal(3)), ints(-3, 3, 3)),
    S(ints(1, 5, 3), ints(0, 4, 3)),
)
case("erfc", *shapes(normal), S(ints(-2, 3, 4)), big(np.array([-30.0, 4.5, 12.0, 26.0, np.inf])))
case("erfinv", *shapes(unit), S(-unit(4)), big(np.array([0.999999, -0.9, 1e-9])))
case(
    "lgamma",
    *shapes(positive),
    S(ints(1, 9, 4)),
    S(np.array([-0.5, -1.3, -7.7, 30.5])),
    big(np.array([1.0, 2.0, 150.0])),
)
case("digamma", *shapes(positive), S(ints(1, 9, 4)), S(np.array([-0.5, -1.3, 30.5])),
     theirs=lambda x: _exactly(torch.special.digamma, x))  # fmt: skip
case("derivative_of_digamma", S(positive(4), 2), S(np.array([12.5, 3.0]), 3),
     theirs=lambda x, n: torch.polygamma(n, x))  # fmt: skip
case("polygamma", S(2, positive(3)), S(3, np.array([15.0, 2.5])), S(2, ints(1, 5, 3)))
case("mvlgamma", S(2 + positive(4), 3), S(1 + positive(2, 2), 1))


class _Trigamma(torch.autograd.Function):
    """digamma whose slope is the series for polygamma(2, x) taken to the end: torch's own is right to 1e-9."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.special.digamma(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * torch.special.zeta(torch.tensor(2.0, dtype=x.dtype), x)


def _exactly(f, x):
    return _Trigamma.apply(x) if x.is_floating_point() and x.requires_grad else f(x)


A, B = ints(-30, 30, 6), ints(-9, 9, 6)
for name in ("gcd", "lcm"):
    case(name, S(A, B), S(A.astype(np.int32), B[:1]), smooth=False)
for name in ("bitwise_left_shift", "bitwise_right_shift"):
    case(name, S(A, np.abs(B)), S(A, 2), S(A.astype(np.uint8), np.abs(B).astype(np.uint8)), smooth=False)

# -- put together and taken apart -------------------------------------------------------------------------------------

for name in ("atleast_1d", "atleast_2d", "atleast_3d"):
    case(name, S(normal()), S(normal(3)), S(normal(2, 3)), S(normal(), normal(2)), S(ints(0, 5, 2, 2)))
case("dstack", S([normal(3), normal(3)]), S([normal(2, 3), normal(2, 3)]), S([ints(0, 5, 2), normal(2)]))
case("column_stack", S([normal(3), normal(3, 2)]), S([normal(2), ints(0, 5, 2)]))
case("row_stack", S([normal(3), normal(2, 3)]), S([normal(2), ints(0, 5, 2)]))
case("block_diag", S(normal(2, 2), normal(1, 3)), S(normal(3), normal()), S(ints(0, 5, 2, 1), normal(1, 1)))
case("broadcast_tensors", S(normal(2, 1), normal(3)), S(normal(), ints(0, 5, 2)))
case("cartesian_prod", S(normal(2), normal(3)), S(normal(2)), S(ints(0, 9, 2), ints(0, 9, 2), ints(0, 9, 3)))
case("combinations", S(normal(4)), S(normal(3), 3), S(normal(3), 2, True), S(ints(0, 9, 4), 0))
case("diagflat", S(normal(3)), S(normal(2, 2), 1), S(ints(0, 9, 2), -1))
case(
    "rot90",
    S(normal(2, 3)),
    S(normal(2, 3), 2),
    S(normal(2, 3, 4), 3, (2, 0)),
    S(normal(2, 3), -1),
    S(ints(0, 9, 2, 2), 4),
)
case("tensor_split", S(normal(7), 3), S(normal(2, 5), (1, 3), 1), S(normal(5), (1, 9, -2)), S(ints(0, 9, 4), 2))
case("hsplit", S(normal(4), 2), S(normal(2, 4), (1,)), S(ints(0, 9, 2, 4), 4))
case("vsplit", S(normal(4, 2), 2), S(normal(3, 2), (1, 2)))
case("dsplit", S(normal(2, 1, 4), 2), S(normal(2, 1, 3), (1,)))
case("adjoint", S(normal(2, 3)), S(normal(2, 2, 3)), S(ints(0, 9, 2, 2)))
case("detach", S(Const(normal(2, 3))), S(ints(0, 9, 2)), smooth=False)

# -- searches and counts ----------------------------------------------------------------------------------------------

EDGES = np.array([-1.0, 0.0, 0.5, 2.0])
POINTS = np.array([[-3.0, -1.0, 0.25], [0.5, 9.0, np.nan]])
case("searchsorted", S(EDGES, POINTS), S(EDGES, POINTS, right=True), S(EDGES, 0.5), S(EDGES, POINTS, out_int32=True),
     S(np.stack([EDGES, EDGES + 1]), POINTS, side="right"),
     S(EDGES[::-1].copy(), POINTS, sorter=np.array([3, 2, 1, 0])),
     S(np.array([1, 3, 3, 8]), ints(0, 9, 5)), smooth=False)  # fmt: skip
case("bucketize", S(POINTS, EDGES), S(POINTS, EDGES, right=True), S(ints(0, 9, 5), np.array([1, 3, 8])), smooth=False)
case("isin", S(A, B), S(A, int(A[0])), S(A, B, invert=True), S(POINTS, EDGES), smooth=False)
case(
    "mode", big(np.array([1.0, 2.0, 2.0, 3.0, 3.0])), S(ints(0, 3, 4, 7), 0), S(ints(0, 3, 4, 7), 1, True), S(normal())
)
case("unique_consecutive", S(np.array([1, 1, 2, 2, 1])), S(ints(0, 2, 4, 3), return_inverse=True, return_counts=True),
     S(np.array([[1, 2], [1, 2], [3, 4]]), dim=0, return_counts=True), S(ints(0, 2, 0)), smooth=False)  # fmt: skip
case("histc", S(normal(20), 5), S(normal(20), 4, -1, 1), S(np.full(3, 2.0), 3), smooth=False)
case("histogram", S(normal(20), 5), S(normal(20), 4, range=(-1.0, 1.0)), S(normal(9), np.array([-1.0, 0.0, 2.0])),
     S(normal(9), 3, weight=positive(9), density=True), smooth=False)  # fmt: skip

# -- statistics, products ---------------------------------------------------------------------------------------------

case("aminmax", S(distinct(3, 4)), S(distinct(3, 4), dim=1), S(distinct(3, 4), dim=0, keepdim=True), S(ints(0, 9, 5)))
for name in ("var_mean", "std_mean"):
    case(name, S(normal(3, 4)), S(normal(3, 4), 0), S(normal(3, 4), (0, 1), correction=0),
     S(normal(3, 4), 1, False, True),
         S(normal(4), False))  # fmt: skip
case("cov", S(normal(3, 5)), S(normal(5)), S(normal(2, 5), correction=0),
     S(normal(2, 4), fweights=np.array([1, 2, 1, 3])),
     S(normal(2, 4), aweights=positive(4)), S(ints(0, 9, 2, 4)))  # fmt: skip
case("corrcoef", big(normal(3, 5)), S(normal(2, 4)), S(ints(0, 9, 2, 4)))
for name in ("trapezoid", "cumulative_trapezoid"):
    case(name, S(normal(5)), S(normal(2, 4), dx=0.5), S(normal(2, 4), normal(4)), S(normal(4, 2), normal(4, 2), dim=0),
         S(ints(0, 9, 4)), S(normal(1)))  # fmt: skip
case("dist", S(normal(3), normal(3)), S(normal(2, 3), normal(3), 1), S(normal(3), normal(3), 3.0))
case("cdist", S(normal(3, 2), normal(4, 2)), S(normal(2, 2, 3), normal(1, 3, 3), 1.0),
     S(normal(2, 3), normal(2, 3), 3.0),
     big(normal(2, 0), normal(3, 0)))  # fmt: skip
case("pdist", S(normal(4, 3)), S(normal(3, 2), 1.0), big(normal(1, 2)), theirs=F.pdist)
case("renorm", S(3 * normal(3, 4), 2, 0, 1.0), S(normal(2, 3, 2), 1.5, 1, 0.7), S(0.01 * normal(2, 3), 2, 0, 5.0))
case("vander", S(normal(3)), S(normal(3), 2), S(normal(3), 4, True), S(ints(0, 4, 3)),
     theirs=lambda *how: _vander(*how) if how[0].requires_grad else torch.vander(*how))  # fmt: skip


def _vander(x, n=None, increasing=False):
    """torch's own cannot be differentiated: it writes over what it saved."""
    powers = torch.arange(len(x) if n is None else n)
    return x.unsqueeze(-1) ** (powers if increasing else powers.flip(0))


case(
    "addbmm",
    S(normal(2, 4), normal(3, 2, 5), normal(3, 5, 4)),
    S(normal(4), normal(1, 2, 2), normal(1, 2, 4), beta=0.5, alpha=2.0),
)
case("addr", S(normal(2, 3), normal(2), normal(3)), S(normal(3), normal(2), normal(3), beta=0.0, alpha=-1.5))
case("ger", S(normal(2), normal(3)))
case("vdot", S(normal(4), normal(4)))
case("chain_matmul", S(normal(2, 3), normal(3, 4), normal(4, 2)), S(normal(2, 2)),
     theirs=lambda *m: torch.linalg.multi_dot(m) if len(m) > 1 else m[0])  # fmt: skip
case(
    "kron",
    S(normal(2, 2), normal(1, 3)),
    S(normal(2), normal(2, 1, 2)),
    S(normal(), normal(2)),
    S(ints(0, 9, 2), normal(2)),
)

# -- values put together at places ------------------------------------------------------------------------------------

AT = np.array([[0, 2, 0], [1, 1, 1]])
SRC = distinct(2, 3)
HOW = [(reduce, own) for reduce in ("sum", "prod", "mean", "amax", "amin") for own in (True, False)]
case("scatter_reduce", *[S(distinct(3, 3), 0, AT, SRC, r, include_self=own) for r, own in HOW],
     S(np.array([1.0, 0.0, 2.0]), 0, np.array([0, 0, 1]), np.array([0.0, 3.0, 4.0]), "prod"),
     S(ints(0, 9, 3), 0, np.array([1]), ints(0, 9, 2), "amax"),
     S(normal(), 0, np.array(0), normal(), "sum"))  # fmt: skip
case("reduced_at", *[S(distinct(3, 3), 0, Const(AT), SRC, r, own) for r, own in HOW],
     ours=lambda x, d, at, *rest: minidl.autograd.TABLE["reduced_at"](x, d, at.array, *rest),
     theirs=lambda x, d, at, src, r, own: x.scatter_reduce(d, at, src, r, include_self=own))  # fmt: skip
case("index_reduce", *[S(distinct(3, 2), 0, np.array([0, 2, 0]), distinct(3, 2) + 0.007, r, include_self=own)
                       for r, own in HOW if r != "sum"],
     theirs=lambda *args, **how: _quietly(torch.index_reduce, *args, **how))  # fmt: skip


def _quietly(f, *args, **kwargs):
    """Without torch's remark that a function is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **kwargs)


WHERE = (Const(np.array([0, 2])), Const(np.array([1, 0])))
case("index_put", S(normal(3, 2), WHERE, normal(2)), S(normal(3, 2), (Const(np.array([1, 1])),), normal(2), True),
     S(normal(3, 2), (Const(np.array([True, False, True])),), normal(2, 2)))  # fmt: skip
case(
    "masked_scatter", S(normal(2, 3), Const(bools(2, 3)), normal(6)), S(normal(3), Const(np.zeros(3, bool)), normal(2))
)
case("slice_scatter", S(normal(4), normal(2), 0, 1, 3), S(normal(2, 5), normal(2, 3), 1, 0, 5, 2))
case("select_scatter", S(normal(2, 3), normal(3), 0, 1), S(normal(2, 3), normal(2), -1, 0))
case("diagonal_scatter", S(normal(3, 3), normal(3)), S(normal(3, 4), normal(3), 1),
     S(normal(2, 3, 2), normal(3, 2), 0, 0, 2))  # fmt: skip

# -- images -----------------------------------------------------------------------------------------------------------

GRIDS = 1.3 * normal(2, 3, 2, 2)
for mode in ("bilinear", "nearest", "bicubic"):
    samples = [
        S(normal(2, 2, 4, 3), GRIDS, mode, padding, corners)
        for padding in ("zeros", "border", "reflection")
        for corners in (False, True)
    ]
    if mode == "bilinear":
        case("grid_sample", *samples)
    else:
        case(f"grid_sample_{mode}", *samples, ours=minidl.nn.functional.grid_sample, theirs=F.grid_sample)
case(
    "affine_grid",
    *[S(normal(2, 2, 3), (2, 1, 3, 4), corners) for corners in (False, True)],
)

# -- bessel, incomplete gamma, memory by number, slopes ----------------------------------------------------------------

for name in ("i0", "i0e", "i1", "i1e"):
    case(name, *shapes(distinct), S(ints(-3, 3, 4)), big(np.array([0.0, -19.99, 20.01, 80.0, np.inf])),
         theirs=getattr(torch.special, name))  # fmt: skip
for name in ("igamma", "igammac"):
    case(
        name,
        S(Const(positive(3, 4)), positive(4)),
        S(Const(np.array([0.3, 2.0, 15.0])), np.array([4.0, 2.5, 14.0])),  # torch is off by 3e-10 from a = 20 on
        big(Const(np.array([0.0, 1.0, np.inf, -1.0])), Const(np.array([1.0, 0.0, 2.0, 1.0]))),
    )
case(
    "as_strided",
    S(normal(6), (2, 3), (1, 2)),
    S(normal(2, 4), (2, 2, 2), (1, 2, 1), 1),
    S(normal(4), (3,), (0,), 2),
    S(normal(3), (), (), 1),
    S(ints(0, 9, 4), (0, 2), (1, 1)),
)
case(
    "strided",
    S(normal(6), (2, 3), (1, 2), 0),
    theirs=lambda x, size, stride, start: x.as_strided(size, stride, start),
)
case("unravel_index", S(ints(0, 12, 5), (3, 4)), S(ints(0, 12, 2, 2), (2, 3, 2)), S(ints(0, 4, 3), 4), smooth=False)
case(
    "put_elements",
    S(distinct(3, 4), Const(np.array([0, 5, -1])), distinct(3)),
    S(distinct(4), Const(np.array([[1, 1], [2, 0]])), distinct(2, 2), True),
    S(ints(0, 9, 3), Const(np.array([1])), ints(0, 9, 1)),
    theirs=torch.put,
)
case("gradient", S(normal(5)), S(normal(3, 4), dim=1), S(normal(3, 4), spacing=0.5, edge_order=2), S(normal(2, 3)),
     S(normal(4), spacing=2.0), S(ints(0, 9, 4)),
     S(normal(4, 3), spacing=[2.0, 0.5]))  # fmt: skip
