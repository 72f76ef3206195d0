"""minidl: a deep learning engine on NumPy whose every op fits on a page.

This file is the table of contents: every public name and the page it comes from. Rarely used ops are listed in
minidl/ops/later.py and read when first used.
"""

import warnings as _warnings
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

# 0/0 and overflow give NaN and Inf, as in torch; NumPy's warnings about them are for NumPy's users, not minidl's.
# A filter costs nothing on the way; np.errstate around every op would cost more than a small op.
_warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"minidl(_kernels)?\.")

# The kernels' threads
from minidl_kernels import (
    get_float32_matmul_precision,
    get_num_threads,
    set_float32_matmul_precision,
    set_num_threads,
)

# The engine
from minidl import autograd, devices, dtypes, random
from minidl.autograd import (
    AnomalyError,
    Op,
    ShapeError,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from minidl.compat import (
    BoolTensor,
    ByteTensor,
    CharTensor,
    DoubleTensor,
    FloatTensor,
    HalfTensor,
    IntTensor,
    LongTensor,
    ShortTensor,
    are_deterministic_algorithms_enabled,
    compile,
    e,
    finfo,
    iinfo,
    inf,
    is_complex,
    is_floating_point,
    nan,
    newaxis,
    numel,
    pi,
    can_cast,
    is_nonzero,
    promote_types,
    result_type,
    use_deterministic_algorithms,
)
from minidl.devices import Device as device
from minidl.dtypes import DType as dtype
from minidl.dtypes import (
    bool,
    double,
    float,
    float16,
    float32,
    float64,
    get_default_dtype,
    half,
    int,
    int8,
    int16,
    int32,
    int64,
    long,
    set_default_dtype,
    short,
    uint8,
)

# The ops
from minidl.ops.later import PAGE_OF as _PAGE_OF
from minidl.ops.arithmetic import (
    add,
    bitwise_and,
    bitwise_not,
    bitwise_or,
    bitwise_xor,
    div,
    eq,
    floor_divide,
    fmod,
    ge,
    gt,
    le,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    pow,
    remainder,
    sub,
)
from minidl.ops.axes import flip, movedim, permute, roll, swapaxes, t, transpose
from minidl.ops.copies import clone
from minidl.ops.create import (
    arange,
    as_tensor,
    bernoulli,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    is_tensor,
    linspace,
    multinomial,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from minidl.ops.exponentials import exp, exp2, expm1, log, log10, log1p, log2, logaddexp, sigmoid
from minidl.ops.gather_scatter import gather, index_add, index_select, scatter, scatter_add, take_along_dim
from minidl.ops.joining import cat, concat, concatenate, hstack, stack, vstack
from minidl.ops.limits import clamp, clip, nan_to_num
from minidl.ops.linalg import bmm, dot, matmul, mm, outer
from minidl.ops.logic import (
    allclose,
    argwhere,
    count_nonzero,
    equal,
    is_same_size,
    isclose,
    isfinite,
    isinf,
    isnan,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    nonzero,
)
from minidl.ops.masks import masked_fill, masked_select, where
from minidl.ops.powers import reciprocal, rsqrt, sqrt, square
from minidl.ops.reduce import all, amax, amin, any, argmax, argmin, cumsum, max, mean, min, std, sum, var
from minidl.ops.reduce import prod_ as prod
from minidl.ops.rounding import ceil, floor, frac, round, trunc
from minidl.ops.shapes import flatten, ravel, reshape, squeeze, unflatten, unsqueeze
from minidl.ops.signs import abs, neg, sign
from minidl.ops.softmax import log_softmax, logsumexp, softmax
from minidl.ops.splitting import chunk, narrow, select, split, split_with_sizes, unbind
from minidl.ops.tiling import broadcast_to, meshgrid, repeat_interleave, tile
from minidl.random import Generator, get_state, initial_seed, manual_seed, seed, set_state
from minidl.tensors import Shape as Size
from minidl.tensors import Tensor

true_divide = divide = div
subtract = sub
multiply = mul
get_rng_state, set_rng_state = get_state, set_state

__version__ = "0.1.0"


# Rooms above the ops are opened when first used (minidl.nn, minidl.optim ...), which keeps `import minidl` light.
_ROOMS = (
    "amp", "backends", "compress", "cuda", "data", "distributions", "func", "inside", "io", "linalg", "metrics",
    "models", "nn", "onnx", "optim", "special", "testing", "train", "utils",
)  # fmt: skip
_LATER = {
    "gradcheck": "gradchecks",
    "gradgradcheck": "gradchecks",
    "save": "io",
    "load": "io",
    "fit": "train",
    "evaluate": "train",
    "predict": "train",
    "autocast": "amp",
    "vmap": "func",
    "explain": "inside",
    "graph": "inside",
    "hunt": "inside",
    "checkup": "inside",
    "profile": "inside",
    "set_printoptions": "printing",
}


def trace(input: _Any, *args: _Any, **kwargs: _Any) -> _Any:
    """Two things of one name: of a matrix the sum of its diagonal, as in torch; of a loss (a single element) or of a
    function that computes one its backward pass, step by step: :func:`minidl.inside.traces.trace`.
    """
    if callable(input) or (isinstance(input, Tensor) and input.ndim != 2 and input.numel() == 1) or args or kwargs:
        from minidl.inside.traces import trace

        return trace(input, *args, **kwargs)
    from minidl.ops.diagonals import trace as matrix_trace

    return matrix_trace(input)


def __getattr__(name: str) -> _Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"minidl.{name}")
    if name in _PAGE_OF or name in _LATER:
        page = _PAGE_OF[name] if name in _PAGE_OF else f"minidl.{_LATER[name]}"
        found = getattr(import_module(page), name)
        globals()[name] = found
        return found
    if name == "__all__":  # of `from minidl import *`
        return [name for name in __dir__() if not name.startswith("_")]
    from minidl.compat import IN_PLACE, advice

    if name in IN_PLACE:
        return getattr(Tensor, name)
    raise AttributeError(f"module 'minidl' has no attribute {name!r}{advice(name)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_LATER, *_PAGE_OF})


if _TYPE_CHECKING:
    from minidl import amp, backends, compress, cuda, data, distributions, func, inside, io, linalg, metrics, models
    from minidl import nn, onnx, optim, special, testing, train, utils
    from minidl.amp import autocast
    from minidl.func import vmap
    from minidl.gradchecks import gradcheck, gradgradcheck
    from minidl.later_names import *  # noqa: F403
    from minidl.inside import checkup, explain, graph, hunt, profile
    from minidl.io import load, save
    from minidl.printing import set_printoptions
    from minidl.train import evaluate, fit, predict
