"""Layers and weights that a model holds where nobody finds them: in a plain list or dict, or as a plain Tensor."""

from __future__ import annotations

from typing import Any

from minidl.nn.module.registration import Registration
from minidl.nn.parameter import Parameter
from minidl.tensors import Tensor

_INSTEAD = {"dict": ("ModuleDict", "ParameterDict"), "list": ("ModuleList", "ParameterList")}


def unregistered(model: Any) -> list[str]:
    """A sentence for each attribute, in `model` or below, that holds modules or weights without being registered.

    Their parameters are in no ``parameters()``, so that no optimizer trains and no state_dict saves them.
    """
    found = []
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            where = ".".join(filter(None, (type(model).__name__, path, name)))
            if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
                found.append(f"{where} is a plain Tensor that requires grad, {tuple(value.shape)}: use nn.Parameter")
            if not isinstance(value, (list, tuple, dict)) or name in ("_parameters", "_modules"):
                continue
            inside = list(value.values()) if isinstance(value, dict) else list(value)
            for kind, word, i in ((Registration, "layers", 0), (Parameter, "parameters", 1)):
                n = sum(isinstance(item, kind) for item in inside)
                if n:
                    instead = _INSTEAD["dict" if isinstance(value, dict) else "list"][i]
                    found.append(
                        f"{where} is a plain {type(value).__name__} of {n} {word}, which parameters() does not find: "
                        f"use nn.{instead}"
                    )
    return found
