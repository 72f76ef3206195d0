"""What NumPy functions do with a Tensor: run the minidl function of the same meaning, or say which one to call."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import TABLE
from minidl.autograd.later import all_ops
from minidl.tensors import Tensor

# NumPy's name -> minidl's, where they differ
_NAMES = {
    "subtract": "sub", "multiply": "mul", "true_divide": "div", "divide": "div", "negative": "neg", "power": "pow",
    "float_power": "pow", "absolute": "abs", "fabs": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "arctan2": "atan2", "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge", "rint": "round", "floor_divide": "floor_divide", "fmod": "fmod", "remainder": "remainder",
    "concatenate": "cat", "clip": "clamp", "invert": "bitwise_not", "arcsinh": "asinh", "arccosh": "acosh",
    "arctanh": "atanh", "var": "var", "std": "std", "nansum": "sum", "linspace": "linspace",
}  # fmt: skip
# NumPy's functions that are a minidl function of the same arguments, save for `axis` and `keepdims`
_SAME_ARGUMENTS = {
    "sum": "sum", "mean": "mean", "prod": "prod", "amax": "amax", "amin": "amin", "max": "amax", "min": "amin",
    "argmax": "argmax", "argmin": "argmin", "all": "all", "any": "any", "reshape": "reshape", "squeeze": "squeeze",
    "expand_dims": "unsqueeze", "cumsum": "cumsum", "cumprod": "cumprod", "where": "where", "stack": "stack",
    "concatenate": "cat", "concat": "cat", "vstack": "vstack", "hstack": "hstack", "outer": "outer", "trace": "trace",
    "broadcast_to": "broadcast_to", "einsum": "einsum", "tril": "tril", "triu": "triu",
    "ravel": "flatten", "moveaxis": "movedim", "swapaxes": "swapaxes", "zeros_like": "zeros_like",
    "ones_like": "ones_like",
}  # fmt: skip


def _one_of(x: Any, y: Any) -> bool:
    return not (np.ndim(x) and np.ndim(y))


def _transpose(x: Tensor, axes: Any = None) -> Any:
    return x.permute(*(axes if axes is not None else range(x.ndim)[::-1]))


def _dot(x: Any, y: Any) -> Any:
    return x * y if _one_of(x, y) else TABLE["matmul"](x, y) if np.ndim(y) <= 2 else NotImplemented


def _spread(name: str) -> Any:
    def spread(x: Tensor, axis: Any = None, *, ddof: int = 0, keepdims: bool = False) -> Any:
        return TABLE[name](x, axis, None, keepdims, correction=ddof)

    return spread


def _flip(x: Tensor, axis: Any = None) -> Any:
    return TABLE["flip"](x, tuple(range(x.ndim)) if axis is None else axis)


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return TABLE["clamp"](x, min if a_min is None else a_min, max if a_max is None else a_max)


def _round(x: Tensor, decimals: int = 0) -> Any:
    return TABLE["round"](x, decimals=decimals)


# ... and those whose arguments differ
_OTHER_ARGUMENTS = {
    np.transpose: _transpose,
    np.permute_dims: _transpose,
    np.dot: _dot,
    np.var: _spread("var"),
    np.std: _spread("std"),
    np.roll: lambda x, shift, axis=None: TABLE["roll"](x, shift, axis),
    np.flip: _flip,
    np.clip: _clip,
    np.round: _round,
    np.copy: lambda x: TABLE["clone"](x),
}
_QUESTIONS = (
    np.array_equal, np.array_equiv, np.allclose, np.array_repr, np.array_str, np.array2string, np.save,
    np.may_share_memory, np.shares_memory,
)  # fmt: skip


def _table(name: str) -> dict[str, Any]:
    """The table of ops; pages that are read later are read if the name is not among those read."""
    return TABLE if name in TABLE else all_ops()


def numpy_ufunc(ufunc: Any, method: str, inputs: tuple, kwargs: dict) -> Any:
    """Tensor's ``__array_ufunc__``: ``np.exp(t)`` is ``minidl.exp(t)``, gradients included.

    Raises TypeError, naming what to call, for ``out=``, ``where=``, reduce and the like, and unknown functions.
    """
    name = _NAMES.get(ufunc.__name__, ufunc.__name__)
    out = kwargs.get("out")
    if out is not None and method == "__call__" and name in _table(name) and all(type(o) is np.ndarray for o in out):
        raise TypeError(
            f"np.{ufunc.__name__} cannot write a Tensor into a NumPy array: use array[...] = tensor.detach().numpy()"
        )
    if method != "__call__" or name not in _table(name) or kwargs:
        raise TypeError(_advice(ufunc.__name__ + ("" if method == "__call__" else f".{method}"), name))
    return TABLE[name](*inputs)


def numpy_function(func: Any, args: tuple, kwargs: dict) -> Any:
    """Tensor's ``__array_function__``: as numpy_ufunc, for NumPy's other functions."""
    if func is np.shape:
        return tuple(args[0].shape)
    if func is np.ndim:
        return args[0].ndim
    if func is np.size and len(args) == 1:
        return args[0].numel()
    if func in _QUESTIONS:
        return func(*[a.detach().numpy() if isinstance(a, Tensor) else a for a in args], **kwargs)
    name = _SAME_ARGUMENTS.get(func.__name__, "") if getattr(np, func.__name__, None) == func else ""
    meant = name or _NAMES.get(func.__name__, func.__name__)
    try:
        if func in _OTHER_ARGUMENTS:
            found = _OTHER_ARGUMENTS[func](*args, **kwargs)
            if found is not NotImplemented:
                return found
        elif name in _table(name):
            return TABLE[name](*args, **{_KEYWORDS.get(k, k): v for k, v in kwargs.items()})
    except TypeError as error:  # arguments that only NumPy has
        raise TypeError(f"{_advice(func.__name__, meant)} ({error})") from None
    raise TypeError(_advice(func.__name__, meant))


_KEYWORDS = {"axis": "dim", "keepdims": "keepdim"}


def _advice(numpy_name: str, name: str) -> str:
    has = f"minidl.{name}" if name in _table(name) else None
    instead = f"call {has}, which keeps gradients" if has else "minidl has no function of that name"
    leave = "or pass tensor.detach().numpy() to leave the graph"
    return f"np.{numpy_name} does not work on a minidl Tensor: {instead}; {leave}"
