"""Parametrizations: a parameter that is computed from others at each use, under torch.nn.utils.parametrize's names."""

from __future__ import annotations

from typing import Any

from minidl.autograd import no_grad
from minidl.nn.containers import ModuleDict, ModuleList
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.tensors import Tensor

__all__ = ["ParametrizationList", "is_parametrized", "register_parametrization", "remove_parametrizations"]


class ParametrizationList(ModuleList):
    """The modules that make a tensor, one after another, from its original; as ``original``, or ``original0``, ... when
    the first of them is made of several.
    """

    def __init__(self, modules: list[Module], original: Tensor):
        super().__init__(modules)
        value: Any = original.detach()
        with no_grad():
            for m in reversed(modules):
                if hasattr(m, "right_inverse"):
                    value = m.right_inverse(value)
        self.several = isinstance(value, (tuple, list))
        for name, v in zip(
            self.names(len(value) if self.several else 1), value if self.several else [value], strict=True
        ):
            made: Any = Parameter(v.detach().clone(), original.requires_grad)
            setattr(self, name, made)

    def names(self, count: int) -> list[str]:
        """The names of the originals."""
        return [f"original{i}" for i in range(count)] if self.several else ["original"]

    def forward(self) -> Any:
        """The tensor."""
        first, *rest = self
        x = first(*self._parameters.values())
        for m in rest:
            x = m(x)
        return x


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module has a parametrization, or one of that tensor."""
    found = module._modules.get("parametrizations")
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def register_parametrization(module: Module, tensor_name: str, parametrization: Module) -> Module:
    """Let ``module.<tensor_name>`` be ``parametrization(original)``, computed whenever it is read; returns the module.

    The parameter moves to ``parametrizations.<tensor_name>.original``. If the parametrization has a ``right_inverse``,
    the original is what it makes of the parameter; a tuple of tensors becomes original0, original1, ... A second
    parametrization acts on the result of the first. Raises ValueError when the module has no such parameter.

    >>> import minidl
    >>> from minidl import nn
    >>> class Symmetric(nn.Module):
    ...     def forward(self, w):
    ...         return w.triu() + w.triu(1).t()
    >>> layer = register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    >>> bool((layer.weight == layer.weight.t()).all()), list(layer.state_dict())
    (True, ['bias', 'parametrizations.weight.original'])
    """
    if is_parametrized(module, tensor_name):
        stack: Any = module.parametrizations[tensor_name]
        stack.append(parametrization)
        return module
    parameter = module._parameters.get(tensor_name)
    if parameter is None:
        raise ValueError(
            f"Module '{module!r}' does not have a parameter, a buffer, or a parametrized element with name "
            f"'{tensor_name}'"
        )
    made = ParametrizationList([parametrization], parameter)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
        base = type(module)
        module.__class__ = type(f"Parametrized{base.__name__}", (base,), {"__module__": base.__module__})
    module.parametrizations[tensor_name] = made
    del module._parameters[tensor_name]
    setattr(type(module), tensor_name, property(lambda self: self.parametrizations[tensor_name]()))
    return module


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make the tensor a plain parameter again, with its present value, or with that of its only original; returns the
    module. Raises ValueError when it is not parametrized, or when it has several originals and none is to be left.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module!r} does not have a parametrization on {tensor_name}")
    stack: Any = module.parametrizations[tensor_name]
    if not leave_parametrized and stack.several:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
            "sequence of tensors."
        )
    originals = list(stack._parameters.values())
    with no_grad():
        value = (stack() if leave_parametrized else originals[0]).detach().clone()
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    module.register_parameter(tensor_name, Parameter(value, originals[0].requires_grad))
    if not len(module.parametrizations):
        del module.parametrizations
        module.__class__ = type(module).__mro__[1]
    return module
