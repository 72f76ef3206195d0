"""Low rank: a weight as a product of two thin ones, by its singular value decomposition."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl import nn
from minidl.compress.prune import prunable
from minidl.compress.transfer import swap_
from minidl.devices import move

__all__ = ["factors", "low_rank", "rank_of"]

Array = Any


def rank_of(w: Array, energy: float) -> int:
    """The smallest rank whose singular values hold that share of the energy, the sum of all squares; at least 1.

    w (N, ...) is taken as a matrix (N, everything else). Raises ValueError for energy outside (0, 1] and weights that
    are not finite.

    >>> rank_of(np.diag(np.float32([3, 1, 1])), 0.8), rank_of(np.diag(np.float32([3, 1, 1])), 0.9)
    (1, 2)
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], got {energy}")
    squares = np.cumsum(np.square(_svd(w)[1]))
    if not squares.size or not squares[-1]:
        return 1
    # the last sum may round to below the whole: that rank is enough, too
    return min(int(np.searchsorted(squares, energy * squares[-1] * (1 - 1e-12))) + 1, len(squares))


def factors(w: Array, rank: int) -> tuple[Array, Array]:
    """u (N, rank), v (rank, K) with u v closest to w (N, K) of all of that rank.

    Eckart & Young 1936, doi 10.1007/BF02288367. The roots of the singular values go to both. Raises ValueError for a
    rank outside 1 ... min(N, K).
    """
    if not 1 <= rank <= min(len(w), math.prod(w.shape[1:])):
        raise ValueError(f"rank {rank} is not in 1 ... {min(len(w), math.prod(w.shape[1:]))}")
    u, s, v = _svd(w)
    root = np.sqrt(s[:rank])
    return (u[:, :rank] * root).astype(w.dtype), (root[:, None] * v[:rank]).astype(w.dtype)


def _svd(w: Array) -> tuple[Array, Array, Array]:
    a = move(w, "cpu").astype(np.float64).reshape(len(w), -1)
    if not np.isfinite(a).all():
        raise ValueError(f"a weight of shape {tuple(w.shape)} holds NaN or infinity: it has no singular values")
    return np.linalg.svd(a, full_matrices=False)


def low_rank(model: Any, energy: float = 0.9, *, rank: int | None = None, skip: str | Iterable[str] = ()) -> Any:
    """A copy of a model in which Linear and Conv2d layers became two, where that takes fewer parameters.

    Linear(K, N) -> Linear(K, r) without bias, Linear(r, N): r (K + N) in place of K N parameters. Conv2d of R x S taps
    -> Conv2d to r channels with its taps, Conv2d of 1 x 1 (Zhang et al. 2015, arXiv:1505.06798). The names gain a
    ``.0`` and ``.1``. Fine-tune it: what is lost can be learned in part.

    Args:
        energy: the share of each weight's sum of squares to keep, which decides its rank.
        rank: the same for all layers, in place of energy.
        skip: names of parameters or modules to leave alone; ``*`` stands for anything.

    Raises ValueError if no layer would become smaller, or a weight is pruned (its zeros would go: take the one or the
    other), shared or not finite; TypeError for packed weights. `model` is as it was.

    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> model[0].weight.array[...] = np.outer(np.arange(64), np.arange(64)) / 64  # of rank 1
    >>> low_rank(model)
    Sequential(
      (0): Sequential(
        (0): Linear(in_features=64, out_features=1, bias=False)
        (1): Linear(in_features=1, out_features=64, bias=True)
      )
    )
    """
    chosen = {id(p) for _, p in prunable(model, skip)}
    small, made = copy.deepcopy(model), 0
    if not [name for name, _ in small.named_modules() if name]:
        raise ValueError("low_rank: the model is a single layer: put it into a Sequential, whose layer can be replaced")
    users: dict[int, int] = {}
    for m in model.modules():
        for p in m.parameters(recurse=False):
            users[id(p)] = users.get(id(p), 0) + 1
    for path, layer in list(model.named_modules()):
        plain = isinstance(layer, nn.Linear) or (type(layer) is nn.Conv2d and layer.groups == 1)
        if not path or not plain or id(layer.weight) not in chosen:
            continue
        if layer.weight.packed:
            raise TypeError(f"low_rank: {path}.weight is packed as {layer.weight.array.kind}; factorize before")
        if layer.weight.mask is not None:
            raise ValueError(f"low_rank: {path}.weight is pruned, and a product of factors has no zeros; skip it")
        w = layer.weight.array
        n, k = len(w), w[0].size
        r = rank_of(w, energy) if rank is None else min(rank, n, k)
        if r * (n + k) >= n * k:
            continue
        if users[id(layer.weight)] > 1:
            raise ValueError(f"low_rank: {path}.weight is shared by several layers; pass skip={path!r}")
        swap_(small, path, _two(layer, *factors(w, r)))
        made += 1
    if not made:
        raise ValueError("low_rank: no layer would become smaller; take less energy, or a rank")
    return small


def _two(layer: Any, u: Array, v: Array) -> Any:
    """The pair of layers for u v, where the one layer was."""
    like = dict(device=layer.weight.device, dtype=layer.weight.dtype)
    n, r, bias = len(u), len(v), layer.bias is not None
    first: Any
    second: Any
    if isinstance(layer, nn.Linear):
        first, second = nn.Linear(layer.in_features, r, bias=False, **like), nn.Linear(r, n, bias=bias, **like)
    else:
        how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, padding_mode=layer.padding_mode)
        first = nn.Conv2d(layer.in_channels, r, layer.kernel_size, bias=False, **how, **like)
        second = nn.Conv2d(r, n, 1, bias=bias, **like)
    first.weight.array[...] = v.reshape(first.weight.shape)
    second.weight.array[...] = u.reshape(second.weight.shape)
    if bias:
        second.bias.array[...] = layer.bias.array
    return nn.Sequential(first, second)
