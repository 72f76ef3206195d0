"""AWQ: columns of the weight that meet large inputs are scaled up before rounding, and their inputs down.

Lin, Tang, Tang, Yang, Xiao, Dang, Gan and Han, "AWQ: Activation-aware Weight Quantization for LLM Compression and
Acceleration", 2023 (arXiv:2306.00978). w x = (w s) (x / s); with s_k = mean|x_k|^alpha the rounding errors of the
columns that matter shrink. alpha is the best of a grid, by the layer's output on the data. The paper moves 1 / s into
the layer before; here the storage multiplies x by it (`minidl.storage.Scaled`), so that any layer will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.quantize.inputs import one_by_one
from minidl.compress.quantize.weights import pack_weight
from minidl.storage import Scaled

__all__ = ["awq", "awq_"]

GRID = 20  # values of alpha between 0 and 1


def awq(
    w: np.ndarray, x: np.ndarray, bits: int = 4, *, symmetric: bool = True, per: str = "channel",
    group: int | None = None,
) -> Scaled:  # fmt: skip
    """The weight w (N, K) float32 in few bits, by the inputs x (samples, K) that it meets.

    alpha = 0, which is round-to-nearest, is on the grid: on these inputs the result is never worse. Raises ValueError
    for bits, groups or shapes that do not fit, and for values that are not finite.
    """
    if w.ndim != 2 or x.ndim != 2 or x.shape[1] != w.shape[1] or not len(x):
        raise ValueError(f"awq takes w (N, K) and x (samples, K), got {w.shape} and {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("awq: NaN or infinity in the inputs")
    size = np.abs(x).mean(0, dtype=np.float64)
    size = np.where(size == 0, size[size > 0].min(initial=1.0), size)
    exact = x @ w.T
    best: tuple[float, Scaled] | None = None
    for alpha in np.arange(GRID) / GRID:
        s = size**alpha
        s = (s / np.sqrt(s.max() * s.min())).astype(np.float32)
        packed = Scaled(pack_weight(w * s, bits, symmetric, per, group), 1 / s)
        error = float(np.square(x @ packed.dequantize().T - exact).sum(dtype=np.float64))
        if best is None or error < best[0]:
            best = error, packed
    assert best is not None
    return best[1]


def awq_(
    model: Any, calibration: Any, bits: int = 4, *, skip: str | Iterable[str] = (), symmetric: bool = True,
    per: str = "channel", group: int | None = None,
) -> Any:  # fmt: skip
    """AWQ for every Linear of a model, in place and in the order in which they run; returns the model.

    Arguments as :func:`awq` and :func:`quantize_`. Raises as :func:`awq`, and ValueError for empty calibration data;
    the model is then as it was.
    """
    pack = lambda w, x, mask: awq(w, x, bits, symmetric=symmetric, per=per, group=group)
    return one_by_one(model, calibration, skip, "awq_", pack)
