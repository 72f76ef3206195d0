"""Names that programs written for torch reach for, beside the ops: typed constructors, switches, and what is not here.

ABSENT lists rooms and functions of torch that minidl does not have; asking for one says what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.tensors import Tensor

pi, e, inf, nan, newaxis = math.pi, math.e, math.inf, math.nan, None


class _Typed(type):
    """Makes calling FloatTensor build a Tensor, and isinstance ask for the dtype."""

    dtype: Any

    def __call__(cls, *data: Any) -> Tensor:
        return Tensor(*data, dtype=cls.dtype)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype == cls.dtype


class FloatTensor(metaclass=_Typed):
    """torch's older spelling: ``FloatTensor([1, 2])`` is ``tensor([1, 2], dtype=float32)``, ``FloatTensor(2, 3)`` an
    uninitialised tensor of that shape."""

    dtype = dtypes.float32.numpy


class DoubleTensor(metaclass=_Typed):
    """As FloatTensor, in float64."""

    dtype = dtypes.float64.numpy


class HalfTensor(metaclass=_Typed):
    """As FloatTensor, in float16."""

    dtype = dtypes.float16.numpy


class LongTensor(metaclass=_Typed):
    """As FloatTensor, in int64."""

    dtype = dtypes.int64.numpy


class IntTensor(metaclass=_Typed):
    """As FloatTensor, in int32."""

    dtype = dtypes.int32.numpy


class ShortTensor(metaclass=_Typed):
    """As FloatTensor, in int16."""

    dtype = dtypes.int16.numpy


class CharTensor(metaclass=_Typed):
    """As FloatTensor, in int8."""

    dtype = dtypes.int8.numpy


class ByteTensor(metaclass=_Typed):
    """As FloatTensor, in uint8."""

    dtype = dtypes.uint8.numpy


class BoolTensor(metaclass=_Typed):
    """As FloatTensor, in bool."""

    dtype = dtypes.bool.numpy


class finfo:
    """The limits of a floating point type: bits, eps, max, min, tiny. Raises TypeError for an integer type.

    >>> finfo(dtypes.float32).eps
    1.1920928955078125e-07
    """

    def __init__(self, type: Any = None) -> None:
        self.dtype = dtypes.dtype_of(dtypes.default() if type is None else dtypes.as_numpy(type))
        if not self.dtype.is_floating_point:
            raise TypeError(f"finfo is for floating point types, {self.dtype} has iinfo")
        found = np.finfo(self.dtype.numpy)
        self.bits, self.eps, self.resolution = found.bits, float(found.eps), 10.0**-found.precision
        self.max, self.min = float(found.max), float(found.min)
        self.tiny = self.smallest_normal = float(found.tiny)


class iinfo:
    """The limits of an integer type: bits, max, min. Raises TypeError for any other."""

    def __init__(self, type: Any) -> None:
        self.dtype = dtypes.dtype_of(dtypes.as_numpy(type))
        if self.dtype.numpy.kind not in "iu":
            raise TypeError(f"iinfo is for integer types, {self.dtype} is none")
        found = np.iinfo(self.dtype.numpy)
        self.bits, self.max, self.min = found.bits, int(found.max), int(found.min)


def compile(model: Callable | None = None, **settings: Any) -> Any:
    """The function or module as it is: minidl compiles its kernels, never programs. Also a decorator."""
    return model if model is not None else lambda function: function


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a float."""
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """False: no Tensor is."""
    return False


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def promote_types(type1: Any, type2: Any) -> dtypes.DType:
    """The dtype in which tensors of two dtypes meet."""
    return dtypes.dtype_of(dtypes._promote(dtypes.as_numpy(type1), dtypes.as_numpy(type2)))


def result_type(*tensors: Any) -> dtypes.DType:
    """The dtype in which Tensors, arrays and Python numbers meet."""
    return dtypes.dtype_of(dtypes.result_type(*tensors))


def can_cast(from_: Any, to: Any) -> bool:
    """Whether values of one dtype may be written into another in place: no float into integers, no number into bools.

    >>> can_cast(dtypes.int64, dtypes.float32), can_cast(dtypes.float32, dtypes.int64)
    (True, False)
    """
    rank = {"b": 0, "u": 1, "i": 2, "f": 3}
    have, want = (dtypes.as_numpy(d).kind for d in (from_, to))
    return rank[have] <= rank[want] or (have == "i" and want == "u")


def is_nonzero(input: Tensor) -> bool:
    """Whether the single element is not 0. Raises RuntimeError for more or fewer elements."""
    return bool(input)


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Does nothing: no op's result depends on the order in which threads happen to run."""


def are_deterministic_algorithms_enabled() -> bool:
    """True."""
    return True


_NO_COMPLEX = "minidl's tensors hold no complex numbers; keep real and imaginary part apart, or use numpy on x.numpy()"
ABSENT = {
    "jit": "there is no program compiler; leave out script and trace, the functions run as they are",
    "export": "minidl.onnx.export writes a model as an ONNX file, minidl.save(sd, 'm.safetensors') a state_dict",
    "distributed": "minidl runs in one process on one machine",
    "multiprocessing": "minidl runs in one process; DataLoader has threads as workers",
    "hub": "nothing is downloaded; load weights from a file with minidl.load('weights.safetensors' or '.pth')",
    "sparse": "tensors are dense; pruned ones keep a mask, see minidl.compress",
    "sparse_coo_tensor": "tensors are dense; build the matrix with zeros() and index assignment",
    "quantization": "see minidl.compress: its int8 runs as integers",
    "ao": "see minidl.compress: pruning, and int8 that runs as integers",
    "profiler": "minidl.profile() times ops and modules; minidl bench the kernels",
    "fft": _NO_COMPLEX,
    "stft": _NO_COMPLEX,
    "complex64": _NO_COMPLEX,
    "complex128": _NO_COMPLEX,
    "cfloat": _NO_COMPLEX,
    "complex": _NO_COMPLEX,
    "polar": _NO_COMPLEX,
    "view_as_complex": _NO_COMPLEX,
    "view_as_real": _NO_COMPLEX,
    "bfloat16": "NumPy has no bfloat16; use minidl.float32 (files in bfloat16 are read as float32)",
    "set_default_device": "the device is that of the arrays; pass device= where a tensor is made",
    "set_default_tensor_type": "use minidl.set_default_dtype(minidl.float64)",
    "svd": "use minidl.linalg.svd",
}


def advice(name: str) -> str:
    """What to do about a name of torch that minidl does not have there, "" where there is nothing to say."""
    if name in ABSENT:
        return f": {ABSENT[name]}"
    for room in ("nn.functional", "linalg"):
        if name in import_module(f"minidl.{room}").__all__:
            return f": it is minidl.{room}.{name}"
    if hasattr(Tensor, name):
        return f": it is a method, x.{name}(...)"
    return f": {_ONE_LINERS[name]}" if name in _ONE_LINERS else ""


# What small programs reach for now and then, in minidl's words.
_ONE_LINERS = {
    "bfloat16": "NumPy has no bfloat16; use minidl.float32",
    "conv3d": "minidl goes up to images; a volume can be unfolded along its depth",
}

# Functions of torch that write into their argument: minidl.relu_(x) is x.relu_().
_WRITING = """
    abs_ acos_ arccos_ acosh_ arccosh_ addmv_ asin_ arcsin_ asinh_ arcsinh_ atan_ arctan_ atanh_ arctanh_ ceil_ clamp_
    clip_ clamp_min_ clamp_max_ cos_ cosh_ deg2rad_ detach_ erf_ erfc_ exp_ exp2_ expm1_ fill_ fix_ floor_ frac_ gcd_
    index_put_ lcm_ ldexp_ log_ log10_ log1p_ log2_ logit_ nan_to_num_ neg_ negative_ rad2deg_ reciprocal_ relu_
    round_ rsqrt_ sigmoid_ sin_ sinc_ sinh_ sqrt_ square_ tan_ tanh_ trunc_ xlogy_ zero_
"""
IN_PLACE = _WRITING.split()
