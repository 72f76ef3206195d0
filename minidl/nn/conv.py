"""Convolution layers. Weights (out_channels, in_channels / groups, *kernel), images (N, C, H, W), signals (N, C, L)."""

from __future__ import annotations

import math
from typing import Any

from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.conv import conv1d, conv2d, conv_transpose2d
from minidl.ops.create import empty
from minidl.ops.padding import pad

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def ntuple(value: Any, n: int, name: str) -> tuple[int, ...]:
    """`n` ints from one or from `n`. Raises ValueError otherwise."""
    if isinstance(value, (tuple, list)):
        if len(value) != n:
            raise ValueError(f"{name} must be an int or {n} ints, not {value!r}")
        return tuple(int(v) for v in value)
    return (int(value),) * n


class _Conv(Module):
    """What the convolutions share: arguments, their checks, parameters, initial values."""

    dims = 2
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
        groups: int, bias: bool, padding_mode: str, output_padding: Any, device: Any, dtype: Any,
    ):  # fmt: skip
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups != 0:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in _PADDING_MODES or (self.transposed and padding_mode != "zeros"):
            modes = ("zeros",) if self.transposed else _PADDING_MODES
            raise ValueError(f"padding_mode must be one of {modes}, but got padding_mode='{padding_mode}'")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = ntuple(kernel_size, self.dims, "kernel_size")
        self.stride = ntuple(stride, self.dims, "stride")
        self.dilation = ntuple(dilation, self.dims, "dilation")
        self.output_padding = ntuple(output_padding, self.dims, "output_padding")
        self.padding_mode = padding_mode
        if min(self.kernel_size) < 1 or min(self.stride) < 1 or min(self.dilation) < 1:
            raise ValueError(
                f"kernel_size {self.kernel_size}, stride {self.stride} and dilation {self.dilation} must be positive"
            )
        self.padding: Any
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'valid', 'same'}}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding = padding
        else:
            self.padding = ntuple(padding, self.dims, "padding")
        self.border: list[int] = []  # what F.pad takes: (left, right, top, bottom), innermost dimension first
        for i in reversed(range(self.dims)):
            total = self.dilation[i] * (self.kernel_size[i] - 1) if padding == "same" else 0
            before = total // 2 if isinstance(padding, str) else self.padding[i]
            self.border += [before, total - before if isinstance(padding, str) else before]
        ends = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(empty(*ends, *self.kernel_size, device=device, dtype=dtype))
        self.bias: Any
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial values again: uniform on +-1 / sqrt(fan_in), as torch's."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        zero = (0,) * self.dims
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != zero:
            parts.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.dims:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != zero:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class Conv1d(_Conv):
    """Convolution of signals.    (N, in_channels, L) or (in_channels, L) -> (N, out_channels, M)

    Try: Conv1d(2, 3, 3)(randn(1, 2, 6))
    """

    dims = 1

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         0, device, dtype)  # fmt: skip

    def forward(self, input: Any) -> Any:
        """(N, C, L) -> (N, K, M)"""
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = pad(input, self.border, self.padding_mode), 0
        return conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Convolution of images.    (N, in_channels, H, W) or (in_channels, H, W) -> (N, out_channels, P, Q)

    P = floor((H + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1; padding may be "same" or "valid".
    Raises ValueError for arguments that do not fit together.

    Try: Conv2d(2, 3, 3, padding=1)(randn(1, 2, 5, 5))
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         0, device, dtype)  # fmt: skip

    def forward(self, input: Any) -> Any:
        """(N, C, H, W) -> (N, K, P, Q)"""
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = pad(input, self.border, self.padding_mode), 0
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose2d(_Conv):
    """The gradient of a Conv2d as a layer: it makes images larger.    (N, in_channels, H, W) -> (N, out_channels, P, Q)

    P = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1; weight (in, out / groups, R, S).

    Try: ConvTranspose2d(2, 3, 2, stride=2)(randn(1, 2, 3, 3))
    """

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        if isinstance(padding, str):
            raise ValueError(f"ConvTranspose2d takes padding as numbers, not {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         output_padding, device, dtype)  # fmt: skip

    def forward(self, input: Any, output_size: Any = None) -> Any:
        """(N, C, H, W) -> (N, K, P, Q). `output_size` (P, Q) picks among the sizes that stride leaves open."""
        extra = self.output_padding if output_size is None else self._output_padding(input, output_size)
        return conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _output_padding(self, x: Any, output_size: Any) -> tuple[int, ...]:
        want = tuple(output_size)[-2:]
        extra = []
        for i, n in enumerate(tuple(x.shape)[-2:]):
            least = (n - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (self.kernel_size[i] - 1) + 1
            if not least <= want[i] < least + self.stride[i]:
                raise ValueError(
                    f"requested an output size of {want}, but dimension {i} of an input of {tuple(x.shape)} can only "
                    f"become {least} .. {least + self.stride[i] - 1}"
                )
            extra.append(want[i] - least)
        return tuple(extra)
