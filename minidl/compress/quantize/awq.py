"""AWQ: columns of the weight that meet large inputs are scaled up before rounding, and their inputs down.

Lin, Tang, Tang, Yang, Xiao, Dang, Gan and Han, "AWQ: Activation-aware Weight Quantization for LLM Compression and
Acceleration", 2023 (arXiv:2306.00978). w x = (w s) (x / s); with s_k = mean|x_k|^alpha the rounding errors of the
columns that matter shrink. alpha is the best of a grid, by the layer's output on the data; then, as in the authors'
code (mit-han-lab/llm-awq), each output's range is cut off where that output's error is least. The paper moves 1 / s
into the layer before; here the storage multiplies x by it (`minidl.storage.Scaled`), so that any layer will do. A
convolution has one s_k for each input channel, for all taps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.quantize.inputs import Seen, one_by_one
from minidl.compress.quantize.weights import groups_of, pack_weight
from minidl.storage import Scaled
from minidl.storage.scaled import along

__all__ = ["awq", "awq_"]

GRID = 20  # values of alpha between 0 and 1
CUTS = np.arange(20, 9, -1) / 20  # shares of an output's range that its codes may cover


def awq(
    w: np.ndarray, x: np.ndarray, bits: int = 4, *, symmetric: bool = True, per: str = "channel",
    group: int | None = None,
) -> Scaled:  # fmt: skip
    """The weight w (N, K) float32 in few bits, by the inputs x (samples, K) that it meets; or that of a convolution,
    w (N, C / groups, ...), by its windows x (samples, C ...), as `minidl.nn.functional.unfold` lays them out.

    alpha = 0, which is round-to-nearest, is on the grid: on these inputs the result is never worse. Raises ValueError
    for bits, groups or shapes that do not fit, and for values that are not finite.
    """
    return _awq(w, Seen.of(w, x, "awq"), bits, symmetric, per, group)


def _awq(w: np.ndarray, seen: Seen, bits: int, symmetric: bool, per: str, group: int | None) -> Scaled:
    rows, groups = groups_of(w.shape, per, group)
    size = seen.mean
    size = np.where(size == 0, size[size > 0].min(initial=1.0), size)

    def packed(s: np.ndarray, shares: np.ndarray) -> Scaled:
        """w s, cut off at `shares` (N,) of its outputs' or groups' ranges, packed."""
        wide = w * along(s, w)
        flat = wide.reshape(rows * groups, -1)
        high = flat.max(1, keepdims=True, initial=0)
        low = flat.min(1, keepdims=True, initial=0)
        if symmetric:
            high = np.maximum(high, -low)
            low = -high
        share = np.repeat(shares[:rows].astype(np.float32), groups)[:, None]
        cut = np.clip(flat, low * share, high * share).reshape(w.shape)
        return Scaled(pack_weight(cut, bits, symmetric, per, group), 1 / s)

    def errors(p: Scaled) -> np.ndarray:
        each = seen.errors(p.dequantize() - w)
        return each if rows > 1 else np.full(len(w), each.sum())

    whole, best, factors = np.ones(len(w)), np.inf, np.ones(len(size), np.float32)
    for alpha in np.arange(GRID) / GRID:
        s = size**alpha
        s = (s / np.sqrt(s.max() * s.min())).astype(np.float32)
        error = float(errors(packed(s, whole)).sum())
        if error < best:
            best, factors = error, s
    tried = np.stack([errors(packed(factors, whole * share)) for share in CUTS])
    return packed(factors, CUTS[tried.argmin(0)])


def awq_(
    model: Any, calibration: Any, bits: int = 4, *, skip: str | Iterable[str] = (), symmetric: bool = True,
    per: str = "channel", group: int | None = None,
) -> Any:  # fmt: skip
    """AWQ for a model's linear layers, attention's projections and convolutions, in place and in the order in which
    they run; returns the model. What `fold(record(model, example))` gives has the batch norms in the convolutions.

    Arguments as :func:`awq` and :func:`quantize_`. Raises as :func:`awq`, and ValueError for empty calibration data;
    the model is then as it was.
    """
    pack = lambda w, seen, mask: _awq(w, seen, bits, symmetric, per, group)
    return one_by_one(model, calibration, skip, "awq_", pack)
