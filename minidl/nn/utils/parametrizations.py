"""Weight and spectral normalisation as parametrizations, under torch.nn.utils.parametrizations's names."""

from __future__ import annotations

from typing import Any

from minidl.autograd import no_grad
from minidl.nn.module import Module
from minidl.nn.utils.parametrize import is_parametrized, register_parametrization
from minidl.nn.utils.weight_norms import (
    as_matrix,
    default_dim,
    greatest_stretch,
    length_except,
    of_length,
    random_unit,
    unit,
)
from minidl.ops.distances import normalize

__all__ = ["spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    def __init__(self, dim: int | None):
        super().__init__()
        self.dim = dim

    def forward(self, g: Any, v: Any) -> Any:
        return of_length(g, v, self.dim)

    def right_inverse(self, w: Any) -> tuple[Any, Any]:
        return length_except(w, self.dim), w


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """w = g v / |v| with parameters ``parametrizations.<name>.original0`` (g) and ``original1`` (v); Salimans & Kingma
    2016 (arXiv:1602.07868). |v| is taken of each slice along `dim`, of the whole tensor if it is None or -1.

    Raises ValueError when the module has no such parameter.
    """
    return register_parametrization(module, name, _WeightNorm(dim))


class _SpectralNorm(Module):
    def __init__(self, weight: Any, iterations: int, dim: int, eps: float):
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{weight.ndim}, {weight.ndim - 1}] but got {dim})"
            )
        if iterations <= 0:
            raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={iterations}")
        self.iterations, self.dim, self.eps = iterations, dim % weight.ndim, eps
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), self.dim)
            self.register_buffer("_u", random_unit(matrix.shape[0], weight, eps))
            self.register_buffer("_v", random_unit(matrix.shape[1], weight, eps))
            self._iterate(matrix.array, 15)

    def _iterate(self, matrix: Any, times: int) -> None:
        for _ in range(times):
            self._u.array[...] = unit(matrix @ self._v.array, self.eps)
            self._v.array[...] = unit(matrix.T @ self._u.array, self.eps)

    def forward(self, weight: Any) -> Any:
        if weight.ndim == 1:
            return normalize(weight, 2.0, 0, self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._iterate(matrix.array, self.iterations)
        return weight / greatest_stretch(matrix, self._u, self._v)


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """w / s(w) with s the greatest singular value, by the power method; Miyato et al. 2018 (arXiv:1802.05957).

    Each use of the weight in training makes `n_power_iterations`; 15 are made at the start. The parameter becomes
    ``parametrizations.<name>.original``. `dim` as in minidl.nn.utils.spectral_norm. Raises ValueError when the module
    has no such parameter or for less than one iteration, IndexError for a dim that the weight has not.
    """
    if module._parameters.get(name) is None and not is_parametrized(module, name):
        raise ValueError(f"Module '{module!r}' has no parameter or buffer with name '{name}'")
    with no_grad():
        weight = getattr(module, name)
    return register_parametrization(
        module, name, _SpectralNorm(weight, n_power_iterations, default_dim(module, dim), eps)
    )
