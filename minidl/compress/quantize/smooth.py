"""SmoothQuant: inputs with outliers hand a part of their range to the weights, and both fit eight bits.

Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", 2022 (arXiv:2211.10438). w x = (w s) (x / s) with s_k = max|x_k|^alpha / max|w_k|^(1 - alpha). Where a
few channels of x are a hundred times the others, a row's one scale would leave the others a handful of codes. The paper
moves 1 / s into the layer before; here the storage multiplies x by it (`minidl.storage.Scaled`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.quantize.inputs import Seen, one_by_one
from minidl.compress.quantize.weights import pack_int8
from minidl.storage import Scaled
from minidl.storage.scaled import along

__all__ = ["smoothquant", "smoothquant_"]


def smoothquant(w: np.ndarray, x: np.ndarray, alpha: float = 0.5) -> Scaled:
    """The weight w (N, K) float32 as int8 for integer products, by the inputs x (samples, K) that it meets; or that of
    a convolution, w (N, C / groups, ...), by its windows x (samples, C ...): one factor for each input channel.

    alpha in [0, 1] says how much of the inputs' range the weights take over. Columns that are all zero, of w or of x,
    stay as they are. Raises ValueError for shapes that do not fit, values that are not finite, and another alpha.
    """
    return _smoothquant(w, Seen.of(w, x, "smoothquant"), alpha)


def _smoothquant(w: np.ndarray, seen: Seen, alpha: float) -> Scaled:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    parts = np.abs(w).reshape(seen.groups, -1, w.shape[1], seen.gram.shape[1] // w.shape[1])
    of_x, of_w = seen.largest, parts.max((1, 3)).reshape(-1).astype(np.float64)
    alive = (of_x > 0) & (of_w > 0)
    s = np.ones(len(of_x))
    s[alive] = of_x[alive] ** alpha / of_w[alive] ** (1 - alpha)
    s = np.clip(s, 1e-5, 1e5).astype(np.float32)
    return Scaled(pack_int8(w * along(s, w)), 1 / s)


def smoothquant_(model: Any, calibration: Any, alpha: float = 0.5, *, skip: str | Iterable[str] = ()) -> Any:
    """SmoothQuant for a model's linear layers, attention's projections and convolutions, in place; they then run on
    integer products. Returns the model. What `fold(record(model, example))` gives has the batch norms folded.

    Arguments as :func:`smoothquant` and :func:`quantize_`. Raises as :func:`smoothquant`, and ValueError for empty
    calibration data; the model is then as it was.
    """
    return one_by_one(model, calibration, skip, "smoothquant_", lambda w, seen, mask: _smoothquant(w, seen, alpha))
