"""Registering: what an assignment to a module's attribute does, and the tables it fills.

Assigning a Parameter, a Buffer or a Module to an attribute registers it under that name; a plain Tensor assigned to the
name of a buffer takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minidl.nn.parameter import Buffer, Parameter
from minidl.tensors import Tensor

if TYPE_CHECKING:
    from minidl.nn.module import Module


class Structure:
    """Counts the changes to any module tree, so that a root knows when its table of paths is out of date."""

    version = 0


class Registration:
    """The attributes of a module: the part of :class:`Module` that holds its parameters, buffers and children."""

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent: set[str]
    _forward_hooks: dict[int, Any]
    _forward_pre_hooks: dict[int, Any]
    _backward_hooks: dict[int, Any]
    _backward_pre_hooks: dict[int, Any]

    def __init__(self) -> None:
        fields = self.__dict__
        fields["training"] = True
        fields["_parameters"] = {}
        fields["_buffers"] = {}
        fields["_modules"] = {}
        fields["_non_persistent"] = set()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            fields[kind] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__
        if isinstance(value, Parameter):
            self._ready("parameters")
            self._forget(name, "_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Registration):
            self._ready("module")
            self._forget(name, "_modules")
            check_name(name, "module")
            fields["_modules"][name] = value
            Structure.version += 1
        elif "_parameters" in fields and name in fields["_parameters"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{typename(value)}' as parameter '{name}' (minidl.nn.Parameter or None expected): "
                    f"wrap it, nn.Parameter(...), or write into it under no_grad(): {name}.copy_(...)"
                )
            fields["_parameters"][name] = None
        elif "_modules" in fields and name in fields["_modules"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{typename(value)}' as child module '{name}' (minidl.nn.Module or None expected)"
                )
            fields["_modules"][name] = None
            Structure.version += 1
        elif isinstance(value, Buffer):
            self._ready("buffer")
            self._forget(name, "_buffers")
            self.register_buffer(name, value, value.persistent)
        elif "_buffers" in fields and name in fields["_buffers"]:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{typename(value)}' as buffer '{name}' "
                    "(minidl.nn.Buffer, minidl.Tensor or None expected)"
                )
            fields["_buffers"][name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            registered = fields.get(kind)
            if registered is not None and name in registered:
                return registered[name]
        forgot = "_modules" not in fields
        raise AttributeError(
            f"'{type(self).__name__}' object has no attribute '{name}'"
            + ("; the first line of its __init__ should be super().__init__()" if forgot else "")
        )

    def __delattr__(self, name: str) -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(kind, ()):
                del self.__dict__[kind][name]
                self._non_persistent.discard(name)
                Structure.version += kind == "_modules"
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _ready(self, what: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(
                f"cannot assign {what} before Module.__init__() call: "
                f"the first line of {type(self).__name__}.__init__ should be super().__init__()"
            )

    def _forget(self, name: str, but: str) -> None:
        """Take away what else had this name, so that the new assignment replaces it."""
        self.__dict__.pop(name, None)
        for kind in ("_parameters", "_buffers", "_modules"):
            if kind != but and name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                Structure.version += kind == "_modules"
        if but != "_buffers":
            self._non_persistent.discard(name)

    def _check_new(self, name: Any, kind: str, registered: Mapping) -> None:
        check_name(name, kind)
        if name not in registered and (name in self.__dict__ or hasattr(self, name)):
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None reserves the name. Raises KeyError for a name that is taken or holds a dot."""
        self._ready("parameter")
        self._check_new(name, "parameter", self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{typename(param)}' object to parameter '{name}' (minidl.nn.Parameter or None required)"
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained; `persistent`: also part of the state_dict."""
        self._ready("buffer")
        self._check_new(name, "buffer", self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{typename(tensor)}' object to buffer '{name}' (minidl.Tensor or None required)"
            )
        self._buffers[name] = tensor
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under a name that need not be an attribute name. Raises TypeError if it is not a Module."""
        self._ready("module")
        if module is not None and not isinstance(module, Registration):
            raise TypeError(f"{typename(module)} is not a Module subclass{_instead(module)}")
        self._check_new(name, "module", self._modules)
        self._modules[name] = module
        Structure.version += 1

    register_module = add_module


def _instead(given: Any) -> str:
    """What was probably meant by something that is no Module."""
    if isinstance(given, type) and issubclass(given, Registration):
        return f" instance but the class itself: make one, {given.__name__}(...)"
    if isinstance(given, (list, tuple)):
        return ": give the layers one by one, Sequential(*layers)"
    if isinstance(given, Tensor):
        return ": parameters go to register_parameter, other tensors to register_buffer"
    return (
        ": functions are called in forward(); in a Sequential use their layers, such as ReLU()"
        if callable(given)
        else ""
    )


def check_name(name: Any, kind: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{kind} name should be a string. Got {typename(name)}")
    if "." in name:
        raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
    if not name:
        raise KeyError(f'{kind} name can\'t be empty string ""')


def typename(value: Any) -> str:
    kind: Any = value if hasattr(value, "__qualname__") else type(value)  # classes and functions have names
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
