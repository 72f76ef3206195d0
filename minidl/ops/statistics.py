"""Least and greatest, mean and deviation in one call; covariances, integrals by trapezoids, distances between rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.ops.axes import transpose
from minidl.ops.common import broadcast, many_dims, one_dim
from minidl.ops.copies import cast
from minidl.ops.diagonals import diagonal
from minidl.ops.distances import vector_norm
from minidl.ops.indexing import getitem
from minidl.ops.limits import clamp
from minidl.ops.linalg import matmul
from minidl.ops.logic import raw
from minidl.ops.masks import where
from minidl.ops.powers import sqrt
from minidl.ops.reduce import amax, amin, cumsum, mean, named, std, sum, var
from minidl.ops.rounding import ceil
from minidl.ops.shapes import reshape, unsqueeze
from minidl.ops.signs import abs
from minidl.ops.splitting import narrow, select
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor

_Ends = named("aminmax", "min", "max")


@op(method="aminmax")
def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max) along `dim`, or of all elements; ties share the gradient.

    Try: aminmax(randn(3, 4), dim=1)
    """
    dims: Any = () if dim is None else dim
    return _Ends(amin(input, dims, keepdim), amax(input, dims, keepdim))


def _two(name: str, spread: Any) -> Any:
    def both(
        input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Any = None
    ) -> tuple:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        how: dict = {} if correction is None else {"correction": correction}
        if unbiased is not None and correction is None:
            how = {"correction": int(unbiased)}
        return spread(input, dim, keepdim=keepdim, **how), mean(input, dim, keepdim)

    both.__name__ = name
    both.__doc__ = f"""({name[:3]}, mean) over `dim` or all elements; correction as in :func:`{name[:3]}`.

    Try: {name}(randn(3, 4), 1)
    """
    return op()(both)


var_mean = _two("var_mean", var)
std_mean = _two("std_mean", std)


@op(method="cov")
def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """The covariances of the rows of input (variables, observations), divided by the number less `correction`.

    fweights are whole numbers of repetitions, aweights weights of the observations.

    Try: cov(randn(3, 5))
    """
    require(
        len(input.shape) <= 2, "cov(): expected input to have two or fewer dimensions but got {}", tuple(input.shape)
    )
    x = reshape(input, (1, -1)) if len(input.shape) < 2 else input
    kind = dtypes.as_numpy(x.dtype)
    require(kind.kind != "b", "cov(): bool dtype is not supported for input")
    if kind.kind != "f":
        x = cast(x, dtypes.default())
    n = x.shape[1]
    w: Any = None
    for name, weights, kinds in (("fweights", fweights, "iu"), ("aweights", aweights, "f")):
        if weights is None:
            continue
        a = raw(weights)
        require(a.ndim <= 1 and a.size == n, "cov(): {} must be a vector of {} elements, got {}", name, n, a.shape)
        require(a.dtype.kind in kinds, "cov(): {} are {}", name, a.dtype)
        if (a < 0).any():
            raise RuntimeError(f"cov(): {name} cannot be negative")
        w = weights if w is None else w * weights
    if w is None:
        total: Any = n
        centred = x - mean(x, 1, True)
        scaled = centred
    else:
        w = cast(w, dtypes.as_numpy(x.dtype)) if dtypes.as_numpy(w.dtype).kind != "f" else w
        total = sum(w)
        centred = x - sum(x * w, 1, True) / total
        scaled = centred * w
    if aweights is not None and correction != 0:
        norm = total - correction * sum(w * aweights) / total
    else:
        norm = total - correction
    norm = max(norm, 0) if isinstance(norm, (int, float)) else clamp(norm, 0)
    y = matmul(scaled, transpose(centred, 0, 1))
    y = y / norm if not isinstance(norm, int) or norm else y / np.zeros((), dtypes.as_numpy(y.dtype))
    return reshape(y, ()) if y.shape == (1, 1) else y


@op(method="corrcoef")
def corrcoef(input: Any) -> Any:
    """The correlations of the rows of input: covariances over both deviations, kept within [-1, 1].

    Try: corrcoef(randn(3, 5))
    """
    require(len(input.shape) <= 2, "corrcoef(): expected input of two or fewer dimensions, got {}", tuple(input.shape))
    c = cov(input)
    if not len(c.shape):
        return c / c
    d = sqrt(diagonal(c))
    return clamp(c / unsqueeze(d, -1) / unsqueeze(d, 0), -1, 1)


def _areas(name: str, y: Any, x: Any, dx: Any, dim: int) -> tuple[Any, int]:
    """The trapezoids between neighbours along dim, times 2."""
    d = one_dim(dim, len(y.shape))
    n = y.shape[d]
    if dtypes.as_numpy(y.dtype).kind == "b":
        raise RuntimeError(f"{name}: received a bool input, but bool is not supported")
    pairs = narrow(y, d, min(1, n), max(n - 1, 0)) + narrow(y, d, 0, max(n - 1, 0))
    if x is None:
        return pairs * dx, d
    if dtypes.as_numpy(x.dtype).kind == "b":
        raise RuntimeError(f"{name}: received a bool x, but bool is not supported")
    if len(x.shape) == 1:
        require(
            x.shape[0] == n, "{}: there must be one x value for each sample point, got {} for {}", name, x.shape[0], n
        )
        steps = narrow(x, 0, min(1, n), max(n - 1, 0)) - narrow(x, 0, 0, max(n - 1, 0))
        return pairs * reshape(
            steps, (-1,) + (1,) * (len(y.shape) - 1 - d) if n > 1 else (0,) + (1,) * (len(y.shape) - 1 - d)
        ), d
    e = d - len(y.shape) + len(x.shape)
    m = x.shape[e]
    steps = narrow(x, e, min(1, m), max(m - 1, 0)) - narrow(x, e, 0, max(m - 1, 0))
    return pairs * steps, d


@op()
def trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """The integral of y along `dim` by the trapezoidal rule, sampled at x, or at steps of dx, 1 by default.

    Try: trapezoid(randn(5))
    """
    if x is None and dtypes.as_numpy(y.dtype).kind != "b":  # torch's order: the sum is int64, the ends may wrap around
        d = one_dim(dim, len(y.shape))
        if not y.shape[d]:
            return sum(y.detach() if isinstance(y, Tensor) else y, d, dtype=y.dtype)
        return (sum(y, d) - (select(y, d, 0) + select(y, d, -1)) * 0.5) * dx
    areas, d = _areas("trapezoid", y, x, dx, dim)
    return sum(areas, len(areas.shape) - len(y.shape) + d) / 2


trapz = trapezoid


@op()
def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """The running integral of y along `dim` by the trapezoidal rule: one element less than y.

    Try: cumulative_trapezoid(randn(5))
    """
    areas, d = _areas("cumulative_trapezoid", y, x, dx, dim)
    return cumsum(areas, len(areas.shape) - len(y.shape) + d) / 2


@op(method="dist")
def dist(input: Any, other: Any, p: float = 2) -> Any:
    """The p-norm of input - other, which broadcast: a single number.

    Try: dist(randn(3), randn(3))
    """
    return vector_norm(input - other, p)


@op()
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    """The p-distance of each row of x1 (B, P, M) from each row of x2 (B, R, M): (B, P, R); compute_mode has no effect.

    Raises RuntimeError unless both are floats with rows of one length.

    Try: cdist(randn(3, 2), randn(4, 2))
    """
    for name, x in (("X1", x1), ("X2", x2)):
        require(len(x.shape) >= 2, "cdist only supports at least 2D tensors, {} got: {}D", name, len(x.shape))
        require(
            dtypes.as_numpy(x.dtype).kind == "f", "cdist only supports floating-point dtypes, {} is {}", name, x.dtype
        )
    require(
        x1.shape[-1] == x2.shape[-1],
        "X1 and X2 must have the same number of columns, {} and {}",
        tuple(x1.shape),
        tuple(x2.shape),
    )
    require(p >= 0, "cdist only supports non-negative p values")
    lead = broadcast(tuple(x1.shape[:-2]), tuple(x2.shape[:-2]))
    if x1.shape[-1] == 0:
        return broadcast_to(
            unsqueeze(sum(x1, -1), -1) + unsqueeze(sum(x2, -1), -2), (*lead, x1.shape[-2], x2.shape[-2])
        )
    return _distance(unsqueeze(x1, -2) - unsqueeze(x2, -3), p)


def _distance(difference: Any, p: float) -> Any:
    """The p-norm of the last dimension; for p = 0 the number of differences, NaN if one is NaN."""
    if p == 0:
        return sum(clamp(ceil(abs(difference)), max=1), -1)
    return vector_norm(difference, p, -1)


@op()
def pdist(input: Any, p: float = 2.0) -> Any:
    """The p-distances of the rows of input (N, M) from each other, N (N - 1) / 2 of them: row 0 from 1, 2 ... first.

    Try: pdist(randn(4, 3))
    """
    require(len(input.shape) == 2, "pdist only supports 2D tensors, got: {}D", len(input.shape))
    require(dtypes.as_numpy(input.dtype).kind == "f", "pdist only supports floating-point dtypes, got {}", input.dtype)
    require(p >= 0, "pdist only supports non-negative p values")
    i, j = np.triu_indices(input.shape[0], 1)
    return _distance(getitem(input, i) - getitem(input, j), p)


@op(method="renorm", inplace=True)
def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """input, each slice along `dim` whose p-norm is above `maxnorm` scaled down to it.

    Try: renorm(randn(3, 4) * 3, 2, 0, 1.0)
    """
    require(p > 0, "renorm: non-positive-norm not supported")
    require(len(input.shape) > 1, "renorm: input needs at least 2 dimensions, got {}", len(input.shape))
    require(maxnorm >= 0, "renorm: expected maxnorm to be >= 0 but got {}", maxnorm)
    d = one_dim(dim, len(input.shape))
    rest = tuple(i for i in many_dims(None, len(input.shape)) if i != d)
    size = vector_norm(input, p, rest, True)
    large = raw(size) > maxnorm
    return input * where(large, maxnorm / (size + 1e-7), 1.0)


@op()
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """The powers of a vector's elements as columns (len, N), falling to x^0 or rising from it; N is len by default.

    Try: vander(randn(3))
    """
    require(len(x.shape) == 1, "x must be a one-dimensional tensor, got {}", tuple(x.shape))
    n = x.shape[0] if N is None else N
    require(n >= 0, "N must be non-negative, got {}", n)
    powers = devices.array_module(raw(x)).arange(n)
    if dtypes.as_numpy(x.dtype).kind == "b":
        x = cast(x, np.dtype(np.int64))
    return unsqueeze(x, -1) ** (powers if increasing else powers[::-1].copy())
