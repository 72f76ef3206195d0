"""Penalties on weights, to be added to a loss: L1, L2, and both (the elastic net)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl.nn.module import Module
from minidl.tensors import Tensor

__all__ = ["elastic_penalty", "l1_penalty", "l2_penalty"]


def _tensors(parameters: Any) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    if isinstance(parameters, Module):
        parameters = parameters.parameters()
    found = list(parameters)
    if not found:
        raise ValueError("a penalty needs at least one parameter")
    return found


def _check(**strengths: float) -> None:
    for name, value in strengths.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def _sum(terms: Iterable[Any]) -> Any:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def l1_penalty(parameters: Any, l1: float = 0.01) -> Tensor:
    """l1 sum |w|: pulls every weight to 0 with the same force, so that many become 0; Tibshirani 1996 (the lasso).

    Args:
        parameters: a Module, whose parameters are all taken; an iterable of Tensors; or a Tensor.

    A scalar that has a gradient. Raises ValueError for a negative strength or no parameters. For decay that does not
    pass through the gradient, see the `weight_decay` of the optimizers.

    >>> import minidl
    >>> l1_penalty(minidl.tensor([1.0, -2.0]), 0.5).item()
    1.5
    """
    _check(l1=l1)
    return l1 * _sum(p.abs().sum() for p in _tensors(parameters))


def l2_penalty(parameters: Any, l2: float = 0.01) -> Tensor:
    """l2 sum w^2: pulls weights to 0 in proportion to their size; Hoerl & Kennard 1970 (ridge). As :func:`l1_penalty`.

    Its gradient is 2 l2 w, that of SGD's weight_decay with half the number.
    """
    _check(l2=l2)
    return l2 * _sum((p * p).sum() for p in _tensors(parameters))


def elastic_penalty(parameters: Any, l1: float = 0.01, l2: float = 0.01) -> Tensor:
    """l1 sum |w| + l2 sum w^2; Zou & Hastie 2005 (doi 10.1111/j.1467-9868.2005.00503.x). As :func:`l1_penalty`."""
    found = _tensors(parameters)
    return l1_penalty(found, l1) + l2_penalty(found, l2)
