"""The contract of an op, and how applying one records it.

An op is a class. Calling it runs it: ``mul(a, b)``. On plain arrays it only computes. On Tensors, if one of them wants
a gradient, the instance that computed the result stays behind as a node of the graph: it holds what ``forward`` saved
and the nodes (or leaf tensors) of its inputs, never its output, so a graph has no cycles and is freed by reference
count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import devices
from minidl.autograd import blame
from minidl.autograd.later import TABLE
from minidl.autograd.modes import state
from minidl.autograd.out import TAKING, written
from minidl.autograd.source import caller, source_line
from minidl.autograd.views import View
from minidl.tensors import Tensor, lay_out, wrap

ndarray = np.ndarray
new: Any = object.__new__


class ShapeError(RuntimeError, ValueError):
    """Inputs of an op do not fit together. RuntimeError as in torch, ValueError as in NumPy."""


class OpType(type):
    """Makes calling an op class run the op."""

    traits: tuple[bool, Any, bool, bool]
    definition: Any

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        variadic, promote, differentiable, is_view = cls.traits
        if devices.several:
            try:
                gpu = devices.away(args)
            except RuntimeError as error:
                given = [getattr(a, "array", a) for a in (args[0] if variadic else args)]
                raise explain(cls, given, args, kwargs, error) from None
            if gpu is not None:
                with gpu:
                    return cls(*args, **kwargs)
        if kwargs:
            if "out" in kwargs and cls in TAKING:
                return written(cls, args, kwargs)
            args, kwargs = _bind(cls, args, kwargs)
        inputs: Any = args[0] if variadic else args
        arrays: Any = []
        places: Any = []  # of the inputs in the graph, None where no gradient is wanted
        tensors = record = later = False
        for a in inputs:
            if isinstance(a, Tensor):
                tensors = True
                arrays.append(a.array)
                if a._requires_grad or a._view is not None:
                    node = a._node if a._view is None else a.node  # a view of changed memory finds its node anew
                    if node is not None:
                        places.append(node)
                        record = True
                        if a.index:
                            later = True
                    elif a._requires_grad:
                        places.append(a)
                        record = True
                    else:
                        places.append(None)
                else:
                    places.append(None)
            else:
                arrays.append(a)
                places.append(None)
        if promote is not None and tensors:
            dtype = promote(arrays)
            if dtype is not None:
                inputs, arrays = _cast(inputs, arrays, dtype)
                places = [place(a) for a in inputs]
        ctx: Any = new(cls)
        mode = state.__dict__  # one look-up of what holds in this thread, rather than three
        if record:
            record = differentiable and mode["grad"]
            if record:
                ctx.recording = True
                ctx.parents = places
                if later:
                    ctx.indices = [0 if p is None else a.index for p, a in zip(places, inputs, strict=True)]
                ctx.where = caller(2)  # above this call
                if mode["scope"]:
                    ctx.scope = mode["scope"]
        try:
            if kwargs or variadic:
                y = ctx.forward(*((arrays, *args[1:]) if variadic else arrays), **kwargs)
            elif len(arrays) == 1:  # Python calls a function of so many arguments faster than one of *arguments
                y = ctx.forward(arrays[0])
            elif len(arrays) == 2:
                y = ctx.forward(arrays[0], arrays[1])
            else:
                y = ctx.forward(*arrays)
        except Exception as error:
            raise explain(cls, arrays, args, kwargs, error) from (None if isinstance(error, ShapeError) else error)
        if not tensors:
            return y
        out: Any
        if type(y) is ndarray:
            out = new(Tensor)
            out.array = y
            if record and y.dtype.kind == "f":
                out._requires_grad = True
                out._node = ctx
        elif type(y) is tuple:
            out = tuple([_output(ctx, y_k, k, record) for k, y_k in enumerate(y)])
            if record:
                ctx.outputs = [(t.array.shape, t.array.dtype) for t in out]
        else:
            out = _output(ctx, y, 0, record)
        if record and ctx._saved is not None:
            ctx.pin(inputs, arrays, y, out)
            if cls.definition is not None:
                ctx.call = (inputs, args, kwargs)
        if is_view and type(out) is Tensor:
            _mark_view(cls, args, kwargs, out)
        for watcher in mode["watch"]:
            watcher.ran(ctx, inputs, args, kwargs, out)
        return out


def place(a: Any) -> Any:
    """Where an input came from: the node that made it; the Tensor itself if it is a leaf that wants a gradient; or
    None."""
    if not isinstance(a, Tensor):
        return None
    node = a.node
    return a if node is None and a._requires_grad else node


class Op(metaclass=OpType):
    """Base of every op, the engine's own and yours.

    A subclass defines ``forward(ctx, x, ...)`` on arrays and ``backward(ctx, dy)``, which returns one gradient for each
    array input (None where there is none). What backward needs of the inputs and outputs goes through ``ctx.save(...)``
    and comes back as ``ctx.saved``; anything else (sizes, masks, indices) is a plain attribute of ``ctx``.

    >>> import minidl
    >>> class cube(minidl.Op):
    ...     def forward(ctx, x):
    ...         ctx.save(x)
    ...         return x * x * x
    ...     def backward(ctx, dy):
    ...         (x,) = ctx.saved
    ...         return dy * 3 * x * x
    >>> x = minidl.tensor(2.0, requires_grad=True)
    >>> cube(x).backward()
    >>> x.grad
    tensor(12.)
    """

    traits: tuple = (False, None, True, False)  # variadic, promote, differentiable, is_view: what every call asks for
    promote: Any = None  # arrays -> the dtype they are to be cast to, or None
    variadic = False  # is the first argument a sequence of tensors?
    differentiable = True
    is_view = False  # may the output share memory with the first input?
    shape: Any = None  # the shape rule: shapes of the inputs and the other arguments -> shape of the output
    stands_in = ""  # what backward gives on purpose, where that is not the derivative
    within: Any = None  # of the directions in which an input may move the part that counts, for symmetric matrices
    definition: Any = None  # for fused ops: the same function in the engine's ops, differentiated under create_graph

    # A node of the graph: what one application left behind.
    parents: Sequence[Any] = ()  # for each input: the node that made it, the leaf Tensor itself, or None
    indices: Sequence[int] | None = None  # which output of the parent it was; None: of every parent the first
    recording: bool = False
    live: bool = False  # is the running backward itself recorded?
    outputs: list | None = None  # shapes and dtypes, for ops with several outputs
    scope: str = ""  # module path
    where: tuple | None = None  # source line of the call: code object and line number
    call: tuple | None = None
    released: bool = False  # has backward() dropped what was saved?
    work: Any = None  # arrays that only forward and backward know: dropped together with what was saved
    join: Any = None  # of an op that reads a part of its input: join([(ctx, dy), ...]) -> dx of all the parts
    _saved: Any = None
    _hooks: dict | None = None
    _retain: dict | None = None

    if TYPE_CHECKING:  # calling the class runs the op, see OpType

        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.traits = (cls.variadic, cls.promote, cls.differentiable, cls.is_view)
        lay_out(cls)

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """torch.autograd.Function's spelling of calling the op."""
        return cls(*args, **kwargs)

    def forward(ctx, *args: Any, **kwargs: Any) -> Any:
        """Arrays in, a fresh array (or a tuple of them) out."""
        raise NotImplementedError(f"{type(ctx).__name__} defines no forward")

    def backward(ctx, *dy: Any) -> Any:
        """The gradient of each input, given that of each output."""
        raise NotImplementedError(f"{type(ctx).__name__} defines no backward, so it cannot be differentiated")

    # -- what forward and backward may call ---------------------------------------------------------------------------

    def save(ctx, *arrays: Any) -> None:
        """Keep inputs and outputs for backward. Does nothing when nobody records."""
        if ctx.recording:
            ctx._saved = arrays

    @property
    def saved(ctx) -> tuple:
        """What was saved: arrays in a plain backward, the very input and output Tensors under create_graph.

        Raises RuntimeError when one was changed in place since, or when a first backward has freed them.
        """
        saved = ctx._saved
        if saved is None:
            raise RuntimeError(
                f"{ctx}: trying to run backward through the graph a second time, but what it saved was freed after the "
                "first time; call backward(retain_graph=True) the first time. If that was not meant: something of an "
                "earlier step, a hidden state or a running loss, is still part of the graph; detach() it between steps"
            )
        for array, _, version, count in saved:
            if version is not None and version.count != count:
                raise RuntimeError(
                    f"a tensor {blame.given(array)} that {ctx} saved for backward was changed by an in-place "
                    "operation.\n"
                    f"  saved at   {source_line(ctx.where)}\n  changed at {source_line(version.changed_at)}\n"
                    "Use an out-of-place operation there, or clone() the tensor first."
                )
        if not ctx.live:
            return tuple([s[0] for s in saved])
        return tuple([ctx._as_tensor(array, source) for array, source, _, _ in saved])

    def wanted(ctx, *thunks: Callable[[], Any]) -> tuple:
        """Evaluate the gradients that somebody wants; None for the others."""
        return tuple([None if parent is None else f() for f, parent in zip(thunks, ctx.parents, strict=False)])

    @property
    def needs(ctx) -> tuple[bool, ...]:
        """Which inputs want a gradient."""
        return tuple([parent is not None for parent in ctx.parents])

    # -- being a node -------------------------------------------------------------------------------------------------

    def pin(ctx, inputs: Sequence[Any], arrays: Sequence[Any], y: Any, out: Any) -> None:
        """Note for each saved array which input or output it is, and its version."""
        pinned: list[tuple] = []
        for s in ctx._saved:
            if s is None:
                owner, source = None, 0
            elif s is y:
                owner, source, s = out, -1, out.array
            else:
                for i, a in enumerate(arrays):
                    if a is s:
                        owner, source = inputs[i], i
                        break
                else:
                    owner, source, s = _among_outputs(ctx, s, y, out)
            if isinstance(owner, Tensor):
                version = owner._changes
                if version is None:
                    version = owner.version
                pinned.append((s, source, version, version.count))
            else:
                pinned.append((s, source, None, 0))
        ctx._saved = pinned

    def _as_tensor(ctx, array: Any, source: int) -> Any:
        if array is None:
            return None
        if source < 0:
            t = wrap(array, array.dtype.kind == "f")
            t._node, t.index = ctx, -1 - source
            return t
        if source >= len(ctx.parents):
            return array
        return _handle(array, ctx.parents[source], ctx.indices[source] if ctx.indices else 0)

    def hooks(ctx, index: int) -> dict:
        """The hooks on output `index`."""
        if ctx._hooks is None:
            ctx._hooks = {}
        return ctx._hooks.setdefault(index, {})

    def retain(ctx, index: int, tensor: Any) -> None:
        """Keep the gradient of output `index` in ``tensor().grad``; `tensor` is a weak reference."""
        if ctx._retain is None:
            ctx._retain = {}
        ctx._retain[index] = tensor

    def release(ctx) -> None:
        """Drop what was saved."""
        if ctx._saved is not None:
            ctx._saved = ctx.call = ctx.work = None
            ctx.released = True

    def again(ctx, *args: Any, **kwargs: Any) -> Any:
        """What forward computed, for other values of the inputs. Ops that draw or write override it."""
        return type(ctx)(*args, **kwargs)

    @property
    def next_functions(ctx) -> tuple:
        """torch's view of the parents: (node or leaf, output index)."""
        return tuple(zip(ctx.parents, ctx.indices or [0] * len(ctx.parents), strict=True))

    def name(ctx) -> str:
        """The op's name."""
        return type(ctx).__name__

    def __repr__(ctx) -> str:
        return f"<{type(ctx).__name__}{f' in {ctx.scope}' if ctx.scope else ''}>"


def _among_outputs(ctx: Any, s: Any, y: Any, out: Any) -> tuple[Any, int, Any]:
    """Which of an op's several outputs is the saved array `s`: the Tensor, the number of it and its array."""
    if type(out) is tuple:
        for k, y_k in enumerate(y):
            if y_k is s:
                return out[k], -1 - k, out[k].array
    raise RuntimeError(
        f"{ctx}: ctx.save() is for inputs and outputs of the op; keep anything else as an attribute "
        "(ctx.mask = mask), and compute it again in backward if it must be differentiated"
    )


def _handle(array: Any, parent: Any, index: int) -> Any:
    """The Tensor that stood at one input of a node: the leaf itself, or a new handle on the same place in the graph."""
    if parent is None:
        return wrap(array) if hasattr(array, "dtype") else array
    if isinstance(parent, Tensor):
        return parent
    t = wrap(array, True)
    t._node, t.index = parent, index
    return t


def _output(ctx: Any, y: Any, k: int, record: bool) -> Tensor:
    if type(y) is not ndarray and isinstance(y, (np.generic, int, float)):
        y = np.asarray(y)
    t: Tensor = object.__new__(Tensor)
    t.array = y
    if record and y.dtype.kind == "f":
        t._requires_grad = True
        t._node = ctx
        if k:
            t.index = k
    return t


@functools.cache
def parameters(cls: Any) -> tuple[tuple[str, Any], ...]:
    """The parameters of forward after ctx, keyword-only ones left out: name and default."""
    from inspect import Parameter, signature

    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    found = list(signature(cls.forward).parameters.values())[1:]
    return tuple((p.name, _REQUIRED if p.default is p.empty else p.default) for p in found if p.kind in positional)


_REQUIRED: Any = object()


def _bind(cls: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Put keyword arguments, torch's names for the tensors included, where forward's parameters have them."""
    bound = list(args)
    names = [name for name, _ in parameters(cls)]
    for keyword in list(kwargs):
        position = None
        if keyword in names:
            position = names.index(keyword)
        elif keyword in _TORCH_NAMES:
            for name in _TORCH_NAMES[keyword]:
                if name in names:
                    position = names.index(name)
                    break
        if position is None:
            continue
        value = kwargs.pop(keyword)
        if position < len(args):
            raise TypeError(f"{cls.__name__}() got multiple values for argument '{keyword}'")
        while len(bound) <= position:
            bound.append(parameters(cls)[len(bound)][1])
        bound[position] = value
    for (name, _), value in zip(parameters(cls), bound, strict=False):
        if value is _REQUIRED:
            raise TypeError(f"{cls.__name__}() missing argument '{name}'")
    return tuple(bound), kwargs


_TORCH_NAMES = {
    "input": ("x", "a", "q", "condition"), "self": ("x", "a"), "other": ("b", "y", "x2"), "weight": ("w",),
    "bias": ("b",), "target": ("y", "t"), "query": ("q",), "key": ("k",), "value": ("v",), "axis": ("dim",),
    "keepdims": ("keepdim",), "mat2": ("b",), "exponent": ("b",), "tensors": ("xs",), "attn_mask": ("mask",),
    "is_causal": ("causal",), "mat1": ("a",), "src": ("b",),
}  # fmt: skip


def _cast(inputs: Sequence[Any], arrays: list, dtype: Any) -> tuple[list, list]:
    """Bring every input to `dtype`; a Tensor's cast is itself recorded."""
    cast = TABLE["cast"]
    inputs, arrays = list(inputs), list(arrays)
    for i, a in enumerate(arrays):
        if isinstance(inputs[i], Tensor):
            if a.dtype != dtype:
                inputs[i] = cast(inputs[i], dtype)
                arrays[i] = inputs[i].array
        elif isinstance(a, (bool, int, float, np.generic)) or type(a) is ndarray:
            arrays[i] = inputs[i] = np.asarray(a).astype(dtype)
    return inputs, arrays


def _mark_view(cls: Any, args: tuple, kwargs: dict, out: Tensor) -> None:
    """If the output shares memory with its first input, tie the two together for in-place changes."""
    base = args[0]
    if not isinstance(base, Tensor):
        return
    a, y = base.array, out.array
    if y is a or (y.base is not None and (y.base is a or y.base is a.base)):
        out._changes = base.version
        out._view = View(base, cls, args[1:], kwargs, out._changes.count)
        if y is a:
            out.array = a.view()


# -- errors in the user's words -------------------------------------------------------------------------------------


def explain(cls: Any, arrays: Sequence[Any], args: tuple, kwargs: dict, error: Exception) -> Exception:
    """The same error in the user's words: op, shapes and module path, from the op's shape rule where it has one."""
    place = f" in module {state.scope}" if state.scope else ""
    if not cls.variadic and arrays and blame.no_tensor(arrays[0]) and parameters(cls)[0][0] in ("x", "a", "q", "input"):
        error = blame.NotATensor(blame.not_a_tensor(f"{cls.__name__}{place}", arrays[0]))
        blame.noted(error, args, state.scope)
        return error
    apart = devices.on_two(arrays)
    if apart:
        error = RuntimeError(f"{cls.__name__}{place}: {apart}")
    shapes = [tuple(a.shape) if hasattr(a, "shape") else a for a in arrays]
    if cls.shape is not None and not isinstance(error, (ShapeError, TypeError, NotImplementedError)):
        try:
            cls.shape(shapes, *args[1:], **kwargs) if cls.variadic else cls.shape(*shapes, **kwargs)
        except ShapeError as better:
            error = better
        except Exception:  # the rule itself could not cope: the first error says more
            pass
    if isinstance(error, ShapeError):
        error = ShapeError(f"{cls.__name__}{place}: {error}")
    else:
        given = ", ".join(f"{tuple(a.shape)} {a.dtype}" if hasattr(a, "shape") else repr(a) for a in arrays)
        error.add_note(f"while running minidl op {cls.__name__}{place} on {given}")
    blame.noted(error, args[0] if cls.variadic else args, state.scope)
    return error


def require(condition: bool, message: str, *values: Any) -> None:
    """Raise ShapeError unless `condition` holds; ``{}`` in the message are filled with the values."""
    if not condition:
        raise ShapeError(message.format(*values))
