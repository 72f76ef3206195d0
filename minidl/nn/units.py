"""More activations as layers. With ``inplace`` the result is written into the input."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.create import full

__all__ = [
    "CELU", "ELU", "GLU", "SELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LogSigmoid", "Mish", "PReLU",
    "Softmin", "Softshrink", "Softsign", "Tanhshrink", "Threshold",
]  # fmt: skip


class _Unit(Module):
    """An activation with numbers that `shown` names for its repr."""

    shown: tuple[str, ...] = ()
    inplace = False

    def extra_repr(self) -> str:
        parts = [f"{name}={getattr(self, name)}" for name in self.shown]
        return ", ".join([*parts, "inplace=True"] if self.inplace else parts)


class ELU(_Unit):
    """y = x where x > 0, else alpha (e^x - 1); Clevert et al. 2016 (arXiv:1511.07289)

    Try: ELU()(randn(3, 4))
    """

    shown = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.elu(input, self.alpha, self.inplace)


class CELU(_Unit):
    """y = x where x > 0, else alpha (e^(x / alpha) - 1); Barron 2017 (arXiv:1704.07483)

    Try: CELU()(randn(3, 4))
    """

    shown = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.celu(input, self.alpha, self.inplace)


class SELU(_Unit):
    """ELU with the scales that keep mean 0 and variance 1; Klambauer et al. 2017 (arXiv:1706.02515)

    Try: SELU()(randn(3, 4))
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.selu(input, self.inplace)


class Mish(_Unit):
    """y = x tanh(ln(1 + e^x)); Misra 2019 (arXiv:1908.08681)

    Try: Mish()(randn(3, 4))
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.mish(input, self.inplace)


class Hardswish(Module):
    """y = x min(max(x + 3, 0), 6) / 6; Howard et al. 2019 (arXiv:1905.02244)

    Try: Hardswish()(randn(3, 4))
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.hardswish(input, self.inplace)


class Hardsigmoid(Module):
    """y = min(max(x + 3, 0), 6) / 6

    Try: Hardsigmoid()(randn(3, 4))
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.hardsigmoid(input, self.inplace)


class Hardtanh(_Unit):
    """y = min(max(x, min_val), max_val). Raises ValueError unless min_val < max_val.

    Try: Hardtanh()(randn(3, 4))
    """

    shown = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__()
        if not max_val > min_val:
            raise ValueError(f"Hardtanh: max_val must be greater than min_val, got {min_val} and {max_val}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)


class Hardshrink(Module):
    """y = x where |x| > lambd, else 0

    Try: Hardshrink()(randn(3, 4))
    """

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Module):
    """y = x - lambd where x > lambd, x + lambd where x < -lambd, else 0

    Try: Softshrink()(randn(3, 4))
    """

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Threshold(_Unit):
    """y = x where x > threshold, else value

    Try: Threshold(0.5, 7.0)(randn(3, 4))
    """

    shown = ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.threshold(input, self.threshold, self.value, self.inplace)


class PReLU(Module):
    """y = x where x > 0, else weight x, one learned slope or one for each channel; He et al. 2015 (arXiv:1502.01852)

    Try: PReLU()(randn(3, 4))
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None):
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(full((num_parameters,), init, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Slopes as at first."""
        self.weight.array[...] = self.init
        self.weight.bump()

    def forward(self, input: Any) -> Any:
        """Elementwise; channels are dimension 1."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class LogSigmoid(Module):
    """y = -ln(1 + e^-x)

    Try: LogSigmoid()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.logsigmoid(input)


class Softsign(Module):
    """y = x / (1 + |x|)

    Try: Softsign()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.softsign(input)


class Tanhshrink(Module):
    """y = x - tanh(x)

    Try: Tanhshrink()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """Elementwise."""
        return F.tanhshrink(input)


class Softmin(Module):
    """softmax(-x) along `dim`

    Try: Softmin(1)(randn(3, 4))
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Any:
        """The same shape."""
        return F.softmin(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class GLU(Module):
    """y = a sigmoid(b), the two halves of x along `dim`; Dauphin et al. 2017 (arXiv:1612.08083)

    Try: GLU()(randn(2, 4))
    """

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Any:
        """Half the size along `dim`."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
