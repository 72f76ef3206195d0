"""Structure: whole outputs of a layer (channels of a convolution, neurons of a dense layer, heads of attention).

These masks are of one array. A channel is wholly gone only if its bias, its batch norm and the channels that a residual
sum ties to it go, too: `minidl.compress.prune_channels_` finds those, and `minidl.compress.slim` removes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.compress.prune.choice import floats, keep_largest, no_nan
from minidl.devices import array_module

Array = Any


def output_norms(w: Array, norm: int = 2, axis: int = 0) -> Array:
    """The L1 or L2 norm of each output's weights: w (N, ...) -> (N,), float64.

    L1 is the rule of Li et al. 2017, arXiv:1608.08710. `axis` 1 gives the norms of inputs. Raises ValueError for
    another norm and for NaN.

    >>> output_norms(np.float32([[3, -4], [1, 0]]), 1).tolist(), output_norms(np.float32([[3, -4], [1, 0]])).tolist()
    ([7.0, 1.0], [5.0, 1.0])
    """
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, got {norm!r}")
    floats(w, "output_norms")
    no_nan(w)
    xp = array_module(w)
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    if norm == 1:
        return xp.abs(w).sum(others, dtype=np.float64)
    return xp.sqrt(xp.square(w, dtype=np.float64).sum(others))


def channel_mask(
    w: Array, sparsity: float, norm: int = 2, scores: Array | None = None, mask: Array | None = None
) -> Array:
    """Drop whole outputs of a weight (N, ...): exactly round(sparsity * N), those of the smallest norm.

    `scores` (N,) in place of norms: |gamma| of the batch norm behind it (Liu et al. 2017, arXiv:1708.06519), or sums
    of `taylor` scores. Raises ValueError for scores of another shape.

    >>> channel_mask(np.float32([[1, 1], [3, 3], [2, 2]]), 1 / 3).tolist()
    [[False, False], [True, True], [True, True]]
    """
    scores = output_norms(w, norm) if scores is None else scores
    if tuple(scores.shape) != tuple(w.shape[:1]):
        raise ValueError(f"channel_mask: scores of shape {tuple(scores.shape)} for {w.shape[:1]} outputs")
    old = None if mask is None else mask.reshape(len(w), -1).any(1)
    (keep,) = keep_largest([scores], sparsity, [old])
    return array_module(w).broadcast_to(keep.reshape(-1, *(1,) * (w.ndim - 1)), w.shape).copy()


def head_mask(w: Array, heads: int, sparsity: float, norm: int = 2, axis: int = 0) -> Array:
    """Drop whole heads of attention: w (heads * D, E), or with `axis` 1 the output projection (E, heads * D).

    round(sparsity * heads) go, those of the smallest norm (Michel et al. 2019, arXiv:1905.10650, rank by gradients;
    give such scores to `channel_mask` with one per head repeated). Raises ValueError where `heads` does not divide the
    axis.

    >>> head_mask(np.float32([[1], [1], [2], [2]]), 2, 0.5).ravel().tolist()
    [False, False, True, True]
    """
    if heads < 1 or w.ndim != 2 or w.shape[axis] % heads:
        raise ValueError(f"head_mask: axis {axis} of a weight of shape {tuple(w.shape)} is not {heads} heads")
    rows = w if axis == 0 else w.T
    kept = channel_mask(rows.reshape(heads, -1), sparsity, norm).reshape(rows.shape)
    return kept if axis == 0 else kept.T.copy()
