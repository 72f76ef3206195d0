"""ParameterDict: parameters under keys of one's choice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.tensors import Tensor

__all__ = ["ParameterDict"]


class NoSuchParameterError(KeyError, AttributeError):
    """A key that a ParameterDict has not: KeyError as in a dict, AttributeError as in torch."""


class ParameterDict(Module):
    """A dict of parameters that are found, under their keys, in the order of insertion (a plain dict's
    sorted); Tensors become Parameters.

    A key is a string that may be part of a path: not empty, without a dot. Raises TypeError for other keys, and for
    values that are no Tensors.

    >>> import minidl
    >>> choices = ParameterDict({"left": minidl.zeros(2), "right": minidl.ones(3)})
    >>> [(name, tuple(p.shape)) for name, p in choices.named_parameters()]
    [('left', (2,)), ('right', (3,))]

    Try: ParameterDict({'w': ones(3)})
    """

    def __init__(self, parameters: Any = None):
        super().__init__()
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._parameters:
            raise NoSuchParameterError(key)
        return self._parameters[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"Index given to ParameterDict cannot be used as a key as it is not a string ({type(key)})")
        if not isinstance(value, Tensor):
            raise TypeError(f"ParameterDict holds Tensors, not {type(value).__name__}")
        value = value if isinstance(value, Parameter) else Parameter(value)
        if key in self._parameters:
            self._parameters[key] = value
        else:
            self.register_parameter(key, value)

    def __delitem__(self, key: str) -> None:
        del self._parameters[key]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._parameters))

    def __contains__(self, key: str) -> bool:
        return key in self._parameters

    def __or__(self, other: ParameterDict) -> ParameterDict:
        out = self.copy()
        out.update(other)
        return out

    def __ror__(self, other: ParameterDict) -> ParameterDict:
        out = other.copy()
        out.update(self)
        return out

    def __ior__(self, other: ParameterDict) -> ParameterDict:
        self.update(other)
        return self

    def keys(self) -> Any:
        """The keys."""
        return self._parameters.keys()

    def values(self) -> Any:
        """The parameters."""
        return self._parameters.values()

    def items(self) -> Any:
        """(key, parameter)."""
        return self._parameters.items()

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter, or `default` if there is none."""
        return self._parameters.get(key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter; if there is none, `default` becomes it."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Take a parameter out. Raises KeyError if there is none."""
        return self._parameters.pop(key)

    def popitem(self) -> tuple[str, Any]:
        """Take the last (key, parameter) out."""
        return self._parameters.popitem()

    def clear(self) -> None:
        """Take all out."""
        self._parameters.clear()

    def copy(self) -> ParameterDict:
        """Another dict of the same parameters."""
        return type(self)(dict(self.items()))

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dict with `default` under each key."""
        return type(self)((key, default) for key in keys)

    def update(self, parameters: Any) -> None:
        """Add those of a mapping, or of an iterable of (key, Tensor). A plain dict's are sorted by key, as in torch."""
        if not isinstance(parameters, Iterable):
            raise TypeError(
                "ParameterDict.update should be called with an iterable of key/value pairs, but got "
                + type(parameters).__name__
            )
        pairs = parameters
        if isinstance(parameters, (OrderedDict, ParameterDict)):
            pairs = parameters.items()
        elif isinstance(parameters, Mapping):
            pairs = sorted(parameters.items(), key=lambda pair: pair[0])
        for i, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)):
                raise TypeError(
                    f"ParameterDict update sequence element #{i} should be Iterable; is {type(pair).__name__}"
                )
            if len(pair) != 2:
                raise ValueError(f"ParameterDict update sequence element #{i} has length {len(pair)}; 2 is required")
            self[pair[0]] = pair[1]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")

    def extra_repr(self) -> str:
        return "\n".join(f"({key}): Parameter of {p.dtype}, {tuple(p.shape)}" for key, p in self.items())
