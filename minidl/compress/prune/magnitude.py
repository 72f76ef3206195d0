"""Magnitude: the smallest weights go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.compress.prune.choice import floats, keep_largest, no_nan
from minidl.devices import array_module

Array = Any


def magnitude_mask(w: Array, sparsity: float, mask: Array | None = None) -> Array:
    """Drop the smallest weights of one array: exactly round(sparsity * size) of them.

    What an earlier `mask` has dropped goes first; of equal weights the one that comes first. |w| and w^2 have the same
    order, so for single weights the L1 and the L2 rule are one. Returns bool of w's shape. Raises ValueError for a
    sparsity outside [0, 1) and for NaN weights, TypeError for integers. LeCun et al. 1989 discuss why magnitude is only
    a stand-in for the loss's change; Han et al. 2015, arXiv:1506.02626, that it works with retraining.

    >>> import numpy as np
    >>> magnitude_mask(np.float32([[1, -4], [3, -2]]), 0.5).tolist()
    [[False, True], [True, False]]
    """
    return magnitude_masks([w], sparsity, [mask])[0]


def magnitude_masks(ws: Sequence[Array], sparsity: float, masks: Sequence[Array | None] | None = None) -> list[Array]:
    """Drop the smallest weights of several arrays together, so that each gets the sparsity that its sizes ask for.

    >>> import numpy as np
    >>> [m.tolist() for m in magnitude_masks([np.float32([1, 5]), np.float32([6, 7])], 0.5)]
    [[False, False], [True, True]]
    """
    for w in ws:
        floats(w, "magnitude_mask")
        no_nan(w)
    return keep_largest([array_module(w).abs(w) for w in ws], sparsity, masks)
