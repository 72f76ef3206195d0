"""Normalisation layers: zero mean and unit variance over the batch or the features, then a learned scale and shift."""

from __future__ import annotations

from typing import Any

from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops import hints
from minidl.ops.create import empty, ones, tensor, zeros
from minidl.ops.group_norm import group_norm
from minidl.ops.norm import batch_norm, layer_norm, rms_norm


class _Norm(Module):
    """weight and bias of a normalisation: ones and zeros at first, or None."""

    weight: Any
    bias: Any

    def _affine(self, shape: Any, weight: bool, bias: bool, device: Any, dtype: Any) -> None:
        for name, wanted in (("weight", weight), ("bias", bias)):
            self.register_parameter(name, Parameter(empty(shape, device=device, dtype=dtype)) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self._parameters.get("bias") is not None:
            init.zeros_(self.bias)


class _BatchNorm(_Norm):
    """BatchNorm1d and BatchNorm2d."""

    ranks: tuple[int, ...] = ()
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        keep = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, device=device, dtype=dtype) if keep else None)
        self.register_buffer("running_var", ones(num_features, device=device, dtype=dtype) if keep else None)
        self.register_buffer("num_batches_tracked", tensor(0, device=device) if keep else None)
        self._affine((num_features,), affine, affine and bias, device, dtype)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, and the running statistics as at first."""
        self.reset_running_stats()
        super().reset_parameters()

    def forward(self, input: Any) -> Any:
        """(N, C, ...) -> (N, C, ...)"""
        if input.ndim not in self.ranks:
            ranks = " or ".join(f"{r}D" for r in self.ranks)
            raise ValueError(
                f"expected {ranks} input (got {input.ndim}D input): {type(self).__name__} does not take "
                f"{tuple(input.shape)}; {hints.ranks(input.ndim, self.ranks)}"
            )
        amount = self.momentum
        tracks = self.training and self.track_running_stats and self.num_batches_tracked is not None
        if tracks:
            self.num_batches_tracked.array[...] += 1
            self.num_batches_tracked.bump()
        if amount is None:
            amount = 1.0 / self.num_batches_tracked.item() if tracks else 0.0
        own = self.training or self.running_mean is None  # the batch's own statistics
        mean, var = (None, None) if own and not tracks else (self.running_mean, self.running_var)
        return batch_norm(input, mean, var, self.weight, self.bias, own, amount, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L); Ioffe & Szegedy 2015 (arXiv:1502.03167).

    In training the batch's own statistics are used, and running ones are kept: running = (1 - momentum) running +
    momentum batch, the variance in its unbiased form; ``momentum=None`` keeps the plain mean over all batches. In
    evaluation the running ones are used. Raises ValueError for inputs of another rank, and in training for a single
    value per channel.

    Try: BatchNorm1d(3)(randn(4, 3))
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W), as BatchNorm1d.

    Try: BatchNorm2d(3)(randn(2, 3, 2, 2))
    """

    ranks = (4,)


def _shape(normalized_shape: Any) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


class LayerNorm(_Norm):
    """y = (x - mean) / sqrt(var + eps) weight + bias over the last dimensions; Ba et al. 2016 (arXiv:1607.06450).

    Try: LayerNorm(4)(randn(2, 4))
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _shape(normalized_shape), eps, elementwise_affine
        self._affine(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)

    def forward(self, input: Any) -> Any:
        """(..., *normalized_shape) -> the same shape"""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(_Norm):
    """y = x / sqrt(mean x^2 + eps) weight over the last dimensions; Zhang & Sennrich 2019 (arXiv:1910.07467).

    eps None is the dtype's machine epsilon.

    Try: RMSNorm(4)(randn(2, 4))
    """

    def __init__(
        self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True, device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _shape(normalized_shape), eps, elementwise_affine
        weight = Parameter(ones(self.normalized_shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)

    def forward(self, x: Any) -> Any:
        """(..., *normalized_shape) -> the same shape"""
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Norm):
    """Normalise each group of channels of each example; Wu & He 2018 (arXiv:1803.08494).

    Raises ValueError when the channels do not divide into the groups.

    Try: GroupNorm(2, 4)(randn(2, 4, 3))
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        if num_groups < 1 or num_channels % num_groups != 0:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._affine((num_channels,), affine, affine and bias, device, dtype)

    def forward(self, input: Any) -> Any:
        """(N, C, ...) -> (N, C, ...)"""
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise ValueError(f"expected (N, {self.num_channels}, ...), got {tuple(input.shape)}")
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
