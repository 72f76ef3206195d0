"""What several ops' pages share: dtype rules for their inputs, shape rules, and folding broadcast gradients back."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices, dtypes
from minidl.autograd import Op, ShapeError
from minidl.tensors import Tensor, wrap

ndarray = np.ndarray

# -- dtype rules: arrays -> the dtype to cast all of them to, or None when nothing is to be done -----------------------


def meet(arrays: Sequence[Any]) -> Any:
    """Two operands meet in torch's result type."""
    a, b = arrays[0], arrays[1]
    if type(a) is ndarray and type(b) is ndarray and a.dtype is b.dtype:  # so mostly
        return None
    da, db = getattr(a, "dtype", None), getattr(b, "dtype", None)
    if da is db:
        return None
    known, number = (da, b) if db is None else (db, a)
    if (da is None or db is None) and (known.kind == "f" or (known.kind == "i" and type(number) is int)):  # type: ignore[union-attr]
        if known.kind == "f" or -(limit := 1 << 8 * known.itemsize - 1) <= number < limit:  # type: ignore[union-attr]
            return None  # NumPy's own rule for Python numbers is torch's, but that a number out of range wraps around
    return dtypes.result_type(*arrays[:2])


def meet_float(arrays: Sequence[Any]) -> Any:
    """As `meet`, integers becoming the default float type."""
    a, b = arrays[0], arrays[1]
    da, db = getattr(a, "dtype", None), getattr(b, "dtype", None)
    if da is db or db is None or da is None:
        known = da if da is not None else db
        if known.kind == "f":  # type: ignore[union-attr]
            return None
    found = dtypes.result_type(*arrays[:2])
    return found if found.kind == "f" else dtypes.default()


def to_float(arrays: Sequence[Any]) -> Any:
    """Integers become the default float type."""
    return None if arrays[0].dtype.kind == "f" else dtypes.default()


def of_tensors(rule: Any, name: str) -> Any:
    """The same rule for ops that take no Python numbers: TypeError for one."""

    def promote(arrays: Sequence[Any]) -> Any:
        need_arrays(name, *arrays[:2])
        return None if rule is None else rule(arrays)

    return promote


def need_arrays(name: str, a: Any, b: Any) -> None:
    """Raise TypeError if one of two operands is a Python number."""
    for x in (a, b):
        if not hasattr(x, "dtype"):
            raise TypeError(f"{name}(): both arguments must be Tensors, not {type(x).__name__}")


def number_for(value: Any, dtype: Any) -> Any:
    """A Python number as elements of `dtype` are given it: rounded towards 0 for integers, true or false for bool.

    Negative integers wrap around in unsigned types, as in torch. Raises RuntimeError for what does not fit.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return builtins.bool(value)
    if dtype.kind == "f":
        number = float(value)
        fits = not math.isfinite(number) or abs(number) <= np.finfo(dtype).max
    else:
        limits, fits = np.iinfo(dtype), math.isfinite(value)
        number = int(value) if fits else 0
        low = -limits.max if dtype.kind == "u" and not isinstance(value, float) else limits.min
        fits = fits and low <= number <= limits.max
        if number < 0 and dtype.kind == "u":
            number += limits.max + 1
    if not fits:
        raise RuntimeError(f"value {value!r} cannot be converted to {dtype} without overflow")
    return number


# -- shape rules -------------------------------------------------------------------------------------------------------


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The common shape of shapes aligned at the right, where 1 stretches. Raises ShapeError naming the two that
    differ."""
    out: list[int] = []
    for shape in shapes:
        shape = tuple(shape) if isinstance(shape, tuple | list) else ()
        while len(out) < len(shape):
            out.insert(0, 1)
        for k in range(1, len(shape) + 1):
            have, new = out[-k], shape[-k]
            if have == new or new == 1:
                continue
            if have != 1:
                raise ShapeError(
                    f"shapes {' and '.join(str(tuple(s)) for s in shapes if isinstance(s, tuple | list))} do not "
                    f"broadcast: "
                    f"sizes {have} and {new} meet at dimension {len(out) - k} (counted in the result); they must be "
                    f"equal "
                    "or 1. A missing unsqueeze() or a transposed operand is the usual cause"
                )
            out[-k] = new
    return tuple(out)


class DimError(IndexError):
    """A dimension number outside the tensor's range (IndexError, as in torch)."""


class IndexRangeError(IndexError, RuntimeError):
    """An index outside its dimension: IndexError as in NumPy, RuntimeError as in torch."""


def one_dim(dim: int, ndim: int) -> int:
    """A dimension number counted from the front. Raises DimError if out of range."""
    limit = builtins.max(ndim, 1)
    if not -limit <= dim < limit:
        raise DimError(f"Dimension out of range (expected to be in range of [{-limit}, {limit - 1}], but got {dim})")
    return dim % limit


def many_dims(dim: Any, ndim: int) -> tuple[int, ...]:
    """Dimension numbers counted from the front: None or () means all. Raises DimError; RuntimeError for one named
    twice."""
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return tuple(range(ndim))
    if isinstance(dim, tuple | list):
        dims = tuple(one_dim(int(d), ndim) for d in dim)
        if len(set(dims)) != len(dims):
            raise RuntimeError(f"dim {dims[0]} appears multiple times in the list of dims")
    else:
        dims = (one_dim(int(dim), ndim),)
    return dims if ndim else ()


def float_dtype(x: Any) -> Any:
    """The dtype of a float array, float64 for one of integers: what NumPy's functions of a float give."""
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape; () for a Python number."""
    return getattr(x, "shape", ())


def pair(value: Any, name: str = "argument") -> tuple[int, int]:
    """(height, width) from an int or a pair of ints."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int is type(value[1]):
        return value
    if isinstance(value, tuple | list):
        if len(value) == 1:
            return int(value[0]), int(value[0])
        if len(value) != 2:
            raise ShapeError(f"{name} must be an int or a pair of ints, not {value!r}")
        return int(value[0]), int(value[1])
    return int(value), int(value)


def prod(sizes: Sequence[int]) -> int:
    """The product of sizes."""
    return math.prod(sizes)


def row_major(a: Any) -> Any:
    """The array without gaps, as torch's results of other than elementwise ops are: a program may view them."""
    return a if a.flags.c_contiguous else devices.contiguous(a)


_MANY = 1 << 15  # elements from which columns and channels are summed by products with ones


def total(x: Any, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The sum of an array over `dims`; float16 is added up in float32, as torch does.

    NumPy's ufunc itself: x.sum() passes through NumPy's Python code, which then is where an overflow seems to come
    from, out of reach of minidl's filter of RuntimeWarnings.
    """
    add: Any = np.add
    if type(x) is not np.ndarray:
        return row_major(x.sum(axis=dims, keepdims=keepdim, dtype=dtype))
    if x.size >= _MANY and x.dtype.char in "fd" and dtype in (None, x.dtype):
        if dims in (0, (0,)) and x.ndim == 2:
            y = kernels.matmul(_row_of_ones(len(x), x.dtype.char), x)  # on all threads
            return y if keepdim else y[0]
        if x.ndim > 2 and dims == (0, *range(2, x.ndim)) and x.flags.c_contiguous:  # all but the channels
            n, c = x.shape[:2]
            size = x.size // (n * c)
            planes = kernels.matmul(x.reshape(n * c, size), _row_of_ones(size, x.dtype.char).T)
            y = add.reduce(planes.reshape(n, c), 0)
            return y.reshape(1, c, *(1,) * (x.ndim - 2)) if keepdim else y
    if dtype is None and x.dtype == np.float16:
        return add.reduce(x, axis=dims, keepdims=keepdim, dtype=np.float32).astype(np.float16)
    return row_major(add.reduce(x, axis=dims, keepdims=keepdim, dtype=dtype))


def _row_of_ones(n: int, char: str) -> Any:
    return (_ones if n <= _MANY else _ones.__wrapped__)(n, char)


@functools.lru_cache(maxsize=8)
def _ones(n: int, char: str) -> Any:
    return np.ones((1, n), char)


def widened(kernel: Any, *args: Any) -> Any:
    """A kernel's result; float16 arrays, which kernels do not take, are computed in float32 and rounded at the end."""
    if getattr(args[0], "dtype", None) != np.float16:
        return kernel(*args)
    wide = [a.astype(np.float32) if getattr(a, "dtype", None) == np.float16 else a for a in args]
    y = kernel(*wide)
    if isinstance(y, tuple):
        return tuple(a.astype(np.float16) for a in y)
    return y.astype(np.float16)


LARGE = 1 << 12  # elements, from which on one compiled pass saves more over NumPy's several than calling it costs
_COMPILED = (np.dtype(np.float32), np.dtype(np.float64))


def compiled(x: Any, *others: Any, least: int = LARGE) -> bool:
    """Whether a compiled kernel is the faster way: NumPy arrays of one dtype, float32 or float64, x with at least
    `least` elements. None counts for nothing; Tensors, which a backward under create_graph gets, are left to the ops.
    On a GPU one kernel is faster than several at any size.
    """
    kind = type(x)
    if kind is not np.ndarray and not devices.is_cuda_array(x):
        return False
    if x.dtype not in _COMPILED or (kind is np.ndarray and x.size < least):
        return False
    return all(a is None or (type(a) is kind and a.dtype == x.dtype) for a in others)


# -- folding a gradient back -------------------------------------------------------------------------------------------


def unbroadcast(dy: Any, shape: Sequence[int] | None) -> Any:
    """Sum dy over the dimensions along which an input of `shape` was stretched (None: it was not)."""
    if shape is None or tuple(dy.shape) == tuple(shape):
        return dy
    from minidl.ops.reduce import sum
    from minidl.ops.shapes import reshape

    lead = len(dy.shape) - len(shape)
    dims = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and dy.shape[lead + i] != 1)
    if dims:
        dy = sum(dy, dims, True)
    return reshape(dy, tuple(shape)) if lead else dy


def zeros_like_array(dy: Any) -> Any:
    """The gradient 0 in dy's shape, whatever dy is: 0 times an infinite dy would be NaN."""
    return wrap(np.zeros_like(dy.array)) if isinstance(dy, Tensor) else np.zeros_like(dy)


def put_back(y: Any, dims: Sequence[int], keepdim: bool) -> Any:
    """Give a reduced array its reduced dimensions again, with size 1."""
    if keepdim or not dims:
        return y
    from minidl.ops.shapes import reshape

    shape = list(y.shape)
    for d in sorted(dims):
        shape.insert(d, 1)
    return reshape(y, tuple(shape))


# -- kinds of op -------------------------------------------------------------------------------------------------------


class Elementwise(Op):
    """y[i] = f(x[i]); integers become floats first."""

    promote: Any = staticmethod(to_float)

    def shape(x: Any) -> Any:  # type: ignore[override]
        return x


class Binary(Op):
    """y[i] = f(a[i], b[i]), shapes broadcast, dtypes meet."""

    promote: Any = staticmethod(meet)
    a_shape: Any = None  # None: that of the result
    b_shape: Any = None

    def shape(a: Any, b: Any, **_: Any) -> Any:  # type: ignore[override]
        return broadcast(a, b)

    def sizes(ctx, a: Any, b: Any) -> None:
        """Remember the shapes to which gradients fold back, if they do."""
        if type(a) is ndarray and type(b) is ndarray and a.shape == b.shape:
            return
        ctx.a_shape, ctx.b_shape = shape_of(a), shape_of(b)


def accumulated(ufunc: Any, x: Any, axis: int) -> Any:
    """ufunc.accumulate(x, axis) for an associative ufunc. CuPy has no accumulate: there in about log2 n steps, each
    joining what is twice as far away (Hillis & Steele 1986).
    """
    if not devices.is_cuda_array(x):
        return row_major(ufunc.accumulate(x, axis=axis))
    xp, n, step = devices.array_module(x), x.shape[axis], 1
    y = xp.moveaxis(x, axis, 0)
    while step < n:
        y = xp.concatenate([y[:step], ufunc(y[step:], y[:-step])])
        step *= 2
    return row_major(xp.moveaxis(y, 0, axis))


def join_at(ufunc: Any, y: Any, at: tuple, values: Any) -> None:
    """ufunc.at(y, at, values): y[at] = ufunc(y[at], values), one after the other where a place comes again. On a GPU,
    whose atomics would do so in an order of chance, or not at all: in rounds, the first value of each place, the second
    ...; `at` has an array for every axis of y.
    """
    if not devices.is_cuda_array(y):
        ufunc.at(y, at, values)
        return
    xp = devices.array_module(y)
    at = tuple(xp.broadcast_arrays(*(xp.asarray(i) for i in at)))
    place: Any = 0
    for i, n in zip(at, y.shape):
        place = place * n + xp.where(i < 0, i + n, i)
    place, values = place.reshape(-1), xp.broadcast_to(xp.asarray(values), at[0].shape).reshape(-1)
    count = place.size
    if not count:
        return
    order = xp.argsort(place * count + xp.arange(count))
    place, values = place[order], values[order]
    turn = xp.arange(count) - xp.searchsorted(place, place)
    flat = y.reshape(-1)
    for k in range(int(turn.max()) + 1):  # the host waits here: how often is a place named?
        mine = xp.flatnonzero(turn == k)
        flat[place[mine]] = ufunc(flat[place[mine]], values[mine]).astype(y.dtype, copy=False)
    y[...] = flat.reshape(y.shape)
