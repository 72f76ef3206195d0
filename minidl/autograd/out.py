"""out=: the result of a function written into a tensor that the caller brings, under torch's rules.

The result is computed first and copied then: `out` saves no memory here, it says where the numbers are to be.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.autograd.modes import state
from minidl.tensors import Tensor

# What torch gives out= to.
_NAMES = """
    abs acos acosh add addcdiv addcmul addmm addmv all amax amin any argmax argmin argsort asin asinh atan atan2 atanh
    baddbmm bitwise_and bitwise_not bitwise_or bitwise_xor bmm cat ceil cholesky cholesky_solve clamp clamp_max
    clamp_min cos cosh cross cummax cummin cumprod cumsum diag diff div dot eq erf exp exp2 expm1 floor floor_divide
    fmod gather ge gt hstack index_add index_copy index_select inner inverse kthvalue le lerp linalg_norm log log10
    log1p log2 log_softmax logaddexp logcumsumexp logical_and logical_not logical_or logical_xor logsumexp lt
    masked_select matmul matrix_power max maximum mean median min minimum mm msort mul mv nan_to_num nanmean nanmedian
    nanquantile nansum ne neg nonzero norm normalize outer pow prod qr quantile reciprocal remainder round rsqrt
    scatter scatter_add sigmoid sign sin sinh slogdet softmax sort sqrt square stack std sub sum take take_along_dim
    tan tanh tensordot topk tril triu true_divide trunc var vstack where
    addbmm addr aminmax bitwise_left_shift bitwise_right_shift bucketize column_stack copysign deg2rad digamma dstack
    erfc erfinv float_power fmax fmin frac frexp gcd ger heaviside histc histogram hypot index_reduce isin isneginf
    isposinf kron lcm ldexp lgamma logaddexp2 logit mode mvlgamma nextafter polygamma rad2deg renorm row_stack
    scatter_reduce searchsorted i0 igamma igammac sgn signbit sinc slice_scatter vdot xlogy
"""
NAMES = set(_NAMES.split())
# Elementwise functions may write over their very input; these read elements after others are written.
APART = {"bernoulli", "cat", "gather", "index_select", "kthvalue", "masked_select", "multinomial", "take_along_dim"}
# These have one dtype for their result, where others convert.
EXACT = {"amax", "amin", "aminmax", "gather", "index_select", "masked_select", "multinomial", "take_along_dim"}

TAKING: set[Any] = set()  # the op classes whose call looks for out=, and the functions given it


def takes_out(f: Callable) -> Any:
    """Give a function torch's keyword ``out``; for op classes, have their call look for it."""
    if isinstance(f, type):
        TAKING.add(f)
        return f
    if f in TAKING:  # entered under a second name
        return f
    from inspect import Parameter, signature

    @functools.wraps(f)
    def with_out(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        return f(*args, **kwargs) if out is None else written(f, args, {**kwargs, "out": out})

    whole = signature(f)
    parameters = list(whole.parameters.values())
    last = len(parameters) - (bool(parameters) and parameters[-1].kind is Parameter.VAR_KEYWORD)
    parameters.insert(last, Parameter("out", Parameter.KEYWORD_ONLY, default=None))
    with_out.__signature__ = whole.replace(parameters=parameters)  # type: ignore[attr-defined]
    TAKING.add(with_out)
    return with_out


def creates_out(f: Callable) -> Any:
    """The same for functions that make tensors from nothing: their dtype is that of `out` unless given."""
    taking = takes_out(f)

    @functools.wraps(taking)
    def with_out(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            return f(*args, **kwargs)
        if isinstance(out, Tensor):
            if kwargs.get("dtype") not in (None, out.dtype):
                raise RuntimeError(f"{f.__name__}: dtype {kwargs['dtype']} does not match dtype of out ({out.dtype})")
            kwargs["dtype"] = out.dtype
        return taking(*args, out=out, **kwargs)

    return with_out


def written(f: Any, args: tuple, kwargs: dict) -> Any:
    """``f(*args, **kwargs)``, its result in ``kwargs["out"]``: a Tensor, or a tuple of as many as f has results.

    An empty one takes the result's shape; one of another shape does too, with a UserWarning. Raises RuntimeError where
    a gradient is wanted, for a dtype that would lose what kind of number it is (float to integer), and for memory that
    overlaps with itself or, unless element by element, with an input; TypeError for what is no Tensor.
    """
    kwargs = dict(kwargs)
    out, name = kwargs.pop("out"), f.__name__
    if out is None:
        return f(*args, **kwargs)
    several = isinstance(out, (tuple, list))
    outs = list(out) if several else [out]
    for o in outs:
        if not isinstance(o, Tensor):
            raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(o).__name__}")
    inputs = list(_tensors((args, kwargs)))
    if state.grad and any(t.requires_grad for t in (*inputs, *outs)):
        raise RuntimeError(
            f"{name}(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad."
        )
    _check_memory(name, outs, inputs)
    y = f(*args, **kwargs)
    ys = list(y) if isinstance(y, tuple) else [y]
    if len(ys) != len(outs) or several != isinstance(y, tuple):
        raise TypeError(f"{name}(): {len(ys)} results for out= of {len(outs)} tensors")
    for o, v in zip(outs, ys, strict=True):
        _put(name, o, v.array)
    return type(y)(*outs) if hasattr(y, "_fields") else tuple(outs) if several else out


def _tensors(v: Any) -> Iterator[Tensor]:
    if isinstance(v, Tensor):
        yield v
    elif isinstance(v, (tuple, list)):
        for u in v:
            yield from _tensors(u)
    elif isinstance(v, dict):
        yield from _tensors(list(v.values()))


def _place(a: Any) -> tuple:
    """Two arrays at one place are the same elements in the same order."""
    return a.__array_interface__["data"][0], a.shape, a.strides, a.dtype


def _check_memory(name: str, outs: list[Tensor], inputs: list[Tensor]) -> None:
    for k, o in enumerate(outs):
        a = o.array
        if a.size and any(step == 0 and n > 1 for step, n in zip(a.strides, a.shape, strict=True)):
            raise RuntimeError(
                f"{name}(): unsupported operation: more than one element of the written-to tensor refers to a single "
                "memory location. Please clone() the tensor before performing the operation."
            )
        for t in (*inputs, *outs[:k]):
            same = name not in APART and all(t is not o for o in outs[:k]) and _place(t.array) == _place(a)
            if not same and np.may_share_memory(t.array, a) and np.shares_memory(t.array, a):
                raise RuntimeError(
                    f"{name}(): unsupported operation: some elements of the input tensor and the written-to tensor "
                    "refer to a single memory location. Please clone() the tensor before performing the operation."
                )


def _put(name: str, o: Tensor, y: Any) -> None:
    """The array y into o."""
    kind, want = o.array.dtype.kind, y.dtype.kind
    if name in EXACT and o.array.dtype != y.dtype:
        raise RuntimeError(f"{name}(): Expected out tensor to have dtype {y.dtype}, but got {o.dtype} instead")
    if (want == "f" and kind != "f") or (kind == "b" and want != "b"):
        raise RuntimeError(f"{name}(): result type {y.dtype} can't be cast to the desired output type {o.dtype}")
    if o.array.shape != y.shape:
        if o.array.size:
            warnings.warn(
                f"{name}(): An output with one or more elements was resized since it had shape {list(o.array.shape)}, "
                f"which does not match the required output shape {list(y.shape)}. Pass an empty tensor, or one of the "
                "right shape.",
                UserWarning,
                stacklevel=4,
            )
        o.array = y.astype(o.array.dtype)
    else:
        o.array[...] = y
    o.bump()
