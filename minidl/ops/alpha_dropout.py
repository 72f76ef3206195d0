"""Dropouts beside the common one: of channels of signals and volumes, for self-normalising networks, of slopes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices, random
from minidl.autograd import op, require
from minidl.ops.dropout import finish, mask_scale
from minidl.ops.hard_activations import leaky_relu
from minidl.tensors import Tensor, wrap

ALPHA = 1.7580993408473766  # selu's scale times its alpha: the value that selu falls to


def _check(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _channels(name: str, x: Any, p: float, training: bool, ranks: tuple[int, int]) -> Any:
    """Dropout of whole channels: dimension 0 without a batch, else of each example."""
    _check(p)
    require(
        x.ndim in ranks, "{}: Expected {}D or {}D input, but received a {}D input", name, *ranks, x.ndim
    )  # fmt: skip
    if not training or p == 0.0:
        return x
    shape = (*x.shape[: 1 if x.ndim == ranks[0] else 2], *(1,) * (ranks[0] - 1))
    keep = random.default_generator.uniform(shape) >= p if p < 1.0 else np.zeros(shape, bool)
    return mask_scale(x, keep, 1 / (1 - p) if p < 1.0 else 0.0)


@op(namespace="nn.functional")
def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout of whole channels of (N, C, L) or (C, L); Tompson et al. 2015 (arXiv:1411.4280).

    Try: dropout1d(randn(2, 3, 4), 0.4)
    """
    return finish(input, _channels("dropout1d", input, p, training, (2, 3)), inplace)


@op(namespace="nn.functional")
def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W); Tompson et al. 2015 (arXiv:1411.4280).

    Try: dropout3d(randn(2, 3, 2, 2, 2), 0.4)
    """
    return finish(input, _channels("dropout3d", input, p, training, (4, 5)), inplace)


def _alpha(x: Any, p: float, training: bool, shape: tuple[int, ...]) -> Any:
    _check(p)
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return mask_scale(x, np.zeros(shape, bool), 0.0)
    keep = random.default_generator.uniform(shape) >= p
    a = 1 / math.sqrt((ALPHA**2 * p + 1) * (1 - p))
    shift = (np.where(keep, 0.0, -ALPHA * a) + ALPHA * a * p).astype(np.dtype(x.dtype))
    return mask_scale(x, keep, a) + (wrap(devices.move(shift, x.device)) if isinstance(x, Tensor) else shift)


@op(namespace="nn.functional")
def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """a x + b, elements with probability p put to selu's lowest value first, with a and b such that mean 0 and variance
    1 stay as they are; Klambauer et al. 2017 (arXiv:1706.02515). x itself unless training.

    Try: alpha_dropout(randn(3, 4), 0.4, True)
    """
    return finish(input, _alpha(input, p, training, tuple(input.shape)), inplace)


@op(namespace="nn.functional")
def feature_alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """alpha_dropout of whole channels of (N, C, ...).

    Try: feature_alpha_dropout(randn(2, 3, 4), 0.4, True)
    """
    require(input.ndim >= 2 or not training, "Feature dropout requires at least 2 dimensions in the input")
    return finish(input, _alpha(input, p, training, (*input.shape[:2], *(1,) * (input.ndim - 2))), inplace)


@op(namespace="nn.functional")
def rrelu(
    input: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Any:
    """x where x > 0, else s x, with s uniform on [lower, upper) for each element in training, and their middle
    otherwise; Xu et al. 2015 (arXiv:1505.00853).

    Try: rrelu(randn(3, 4), training=True)
    """
    if lower > upper:
        raise RuntimeError(f"rrelu: lower must be less than or equal to upper, got {lower} and {upper}")
    if not training:
        return finish(input, leaky_relu(input, (lower + upper) / 2), inplace)
    dtype = np.dtype(input.dtype)
    slopes = random.default_generator.uniform(
        tuple(input.shape), lower, upper, dtype=np.float64 if dtype == np.float64 else np.float32
    ).astype(dtype, copy=False)
    array = input.array if isinstance(input, Tensor) else input
    slopes = np.where(array > 0, dtype.type(1), slopes)
    scale = wrap(devices.move(slopes, input.device)) if isinstance(input, Tensor) else slopes
    return finish(input, input * scale, inplace)
