"""GPTQ: weights are rounded one input after another, and the inputs that are left make up for each rounding.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022 (arXiv:2210.17323), which is Optimal Brain Surgeon (Hassibi and Stork 1993) for rounding.

The error that matters is that of the layer's output on data, ||(w - q) x||^2 = (w - q) H (w - q)^T with H = x^T x. Once
weight k is rounded, the error e = (w_k - q_k) / U_kk is paid back by w_j -= e U_kj for all j > k, where U is the upper
Cholesky factor of H's inverse, U^T U = H^-1. For a convolution x are the windows that it lies on, and each of its
groups has an H of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.quantize.arrays import absmax_scale, minmax_scale, quantize_array
from minidl.compress.quantize.inputs import Seen, one_by_one
from minidl.compress.quantize.weights import groups_of, stored
from minidl.storage import Codes, Int4

__all__ = ["gptq", "gptq_"]

BLOCK = 128  # inputs whose roundings are paid back among themselves before the others hear of them


def gptq(
    w: np.ndarray, x: np.ndarray, bits: int = 4, *, symmetric: bool = True, per: str = "channel",
    group: int | None = None, damping: float = 0.01, mask: np.ndarray | None = None,
) -> Codes | Int4:  # fmt: skip
    """The weight w (N, K) float32 in few bits, by the inputs x (samples, K) that it meets; or that of a convolution,
    w (N, C / groups, ...), by its windows x (samples, C ...), as `minidl.nn.functional.unfold` lays them out.

    Scales are those of round-to-nearest, of each group when its turn comes. `damping`, in units of H's mean diagonal,
    is added to the diagonal. Weights of inputs that are always 0 become 0, and so do those that `mask` has as False,
    whose loss is paid back, too (Frantar and Alistarh 2023, arXiv:2301.00774). Raises ValueError for bits, groups or
    shapes that do not fit, and for values that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> w, x = (rng.normal(size=(8, 32)) @ rng.normal(size=(32, 32)) for _ in range(2))
    >>> w, x = w.astype(np.float32), x.astype(np.float32)
    >>> from minidl.compress import pack_weight
    >>> error = lambda packed: float(np.square((packed.dequantize() - w) @ x.T).sum())
    >>> error(gptq(w, x, 3)) < error(pack_weight(w, 3))
    True
    """
    return _gptq(w, Seen.of(w, x, "gptq"), bits, symmetric, per, group, damping, mask)


def _gptq(
    w: np.ndarray, seen: Seen, bits: int, symmetric: bool, per: str, group: int | None, damping: float, mask: Any
) -> Codes | Int4:
    rows, groups = groups_of(w.shape, per, group)
    g, k, n = seen.groups, seen.gram.shape[1], len(w)
    size = k // groups
    left = w.astype(np.float64).reshape(g, -1, k)  # of each group of a convolution, its outputs
    upper, dead = _factors(seen.gram, damping)
    left = np.where(dead[:, None], 0.0, left)
    kept = None if mask is None else mask.reshape(n, k)
    codes = np.empty((n, k), np.int8)
    scales = np.empty((rows, groups), np.float32)
    zeros = np.zeros((rows, groups), np.int32)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        errors = np.empty((*left.shape[:2], stop - start))
        for j in range(start, stop):
            if j % size == 0:
                part = left[..., j : j + size].astype(np.float32).reshape(rows, -1)
                if symmetric:
                    scales[:, j // size] = absmax_scale(part, bits)
                else:
                    scales[:, j // size], zeros[:, j // size] = minmax_scale(part, bits)
            s, z = scales[:, j // size], zeros[:, j // size]
            column = left[..., j].astype(np.float32).reshape(rows, -1)
            q = quantize_array(column, s, 0 if symmetric else z, bits).reshape(n)
            if kept is not None:
                q[~kept[:, j]] = 0 if symmetric else np.repeat(z, n // rows)[~kept[:, j]]
            codes[:, j] = q
            stands = ((q.reshape(rows, -1) - z[:, None]) * s[:, None].astype(np.float64)).reshape(g, -1)
            errors[..., j - start] = (left[..., j] - stands) / upper[:, None, j, j]
            left[..., j + 1 : stop] -= errors[..., j - start, None] * upper[:, None, j, j + 1 : stop]
        left[..., stop:] -= errors @ upper[:, start:stop, stop:]
    zero = None if symmetric else (zeros + 2 ** (bits - 1)).astype(np.uint8)
    return stored(codes, scales, zero, bits, w.shape)


def _factors(gram: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """U (G, K, K) with U^T U = (H + damping)^-1, and which inputs (G, K) are always 0."""
    hessian = gram.copy()
    diagonal = np.einsum("gkk->gk", hessian)  # a view
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean(1, keepdims=True)
    return np.linalg.cholesky(np.linalg.inv(hessian)).transpose(0, 2, 1), dead


def gptq_(
    model: Any, calibration: Any, bits: int = 4, *, skip: str | Iterable[str] = (), symmetric: bool = True,
    per: str = "channel", group: int | None = None, damping: float = 0.01,
) -> Any:  # fmt: skip
    """GPTQ for a model's linear layers, attention's projections and convolutions, in place and in the order in which
    they run; returns the model. What `fold(record(model, example))` gives has the batch norms in the convolutions.

    Each layer sees the inputs that the quantized layers before it give. Arguments as :func:`gptq` and
    :func:`quantize_`; masked weights are held at 0. Raises as :func:`gptq`, and ValueError for empty calibration data;
    the model is then as it was.
    """

    def pack(w: np.ndarray, seen: Seen, mask: Any) -> Codes | Int4:
        return _gptq(w, seen, bits, symmetric, per, group, damping, mask)

    return one_by_one(model, calibration, skip, "gptq_", pack)
