"""Modules that hold modules: in a row, in a list, in a dict; and a list of parameters."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minidl.autograd import state
from minidl.nn.module import Module
from minidl.nn.module.registration import Structure
from minidl.nn.module.showing import indent, show
from minidl.nn.parameter import Parameter
from minidl.nn.passes import NORMS, in_a_row
from minidl.tensors import Tensor


class _Row(Module):
    """Children under the names 0, 1, 2, ...: what Sequential and ModuleList share."""

    def _at(self, index: int) -> str:
        index = operator.index(index)
        n = len(self._modules)
        if not -n <= index < n:
            raise IndexError(f"index {index} is out of range")
        return list(self._modules)[index]

    def _renumber(self, modules: Iterable[Any]) -> None:
        modules = list(modules)
        self._modules.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)
        Structure.version += 1

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._modules.values()))

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._at(index), module)

    def __delitem__(self, index: Any) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._at(index)]:
            del self._modules[name]
        self._renumber(self._modules.values())

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.isdigit()]

    def append(self, module: Module) -> Any:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add several at the end; returns self."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"extend should be called with an iterable, but got {type(modules).__name__}")
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before position `index`, as a list's insert; returns self."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        modules = list(self._modules.values())
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def pop(self, index: int = -1) -> Any:
        """Take a module out; returns it."""
        module = self[index]  # type: ignore[index]
        del self[index]
        return module


class Sequential(_Row):
    """The modules one after another. Takes them as arguments, or one OrderedDict of names and modules.

    >>> from minidl import nn
    >>> nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
    )

    Try: Sequential(Linear(4, 3), ReLU())(randn(2, 4))
    """

    in_order = True  # what the children are given: for errors that name the layer before

    def __init__(self, *args: Any):
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], OrderedDict) else enumerate(args)
        for name, module in named:
            self.add_module(str(name), module)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))
        return self._modules[self._at(index)]

    def __delitem__(self, index: Any) -> None:
        names = list(self._modules)
        numbered = names == [str(i) for i in range(len(names))]
        for name in names[index] if isinstance(index, slice) else [self._at(index)]:
            del self._modules[name]
        Structure.version += 1
        if numbered:
            self._renumber(self._modules.values())

    def __add__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return Sequential(*self, *other)

    def __iadd__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return self.extend(other)

    def __mul__(self, other: int) -> Sequential:
        if not isinstance(other, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(other)}")
        if other <= 0:
            raise ValueError(f"Non-positive multiplication factor {other} for {type(self)}")
        return Sequential(*(module for _ in range(other) for module in self))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Sequential:
        return self.extend(list(self * other)[len(self) :])

    def forward(self, input: Any) -> Any:
        """Each module's output is the next one's input."""
        modules = self._modules.values()
        if not state.grad and not state.watch and not NORMS.isdisjoint(map(type, modules)):
            return in_a_row(list(self), input)
        for module in modules:
            input = module(input)  # type: ignore[misc]
        return input


class ModuleList(_Row):
    """A list of modules whose parameters are found; it has no forward of its own.

    Try: ModuleList([Linear(4, 3)])[0](randn(2, 4))
    """

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._modules[self._at(index)]

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __iadd__(self, other: Iterable[Module]) -> ModuleList:
        return self.extend(other)

    def __repr__(self) -> str:
        # equal neighbours as one line, "(0-2): 3 x ReLU()", as torch's
        runs: list[list[Any]] = []
        for name, module in self._modules.items():
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1][1] = name
                runs[-1][3] += 1
            else:
                runs.append([name, name, text, 1])
        lines = [f"({a}): {indent(text)}" if n == 1 else f"({a}-{b}): {n} x {indent(text)}" for a, b, text, n in runs]
        return show(type(self).__name__, "", lines)


class ModuleDict(Module):
    """A dict of modules whose parameters are found, in order of insertion; it has no forward of its own.

    Try: ModuleDict({'head': Linear(4, 3)})['head'](randn(2, 4))
    """

    def __init__(self, modules: Any = None):
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        if key in self._modules:
            setattr(self, key, module)
        else:
            self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]
        Structure.version += 1

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()
        Structure.version += 1

    def pop(self, key: str) -> Any:
        """Take one module out; returns it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def items(self) -> Any:
        """(name, module)."""
        return self._modules.items()

    def update(self, modules: Any) -> None:
        """Add those of a mapping, or of an iterable of (name, module)."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                "ModuleDict.update should be called with an iterable of key/value pairs, but got "
                + type(modules).__name__
            )
        pairs = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for i, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"ModuleDict update sequence element #{i} must be a pair (name, module), not {pair!r}")
            self[pair[0]] = pair[1]


class ParameterList(Module):
    """A list of parameters that are found, under the names 0, 1, 2, ...; Tensors become Parameters.

    Try: ParameterList([ones(3)])
    """

    def __init__(self, values: Iterable[Any] | None = None):
        super().__init__()
        if values is not None:
            self.extend(values)

    def _at(self, index: int) -> str:
        index, n = operator.index(index), len(self)
        if not -n <= index < n:
            raise IndexError(f"index {index} is out of range")
        return str(index % n)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._parameters.values()))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self._parameters.values())[index])
        return self._parameters[self._at(index)]

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._at(index), _as_parameter(value))

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def append(self, value: Any) -> ParameterList:
        """Add one at the end; returns self."""
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add several at the end; returns self. Raises TypeError for what is not an iterable of Tensors."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    def __repr__(self) -> str:
        lines = [
            f"({k}): Parameter of {p.dtype}, {tuple(p.shape)}" for k, p in self._parameters.items() if p is not None
        ]
        return show(type(self).__name__, ", ".join(self._storage_notes()), lines)


def _as_parameter(value: Any) -> Parameter:
    if not isinstance(value, Tensor):
        raise TypeError(f"ParameterList holds Tensors, not {type(value).__name__}")
    return value if isinstance(value, Parameter) else Parameter(value)
