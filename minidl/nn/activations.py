"""Activations as layers. With ``inplace`` the result is written into the input."""

from __future__ import annotations

import warnings
from typing import Any

from minidl.nn.module import Module
from minidl.ops import activations, exponentials, hard_activations, softmax, trigonometry


class _InPlace(Module):
    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """y = max(x, 0)

    Try: ReLU()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return hard_activations.relu_or_write(input, self.inplace)


class ReLU6(_InPlace):
    """y = min(max(x, 0), 6); Howard et al. 2017 (arXiv:1704.04861)

    Try: ReLU6()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return hard_activations.relu6(input, self.inplace)


class LeakyReLU(Module):
    """y = x where x > 0, else negative_slope x

    Try: LeakyReLU()(randn(3, 4))
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return hard_activations.leaky_relu_or_write(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class GELU(Module):
    """y = x Phi(x); ``approximate="tanh"`` as in GPT-2. Hendrycks & Gimpel 2016 (arXiv:1606.08415)

    Try: GELU()(randn(3, 4))
    """

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return activations.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(_InPlace):
    """y = x sigmoid(x)

    Try: SiLU()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return activations.silu_or_write(input, self.inplace)


class Sigmoid(Module):
    """y = 1 / (1 + e^-x)

    Try: Sigmoid()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return exponentials.sigmoid(input)


class Tanh(Module):
    """y = tanh x

    Try: Tanh()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return trigonometry.tanh(input)


class Softplus(Module):
    """y = ln(1 + e^(beta x)) / beta, x itself where beta x > threshold

    Try: Softplus()(randn(3, 4))
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return activations.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


def _dim(dim: int | None, ndim: int, name: str) -> int:
    if dim is not None:
        return dim
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        UserWarning,
        stacklevel=6,
    )
    return 0 if ndim in (0, 1, 3) else 1


class Softmax(Module):
    """y_i = e^(x_i) / sum_j e^(x_j) along `dim`. Give it: without, torch's old guess is taken, with a warning.

    Try: Softmax(1)(randn(3, 4))
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Any:
        """The same shape; sums to 1 along `dim`."""
        return softmax.softmax(input, _dim(self.dim, input.ndim, "softmax"))

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """y_i = x_i - ln sum_j e^(x_j) along `dim`

    Try: LogSoftmax(1)(randn(3, 4))
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Any:
        """The same shape."""
        return softmax.log_softmax(input, _dim(self.dim, input.ndim, "log_softmax"))

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
