"""What all rules share: keep the largest scores, refuse what has no order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.devices import array_module

Array = Any


def keep_largest(scores: Sequence[Array], sparsity: float, masks: Sequence[Array | None] | None = None) -> list[Array]:
    """Masks over all `scores` together that drop exactly round(sparsity * size) of them, the smallest.

    What an earlier mask has dropped goes first, whatever its score; of equal scores the one that comes first. Raises
    ValueError for a sparsity outside [0, 1) and scores that are NaN.
    """
    check_sparsity(sparsity)
    if not scores:
        return []
    xp = array_module(scores[0])
    for s in scores:
        no_nan(s, "scores of")
    flat = xp.concatenate([s.reshape(-1) for s in scores])
    if masks is not None:
        old = [xp.ones(s.size, bool) if m is None else xp.asarray(m).reshape(-1) for s, m in zip(scores, masks)]
        flat = xp.where(xp.concatenate(old), flat, -np.inf)
    keep = xp.ones(flat.size, bool)
    keep[xp.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = False
    parts = xp.split(keep, np.cumsum([s.size for s in scores])[:-1].tolist())
    return [part.reshape(s.shape) for part, s in zip(parts, scores)]


def keep_largest_in_rows(scores: Array, sparsity: float, mask: Array | None = None) -> Array:
    """The same within each row: scores (R, K), round(sparsity * K) of each row are dropped."""
    check_sparsity(sparsity)
    no_nan(scores, "scores of")
    xp = array_module(scores)
    flat = scores if mask is None else xp.where(mask, scores, -np.inf)
    keep = xp.ones(flat.shape, bool)
    drop = xp.argsort(flat, axis=1, kind="stable")[:, : round(sparsity * flat.shape[1])]
    xp.put_along_axis(keep, drop, False, 1)
    return keep


def check_sparsity(sparsity: Any) -> None:
    """Raises ValueError unless it is a number in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float, np.number)) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be a number in [0, 1), the share of weights to drop, got {sparsity!r}")


def no_nan(w: Array, what: str = "a weight of") -> None:
    """Raises ValueError, with the place, if there is a NaN."""
    bad = array_module(w).isnan(w)
    if bad.any():
        at = [int(i) for i in np.unravel_index(int(bad.argmax()), w.shape)]
        raise ValueError(f"{what} shape {tuple(w.shape)} holds NaN, the first at {at}: its importance is unknown")


def floats(w: Array, rule: str) -> None:
    """Raises TypeError for integers, whose importance is not in their magnitude (indices, codes)."""
    if np.dtype(w.dtype).kind != "f":
        raise TypeError(f"{rule} takes float weights, got {w.dtype}; quantized weights are pruned before quantization")
