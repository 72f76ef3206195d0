"""Layers quantized one after another, by the inputs that each meets on calibration data.

A convolution is a product, too: each output is w, as a row, with the window of x that it lies on. Its rows of inputs
are the windows, C R S numbers in the order of the weight's (C, R, S), and with groups each group of outputs has its own
part of them. What the methods need of all the rows is the sum of their outer products and how large each channel is:
that is added up batch by batch, so that no rows are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from minidl.compress.quantize.models import hold, owned
from minidl.compress.quantize.readers import Met, batches, meet, readable
from minidl.devices import move
from minidl.nn.functional import unfold
from minidl.storage import Packed
from minidl.tensors import wrap

__all__ = ["Seen", "one_by_one"]

CHUNK = 2**23  # numbers of windows that are laid out at a time


class Seen:
    """What the inputs of a weight (N, ...) have in common.

    Attributes:
        groups: G: the g-th N / G outputs read the g-th part of a row; 1 unless a convolution says otherwise.
        gram: sum of x x^T over all rows, float64 (G, K, K), K = size of an output's weight.
        count, total, largest: rows, and of each input channel the sum of |x| and the largest |x|, float64 (C,).
    """

    def __init__(self, shape: tuple[int, ...], groups: int = 1):
        self.shape, self.groups = shape, groups
        k = math.prod(shape[1:])
        self.gram = np.zeros((groups, k, k))
        self.count, self.total, self.largest = 0, np.zeros(groups * shape[1]), np.zeros(groups * shape[1])

    @classmethod
    def of(cls, w: np.ndarray, x: np.ndarray, who: str) -> Seen:
        """From an array of rows x (samples, G K). Raises ValueError for shapes that do not fit, NaN and infinity."""
        k = math.prod(w.shape[1:])
        groups = x.shape[1] // k if x.ndim == 2 and w.ndim > 1 and k else 0
        fits = groups and x.shape[1] == groups * k and len(x) and len(w) % groups == 0 and (w.ndim > 2 or groups == 1)
        if not fits:
            raise ValueError(
                f"{who} takes w (N, K) and x (samples, K), or w (N, C / groups, ...) of a convolution and its windows "
                f"x (samples, C ...), got {w.shape} and {x.shape}"
            )
        if not (np.isfinite(w).all() and np.isfinite(x).all()):
            raise ValueError(f"{who}: NaN or infinity in the weights or their inputs")
        seen = cls(w.shape, groups)
        seen.add(x)
        return seen

    @property
    def mean(self) -> np.ndarray:
        """Mean |x| of each input channel (C,)."""
        return self.total / (self.count * math.prod(self.shape[2:]))

    def add(self, rows: np.ndarray) -> None:
        """Take in rows (samples, G K)."""
        wide = rows.astype(np.float64)
        parts = wide.reshape(len(wide), self.groups, -1).transpose(1, 2, 0)  # G, K, samples
        self.gram += parts @ parts.transpose(0, 2, 1)
        each = np.abs(wide).reshape(len(wide), len(self.total), -1)
        self.count += len(wide)
        self.total += each.sum((0, 2))
        self.largest = np.maximum(self.largest, each.max((0, 2), initial=0))

    def add_images(self, x: np.ndarray, stride: Any, padding: Any, dilation: Any) -> None:
        """Take in the windows of images (N, C, H, W)."""
        taps = self.shape[2:] if len(self.shape) == 4 else (1, *self.shape[2:])
        n = max(1, CHUNK // max(1, x[0].size * math.prod(taps)))
        for i in range(0, len(x), n):
            rows = unfold(wrap(x[i : i + n]), taps, dilation, padding, stride).array  # n, C R S, places
            self.add(rows.transpose(0, 2, 1).reshape(-1, rows.shape[1]))

    def errors(self, difference: np.ndarray) -> np.ndarray:
        """The squared error of each output that a difference d of the weight (N, ...) makes: d gram d^T, (N,)."""
        d = difference.astype(np.float64).reshape(self.groups, -1, self.gram.shape[1])
        return ((d @ self.gram) * d).sum(-1).reshape(-1)


def one_by_one(
    model: Any,
    calibration: Any,
    skip: str | Iterable[str],
    method: str,
    pack: Callable[[np.ndarray, Seen, Any], Packed],
) -> Any:
    """Replace the weights of linear layers, attention's projections and convolutions of one and two dimensions by
    ``pack(w (N, ...), seen, mask)``, in the order in which they run; embeddings, recurrent layers and transposed
    convolutions stay as they are.

    `seen` are the inputs that the weight meets when those before it are quantized already. Nothing is changed before
    all are done: the weights come back if one of them raises. Raises ValueError for calibration data that are empty,
    not finite or do not reach a layer, weights that are not finite, and a model without such a layer; TypeError for
    weights that are not float32.
    """
    layers = {name: w for name, w in readable(model, skip, method).items() if w.kinds <= {"linear", "conv"}}
    if not layers:
        raise ValueError(
            f"{method}: the model has no Linear, attention or convolution with a float weight of its own left"
        )
    for name, w in layers.items():
        if w.p.array.dtype != np.float32:
            raise TypeError(f"{method}: {name} is {w.p.array.dtype}, not float32; call model.float() first")
        if not np.isfinite(move(w.p.array, "cpu")).all():
            raise ValueError(f"{method}: {name} holds NaN or infinity")
    data = list(batches(calibration))
    order: dict[str, int] = {}  # by name, as they run: the groups
    _meet(model, data, layers, lambda m: order.setdefault(m.name, m.args[6] if m.op == "conv2d" else 1), method)
    unseen = [name for name in layers if name not in order]
    if unseen:
        raise ValueError(f"{method}: the calibration data reach no layer {', '.join(unseen)}")
    for name, p in owned(model, {name: w.p for name, w in layers.items()}).items():
        layers[name].p = p
    before = [(w.p, w.p.array, w.p.requires_grad, w.p.grad) for w in layers.values()]
    try:
        for name, groups in order.items():
            p = layers[name].p
            seen = Seen(tuple(p.shape), groups)
            _meet(model, data, {name: layers[name]}, partial(_take, seen, method), method)
            packed = pack(move(p.array, "cpu"), seen, p.mask)
            packed.mask = p.mask
            hold(p, packed)
    except BaseException:
        for p, array, wants, grad in before:
            p.array = array
            p.requires_grad_(wants)
            p.grad = grad
        raise
    return model


def _take(seen: Seen, method: str, m: Met) -> None:
    x = move(m.x, "cpu").astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        raise ValueError(f"{method}: the calibration data make NaN or infinity at the input of {m.name}")
    if m.op == "conv2d":
        seen.add_images(x, *m.args[3:6])
    else:
        seen.add(x.reshape(-1, x.shape[-1]))


def _meet(model: Any, data: list[Any], layers: Any, met: Callable[[Met], Any], method: str) -> None:
    try:
        meet(model, data, layers, met)
    except ValueError as error:
        if "are empty" in str(error):
            raise ValueError(f"{method}: {error}") from error
        raise
