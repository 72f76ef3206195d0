"""Reverse-mode differentiation: the contract of an op, how applying one records it, and the walk back.

An op is a class. Calling it runs it: ``mul(a, b)``. On plain arrays it only computes. On Tensors, if one of them
wants a
gradient, the instance that computed the result stays behind as a node of the graph: it holds what ``forward`` saved and
the nodes (or leaf tensors) of its inputs, never its output, so a graph has no cycles and is freed by reference count.

``backward`` of an op is written once, in ops, and works twice. In a plain backward pass it is given arrays, so its ops
only compute. With ``create_graph=True`` it is given Tensors, so its ops are recorded and can be differentiated again.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import devices
from minidl.tensors import HookHandle, Tensor, wrap

ndarray = np.ndarray


class _State(threading.local):
    """What holds for the current thread."""

    grad = True  # are ops recorded?
    scope = ""  # path of the module that is running, set by Module.__call__
    anomaly = False  # look for NaN after every op?


state = _State()


class ShapeError(RuntimeError, ValueError):
    """Inputs of an op do not fit together. RuntimeError as in torch, ValueError as in NumPy."""


# -- an op ------------------------------------------------------------------------------------------------------------


class OpType(type):
    """Makes calling an op class run the op."""

    params: tuple[tuple[str, Any], ...]
    promote: Any
    definition: Any
    variadic: bool
    differentiable: bool
    is_view: bool

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args, kwargs = _bind(cls, args, kwargs)
        inputs: Any = args[0] if cls.variadic else args
        arrays: Any = []
        tensors = record = False
        for a in inputs:
            if isinstance(a, Tensor):
                tensors = True
                arrays.append(a.array)
                if a._requires_grad or (a._view is not None and a.requires_grad):
                    record = True
            else:
                arrays.append(a)
        ctx: Any = object.__new__(cls)  # type: ignore[arg-type]
        if tensors and cls.promote is not None:
            dtype = cls.promote(arrays)
            if dtype is not None:
                inputs, arrays = _cast(inputs, arrays, dtype)
        if record:
            record = cls.differentiable and state.grad
            if record:
                ctx.record(inputs)
        try:
            if cls.variadic:
                y = ctx.forward(arrays, *args[1:], **kwargs)
            else:
                y = ctx.forward(*arrays, **kwargs)
        except Exception as error:
            raise _explain(cls, arrays, args, kwargs, error) from (None if isinstance(error, ShapeError) else error)
        if not tensors:
            return y
        if type(y) is tuple:
            out: Any = tuple([_output(ctx, y_k, k, record) for k, y_k in enumerate(y)])
            if record:
                ctx.outputs = [(t.array.shape, t.array.dtype) for t in out]
        else:
            out = _output(ctx, y, 0, record)
        if record and ctx._saved is not None:
            ctx.pin(inputs, arrays, y, out)
            if cls.definition is not None:
                ctx.call = (inputs, args, kwargs)
        if cls.is_view and type(out) is Tensor:
            _mark_view(cls, args, kwargs, out)
        if state.anomaly:
            _check_forward(ctx, inputs, out)
        return out


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

    params: tuple[tuple[str, Any], ...] = ()  # parameters of forward after ctx: name and default
    promote: Any = None  # arrays -> the dtype they are to be cast to, or None
    variadic = False  # is the first argument a sequence of tensors?
    differentiable = True
    is_view = False  # may the output share memory with the first input?
    shape: Any = None  # the shape rule: shapes of the inputs and the other arguments -> shape of the output
    definition: Any = None  # for fused ops: the same function in the engine's ops, differentiated under create_graph

    # A node of the graph: what one application left behind.
    parents: Sequence[Any] = ()  # for each input: the node that made it, the leaf Tensor itself, or None
    indices: Sequence[int] = ()  # which output of the parent it was
    recording = False
    live = False  # is the running backward itself recorded?
    outputs: list | None = None  # shapes and dtypes, for ops with several outputs
    scope = ""  # module path
    where: tuple | None = None  # source line of the call: code object and line number
    call: tuple | None = None
    _saved: Any = None
    _hooks: dict | None = None
    _retain: dict | None = None

    if TYPE_CHECKING:  # calling the class runs the op, see OpType

        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
            cls.params = tuple(
                (p.name, p.default)
                for p in parameters
                if p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            )

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
        if ctx._saved is None:
            raise RuntimeError(
                f"{ctx}: trying to run backward through the graph a second time, but what it saved was freed after the "
                "first time; call backward(retain_graph=True) the first time"
            )
        for _, _, version, count in ctx._saved:
            if version is not None and version.count != count:
                raise RuntimeError(
                    f"a tensor that {ctx} saved for backward was changed by an in-place operation.\n"
                    f"  saved at   {source_line(ctx.where)}\n  changed at {source_line(version.changed_at)}\n"
                    "Use an out-of-place operation there, or clone() the tensor first."
                )
        if not ctx.live:
            return tuple(s[0] for s in ctx._saved)
        return tuple(ctx._as_tensor(array, source) for array, source, _, _ in ctx._saved)

    def wanted(ctx, *thunks: Callable[[], Any]) -> tuple:
        """Evaluate the gradients that somebody wants; None for the others."""
        return tuple([None if parent is None else f() for f, parent in zip(thunks, ctx.parents, strict=False)])

    @property
    def needs(ctx) -> tuple[bool, ...]:
        """Which inputs want a gradient."""
        return tuple([parent is not None for parent in ctx.parents])

    # -- being a node -------------------------------------------------------------------------------------------------

    def record(ctx, inputs: Sequence[Any]) -> None:
        """Remember where the inputs came from, and where in the program this is."""
        ctx.recording = True
        ctx.scope = state.scope
        ctx.where = caller()
        parents: list[Any] = []
        indices: list[int] = []
        for a in inputs:
            if isinstance(a, Tensor) and (a._requires_grad or (a._view is not None and a.requires_grad)):
                node = a._node if a._view is None else a.node
                parents.append(a if node is None else node)
                indices.append(a.index)
            else:
                parents.append(None)
                indices.append(0)
        ctx.parents, ctx.indices = parents, indices

    def pin(ctx, inputs: Sequence[Any], arrays: Sequence[Any], y: Any, out: Any) -> None:
        """Note for each saved array which input or output it is, and its version."""
        ys, outs = (y, out) if type(out) is tuple else ((y,), (out,))
        pinned: list[tuple] = []
        for s in ctx._saved:
            for i, a in enumerate(arrays):
                if a is s:
                    owner, source = inputs[i], i
                    break
            else:
                for k, t in enumerate(outs):
                    if ys[k] is s:
                        s, owner, source = t.array, t, -1 - k
                        break
                else:
                    if s is not None:
                        raise RuntimeError(
                            f"{ctx}: ctx.save() is for inputs and outputs of the op; keep anything else as an "
                            f"attribute "
                            "(ctx.mask = mask), and compute it again in backward if it must be differentiated"
                        )
                    owner, source = None, 0
            if isinstance(owner, Tensor):
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
        return _handle(array, ctx.parents[source], ctx.indices[source]) if source < len(ctx.parents) else array

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
            ctx._saved = ctx.call = None
            ctx.released = True

    released = False

    @property
    def next_functions(ctx) -> tuple:
        """torch's view of the parents: (node or leaf, output index)."""
        return tuple(zip(ctx.parents, ctx.indices, strict=True))

    def name(ctx) -> str:
        """The op's name."""
        return type(ctx).__name__

    def __repr__(ctx) -> str:
        return f"<{type(ctx).__name__}{f' in {ctx.scope}' if ctx.scope else ''}>"


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


def _bind(cls: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Put keyword arguments, torch's names for the tensors included, where forward's parameters have them."""
    bound = list(args)
    names = [name for name, _ in cls.params]
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
            bound.append(cls.params[len(bound)][1])
        bound[position] = value
    for (name, _), value in zip(cls.params, bound, strict=False):
        if value is inspect.Parameter.empty:
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
    from minidl.ops.movement import cast

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
        from minidl.inplace import View

        out._version = base.version
        out._view = View(base, cls, args[1:], kwargs, out._version.count)
        if y is a:
            out.array = a.view()


# -- where did this come from? ----------------------------------------------------------------------------------------

_INTERNAL = __file__[: -len("autograd.py")]
_USER_CODE = _INTERNAL + "models"


def caller() -> tuple | None:
    """The nearest frame outside the engine: (code object, line number)."""
    f = sys._getframe(2)
    while f is not None:
        name = f.f_code.co_filename
        if not name.startswith(_INTERNAL) or name.startswith(_USER_CODE):
            return f.f_code, f.f_lineno
        f = f.f_back  # type: ignore[assignment]
    return None


def source_line(where: tuple | None) -> str:
    """``file:line: text`` for what caller() returned."""
    if where is None:
        return "an unknown place"
    import linecache

    code, line = where
    text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_name}" + (f":  {text}" if text else "")


def _explain(cls: Any, arrays: Sequence[Any], args: tuple, kwargs: dict, error: Exception) -> Exception:
    """The same error in the user's words: op, shapes and module path, from the op's shape rule where it has one."""
    shapes = [tuple(a.shape) if hasattr(a, "shape") else a for a in arrays]
    if cls.shape is not None and not isinstance(error, (ShapeError, TypeError, NotImplementedError)):
        try:
            cls.shape(shapes, *args[1:], **kwargs) if cls.variadic else cls.shape(*shapes, **kwargs)
        except ShapeError as better:
            error = better
        except Exception:  # the rule itself could not cope: the first error says more
            pass
    place = f" in module {state.scope}" if state.scope else ""
    if isinstance(error, ShapeError):
        return ShapeError(f"{cls.__name__}{place}: {error}") if not getattr(error, "_placed", False) else error
    given = ", ".join(f"{tuple(a.shape)} {a.dtype}" if hasattr(a, "shape") else repr(a) for a in arrays)
    error.add_note(f"while running minidl op {cls.__name__}{place} on {given}")
    return error


def require(condition: bool, message: str, *values: Any) -> None:
    """Raise ShapeError unless `condition` holds; ``{}`` in the message are filled with the values."""
    if not condition:
        raise ShapeError(message.format(*values))


# -- the table --------------------------------------------------------------------------------------------------------

TABLE: dict[str, Any] = {}  # every op and composite function of the engine, by public name


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


def _attach(name: str, f: Any) -> None:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return f(self, *args, **kwargs)

    method.__doc__, method.__name__, method.op = f.__doc__, name, f  # type: ignore[attr-defined]
    setattr(Tensor, name, method)


def _attach_operator(name: str, f: Any) -> None:
    def forward(self: Tensor, other: Any) -> Any:
        return f(self, other) if isinstance(other, _OPERANDS) or _operand(other) else NotImplemented

    def reflected(self: Tensor, other: Any) -> Any:
        return f(other, self) if _operand(other) else NotImplemented

    def in_place(self: Tensor, other: Any) -> Any:
        from minidl.inplace import write

        return write(self, f(self, other)) if _operand(other) else NotImplemented

    forward.op = f  # type: ignore[attr-defined]
    setattr(Tensor, f"__{name}__", forward)
    if name not in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__r{name}__", reflected)
        setattr(Tensor, f"__i{name}__", in_place)


_OPERANDS = (Tensor, ndarray, int, float, bool, np.generic)


def _operand(x: Any) -> bool:
    return isinstance(x, _OPERANDS) or devices.is_cuda_array(x)


# -- switches ---------------------------------------------------------------------------------------------------------


class _Switch:
    """A context manager, and a decorator, that sets one value of the thread's state."""

    name: str
    value: Any

    def __enter__(self) -> Any:
        self._stack().append(getattr(state, self.name))
        setattr(state, self.name, self.value)
        return self

    def __exit__(self, *_: Any) -> None:
        setattr(state, self.name, self._stack().pop())

    def _stack(self) -> list:
        if not hasattr(self, "_before"):
            self._before: list = []
        return self._before

    def __call__(self, function: Callable) -> Callable:
        from functools import wraps

        if inspect.isgeneratorfunction(function):  # switched while it runs, not while its user does

            @wraps(function)
            def steps(*args: Any, **kwargs: Any) -> Any:
                generator = function(*args, **kwargs)
                resume, value = generator.send, None
                try:
                    while True:
                        with self._again():
                            try:
                                item = resume(value)
                            except StopIteration as stop:
                                return stop.value
                        try:
                            resume, value = generator.send, (yield item)
                        except Exception as error:
                            resume, value = generator.throw, error  # type: ignore[assignment]
                finally:
                    generator.close()

            return steps

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return wrapped

    def _again(self) -> _Switch:
        other = object.__new__(type(self))
        other.value = self.value
        return other


class _Set(_Switch):
    """A switch that works when it is made; as a context manager, or as a decorator, it also switches back."""

    _set = False  # made, and not yet entered

    def __init__(self, mode: bool):
        self.value = bool(mode)
        super().__enter__()
        self._set = True

    def __enter__(self) -> Any:
        if not self._set:
            return super().__enter__()
        self._set = False
        return self

    def __call__(self, function: Callable) -> Callable:
        self.__exit__()
        return super().__call__(function)


class no_grad(_Switch):
    """``with no_grad():`` nothing is recorded. Also a decorator."""

    name, value = "grad", False

    def __new__(cls, function: Callable | None = None) -> Any:
        self = object.__new__(cls)
        return self if function is None else self(function)


class enable_grad(no_grad):
    """``with enable_grad():`` record again inside no_grad. Also a decorator."""

    value = True


class set_grad_enabled(_Set):
    """Switch recording on or off: at once, for a block as a context manager, or for a function as a decorator."""

    name = "grad"


inference_mode = no_grad


def is_grad_enabled() -> bool:
    """Whether ops are recorded in this thread."""
    return state.grad


class detect_anomaly(_Switch):
    """``with detect_anomaly():`` the first op, forward or backward, that makes a NaN raises and says where.

    The error names the op, the module path, the source line, the first bad element and the values that led to it.
    """

    name, value = "anomaly", True


class set_detect_anomaly(_Set):
    """Switch anomaly mode on or off, at once or for a block."""

    name = "anomaly"


class AnomalyError(RuntimeError):
    """An op made a NaN while anomaly mode was on."""


def _first_nan(a: Any) -> tuple | None:
    if getattr(a, "dtype", None) is None or a.dtype.kind != "f" or not bool((a != a).any()):
        return None
    flat = int((a != a).argmax())
    return tuple(int(i) for i in np.unravel_index(flat, a.shape))


def _check_forward(ctx: Any, inputs: Sequence[Any], out: Any) -> None:
    for t in out if type(out) is tuple else (out,):
        at = _first_nan(t.array)
        if at is None or any(isinstance(a, Tensor) and _first_nan(a.array) is not None for a in inputs):
            continue  # a NaN that came in is not this op's doing
        where = ctx.where or caller()
        seen = []
        for i, a in enumerate(inputs):
            if isinstance(a, Tensor) and a.array.dtype.kind == "f":
                value = f" = {a.array[at]}" if a.array.shape == t.array.shape else ""
                low, high = (a.array.min(), a.array.max()) if a.array.size else ("-", "-")
                seen.append(f"input {i} {tuple(a.shape)}{value} (range {low} .. {high})")
        raise AnomalyError(
            f"op {type(ctx).__name__}{f' in module {state.scope}' if state.scope else ''} made a NaN at element "
            f"{list(at)} of its output {tuple(t.shape)}.\n  at {source_line(where)}\n  " + "\n  ".join(seen)
        )


def _check_backward(node: Any, grads_out: Sequence[Any], grads_in: Sequence[Any]) -> None:
    for i, g in enumerate(grads_in):
        a = g.array if isinstance(g, Tensor) else g
        at = _first_nan(a) if a is not None else None
        if at is None:
            continue
        if any(_first_nan(d.array if isinstance(d, Tensor) else d) is not None for d in grads_out if d is not None):
            continue
        raise AnomalyError(
            f"backward of op {type(node).__name__}{f' in module {node.scope}' if node.scope else ''} made a NaN at "
            f"element {list(at)} of the gradient of input {i}.\n  the op ran at {source_line(node.where)}"
        )


# -- the walk back ----------------------------------------------------------------------------------------------------


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of the sum of `tensors` to ``.grad`` of the leaves (or of `inputs`). See Tensor.backward."""
    outputs, grads = _roots(tensors, grad_tensors, create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        _walk(outputs, grads, create_graph, retain, None)
        return
    targets = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for t, g in zip(targets, _walk(outputs, grads, create_graph, retain, targets), strict=True):
        if g is not None:
            _add_to_leaf(t, g.array if not create_graph else g, create_graph)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple:
    """The gradients of the sum of `outputs` with respect to `inputs`, as a tuple; ``.grad`` is left alone.

    Args:
        outputs: a Tensor or a sequence of them.
        inputs: a Tensor or a sequence of them; leaves or not.
        grad_outputs: the gradient that arrives at each output; may be left out for single elements.
        retain_graph: keep what the graph saved (default: as `create_graph`).
        create_graph: make the results differentiable themselves.
        allow_unused: give None for an input that the outputs do not depend on, instead of raising RuntimeError.
        materialize_grads: give zeros for those.

    >>> import minidl
    >>> x = minidl.tensor(3.0, requires_grad=True)
    >>> (dx,) = grad(x**3, x, create_graph=True)
    >>> (ddx,) = grad(dx, x)
    >>> dx.item(), ddx.item()
    (27.0, 18.0)
    """
    roots, grads = _roots(outputs, grad_outputs, create_graph)
    targets = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for i, t in enumerate(targets):
        if not t.requires_grad:
            raise RuntimeError(f"grad: input {i} does not require gradients")
    retain = create_graph if retain_graph is None else retain_graph
    results = list(_walk(roots, grads, create_graph, retain, targets))
    for i, g in enumerate(results):
        if g is None and materialize_grads:
            results[i] = wrap(np.zeros_like(targets[i].array))
        elif g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i}, of shape {tuple(targets[i].shape)}, was not used in computing the outputs; pass "
                "allow_unused=True for None instead"
            )
    return tuple(results)


def _roots(outputs: Any, grads: Any, live: bool) -> tuple[list, list]:
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    grads = [None] * len(outputs) if grads is None else [grads] if isinstance(grads, Tensor) else list(grads)
    if len(grads) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(grads)} gradients")
    seeds: list[Any] = []
    for y, g in zip(outputs, grads, strict=True):
        if not y.requires_grad:
            raise RuntimeError(
                "the tensor does not require gradients and has no op that made it: nothing to go back to"
            )
        if g is None:
            if y.array.size != 1:
                raise RuntimeError(
                    f"gradients can be created implicitly only for a single element, this tensor has shape "
                    f"{tuple(y.shape)}: call .sum() or .mean() first, or pass a gradient of that shape"
                )
            seed: Any = np.ones_like(y.array)
        else:
            seed = g.array if isinstance(g, Tensor) else np.asarray(g)
            if seed.shape != y.array.shape:
                raise RuntimeError(f"the gradient has shape {tuple(seed.shape)}, the tensor {tuple(y.shape)}")
            seed = g if live and isinstance(g, Tensor) else seed.astype(y.array.dtype, copy=False)
        seeds.append(wrap(seed) if live and not isinstance(seed, Tensor) else seed)
    return outputs, seeds


def _walk(outputs: list, seeds: list, live: bool, retain: bool, targets: list | None) -> list:
    """Visit every node after all of its consumers, hand each the gradient of its output, pass on what it returns.

    A node's gradient is complete only when all consumers have added to it: hence the topological order, here by
    counting consumers. Returns the gradients of `targets` as Tensors, or adds to the leaves when `targets` is None.
    """
    waiting = _count_consumers([y.node for y in outputs if y.node is not None])
    useful = None if targets is None else _useful(waiting, targets)
    wanted: dict[tuple[int, int], Any] = {}
    if targets is not None:
        for t in targets:
            wanted[_place(t)] = None
    pending: dict[Any, list] = {}
    hooked: dict[Tensor, Any] = {}  # gradients of leaves with hooks
    own: set[tuple[int, int]] = set()  # gradients that this walk allocated and may add to in place

    def deliver(parent: Any, index: int, g: Any) -> None:
        if isinstance(parent, Tensor):
            if parent._hooks:  # they see the whole gradient, at the end
                hooked[parent] = hooked[parent] + g if parent in hooked else g
            elif targets is None:
                _add_to_leaf(parent, g, live)
            elif (id(parent), 0) in wanted:
                have = wanted[id(parent), 0]
                wanted[id(parent), 0] = g if have is None else have + g
            return
        slots = pending.get(parent)
        if slots is None:
            slots = pending[parent] = [None] * (1 if parent.outputs is None else len(parent.outputs))
        have = slots[index]
        if have is None:
            slots[index] = g
        elif live:
            slots[index] = have + g
        elif (id(parent), index) in own:
            have += g
        else:
            slots[index] = np.asarray(have + g) if type(have) is ndarray else have + g
            own.add((id(parent), index))

    before = state.grad
    state.grad = live
    try:
        for y, seed in zip(outputs, seeds, strict=True):
            deliver(y if y.node is None else y.node, y.index, seed)
        ready = [node for node in dict.fromkeys(y.node for y in outputs) if node is not None and not waiting[node]]
        while ready:
            node = ready.pop()
            slots = pending.pop(node, None)
            if slots is not None:
                if node._hooks:
                    for k, hooks in node._hooks.items():
                        if slots[k] is not None:
                            slots[k] = _run_hooks(hooks, slots[k], live)
                if node._retain:
                    for k, ref in node._retain.items():
                        if ref() is not None and slots[k] is not None:
                            _add_to_leaf(ref(), slots[k], live)
                if targets is not None:
                    for k, g in enumerate(slots):
                        if (id(node), k) in wanted:
                            wanted[id(node), k] = g
            if slots is not None and (useful is None or node in useful):
                for parent, index, g in _step(node, slots, live, useful, wanted):
                    deliver(parent, index, g)
                if not retain:
                    node.release()
            for parent in node.parents:
                if isinstance(parent, Op):
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        ready.append(parent)
        for leaf, g in hooked.items():
            g = _run_hooks(leaf._hooks or {}, g, live)
            if targets is None:
                _add_to_leaf(leaf, g, live)
            elif (id(leaf), 0) in wanted:
                wanted[id(leaf), 0] = g
    finally:
        state.grad = before
    if targets is None:
        return []
    found = [wanted[_place(t)] for t in targets]
    return [g if g is None or isinstance(g, Tensor) else wrap(np.asarray(g) if np.isscalar(g) else g) for g in found]


def _count_consumers(roots: Iterable[Any]) -> dict[Any, int]:
    """For each node that can be reached, how many edges lead to it."""
    waiting: dict[Any, int] = {}
    stack = []
    for node in roots:
        if node not in waiting:
            waiting[node] = 0
            stack.append(node)
    while stack:
        for parent in stack.pop().parents:
            if isinstance(parent, Op):
                if parent in waiting:
                    waiting[parent] += 1
                else:
                    waiting[parent] = 1
                    stack.append(parent)
    return waiting


def _place(t: Tensor) -> tuple[int, int]:
    return (id(t), 0) if t.node is None else (id(t.node), t.index)


def _useful(nodes: Iterable[Any], targets: list) -> set:
    """The nodes from which some target can be reached."""
    places = {_place(t) for t in targets}
    consumers: dict[Any, list] = {}
    found = []
    for node in nodes:
        hit = False
        for parent, index in zip(node.parents, node.indices, strict=True):
            if isinstance(parent, Op):
                consumers.setdefault(parent, []).append(node)
            hit = hit or (parent is not None and (id(parent), index if isinstance(parent, Op) else 0) in places)
        if hit:
            found.append(node)
    useful = set(found)
    while found:
        for consumer in consumers.get(found.pop(), ()):
            if consumer not in useful:
                useful.add(consumer)
                found.append(consumer)
    return useful


def _step(node: Any, slots: list, live: bool, useful: set | None, wanted: dict) -> list[tuple[Any, int, Any]]:
    """Run one node's backward; returns (parent, output index, gradient) for each input that wants one."""
    if node.outputs is not None:
        for k, (shape, dtype) in enumerate(node.outputs):
            if slots[k] is None and dtype.kind == "f":
                zeros = np.zeros(shape, dtype)
                slots[k] = wrap(zeros) if live else zeros
    if node.released:
        _ = node.saved  # says that backward ran a second time
    try:
        node.live = live
        if live and node.definition is not None:
            grads = _differentiate_definition(node, slots)
        else:
            grads = node.backward(*slots)
    except RuntimeError as error:
        if "backward" not in str(error):
            error.add_note(f"in backward of {node}, which ran at {source_line(node.where)}")
        raise
    finally:
        node.live = False
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if state.anomaly:
        _check_backward(node, slots, grads)
    edges = []
    for i, (parent, index, g) in enumerate(zip(node.parents, node.indices, grads, strict=False)):
        if parent is None or g is None:
            continue
        if not live:
            if isinstance(g, Tensor):
                g = g.array
            elif isinstance(g, np.generic):
                g = np.asarray(g)
        elif not isinstance(g, Tensor):
            g = wrap(np.asarray(g) if np.isscalar(g) else g)
        if isinstance(parent, Tensor) and tuple(g.shape) != parent.array.shape:
            raise RuntimeError(
                f"backward of {node} gave input {i} a gradient of shape {tuple(g.shape)}, the input has shape "
                f"{tuple(parent.shape)}"
            )
        if (
            useful is not None
            and not (parent in useful if isinstance(parent, Op) else (id(parent), 0) in wanted)
            and (id(parent), index) not in wanted
        ):
            continue
        edges.append((parent, index, g))
    return edges


def _differentiate_definition(node: Any, slots: list) -> list:
    """Gradients of a fused op that can be differentiated again: those of its definition, from stand-ins of its
    inputs."""
    from minidl.ops.movement import alias

    if node.call is None:
        _ = node.saved
    _ = node.saved  # raises on stale or freed inputs
    inputs, args, kwargs = node.call
    stand_ins: list[Any] = [alias(t) if isinstance(t, Tensor) else t for t in inputs]
    if type(node).variadic:
        y = type(node).definition(stand_ins, *args[1:], **kwargs)
    else:
        y = type(node).definition(*stand_ins, **kwargs)
    ys = y if isinstance(y, tuple) else (y,)
    pairs = [(a, g) for a, g in zip(ys, slots, strict=False) if a.requires_grad and g is not None]
    wants = [t for t, need in zip(stand_ins, node.needs, strict=False) if need]
    found = iter(
        grad([a for a, _ in pairs], wants, [g for _, g in pairs], create_graph=True, allow_unused=True)
        if pairs and wants
        else [None] * len(wants)
    )
    return [next(found) if need else None for need in node.needs]


def _run_hooks(hooks: dict, g: Any, live: bool) -> Any:
    for hook in list(hooks.values()):
        t = g if isinstance(g, Tensor) else wrap(g)
        result = hook(t)
        if result is not None:
            if not isinstance(result, Tensor) or result.shape != t.shape:
                got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise RuntimeError(
                    f"a hook on a tensor of shape {tuple(t.shape)} returned {got}: return None or a same-shaped Tensor"
                )
            g = result if live else result.array
    return g


def _add_to_leaf(leaf: Tensor, g: Any, live: bool) -> None:
    """``leaf.grad += g``, with memory of its own: a gradient may be shared with other leaves or be a view."""
    have = leaf._grad
    if live:
        leaf._grad = g if have is None else have + g
        return
    if have is None:
        shared = (
            not isinstance(g, ndarray) or g.base is not None or sys.getrefcount(g) > _FRESH or not g.flags.writeable
        )
        leaf._grad = wrap(g.astype(leaf.array.dtype) if shared or g.dtype != leaf.array.dtype else g)
    elif have.requires_grad:  # came from create_graph: leave that graph alone
        leaf._grad = wrap(have.array + g)
    else:
        have.array += g
        have.bump()


def _fresh_references() -> int:
    """How many references a gradient has inside _add_to_leaf when nobody else holds it."""

    class Probe(Op):
        def forward(ctx, x: Any) -> Any:
            return x + 1

        def backward(ctx, dy: Any) -> Any:
            return dy + 1

    counts = []

    def probe(leaf: Tensor, g: Any, live: bool) -> None:
        counts.append(sys.getrefcount(g))

    global _add_to_leaf
    real, _add_to_leaf = _add_to_leaf, probe
    try:
        backward(Probe(wrap(np.zeros(1), True)))
    finally:
        _add_to_leaf = real
    return counts[0]


_FRESH = _fresh_references()

__all__ = [
    "AnomalyError", "HookHandle", "Op", "ShapeError", "backward", "detect_anomaly", "enable_grad", "grad",
    "inference_mode", "is_grad_enabled", "no_grad", "set_detect_anomaly", "set_grad_enabled",
]  # fmt: skip
