"""How ops enter the table and become methods and operators of Tensor."""

from __future__ import annotations

from typing import Any

from minidl.autograd.contract import TABLE, OpType
from minidl.autograd.operators import as_operator, is_operand
from minidl.autograd.out import NAMES, takes_out
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
        if f.__name__ in NAMES:
            f = takes_out(f)
        TABLE[f.__name__] = f
        f.namespace = namespace
        if method is not None:
            _attach(method, f)
            if inplace:
                from minidl.inplace import write

                several = not isinstance(f, OpType)  # ops, each of which may save what is written over

                def in_place(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                    x = TABLE["clone"](self) if several and self.requires_grad else self
                    return write(self, f(x, *args, **kwargs))

                in_place.__doc__ = f"In-place version of :func:`{method}`."
                in_place.__name__ = method + "_"
                setattr(Tensor, method + "_", in_place)
        if operator is not None:
            _attach_operator(operator, f)
        return f

    return enter


_call = OpType.__call__  # calling it directly spares the way through the metaclass


def attach(name: str, value: Any) -> None:
    """Give Tensor a method or property that is no op of the table."""
    setattr(Tensor, name, value)


def _attach(name: str, f: Any) -> None:
    if isinstance(f, OpType):

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            return _call(f, self, *args, **kwargs)

    else:

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            return f(self, *args, **kwargs)

    method.__doc__, method.__name__, method.op = f.__doc__, name, f  # type: ignore[attr-defined]
    setattr(Tensor, name, method)


def _attach_operator(name: str, cls: OpType) -> None:
    run = as_operator(cls)

    def reflected(self: Tensor, other: Any) -> Any:
        return _call(cls, other, self) if is_operand(other) else NotImplemented

    def in_place(self: Tensor, other: Any) -> Any:
        from minidl.inplace import write

        return write(self, run(self, other)) if is_operand(other) else NotImplemented

    setattr(Tensor, f"__{name}__", run)
    if name not in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__r{name}__", reflected)
        if name != "matmul":  # x @= w is x = x @ w, another shape
            setattr(Tensor, f"__i{name}__", in_place)
