"""torch's second names of functions: absolute, negative, greater, fix, moveaxis ... each the same function."""

from __future__ import annotations

from typing import Any

from minidl.autograd import attach, op, require
from minidl.ops.arithmetic import eq, ge, gt, le, lt, ne
from minidl.ops.axes import flip, movedim, transpose
from minidl.ops.limits import clamp
from minidl.ops.rounding import trunc
from minidl.ops.signs import abs, neg
from minidl.ops.sorting import sort

absolute, negative, fix = abs, neg, trunc
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne

for _name, _page in (("absolute", abs), ("negative", neg), ("fix", trunc)):
    op(method=_name, inplace=True)(_page)
for _name, _page in (("greater", gt), ("greater_equal", ge), ("less", lt), ("less_equal", le), ("not_equal", ne)):
    op(method=_name, inplace=True)(_page)
for _name, _page in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le), ("ne", ne), ("eq", eq)):
    op(method=_name, inplace=True)(_page)


def _need_tensor(name: str, input: Any) -> None:
    if not hasattr(input, "dtype"):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(input).__name__}")


@op(method="clamp_min", inplace=True)
def clamp_min(input: Any, min: Any) -> Any:
    """max(x, min), where min is a number or a tensor.

    Try: clamp_min(randn(3, 4), -0.5)
    """
    _need_tensor("clamp_min", input)
    return clamp(input, min)


@op(method="clamp_max", inplace=True)
def clamp_max(input: Any, max: Any) -> Any:
    """min(x, max), where max is a number or a tensor.

    Try: clamp_max(randn(3, 4), 0.5)
    """
    _need_tensor("clamp_max", input)
    return clamp(input, None, max)


@op(method="swapdims")
def swapdims(input: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged, a view: :func:`transpose`.

    Try: swapdims(randn(2, 3, 4), 0, -1)
    """
    return transpose(input, dim0, dim1)


@op(method="moveaxis")
def moveaxis(input: Any, source: Any, destination: Any) -> Any:
    """Dimensions `source` moved to `destination`, a view: :func:`movedim`.

    Try: moveaxis(randn(2, 3, 4), 0, 2)
    """
    return movedim(input, source, destination)


@op(method="flipud")
def flipud(input: Any) -> Any:
    """The first dimension reversed. Raises RuntimeError for a 0-d tensor.

    Try: flipud(randn(3, 2))
    """
    require(len(input.shape) >= 1, "flipud: Input must be >= 1-d, got {}", tuple(input.shape))
    return flip(input, (0,))


@op(method="fliplr")
def fliplr(input: Any) -> Any:
    """The second dimension reversed. Raises RuntimeError for less than two dimensions.

    Try: fliplr(randn(3, 2))
    """
    require(len(input.shape) >= 2, "fliplr: Input must be >= 2-d, got {}", tuple(input.shape))
    return flip(input, (1,))


@op(method="msort")
def msort(input: Any) -> Any:
    """The values of :func:`sort` along the first dimension.

    Try: msort(randn(4, 3))
    """
    return sort(input, 0)[0]


@op(method="adjoint")
def adjoint(input: Any) -> Any:
    """The transposes of matrices, (..., M, N) -> (..., N, M), a view; no number here has a conjugate.

    Try: adjoint(randn(2, 3))
    """
    require(len(input.shape) != 1, "adjoint() is only supported on matrices or batches of matrices, got 1-D tensor.")
    return transpose(input, -2, -1) if len(input.shape) else input


def _hermitian(self: Any) -> Any:
    """The transpose of a matrix."""
    require(
        len(self.shape) in (0, 2),
        "tensor.H is only supported on matrices (2-D tensors), got {}; for batches of matrices use tensor.mH",
        tuple(self.shape),
    )
    return adjoint(self)


attach("H", property(_hermitian))
attach("mH", property(lambda self: adjoint(self), doc="The transposes of matrices: :func:`adjoint`."))


@op()
def detach(input: Any) -> Any:
    """The same memory without history: :meth:`Tensor.detach`.

    Try: detach(randn(3))
    """
    return input.detach()
