"""What NumPy functions do with a Tensor: run the minidl function of the same meaning, or say which one to call."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import TABLE
from minidl.tensors import Tensor

# NumPy's name -> minidl's, where they differ
_NAMES = {
    "subtract": "sub", "multiply": "mul", "true_divide": "div", "divide": "div", "negative": "neg", "power": "pow",
    "float_power": "pow", "absolute": "abs", "fabs": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "arctan2": "atan2", "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge", "rint": "round", "floor_divide": "floor_divide", "fmod": "fmod", "remainder": "remainder",
    "concatenate": "cat", "clip": "clamp", "amax": "amax", "amin": "amin", "round": "round", "absolute_": "abs",
}  # fmt: skip
_SAME_ARGUMENTS = {
    "sum", "mean", "reshape", "matmul", "dot", "squeeze", "cumsum", "cumprod", "where", "stack", "concatenate", "outer",
    "trace", "diagonal", "broadcast_to", "tile", "roll", "flip", "einsum", "tensordot", "tril", "triu", "clip", "ravel",
    "amax", "amin", "prod", "argmax", "argmin", "round", "vstack", "hstack", "moveaxis", "count_nonzero", "zeros_like",
    "ones_like", "isclose", "diag", "swapaxes",
}  # fmt: skip


def numpy_ufunc(ufunc: Any, method: str, inputs: tuple, kwargs: dict) -> Any:
    """Tensor's ``__array_ufunc__``: ``np.exp(t)`` is ``minidl.exp(t)``, gradients included.

    Raises TypeError, naming what to call, for ``out=``, ``where=``, reduce and the like, and unknown functions.
    """
    name = _NAMES.get(ufunc.__name__, ufunc.__name__)
    out = kwargs.get("out")
    if out is not None and method == "__call__" and name in TABLE and all(type(o) is np.ndarray for o in out):
        raise TypeError(
            f"np.{ufunc.__name__} cannot write a Tensor into a NumPy array: use array[...] = tensor.detach().numpy()"
        )
    if method != "__call__" or name not in TABLE or kwargs:
        raise TypeError(_advice(ufunc.__name__ + ("" if method == "__call__" else f".{method}"), name))
    return TABLE[name](*inputs)


def numpy_function(func: Any, args: tuple, kwargs: dict) -> Any:
    """Tensor's ``__array_function__``: as numpy_ufunc, for NumPy's other functions."""
    name = _NAMES.get(func.__name__, func.__name__)
    if func.__name__ in _SAME_ARGUMENTS and name in TABLE:
        return TABLE[name](*args, **kwargs)
    if func is np.shape:
        return tuple(args[0].shape)
    if func is np.ndim:
        return args[0].ndim
    if func is np.size and len(args) == 1:
        return args[0].numel()
    if func is np.transpose:
        axes = args[1] if len(args) > 1 else kwargs.get("axes")
        return args[0].permute(*(axes if axes is not None else range(args[0].ndim)[::-1]))
    if func is np.copy:
        return TABLE["clone"](args[0])
    if func in (np.array_equal, np.allclose, np.array_repr, np.array_str, np.array2string, np.save):
        plain = [a.detach().numpy() if isinstance(a, Tensor) else a for a in args]
        return func(*plain, **kwargs)
    raise TypeError(_advice(func.__name__, name))


def _advice(numpy_name: str, name: str) -> str:
    has = f"minidl.{name}" if name in TABLE else None
    instead = f"call {has}, which keeps gradients" if has else "minidl has no function of that name"
    leave = "or pass tensor.detach().numpy() to leave the graph"
    return f"np.{numpy_name} does not work on a minidl Tensor: {instead}; {leave}"
