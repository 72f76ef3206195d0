"""The table of all ops, and how they become methods and operators of Tensor."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd.contract import TABLE, OpType
from minidl.tensors import Tensor


def op(*, method: str | None = None, operator: str | None = None, inplace: bool = False, namespace: str = "") -> Any:
    """Enter an op (a class) or a function made of ops into the table, and attach it to Tensor.

    Args:
        method: name of the Tensor method; its first argument is the tensor.
        operator: name of the binary operator, such as ``add`` for ``__add__`` and ``__radd__``.
        inplace: also attach ``method_``, which writes the result into the tensor itself.
        namespace: "nn.functional" for functions that live there only.
    """

    def enter(f: Any) -> Any:
        TABLE[f.__name__] = f
        f.namespace = namespace
        if method is not None:
            _attach(method, f)
            if inplace:
                from minidl.inplace import write

                def in_place(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                    return write(self, f(self, *args, **kwargs))

                in_place.__doc__ = f"In-place version of :func:`{method}`."
                in_place.__name__ = method + "_"
                setattr(Tensor, method + "_", in_place)
        if operator is not None:
            _attach_operator(operator, f)
        return f

    return enter


def attach(name: str, value: Any) -> None:
    """Give Tensor a method or property that is no op of the table."""
    setattr(Tensor, name, value)


def _runner(f: Any) -> Any:
    """f, or for an op class the function behind calling it, which spares the way through the metaclass."""
    return partial(OpType.__call__, f) if isinstance(f, OpType) else f


def _attach(name: str, f: Any) -> None:
    run = _runner(f)

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return run(self, *args, **kwargs)

    method.__doc__, method.__name__, method.op = f.__doc__, name, f  # type: ignore[attr-defined]
    setattr(Tensor, name, method)


def _attach_operator(name: str, f: Any) -> None:
    run = _runner(f)

    def forward(self: Tensor, other: Any) -> Any:
        return run(self, other) if isinstance(other, _OPERANDS) or _operand(other) else NotImplemented

    def reflected(self: Tensor, other: Any) -> Any:
        return run(other, self) if _operand(other) else NotImplemented

    def in_place(self: Tensor, other: Any) -> Any:
        from minidl.inplace import write

        return write(self, run(self, other)) if _operand(other) else NotImplemented

    forward.op = f  # type: ignore[attr-defined]
    setattr(Tensor, f"__{name}__", forward)
    if name not in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__r{name}__", reflected)
        if name != "matmul":  # x @= w is x = x @ w, another shape
            setattr(Tensor, f"__i{name}__", in_place)


_OPERANDS = (Tensor, np.ndarray, int, float, bool, np.generic)


def _operand(x: Any) -> bool:
    return isinstance(x, _OPERANDS) or devices.is_cuda_array(x)
