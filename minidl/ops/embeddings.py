"""Tables of vectors looked up by index: one row for each index, or one sum, mean or maximum for each bag of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices
from minidl.autograd import Op, op, require
from minidl.ops import hints
from minidl.ops.indexing import getitem, put
from minidl.ops.masks import where
from minidl.ops.shapes import reshape, unsqueeze
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap

# -- one row for each index -------------------------------------------------------------------------------------------


@op()
class lookup(Op):
    """y[...] = w[x[...]], rows of a table;    dw = dy added to the rows that were read

    x (...) integer, w (V, D) -> y (..., D); a packed table gives floats. The row `padding_idx` gets no gradient; with
    `by_freq` a row that was read k times gets the mean of its k gradients in place of their sum.

    Why: each row that was read is copied, so dy is added to it, once for each time.
    Try: lookup(randint(0, 5, (3,)), randn(5, 2))
    """

    def shape(x: Any, w: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        require(len(w) == 2, "the table must be (V, D), not {}", w)
        return (*x, w[1])

    def forward(ctx, x: Any, w: Any, padding_idx: int | None = None, by_freq: bool = False) -> Any:
        _check(x, w.shape[0])
        if isinstance(w, Packed):
            return w.embedding(x)
        ctx.x, ctx.size, ctx.padding_idx = x, w.shape, padding_idx
        ctx.share = 1 / np.bincount(x.reshape(-1), minlength=1)[x].astype(np.float64) if by_freq and x.size else None
        return w[x]

    def backward(ctx, dy: Any) -> Any:
        if ctx.padding_idx is not None:
            dy = where((ctx.x == ctx.padding_idx)[..., None], 0.0, dy)
        if ctx.share is not None:
            dy = dy * ctx.share[..., None].astype(dy.dtype)
        return None, put(dy, ctx.x, ctx.size)


def _check(x: Any, rows: int) -> None:
    """Raise RuntimeError unless x holds integers, IndexError for one that is no row."""
    if x.dtype.kind not in "iu":
        raise RuntimeError(
            f"embedding: expected integer indices, got {x.dtype}; convert with .long() (were input and target, or "
            "features and tokens, mixed up?)"
        )
    if devices.is_cuda_array(x):
        kernels.check_index("embedding", "index", x, rows)  # only while debugging: the host would have to wait
        return
    if x.size and (x.min() < 0 or x.max() >= rows):
        bad = x.min() if x.min() < 0 else x.max()
        raise IndexError(
            f"embedding: index {bad} is out of range for a table of {rows} rows; {hints.table(int(bad), rows)}"
        )


class TableError(AssertionError, ValueError):
    """A table of another shape than is wanted, or a padding_idx outside it (AssertionError, as in torch)."""


def padding_row(padding_idx: int | None, rows: int) -> int | None:
    """padding_idx counted from the front. Raises TableError if it is no row."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise TableError(f"padding_idx {padding_idx} must be within num_embeddings {rows}")
    return padding_idx % rows


def _dense(name: str, sparse: bool) -> None:
    if sparse:
        raise NotImplementedError(f"{name}: sparse=True needs sparse gradients, which minidl has not; use sparse=False")


def _renorm(x: Any, weight: Any, max_norm: float, norm_type: float) -> None:
    """Shrink the rows that x names and whose norm is above max_norm to it, in place, outside the graph."""
    x, w = (t.array if isinstance(t, Tensor) else t for t in (x, weight))
    _check(x, len(w))
    rows = np.unique(x)
    norms = np.linalg.norm(w[rows], norm_type, axis=1)
    long = norms > max_norm
    if long.any():
        w[rows[long]] *= (max_norm / (norms[long] + 1e-7)).astype(w.dtype)[:, None]
        if isinstance(weight, Tensor):
            weight.bump()


@op(namespace="nn.functional")
def embedding(
    input: Any, weight: Any, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    """y[...] = weight[input[...]].    input (...) integer, weight (V, D) -> (..., D)

    Args:
        padding_idx: the row of this index gets no gradient.
        max_norm: rows that are read and longer than this, in the norm `norm_type`, are shortened to it first, in
            `weight` itself and outside the graph.
        scale_grad_by_freq: a row's gradient is divided by the number of times it was read.
        sparse: NotImplementedError: minidl has no sparse gradients.

    Raises IndexError for an index outside the table, RuntimeError for indices that are no integers.

    Try: embedding(randint(0, 5, (3,)), randn(5, 2))
    """
    _dense("embedding", sparse)
    require(len(weight.shape) == 2, "the weight must be 2-D, (V, D), not {}", tuple(weight.shape))
    padding_idx = padding_row(padding_idx, weight.shape[0])
    if max_norm is not None:
        _renorm(input, weight, max_norm, norm_type)
    return lookup(input, weight, padding_idx, scale_grad_by_freq)


# -- one row for each bag ---------------------------------------------------------------------------------------------


@op()
class bag_sum(Op):
    """y[b] = sum of the next sizes[b] rows of x;    dx = dy[bag of the row]

    x (L, D) -> y (B, D) with sum(sizes) = L; an empty bag gives zeros.

    Why: each row of x enters its bag with the factor 1.
    Try: bag_sum(randn(5, 2), arange(2).array + 2)
    """

    def shape(x: Any, sizes: Any) -> Any:  # type: ignore[override]
        return (len(sizes), x[1])

    def forward(ctx, x: Any, sizes: Any) -> Any:
        sizes = devices.move(sizes, "cpu")
        ctx.bags = devices.move(np.repeat(np.arange(len(sizes)), sizes), devices.device_of(x))
        if devices.is_cuda_array(x):
            return kernels.scatter_rows(x, ctx.bags, len(sizes))
        xp = devices.array_module(x)
        y = xp.zeros((len(sizes), x.shape[1]), x.dtype)
        full = np.flatnonzero(sizes)
        if len(full):
            starts = np.cumsum(sizes) - sizes
            y[full] = xp.add.reduceat(x, starts[full], axis=0, dtype=np.promote_types(x.dtype, np.float32))
        return y

    def backward(ctx, dy: Any) -> Any:
        return getitem(dy, ctx.bags)


def _bag_max(x: Any, weight: Any, sizes: np.ndarray) -> Any:
    """The maximum of each bag, column by column; the gradient goes to the first of equals. An empty bag gives zeros."""
    w = weight.array if isinstance(weight, Tensor) else weight
    xp = devices.array_module(w)
    winners = xp.zeros((len(sizes), w.shape[1]), np.int64)
    starts = np.cumsum(sizes) - sizes
    for n in np.unique(sizes[sizes > 0]):  # all bags of one size at once
        bags = np.flatnonzero(sizes == n)
        rows = x[xp.asarray(starts[bags, None] + np.arange(n))]  # bags, n
        best = w[rows].argmax(1)  # bags, D
        winners[xp.asarray(bags)] = xp.take_along_axis(rows, best, 1)
    y = getitem(weight, (winners, xp.arange(w.shape[1])))
    return y if sizes.all() else where(xp.asarray(sizes > 0)[:, None], y, 0.0)


@op(namespace="nn.functional")
def embedding_bag(
    input: Any, weight: Any, offsets: Any = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, per_sample_weights: Any = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Any:  # fmt: skip
    """The sum, mean or maximum of the rows of each bag of indices.    weight (V, D) -> (B, D)

    Args:
        input: (B, N) integer, B bags of N; or (L,), where bag b starts at offsets[b] and ends where the next starts.
        offsets: (B,) integer from 0 on, not decreasing; with `include_last_offset` (B + 1,), the last one being the
            end. An empty bag gives zeros.
        per_sample_weights: of the shape of input: factors of the rows, for mode "sum" only.
        padding_idx: indices of this value are left out of their bag, and of the count of a mean.
        max_norm, norm_type, scale_grad_by_freq, sparse: as :func:`embedding`'s.

    Raises ValueError for input, offsets and weights that do not fit together or an unknown mode, NotImplementedError
    for per_sample_weights in another mode, RuntimeError for offsets out of order, IndexError for an index that is no
    row.

    Try: embedding_bag(randint(0, 5, (2, 3)), randn(5, 2))
    """
    if not np.issubdtype(input.dtype, np.integer) and np.issubdtype(weight.dtype, np.integer):
        warnings.warn(
            "Argument order of nn.functional.embedding_bag was changed. Usage `embedding_bag(weight, input, ...)` is "
            "deprecated, and should now be `embedding_bag(input, weight, ...)`.",
            stacklevel=2,
        )
        weight, input = input, weight
    if per_sample_weights is not None and tuple(per_sample_weights.shape) != tuple(input.shape):
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({tuple(per_sample_weights.shape)}) is not None, then it must have "
            f"the same shape as the input ({tuple(input.shape)})"
        )
    if weight.ndim != 2:
        raise ValueError(f"weight has to be a 2D Tensor, but got Tensor of dimension {weight.ndim}")
    x = input.array if isinstance(input, Tensor) else input
    sizes = _bag_sizes(x, offsets, include_last_offset)
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if mode == "max" and sparse:
        raise ValueError("max mode does not support sparse weights")
    _dense("embedding_bag", sparse)
    if max_norm is not None:
        _renorm(x, weight, max_norm, norm_type)
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError(
                "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' "
                f"(got mode='{mode}')."
            )
        if per_sample_weights.dtype != weight.dtype:
            raise RuntimeError(
                f"embedding_bag: expected weight ({weight.dtype}) and per_sample_weights "
                f"({per_sample_weights.dtype}) to have the same dtype"
            )
        per_sample_weights = reshape(per_sample_weights, (-1,))
    x = x.reshape(-1)
    _check(x, len(weight))
    if sizes.sum() < len(x):  # the last offset ended the last bag early
        x = x[: sizes.sum()]
        per_sample_weights = None if per_sample_weights is None else per_sample_weights[: len(x)]
    padding_idx = padding_row(padding_idx, len(weight))
    if padding_idx is not None:
        keep = devices.array_module(x).flatnonzero(x != padding_idx)
        if len(keep) < len(x):
            bags = np.repeat(np.arange(len(sizes)), sizes)[devices.move(keep, "cpu")]
            x, sizes = x[keep], np.bincount(bags, minlength=len(sizes))
            per_sample_weights = None if per_sample_weights is None else getitem(per_sample_weights, keep)
    if mode == "max":
        return _bag_max(x, weight, sizes)
    rows = lookup(x, weight, None, scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * unsqueeze(per_sample_weights, 1)
    y = bag_sum(rows, sizes)
    if mode == "sum":
        return y
    count = np.maximum(sizes, 1)[:, None].astype(np.dtype(weight.dtype))
    count = devices.move(count, devices.device_of(y.array if isinstance(y, Tensor) else y))
    return y / (wrap(count) if isinstance(y, Tensor) else count)


def _bag_sizes(x: np.ndarray, offsets: Any, include_last_offset: bool) -> np.ndarray:
    """The number of indices of each bag."""
    if x.ndim == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length "
                f"sequences. However, found offsets of type {type(offsets).__name__}"
            )
        return np.full(x.shape[0], x.shape[1], np.int64)
    if x.ndim != 1:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {x.ndim}")
    if offsets is None:
        raise ValueError("offsets has to be a 1D Tensor but got None")
    at = devices.move(offsets.array, "cpu") if isinstance(offsets, Tensor) else np.asarray(offsets)
    if at.ndim != 1:
        raise ValueError("offsets has to be a 1D Tensor")
    if at.dtype.kind not in "iu":
        raise RuntimeError(f"embedding_bag: expected integer offsets, got {at.dtype}")
    at = at.astype(np.int64, copy=False)
    if include_last_offset:
        if not len(at):
            raise RuntimeError("include_last_offset: number of offset should be at least 1")
    else:
        at = np.append(at, len(x))
    if len(at) > 1 and at[0] != 0:
        raise RuntimeError(
            "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0. However, "
            f"got {at[0]}"
        )
    if at[-1] > len(x) or (len(at) > 1 and at[-2] > len(x)):
        raise RuntimeError(
            f"offsets[-1] can not be greater than input's length({len(x)}) but got offsets[-1] of {at[-2:].max()}"
        )
    sizes = np.diff(at)
    if (sizes < 0).any():
        raise RuntimeError(f"embedding_bag: offsets must not decrease, got {at.tolist()}")
    return sizes
