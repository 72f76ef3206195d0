"""Patterns: zeros where a kernel can skip them. N of every M in a row, or whole blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.compress.prune.choice import floats, keep_largest, keep_largest_in_rows, no_nan
from minidl.devices import array_module

Array = Any


def nm_mask(w: Array, n: int = 2, m: int = 4, mask: Array | None = None) -> Array:
    """Keep the n largest of every m neighbours along a row: w (N, ...), a row is all that meets one output.

    2:4 is what sparse tensor cores multiply; Mishra et al. 2021, arXiv:2104.08378. What an earlier `mask` dropped goes
    first, so up to n stay. Raises ValueError unless 1 <= n <= m and m divides the row.

    >>> nm_mask(np.float32([[1, -4, 3, 2, 0, 0, 5, 6]]), 2, 4).tolist()
    [[False, True, True, False, False, False, True, True]]
    """
    for name, value in (("n", n), ("m", m)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"nm_mask: {name} must be a whole number of at least 1, got {value!r}")
    if n > m:
        raise ValueError(f"nm_mask keeps n of m neighbours, so n may not exceed m: got {n}:{m}")
    if w.ndim < 2 or (w.size and w[0].size % m):
        raise ValueError(f"nm_mask: rows of a weight of shape {tuple(w.shape)} do not divide into groups of {m}")
    floats(w, "nm_mask")
    no_nan(w)
    if not w.size:
        return array_module(w).ones(w.shape, bool)
    rows = array_module(w).abs(w).reshape(-1, m)
    old = None if mask is None else mask.reshape(-1, m)
    # one tiny step above (m - n) / m may not round to another count: m is small, the product is exact to 1e-12
    return keep_largest_in_rows(rows, (m - n) / m, old).reshape(w.shape)


def block_mask(w: Array, sparsity: float, block: tuple[int, int] = (1, 8), mask: Array | None = None) -> Array:
    """Drop whole blocks of a weight taken as a matrix (N, everything else), those of the smallest L2 norm.

    Exactly round(sparsity * blocks) go. At the right and lower edge blocks may be cut; their norm is then per element,
    as that of the others. Raises ValueError for blocks that are not two whole numbers of at least 1.

    >>> block_mask(np.float32([[1, 1, 5, 5], [1, 1, 5, 5]]), 0.5, (2, 2)).tolist()
    [[False, False, True, True], [False, False, True, True]]
    """
    if (
        not isinstance(block, (tuple, list))
        or len(block) != 2
        or any(isinstance(b, bool) or not isinstance(b, (int, np.integer)) or b < 1 for b in block)
    ):
        raise ValueError(f"block_mask: block must be (rows, columns), whole numbers of at least 1, got {block!r}")
    if w.ndim < 2:
        raise ValueError(f"block_mask needs a weight (outputs, inputs, ...), got shape {tuple(w.shape)}")
    floats(w, "block_mask")
    no_nan(w)
    xp = array_module(w)
    flat = w.reshape(len(w), -1) if w.size else w.reshape(len(w), 0)
    (h, k), (r, c) = flat.shape, block
    above, beside = -(-h // r) * r - h, -(-k // c) * c - k

    def sums(a: Array) -> Array:
        wide = xp.pad(a, ((0, above), (0, beside)))
        return wide.reshape(wide.shape[0] // r, r, wide.shape[1] // c, c).sum((1, 3))

    counts = sums(xp.ones((h, k)))
    scores = sums(xp.square(flat, dtype=np.float64)) / xp.maximum(counts, 1)
    old = None if mask is None else sums(mask.reshape(h, k).astype(np.float64)) > 0
    (keep,) = keep_largest([scores], sparsity, [old])
    return xp.repeat(xp.repeat(keep, r, 0), c, 1)[:h, :k].reshape(w.shape)
