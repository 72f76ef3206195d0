"""Small helpers on parameters, under torch.nn.utils's names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl import devices
from minidl.nn import mistakes
from minidl.nn.utils import parametrizations, parametrize, rnn
from minidl.nn.utils.fusion import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
)
from minidl.nn.utils.weight_norms import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm
from minidl.ops.joining import cat
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor, wrap

__all__ = [
    "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "fuse_conv_bn_eval", "fuse_conv_bn_weights",
    "fuse_linear_bn_eval", "fuse_linear_bn_weights", "get_total_norm", "parameters_to_vector", "parametrizations",
    "parametrize", "remove_spectral_norm", "remove_weight_norm", "rnn", "spectral_norm", "vector_to_parameters",
    "weight_norm",
]  # fmt: skip


def _gradients(parameters: Any) -> list[Tensor]:
    if not isinstance(parameters, Iterable):
        raise TypeError(f"expected Tensors, but got {type(parameters).__name__}{mistakes.instead(parameters)}")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p._grad for p in parameters if p._grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of all tensors as one vector, a 0-d tensor; norm_type may be infinity.

    Raises RuntimeError for a NaN or infinite norm, if asked to.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    norm_type = float(norm_type)
    if not tensors:
        return wrap(np.zeros((), np.float32))
    total = _total(tensors, norm_type, error_if_nonfinite)
    return wrap(devices.as_array(total, tensors[0].array.dtype))


def _total(tensors: list[Tensor], norm_type: float, error_if_nonfinite: bool) -> Any:
    """A float; of tensors on a GPU, a 0-d array there, which the host does not wait for."""
    total: Any
    if tensors[0].is_cuda:
        parts = []
        for t in tensors:
            with devices.at((t,)):
                parts.append(_norm_there(t.array, norm_type))
        with devices.at((tensors[0],)):
            parts = [devices.move(part, tensors[0].device) for part in parts]
            total = _norm_there(devices.array_module(parts[0]).stack(parts), norm_type)
    else:
        total = _norm(np.asarray([_norm(t.array, norm_type) for t in tensors]), norm_type)
    if error_if_nonfinite and not math.isfinite(float(total)):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Any) -> None:
    """Scale all gradients, in place, by min(1, max_norm / (total_norm + 1e-6)): for a norm that is known already."""
    grads = _gradients(parameters)
    total = total_norm.array if isinstance(total_norm, Tensor) else total_norm
    if devices.is_cuda_array(total):
        for g in grads:
            with devices.at((g,)):
                shrink = float(max_norm) / (devices.move(total, g.device) + 1e-6)
                g.array *= devices.array_module(total).minimum(shrink, 1).astype(g.array.dtype)
                g.bump()
        return
    scale = float(max_norm) / (float(total) + 1e-6)
    if not scale >= 1:  # NaN too: it is passed on
        for g in grads:
            g.array *= scale
            g.bump()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients, in place, so that their common norm is at most `max_norm`; returns the norm before.

    g *= min(1, max_norm / (norm + 1e-6)), with the norm of all gradients as one vector; Pascanu et al. 2013
    (arXiv:1211.5063). norm_type may be infinity. Raises RuntimeError for a NaN or infinite norm, if asked to.
    """
    if isinstance(parameters, Iterable) and not isinstance(parameters, Tensor):
        parameters = list(parameters)  # a generator can be read once only
    grads = _gradients(parameters)
    if not grads:
        return wrap(np.zeros((), np.float32))
    total = _total(grads, float(norm_type), error_if_nonfinite)
    clip_grads_with_norm_(parameters, max_norm, total)
    return wrap(devices.as_array(total, grads[0].array.dtype))


def _norm_there(a: Any, p: float) -> Any:
    """As `_norm`, a 0-d float64 array where `a` is."""
    flat = abs(a.reshape(-1)).astype(np.float64)
    if p == math.inf:
        return flat.max() if flat.size else flat.sum()
    return (flat**p).sum() ** (1 / p)


def _norm(a: Any, p: float) -> float:
    """(sum |a|^p)^(1/p), added in float64: squares of float32 may overflow it."""
    flat = a.reshape(-1)
    if p == math.inf:
        return float(abs(flat).max()) if flat.size else 0.0
    total = 0.0
    for i in range(0, flat.size, 65536):
        part = abs(flat[i : i + 65536].astype(np.float64))
        total += float(part.dot(part)) if p == 2.0 else float((part**p).sum())
    return total ** (1 / p)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clamp every gradient element to [-clip_value, clip_value], in place."""
    for g in _gradients(parameters):
        with devices.at((g,)):
            devices.array_module(g.array).clip(g.array, -float(clip_value), float(clip_value), out=g.array)
        g.bump()


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, one after another, as one vector; differentiable."""
    return cat([reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy a vector's parts into the parameters. TypeError unless `vec` is a Tensor, ValueError for another size."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor, but got {type(vec).__name__}")
    parameters = list(parameters)
    size = sum(p.numel() for p in parameters)
    if vec.ndim != 1 or vec.numel() != size:
        raise ValueError(f"the parameters have {size} elements together, the vector has shape {tuple(vec.shape)}")
    start = 0
    for p in parameters:
        p.array[...] = vec.array[start : start + p.numel()].reshape(p.array.shape)
        p.bump()
        start += p.numel()
