"""What was probably meant when something else than parameters was given. Called when errors are raised."""

from __future__ import annotations

from types import GeneratorType
from typing import Any

from minidl.nn.module import Module
from minidl.nn.module.unregistered import unregistered
from minidl.tensors import Tensor


def instead(given: Any) -> str:
    """What to pass in place of something that is no iterable of Tensors, or no Tensor."""
    if isinstance(given, Tensor):
        return ": put it into a list, [tensor]"
    if callable(given) and getattr(given, "__name__", "") in ("parameters", "named_parameters"):
        return f": the parentheses are missing, model.{given.__name__}()"
    if isinstance(given, Module):
        return ": pass its parameters(), model.parameters()"
    if isinstance(given, dict):
        return ": pass model.parameters(), or a list of dicts [{'params': ..., 'lr': ...}]"
    return ": pass model.parameters()" if isinstance(given, str) else ""


def owner(params: Any) -> Any:
    """The module whose parameters() a fresh generator is, if it is one; False for a generator that has run already."""
    for _ in range(2):
        if not isinstance(params, GeneratorType):
            return None
        if params.gi_frame is None:
            return False
        names = params.gi_frame.f_locals
        if "self" in names:
            return names["self"]
        params = names.get(".0")
    return None


def why_empty(found: Any) -> str:
    """Why there are no parameters, given what `owner` found."""
    if found is False:
        return (
            ": the generator was used up before, for instance by a sum() over the parameters; call model.parameters() "
            "anew, or keep list(model.parameters())"
        )
    if not isinstance(found, Module):
        return ": pass model.parameters()"
    hidden = unregistered(found)
    return f": {'; '.join(hidden)}" if hidden else f": {type(found).__name__} has none, and none of its children has"
