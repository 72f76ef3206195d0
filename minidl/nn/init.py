"""Initial values of weights, under torch.nn.init's names. Each fills a tensor in place and returns it.

The scale of a weight decides whether signals grow or fade from layer to layer: Glorot & Bengio 2010 keep the variance
of activations and gradients (xavier), He et al. 2015 (arXiv:1502.01852) do so for rectifiers (kaiming).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from minidl import random
from minidl.devices import move
from minidl.tensors import Tensor

__all__ = [
    "calculate_fan_in_and_fan_out", "calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_",
    "kaiming_uniform_", "normal_", "ones_", "orthogonal_", "sparse_", "trunc_normal_", "uniform_", "xavier_normal_",
    "xavier_uniform_", "zeros_",
]  # fmt: skip


def _fill(t: Tensor, values: Any) -> Tensor:
    t.array[...] = values if np.isscalar(values) else move(values, t.device)
    t.bump()
    return t


def _gen(generator: Any) -> random.Generator:
    return random.default_generator if generator is None else generator


def _draw_dtype(t: Tensor) -> Any:
    return np.float64 if t.array.dtype == np.float64 else np.float32


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on [a, b). Raises ValueError if a > b."""
    return _fill(tensor, _gen(generator).uniform(tuple(tensor.shape), a, b, dtype=_draw_dtype(tensor)))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with the given mean and standard deviation. Raises ValueError for a negative std."""
    return _fill(tensor, _gen(generator).normal(tuple(tensor.shape), mean, std, dtype=_draw_dtype(tensor)))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Normal, conditioned on [a, b] (in the tensor's units, not in deviations): x = mean + std Phi^-1(u).

    u is uniform on [Phi((a - mean) / std), Phi((b - mean) / std)]. Raises ValueError if a > b or std <= 0.
    """
    if a > b or std <= 0:
        raise ValueError(f"trunc_normal_ needs a <= b and std > 0, got a={a}, b={b}, std={std}")
    flip = a > mean  # the far upper tail as the lower one, where probabilities do not round to 1
    low, high = ((a - mean) / std, (b - mean) / std) if not flip else ((mean - b) / std, (mean - a) / std)
    phi = lambda z: 0.5 * math.erfc(-z / math.sqrt(2))
    u = _gen(generator).uniform(tuple(tensor.shape), phi(low), phi(high), dtype=np.float64)
    z = normal_quantile(u)
    return _fill(tensor, np.clip(mean + std * (-z if flip else z), a, b))


def normal_quantile(p: Any) -> Any:
    """Phi^-1(p) in float64 to a relative error of 1.2e-9: P. J. Acklam's rational approximations (2003).

    >>> round(float(normal_quantile(np.float64(0.975))), 6)
    1.959964
    """
    p = np.clip(p, 1e-300, 1 - 1e-16)
    tail = np.minimum(p, 1 - p)
    q = np.sqrt(-2 * np.log(tail))
    outer = np.polyval(_C, q) / np.polyval(_D, q)
    r = (p - 0.5) ** 2
    inner = (p - 0.5) * np.polyval(_A, r) / np.polyval(_B, r)
    return np.where(tail >= 0.02425, inner, np.where(p < 0.5, outer, -outer))


# numerators and denominators, from the highest power down: _A/_B in r = (p - 1/2)^2, _C/_D in q = sqrt(-2 ln tail)
_A = (-3.969683028665376e01, 2.209460984245205e02, -2.759285104469687e02, 1.383577518672690e02,
      -3.066479806614716e01, 2.506628277459239e00)  # fmt: skip
_B = (-5.447609879822406e01, 1.615858368580409e02, -1.556989798598866e02, 6.680131188771972e01,
      -1.328068155288572e01, 1.0)  # fmt: skip
_C = (-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e00, -2.549732539343734e00,
      4.374664141464968e00, 2.938163982698783e00)  # fmt: skip
_D = (7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e00, 3.754408661907416e00, 1.0)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`val` everywhere."""
    return _fill(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return _fill(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return _fill(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix. Raises ValueError unless 2-dimensional."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return _fill(tensor, np.eye(*tensor.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The convolution that passes its input on: 1 at the middle tap of each channel's own filter, in each group.

    Raises ValueError unless the weight has 3, 4 or 5 dimensions and its outputs divide into the groups.
    """
    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    per_group = shape[0] // groups
    values = np.zeros(shape)
    middle = tuple(n // 2 for n in shape[2:])
    for g in range(groups):
        for c in range(min(per_group, shape[1])):
            values[(g * per_group + c, c, *middle)] = 1
    return _fill(tensor, values)


def calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many inputs feed one output of a weight (out, in, ...), and the other way. ValueError below 2 dimensions."""
    if tensor.ndim < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a weight's scale makes up for what its nonlinearity takes away.

    `param` is leaky_relu's negative slope (0.01 if None). Raises ValueError for an unknown name.
    """
    known = {"sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2.0), "selu": 0.75}
    if nonlinearity == "leaky_relu":
        if isinstance(param, bool) or not (param is None or isinstance(param, (int, float))):
            raise ValueError(f"negative_slope {param} not a valid number")
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "linear" or nonlinearity.startswith(("conv1d", "conv2d", "conv3d", "conv_transpose")):
        return 1.0
    if nonlinearity in known:
        return known[nonlinearity]
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on [-a, a), a = gain sqrt(6 / (fan_in + fan_out))."""
    fan_in, fan_out = calculate_fan_in_and_fan_out(tensor)
    a = gain * math.sqrt(6 / (fan_in + fan_out))
    return uniform_(tensor, -a, a, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal, std = gain sqrt(2 / (fan_in + fan_out))."""
    fan_in, fan_out = calculate_fan_in_and_fan_out(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2 / (fan_in + fan_out)), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode.lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan = calculate_fan_in_and_fan_out(tensor)[mode.lower() == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform on [-bound, bound), bound = gain sqrt(3 / fan); `a` is the negative slope of leaky_relu."""
    if 0 in tensor.shape:
        return _nothing_to_do(tensor)
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal, std = gain / sqrt(fan); `a` is the negative slope of leaky_relu."""
    if 0 in tensor.shape:
        return _nothing_to_do(tensor)
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _nothing_to_do(tensor: Tensor) -> Tensor:
    warnings.warn("Initializing zero-element tensors is a no-op", UserWarning, stacklevel=3)
    return tensor


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal with deviation `std`, but for a share of ceil(sparsity rows) zeros in each column; Martens 2010
    (icml.cc/Conferences/2010/papers/458.pdf). Raises ValueError unless the tensor has two dimensions.
    """
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor.shape
    values = _gen(generator).normal((rows, columns), 0.0, std, dtype=_draw_dtype(tensor))
    for column in range(columns):
        values[_gen(generator).permutation(rows)[: math.ceil(sparsity * rows)], column] = 0
    return _fill(tensor, values)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Rows (or columns, whichever are fewer) of length `gain` at right angles; Saxe et al. 2013 (arXiv:1312.6120).

    The weight is read as (rows, all the rest). Raises ValueError below 2 dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if not tensor.numel():
        return tensor
    rows = tensor.shape[0]
    cols = tensor.numel() // rows
    a = _gen(generator).normal((max(rows, cols), min(rows, cols)), dtype=np.float64)
    q, r = np.linalg.qr(a)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # so that all rotations are equally likely (Mezzadri 2007)
    return _fill(tensor, gain * (q.T if rows < cols else q).reshape(tuple(tensor.shape)))
