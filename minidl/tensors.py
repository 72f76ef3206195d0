"""Tensor: an array, its gradient, and the op that made it. No maths here.

Operators and methods (``a + b``, ``x.sum()``) are attached by the ops' own pages, see :func:`minidl.autograd.op`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import devices
from minidl.dtypes import DType, as_numpy, default, dtype_of

if TYPE_CHECKING:
    from minidl.tensor_methods import TensorMethods
else:
    TensorMethods = object


def lay_out(cls: type) -> None:
    """Give the instances of a class room for every attribute that it and its bases annotate.

    CPython keeps the attributes of a class's instances in one table of names, which grows with the first thirty of them
    only. One that later sets a name outside the table gets a dictionary of its own, and that takes as long as a small
    sum. So here the first instance sets every name.
    """
    first: Any = object.__new__(cls)
    for base in cls.__mro__:
        for name in getattr(base, "__annotations__", ()):
            setattr(first, name, None)


class Version:
    """Counts the in-place changes of one piece of memory; shared by all tensors that view it."""

    count = 0
    changed_at: Any = None  # source line of the latest change


class Tensor(TensorMethods):
    """An n-dimensional array that remembers how it was computed.

    ``minidl.tensor(data)`` is the usual way to make one; ``Tensor(data)`` is torch's older spelling: it always
    gives the default float dtype, and ``Tensor(2, 3)`` an uninitialised tensor of that shape.

    Attributes:
        array: the NumPy (or CuPy) array itself, shared, never copied.
        grad: a Tensor of the same shape, None until ``backward()`` reaches this tensor.
        node: the op instance that made this tensor; None for a leaf.
    """

    # What most tensors never change stands on the class: making a tensor sets its array and nothing else.
    array: Any
    index: int = 0  # which output of the node this is
    _requires_grad: bool = False
    _node: Any = None
    _view: Any = None  # how it views another tensor, see minidl.inplace
    _changes: Version | None = None
    _grad: Tensor | None = None
    _hooks: dict | None = None
    _after_hooks: dict | None = None
    _keeps_grad: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        lay_out(cls)

    def __init__(self, *data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False):
        dtype = default() if dtype is None else as_numpy(dtype)
        if len(data) == 1 and not isinstance(data[0], int):
            source = data[0].array if isinstance(data[0], Tensor) else np.asarray(data[0])
            array = source.astype(dtype)
        else:
            array = np.empty(data or (0,), dtype)
        self.array = devices.move(array, device or "cpu")
        if requires_grad:
            self.requires_grad_()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """The sizes of its dimensions, a tuple."""
        return Shape(self.array.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one dimension's size."""
        return self.shape if dim is None else self.array.shape[dim]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim

    def dim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.array.size

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.array.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.array.itemsize

    ndimension = dim

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.array.nbytes

    @property
    def dtype(self) -> DType:
        """The number type, such as ``minidl.float32``."""
        return dtype_of(self.array.dtype)

    @property
    def device(self) -> devices.Device:
        """Where the array lives."""
        a = self.array
        return devices.device_of(a) if hasattr(a, "strides") else a.device  # packed storage knows its own

    @property
    def is_cuda(self) -> bool:
        """Whether the array is on a GPU."""
        return self.device.type == "cuda"

    def stride(self, dim: int | None = None) -> Any:
        """Steps between neighbours along each dimension, in elements."""
        steps = [s // self.array.itemsize for s in self.array.strides]
        for d in range(len(steps) - 1, -1, -1):  # NumPy's 0 for a new dimension of size 1 is torch's next step
            if steps[d] == 0 and self.array.shape[d] == 1:
                steps[d] = steps[d + 1] * self.array.shape[d + 1] if d + 1 < len(steps) else 1
        return tuple(steps) if dim is None else steps[dim]

    def is_contiguous(self) -> bool:
        """Whether the elements lie in memory in row-major order without gaps."""
        return bool(self.array.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the dtype is a float."""
        return self.array.dtype.kind == "f"

    def is_complex(self) -> bool:
        """False: no Tensor is."""
        return False

    def is_signed(self) -> bool:
        """Whether the dtype holds numbers below 0."""
        return self.array.dtype.kind in "if"

    def is_nonzero(self) -> bool:
        """Whether the single element is not 0. Raises RuntimeError for more or fewer elements."""
        return bool(self)

    def is_shared(self) -> bool:
        """False: no other process shares the memory."""
        return False

    def get_device(self) -> int:
        """The number of the GPU, -1 on the CPU."""
        return (self.device.index or 0) if self.is_cuda else -1

    def storage_offset(self) -> int:
        """How many elements of the memory's owner come before the first one of this view."""
        a = self.array
        while a.base is not None and hasattr(a.base, "dtype"):
            a = a.base
        first = a.data.ptr if self.is_cuda else a.ctypes.data
        return (self.data_ptr() - first) // self.array.itemsize

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self.array.data.ptr if self.is_cuda else self.array.ctypes.data

    # -- its place in the graph ---------------------------------------------------------------------------------------

    @property
    def node(self) -> Any:
        """The op instance that made this tensor, None for a leaf."""
        view = self._view
        if view is not None and view.stale():
            view.refresh(self)
        return self._node

    @property
    def grad_fn(self) -> Any:
        """torch's name for `node`."""
        return self.node

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor."""
        if self._view is not None:
            return self._requires_grad or self.node is not None
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for gradients (in place). Raises RuntimeError for integer tensors, and when switching off a non-leaf."""
        if requires_grad and self.array.dtype.kind != "f":
            raise RuntimeError(
                f"only floating point tensors can require gradients, this one is {self.dtype}: write 1.0 in place of "
                "1, pass dtype=minidl.float32, or call .float(); class labels and indices need no gradient"
            )
        if not requires_grad and self.node is not None:
            raise RuntimeError(
                "you can only change requires_grad of leaf tensors; use .detach() for a copy without history"
            )
        self._requires_grad = bool(requires_grad)
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user rather than by a recorded op."""
        return self.node is None

    @property
    def output_nr(self) -> int:
        """Which output of its op this tensor is."""
        return self.index

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient, of the same shape and dtype; None before the first backward()."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"grad must be a Tensor or None, not {type(value).__name__}; minidl.tensor(...) makes one"
                )
            if value.shape != self.shape:
                raise RuntimeError(
                    f"grad has shape {tuple(value.shape)}, the tensor has {tuple(self.shape)}: a gradient has the "
                    "shape and dtype of its tensor"
                )
            if value.array.dtype != self.array.dtype:
                raise RuntimeError(f"grad is {value.dtype}, the tensor is {self.dtype}: convert it, grad.to(x.dtype)")
        self._grad = value

    def retain_grad(self) -> None:
        """Keep the gradient of this non-leaf in ``.grad`` during backward()."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on a tensor that has requires_grad=False")
        node = self.node
        if node is not None:
            self._keeps_grad = True
            node.retain(self.index, weakref.ref(self))

    @property
    def retains_grad(self) -> bool:
        """Whether retain_grad() was called."""
        return self._keeps_grad

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> HookHandle:
        """Call ``hook(grad)`` when this tensor's gradient is known; what it returns, if anything, replaces the
        gradient.

        Returns a handle with ``remove()``. Raises RuntimeError if no gradient will ever come.
        """
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        node = self.node
        if node is not None:
            return HookHandle(node.hooks(self.index), hook)
        if self._hooks is None:
            self._hooks = {}
        return HookHandle(self._hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> HookHandle:
        """Call ``hook(self)`` in backward() when ``self.grad`` has been added to: a step may be taken there and then.

        Returns a handle with ``remove()``. Raises RuntimeError unless this is a leaf that requires gradients.
        """
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if not self.is_leaf:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        if self._after_hooks is None:
            self._after_hooks = {}
        return HookHandle(self._after_hooks, hook)

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Add d self / d leaf to ``leaf.grad`` for every leaf that requires gradients.

        Args:
            gradient: d loss / d self, of self's shape; may be left out for a single element.
            retain_graph: keep what the graph saved, for another backward (default: as `create_graph`).
            create_graph: record the backward pass itself, so that gradients can be differentiated again.
            inputs: add to the gradients of these tensors only.
        """
        from minidl.autograd import backward

        backward(self, gradient, retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory without history."""
        out = wrap(self.array)
        out._changes = self.version
        return out

    def detach_(self) -> Tensor:
        """Forget the history, in place."""
        self._node, self._requires_grad, self._view = None, False, None
        return self

    @property
    def data(self) -> Tensor:
        """The same memory without history, and without the check on in-place changes (torch's ``.data``)."""
        return wrap(self.array)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data must be a Tensor, not {type(value).__name__}")
        self.array = value.array

    # -- in-place bookkeeping -----------------------------------------------------------------------------------------

    @property
    def version(self) -> Version:
        """The counter of in-place changes, shared by all views of the memory."""
        v = self._changes
        if v is None:
            v = self._changes = Version()
        return v

    @property
    def _version(self) -> int:
        """How many in-place changes the memory has seen, as torch counts them."""
        return 0 if self._changes is None else self._changes.count

    def bump(self, where: Any = None) -> None:
        """Note that the memory was written in place, so that a stale saved tensor is detected."""
        v = self.version
        v.count += 1
        v.changed_at = where

    # -- leaving the engine -------------------------------------------------------------------------------------------

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The array, shared. Raises RuntimeError while gradients are recorded (use ``.detach()``) or on a GPU.

        With ``force=True`` it is detached and copied to the CPU as needed.
        """
        if self.requires_grad and not force:
            raise RuntimeError(
                "can't call numpy() on a tensor that requires grad; use tensor.detach().numpy(), or compute it under "
                "minidl.no_grad() if it is only to be looked at"
            )
        if self.is_cuda:
            if not force:
                raise TypeError("can't convert a cuda tensor to numpy; use tensor.cpu() first")
            return devices.move(self.array, "cpu")
        return self.array

    def __dlpack__(self, **options: Any) -> Any:
        """The array's DLPack capsule, shared; see minidl.from_dlpack. BufferError while gradients are recorded."""
        if self.requires_grad:
            raise BufferError("can't export a tensor that requires grad; use tensor.detach()")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Device type and number, as the DLPack standard has them."""
        return self.array.__dlpack_device__()

    def item(self) -> Any:
        """The value of a single element as a Python number. Raises RuntimeError for more or fewer elements."""
        if self.array.size != 1:
            raise RuntimeError(
                f"a Tensor with {self.array.size} elements, of shape {tuple(self.shape)}, cannot be converted to a "
                "number: reduce it first (.mean(), .sum()), or use .tolist()"
            )
        return self.array.item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self.array.tolist()

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise RuntimeError(
                f"truth value of a Tensor with {self.array.size} elements, of shape {tuple(self.shape)}, is ambiguous: "
                "use .any() or .all() (for `x is None` ask just that, for `and` of two masks use &)"
            )
        return bool(self.array.item())

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def _number(self) -> Any:
        if self.array.size != 1:
            raise ValueError(f"only one element tensors can be converted to Python scalars, this has {self.array.size}")
        return self.array.item()

    def __index__(self) -> int:
        if self.array.dtype.kind == "f" or self.array.size != 1:
            raise TypeError("only integer tensors of a single element can be used as an index")
        return int(self.array.item())

    def __complex__(self) -> complex:
        return complex(self._number())

    def __len__(self) -> int:
        if self.array.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.array.shape[0]

    def __contains__(self, value: Any) -> bool:
        return bool((self.array == (value.array if isinstance(value, Tensor) else value)).any())

    def __hash__(self) -> int:
        return id(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        a = self.numpy()
        return a if dtype is None and not copy else np.array(a, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from minidl.interop import numpy_ufunc

        return numpy_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from minidl.interop import numpy_function

        return numpy_function(func, args, kwargs)

    def __deepcopy__(self, memo: dict) -> Any:
        from copy import deepcopy

        if self.node is not None:
            raise RuntimeError("only leaf tensors can be deep-copied; detach() this one first")
        out = wrap(self.array.copy(), self._requires_grad, type(self))
        memo[id(self)] = out
        if self._grad is not None:
            out._grad = wrap(self._grad.array.copy())
        for name, value in self._own_attributes().items():
            setattr(out, name, deepcopy(value, memo))
        return out

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.node is not None:
            raise RuntimeError("only leaf tensors can be pickled; detach() this one first")
        return _rebuild, (type(self), self.array, self._requires_grad, self._own_attributes())

    def _own_attributes(self) -> dict[str, Any]:
        """What subclasses and users have set on this tensor."""
        return {name: value for name, value in self.__dict__.items() if name not in _ENGINE}

    # -- to and fro ---------------------------------------------------------------------------------------------------

    def cpu(self) -> Tensor:
        """This tensor on the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Tensor:
        """This tensor on a GPU."""
        return self.to("cuda" if device is None else device)

    def __repr__(self) -> str:
        from minidl.printing import tensor_repr

        return tensor_repr(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.array.ndim == 0 else object.__format__(self, spec)


lay_out(Tensor)


class Shape(tuple):
    """A tensor's shape: a tuple that also counts its elements, like torch.Size."""

    __slots__ = ()

    def numel(self) -> int:
        """The product of the sizes."""
        n = 1
        for s in self:
            n *= s
        return n

    def __getitem__(self, i: Any) -> Any:
        found = tuple.__getitem__(self, i)
        return Shape(found) if type(i) is slice else found

    def __add__(self, other: Any) -> Shape:
        return Shape(tuple.__add__(self, other))

    def __repr__(self) -> str:
        return f"minidl.Size([{', '.join(map(str, self))}])"


class HookHandle:
    """What register_hook returns: ``remove()`` takes the hook away again; also a context manager."""

    _next = 0

    def __init__(self, hooks: dict, hook: Callable) -> None:
        HookHandle._next += 1
        self.id = HookHandle._next
        self._hooks = hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        """Take the hook away. Calling it twice is harmless."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def wrap(array: Any, requires_grad: bool = False, cls: type = Tensor) -> Any:
    """A Tensor on `array` itself: no copy, no conversion. The engine's own constructor."""
    t: Any = object.__new__(cls)
    t.array = array
    if requires_grad:
        t._requires_grad = True
    return t


_ENGINE = {
    "array",
    "index",
    "_requires_grad",
    "_node",
    "_view",
    "_changes",
    "_grad",
    "_hooks",
    "_after_hooks",
    "_keeps_grad",
}


def _rebuild(cls: type, array: Any, requires_grad: bool, extra: dict) -> Tensor:
    t = wrap(array, requires_grad, cls)
    t.__dict__.update(extra)
    return t
