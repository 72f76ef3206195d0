"""Copies, other dtypes and other devices: clone, cast, to, contiguous."""

from __future__ import annotations

from typing import Any

from minidl import devices, dtypes
from minidl.autograd import Op, attach, op
from minidl.tensors import Tensor


@op()
class alias(Op):
    """The same values at a new place in the graph

    Why: y is x, so a change of x is a change of y.
    Try: alias(randn(2, 3))
    """

    is_view = True

    def forward(ctx, x: Any) -> Any:
        return x

    def backward(ctx, dy: Any) -> Any:
        return dy


@op(method="clone")
class clone(Op):
    """A copy in memory of its own;    dx = dy

    Why: y = x, so dy/dx = 1.
    Try: clone(randn(3, 4))
    """

    def shape(x: Any, **_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, *, memory_format: Any = None) -> Any:
        return x.copy()

    def backward(ctx, dy: Any) -> Any:
        return dy


@op()
class cast(Op):
    """x in another dtype;    dx = dy in x's dtype

    Why: rounding to another dtype is taken as the identity; the gradient goes back in the dtype of x.
    Try: cast(randn(3), float64)
    """

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, dtype: Any) -> Any:
        ctx.dtype = x.dtype
        return x.astype(dtypes.as_numpy(dtype))

    def backward(ctx, dy: Any) -> Any:
        return cast(dy, ctx.dtype)


@op()
class transfer(Op):
    """x on another device;    dx = dy on x's device

    Why: the numbers are the same on any device; the gradient travels back.
    Try: transfer(randn(3), 'cpu')
    """

    def forward(ctx, x: Any, device: Any) -> Any:
        ctx.device = devices.device_of(x)
        return devices.move(x, device)

    def backward(ctx, dy: Any) -> Any:
        return transfer(dy, ctx.device)


@op(method="contiguous")
def contiguous(x: Any, *, memory_format: Any = None) -> Any:
    """x itself if its memory is row-major without gaps, else a copy that is.

    Try: contiguous(randn(3, 4))
    """
    return x if x.is_contiguous() else clone_contiguous(x)


@op()
class clone_contiguous(Op):
    """A row-major copy;    dx = dy

    Why: y = x in another order of memory, so dy/dx = 1.
    Try: clone_contiguous(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        return x.copy(order="C")

    def backward(ctx, dy: Any) -> Any:
        return dy


@op(method="to")
def to(
    x: Any,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Any:
    """x in another dtype, on another device, or both; the same tensor if nothing changes, unless `copy`.

    Accepts to(dtype), to(device), to(device, dtype) and to(other), each followed by non_blocking and copy. Copies
    always block; there is one memory format, row-major.

    Try: to(randn(3), float64)
    """
    flags = [a for a in args if isinstance(a, bool)]
    copy = flags[1] if len(flags) > 1 else copy
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, devices.Device) or (isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda")):
            device = a
        elif a is not None and not isinstance(a, bool):
            dtype = a
    y = x
    if dtype is not None and dtypes.as_numpy(dtype) != x.array.dtype:
        y = cast(y, dtypes.as_numpy(dtype))
    if device is not None and devices.Device(device) != y.device:
        y = transfer(y, devices.Device(device))
    return clone(y) if copy and y is x else y


def _converter(name: str, dtype: dtypes.DType) -> None:
    def convert(self: Tensor, memory_format: Any = None) -> Any:
        return to(self, dtype=dtype)

    convert.__name__, convert.__doc__ = name, f"The values as {dtype!r}."
    attach(name, convert)


for _name in ("float", "double", "half", "int", "long", "short", "bool"):
    _converter(_name, getattr(dtypes, _name))
_converter("byte", dtypes.uint8)
_converter("char", dtypes.int8)

# torch's names of typed tensors, as x.type() gives and takes them.
_TYPES = {
    "float32": "FloatTensor", "float64": "DoubleTensor", "float16": "HalfTensor", "int64": "LongTensor",
    "int32": "IntTensor", "int16": "ShortTensor", "int8": "CharTensor", "uint8": "ByteTensor", "bool": "BoolTensor",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _TYPES.items()}


def _type(self: Tensor, dtype: Any = None) -> Any:
    """The name of the type, as "minidl.FloatTensor"; with an argument, a dtype or such a name, the values in it."""
    if dtype is None:
        return f"minidl.{_TYPES[self.dtype.name]}"
    name = dtype.rpartition(".")[2] if isinstance(dtype, str) else ""
    return to(self, dtype=getattr(dtypes, _DTYPES.get(name, name)) if name else dtype)


def _type_as(self: Tensor, other: Tensor) -> Any:
    """The values in the dtype of `other`."""
    return to(self, dtype=other.dtype)


attach("type", _type)
attach("type_as", _type_as)


def _reshape_as(self: Tensor, other: Tensor) -> Any:
    """The elements in the shape of `other`."""
    return self.reshape(other.shape)


attach("reshape_as", _reshape_as)
