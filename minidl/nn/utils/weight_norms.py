"""Weights with their length apart (weight normalisation), and weights of spectral norm 1; as hooks, torch's first way.

The state_dict then has weight_g and weight_v, or weight_orig, weight_u and weight_v. The second way, on
parametrizations, is minidl.nn.utils.parametrizations.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, random
from minidl.autograd import no_grad
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.axes import permute
from minidl.ops.distances import vector_norm
from minidl.ops.products import mv
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor, wrap

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]


def length_except(v: Any, dim: int | None) -> Any:
    """The length of each slice of v along `dim`, with the other dimensions 1; of all of v if dim is None or -1."""
    if dim is None or dim == -1:
        return vector_norm(v)
    dim %= v.ndim
    return vector_norm(v, 2, tuple(d for d in range(v.ndim) if d != dim), True) if v.ndim > 1 else v.abs()


def of_length(g: Any, v: Any, dim: int | None) -> Any:
    """g v / |v|; Salimans & Kingma 2016 (arXiv:1602.07868)."""
    return v * (g / length_except(v, dim))


def as_matrix(w: Any, dim: int) -> Any:
    """w with dimension `dim` in front and the others as one."""
    if dim:
        w = permute(w, dim, *(d for d in range(w.ndim) if d != dim))
    return reshape(w, (w.shape[0], -1))


def unit(x: Any, eps: float) -> Any:
    """An array over its length."""
    return x / max(float(np.sqrt((x * x).sum())), eps)


def random_unit(n: int, like: Tensor, eps: float) -> Tensor:
    """A vector in a random direction."""
    draw = np.float64 if like.array.dtype == np.float64 else np.float32
    x = random.default_generator.normal((n,), dtype=draw).astype(like.array.dtype, copy=False)
    return wrap(unit(devices.move(x, like.device), eps))


def greatest_stretch(matrix: Any, u: Tensor, v: Tensor) -> Any:
    """u^T W v, the spectral norm once u and v are the first singular vectors, which count as constants."""
    u, v = wrap(u.array.copy()), wrap(v.array.copy())  # the next call changes the buffers
    return (u * mv(matrix, v)).sum()


def default_dim(module: Module, dim: int | None) -> int:
    """The dimension of the outputs: 1 in transposed convolutions, 0 otherwise."""
    return (1 if getattr(module, "transposed", False) else 0) if dim is None else dim


def _find(module: Module, kind: type, name: str) -> Any:
    for key, (hook, _) in module._forward_pre_hooks.items():
        if isinstance(hook, kind) and hook.name == name:  # type: ignore[attr-defined]
            return key
    return None


def _parameter(module: Module, name: str, kind: str) -> Parameter:
    if name not in module._parameters:
        raise AttributeError(f"'{type(module).__name__}' object has no parameter '{name}'")
    found = module._parameters[name]
    if found is None:
        raise ValueError(f"`{kind}` cannot be applied as parameter `{name}` is None")
    return found


class _WeightNorm:
    def __init__(self, name: str, dim: int | None):
        self.name, self.dim = name, dim

    def value(self, module: Module) -> Any:
        return of_length(getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v"), self.dim)

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.value(module))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """w = g v / |v|, with g and v as parameters; Salimans & Kingma 2016 (arXiv:1602.07868). Returns the module.

    |v| is taken of each slice along `dim`, by default each output's weights; of the whole tensor if dim is None. The
    weight is computed before each forward. Raises RuntimeError for a second one on the same parameter.

    >>> from minidl import nn
    >>> list(weight_norm(nn.Linear(3, 2)).state_dict())
    ['bias', 'weight_g', 'weight_v']
    """
    if _find(module, _WeightNorm, name) is not None:
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    weight = _parameter(module, name, "WeightNorm")
    hook = _WeightNorm(name, dim)
    del module._parameters[name]
    with no_grad():
        g = length_except(weight.detach(), dim)
    module.register_parameter(f"{name}_g", Parameter(g, weight.requires_grad))
    module.register_parameter(f"{name}_v", weight)
    setattr(module, name, hook.value(module))
    module.register_forward_pre_hook(hook)
    return module


def _plain_again(
    module: Module, key: Any, name: str, value: Any, extra: tuple[str, ...], requires_grad: bool
) -> Module:
    del module._forward_pre_hooks[key]
    for attribute in (name, *extra):
        delattr(module, attribute)
    module.register_parameter(name, Parameter(value.detach(), requires_grad))
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a plain parameter again, with its present value. ValueError if it has no weight_norm."""
    key = _find(module, _WeightNorm, name)
    if key is None:
        raise ValueError(f"weight_norm of '{name}' not found in {module!r}")
    hook, _ = module._forward_pre_hooks[key]
    wanted = getattr(module, f"{name}_v").requires_grad
    return _plain_again(module, key, name, hook.value(module), (f"{name}_g", f"{name}_v"), wanted)


class _SpectralNorm:
    def __init__(self, name: str, iterations: int, eps: float, dim: int):
        self.name, self.iterations, self.eps, self.dim = name, iterations, eps, dim

    def value(self, module: Module, iterate: bool) -> Any:
        weight, u, v = (getattr(module, f"{self.name}_{s}") for s in ("orig", "u", "v"))
        matrix = as_matrix(weight, self.dim)
        for _ in range(self.iterations if iterate else 0):
            v.array[...] = unit(matrix.array.T @ u.array, self.eps)
            u.array[...] = unit(matrix.array @ v.array, self.eps)
        return weight / greatest_stretch(matrix, u, v)

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.value(module, module.training))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """w / s(w), s the greatest singular value, so that the layer stretches nothing; Miyato et al. 2018
    (arXiv:1802.05957). Returns the module.

    s = u^T W v, and each forward in training brings u and v nearer to the singular vectors by `n_power_iterations` of
    the power method. W is the weight as a matrix with dimension `dim` in front: 1 for transposed convolutions, else 0.
    Raises RuntimeError for a second one on the same parameter, ValueError for less than one iteration.
    """
    if n_power_iterations <= 0:
        raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
    if _find(module, _SpectralNorm, name) is not None:
        raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    weight = _parameter(module, name, "SpectralNorm")
    hook = _SpectralNorm(name, n_power_iterations, eps, default_dim(module, dim))
    rows, columns = as_matrix(weight.detach(), hook.dim).shape
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(f"{name}_u", random_unit(rows, weight, eps))
    module.register_buffer(f"{name}_v", random_unit(columns, weight, eps))
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a plain parameter again, with its present value. ValueError if it has no spectral_norm."""
    key = _find(module, _SpectralNorm, name)
    if key is None:
        raise ValueError(f"spectral_norm of '{name}' not found in {module!r}")
    hook, _ = module._forward_pre_hooks[key]
    wanted = getattr(module, f"{name}_orig").requires_grad
    return _plain_again(
        module, key, name, hook.value(module, False), tuple(f"{name}_{s}" for s in ("orig", "u", "v")), wanted
    )
