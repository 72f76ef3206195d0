"""Tensors from nothing: zeros, arange, random numbers, and from data."""

from __future__ import annotations

import math
from operator import index
from typing import Any

import numpy as np

from minidl import devices, dtypes, random
from minidl.autograd import attach, op
from minidl.autograd.out import creates_out, takes_out
from minidl.ops.common import number_for
from minidl.tensors import Tensor, wrap


def _size(size: tuple) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    shape = tuple(index(n) for n in size)
    if any(n < 0 for n in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension: {list(shape)}")
    return shape


def _finish(array: np.ndarray, device: Any, requires_grad: bool) -> Tensor:
    if device is not None:
        array = devices.move(array, device)
    t = wrap(array)
    return t.requires_grad_() if requires_grad else t


def _float(dtype: Any) -> np.dtype:
    return dtypes.default() if dtype is None else dtypes.as_numpy(dtype)


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor holding a copy of `data`: numbers, nested sequences, arrays or Tensors.

    Python floats become the default float dtype and ints int64; arrays keep their dtype. Raises TypeError for
    dtypes that minidl does not hold and ValueError for ragged sequences.

    >>> tensor([[1, 2], [3, 4]]).shape
    minidl.Size([2, 2])
    """
    if isinstance(data, Tensor):
        array = np.array(data.detach().cpu().array)
    else:
        array = _as_array(data, keep_double=dtype is not None)
    if dtype is not None:
        if not isinstance(data, (Tensor, np.ndarray, np.generic)):
            _fits(array, dtypes.as_numpy(dtype))
        array = array.astype(dtypes.as_numpy(dtype))
    elif array.dtype == np.uint64 and not isinstance(data, (np.ndarray, np.generic)):
        raise ValueError("Overflow when unpacking long long")
    dtypes.dtype_of(array.dtype)
    return _finish(array, device, requires_grad)


def _fits(array: Any, dtype: np.dtype) -> None:
    """Raise RuntimeError for Python numbers that an integer dtype does not hold; a negative one wraps in uint8."""
    if dtype.kind not in "iu" or not array.size or array.dtype.kind == "b":
        return
    limits, low, high = np.iinfo(dtype), array.min(), array.max()
    least = -limits.max if dtype.kind == "u" and array.dtype.kind != "f" else limits.min
    if not (least <= low and high <= limits.max):  # NaN too
        raise RuntimeError(
            f"value cannot be converted to type {dtype} without overflow: from {low} to {high} are given"
        )


def _as_array(data: Any, keep_double: bool = False) -> np.ndarray:
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.array(data)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if devices.is_cuda_array(data):
        return data.copy()
    if isinstance(data, (list, tuple)) and any(isinstance(d, Tensor) for d in data):
        data = [d.detach().cpu().array if isinstance(d, Tensor) else d for d in data]
    holds_arrays = isinstance(data, (list, tuple)) and any(isinstance(d, (np.ndarray, np.generic)) for d in data)
    array = np.array(data)
    if array.dtype == object:
        raise RuntimeError(f"tensor(): no dtype fits {data!r}: numbers and nested sequences of them are wanted")
    if array.dtype == np.float64 and not holds_arrays and not keep_double:
        return array.astype(dtypes.default())
    return array


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor on `data`, sharing its memory where it is an array or Tensor already and nothing has to change."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    if isinstance(data, np.ndarray) and data.dtype.isnative:
        dtypes.dtype_of(data.dtype)
        return wrap(data).to(dtype=dtype, device=device)
    return tensor(data, dtype=dtype, device=device)


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory. Raises TypeError for what is not an array, or a dtype that is not
    held."""
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    dtypes.dtype_of(ndarray.dtype)
    return wrap(ndarray)


def is_tensor(obj: Any, /) -> bool:
    """Whether obj is a Tensor."""
    return isinstance(obj, Tensor)


@creates_out
def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape."""
    return _finish(np.zeros(_size(size), _float(dtype)), device, requires_grad)


@creates_out
def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape."""
    return _finish(np.ones(_size(size), _float(dtype)), device, requires_grad)


@creates_out
def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uninitialised memory of a shape."""
    return _finish(np.empty(_size(size), _float(dtype)), device, requires_grad)


@creates_out
def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """One value everywhere; the dtype is the value's own unless given, the default one for Python floats."""
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    if dtype is None:
        dtype = np.asarray(value).dtype
        dtype = dtypes.default() if isinstance(value, float) else dtype
    size = (size,) if isinstance(size, int) else size
    kind = dtypes.as_numpy(dtype)
    return _finish(np.full(_size(tuple(size)), number_for(value, kind), kind), device, requires_grad)


@creates_out
def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """start, start + step, ... below `end`; int64 for whole numbers, else the default float dtype.

    With an integer `dtype`, start and step are rounded towards 0 before they are used, for int64 also end (as torch).
    Raises RuntimeError for an infinite range, a step of 0 or the wrong sign.
    """
    if end is None:
        start, end = 0, start
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    whole = all(isinstance(v, (int, np.integer)) for v in (start, end, step))
    kind = dtypes.as_numpy(dtype) if dtype is not None else np.dtype(np.int64) if whole else dtypes.default()
    if whole or kind.kind not in "iu":
        return _finish(np.arange(start, end, step).astype(kind), device, requires_grad)
    if kind == np.int64:
        start, end, step = int(start), int(end), int(step)
        if step == 0:
            raise ValueError("step must be nonzero, and is rounded towards 0 for int64")
    count = math.ceil((end - start) / step)
    return _finish((int(start) + int(step) * np.arange(count)).astype(kind), device, requires_grad)


@creates_out
def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers from start to end, both included; the ends may be 0-d Tensors.

    With an integer `dtype` the ends and then the numbers are rounded towards 0. Raises RuntimeError for negative steps.
    """
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    for name, v in (("start", start), ("end", end)):
        if isinstance(v, Tensor) and v.ndim:
            raise RuntimeError(
                f"linspace only supports 0-dimensional start and end tensors, but got {name} with {v.ndim} dimension(s)"
            )
    start, end = (v.item() if isinstance(v, Tensor) else v for v in (start, end))
    kind = _float(dtype)
    if kind.kind not in "iu":
        return _finish(np.linspace(start, end, steps).astype(kind), device, requires_grad)
    start, end = (int(np.asarray(int(v)).astype(kind)) for v in (start, end))
    i = np.arange(steps)
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    values = np.where(i < steps // 2, start + step * i, end - step * (steps - 1 - i)) if steps > 1 else start + step * i
    return _finish(values.astype(np.int64).astype(kind), device, requires_grad)


@creates_out
def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal, zeros elsewhere. Raises RuntimeError for a negative size."""
    if n < 0 or (m or 0) < 0:
        raise RuntimeError(f"n and m must be greater or equal to 0, got {n} and {m}")
    return _finish(np.eye(n, m, dtype=_float(dtype)), device, requires_grad)


def _generator(generator: Any) -> random.Generator:
    return random.default_generator if generator is None else generator


@creates_out
def rand(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform on [0, 1). float16 gets multiples of 2^-11, all that it has there."""
    kind = _float(dtype)
    wide = np.dtype(np.float32) if kind == np.float16 else kind
    values = _generator(generator).uniform(_size(size), dtype=wide)
    if kind == np.float16:
        values = (np.floor(values * 2048) / 2048).astype(kind)
    return _finish(values, device, requires_grad)


@creates_out
def randn(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal."""
    kind = _float(dtype)
    wide = np.dtype(np.float32) if kind == np.float16 else kind
    return _finish(_generator(generator).normal(_size(size), dtype=wide).astype(kind), device, requires_grad)


@creates_out
def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), int64; randint(high, size) starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    values = _generator(generator).integers(low, high, _size((tuple(size),)))
    return _finish(values.astype(np.int64 if dtype is None else dtypes.as_numpy(dtype)), device, requires_grad)


@creates_out
def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
    """A random order of 0 .. n-1, int64."""
    values = _generator(generator).permutation(n)
    return _finish(values.astype(np.int64 if dtype is None else dtypes.as_numpy(dtype)), device, False)


@takes_out
def bernoulli(input: Tensor, *, generator: Any = None) -> Tensor:
    """1 with probability input[i], else 0, in the input's dtype."""
    return wrap(_generator(generator).bernoulli(input.array).astype(input.array.dtype))


_LIKE = """{0}() in the shape, dtype and on the device of another tensor.

    Try: {0}_like(randn(2, 3))
    """


def _like(make: Any) -> Any:
    def like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        kind = input.dtype if dtype is None else dtype
        where = input.device if device is None else device
        return make(tuple(input.shape), dtype=kind, device=where, requires_grad=requires_grad)

    like.__name__ = f"{make.__name__}_like"
    like.__doc__ = _LIKE.format(make.__name__)
    return op()(like)


def _drawn_like(make: Any) -> Any:
    def like(
        input: Any, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
    ) -> Any:
        kind = input.dtype if dtype is None else dtype
        where = input.device if device is None else device
        return make(tuple(input.shape), generator=generator, dtype=kind, device=where, requires_grad=requires_grad)

    like.__name__ = f"{make.__name__}_like"
    like.__doc__ = _LIKE.format(make.__name__)
    return op()(like)


zeros_like, ones_like, empty_like = _like(zeros), _like(ones), _like(empty)
rand_like, randn_like = _drawn_like(rand), _drawn_like(randn)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """full() in the shape, dtype and on the device of another tensor."""
    where = input.device if device is None else device
    kind = input.dtype if dtype is None else dtype
    return full(tuple(input.shape), fill_value, dtype=kind, device=where, requires_grad=requires_grad)


@takes_out
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices drawn with probability proportional to input, (..., C) -> (..., num_samples) int64.

    Without replacement by the Gumbel-max trick: the largest of log p - log(-log u). Raises RuntimeError when a row has
    negative or infinite weights, sums to 0, or has too few nonzero ones.
    """
    if input.array.dtype.kind != "f":
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got {input.dtype}")
    if num_samples <= 0:
        raise RuntimeError(f"cannot sample n_sample <= 0 samples, got {num_samples}")
    p = input.array.astype(np.float64)
    if p.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not np.isfinite(p).all() or (p < 0).any() or (p.sum(-1) <= 0).any():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0, or a row sums to 0")
    g = _generator(generator)
    if replacement:
        edges = np.cumsum(p, -1)
        u = g.uniform((*p.shape[:-1], num_samples), dtype=np.float64) * edges[..., -1:]
        found = (u[..., None] >= edges[..., None, :]).sum(-1)
        return wrap(found.astype(np.int64))
    if ((p > 0).sum(-1) < num_samples).any():
        raise RuntimeError("cannot sample n_sample > the number of nonzero weights without replacement")
    u = g.uniform(p.shape, dtype=np.float64)
    score = np.where(p > 0, np.log(np.where(p > 0, p, 1)) - np.log(-np.log(np.maximum(u, 1e-300))), -np.inf)
    return wrap(np.argsort(-score, -1, kind="stable")[..., :num_samples].astype(np.int64))


# -- in-place fills ----------------------------------------------------------------------------------------------------


def _fill_method(name: str, doc: str, values: Any) -> None:
    def fill(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        from minidl.inplace import write

        return write(self, np.asarray(values(self, *args, **kwargs)).astype(self.array.dtype))

    fill.__name__, fill.__doc__ = name, doc
    fill.__wrapped__ = values  # type: ignore[attr-defined]  # whose signature it has
    setattr(Tensor, name, fill)


_fill_method("zero_", "Set every element to 0.", lambda t: 0)
_fill_method(
    "fill_",
    "Set every element to `value`. Raises RuntimeError for a number that the dtype does not hold.",
    lambda t, value: value.item() if isinstance(value, Tensor) else number_for(value, t.array.dtype),
)
_fill_method(
    "normal_",
    "Draw every element from a normal distribution.",
    lambda t, mean=0.0, std=1.0, *, generator=None: _generator(generator).normal(
        t.array.shape, dtype=t.array.dtype if t.array.dtype != np.float16 else np.float32
    ) * std + mean,
)  # fmt: skip
_fill_method(
    "uniform_",
    "Draw every element uniformly from [from_, to).",
    lambda t, from_=0.0, to=1.0, *, generator=None: _generator(generator).uniform(
        t.array.shape, dtype=t.array.dtype if t.array.dtype != np.float16 else np.float32
    ) * (to - from_) + from_,
)  # fmt: skip
_fill_method(
    "bernoulli_",
    "Set every element to 1 with probability p, else to 0.",
    lambda t, p=0.5, *, generator=None: _generator(generator).bernoulli(p, t.array.shape),
)


def _copy(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Copy the values of `src`, broadcast and cast to this tensor, in place."""
    from minidl.inplace import write

    src = src if isinstance(src, Tensor) else tensor(src)
    return write(self, src.to(dtype=self.dtype, device=self.device))


attach("copy_", _copy)
