"""minidl: a deep learning engine on NumPy whose every op fits on a page.

This file is the table of contents: every public name and the page it comes from.
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
from minidl.ops.activations import celu, selu
from minidl.ops.angles import deg2rad, hypot, rad2deg, sinc
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
from minidl.ops.blends import addcdiv, addcmul, lerp, rsub
from minidl.ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
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
from minidl.ops.cumulative import cumprod
from minidl.ops.diagonals import diag, diag_embed, diagonal, tril, triu
from minidl.ops.diagonals import trace as _matrix_trace
from minidl.ops.distances import cosine_similarity, norm, pairwise_distance
from minidl.ops.draws import normal, randint_like, tril_indices, triu_indices
from minidl.ops.dropout import dropout
from minidl.ops.einsum import einsum
from minidl.ops.error_function import erf, erfc, erfinv
from minidl.ops.exchange import from_dlpack
from minidl.ops.exponentials import exp, exp2, expm1, log, log10, log1p, log2, logaddexp, sigmoid
from minidl.ops.factorizations import (
    cholesky,
    cholesky_solve,
    det,
    inverse,
    logdet,
    matrix_exp,
    matrix_power,
    pinverse,
    qr,
    slogdet,
)
from minidl.ops.gamma import digamma, lgamma, mvlgamma, polygamma
from minidl.ops.gather_scatter import gather, index_add, index_select, scatter, scatter_add, take_along_dim
from minidl.ops.grids import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    block_diag,
    broadcast_shapes,
    broadcast_tensors,
    cartesian_prod,
    column_stack,
    combinations,
    diagflat,
    dsplit,
    dstack,
    hsplit,
    rot90,
    row_stack,
    tensor_split,
    vsplit,
)
from minidl.ops.hard_activations import prelu, relu, threshold
from minidl.ops.integers import bitwise_left_shift, bitwise_right_shift, frexp, gcd, lcm
from minidl.ops.joining import cat, concat, concatenate, hstack, stack, vstack
from minidl.ops.limits import clamp, clip, nan_to_num
from minidl.ops.linalg import bmm, dot, matmul, mm, outer
from minidl.ops.log_odds import float_power, ldexp, logaddexp2, logit, xlogy
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
from minidl.ops.more_products import addbmm, addr, chain_matmul, ger, kron, vdot
from minidl.ops.powers import reciprocal, rsqrt, sqrt, square
from minidl.ops.products import addmm, addmv, baddbmm, mv, tensordot
from minidl.ops.quantiles import nanmean, nanmedian, nanquantile, nansum, quantile
from minidl.ops.reduce import all, amax, amin, any, argmax, argmin, cumsum, max, mean, min, std, sum, var
from minidl.ops.reduce import prod_ as prod
from minidl.ops.rounding import ceil, floor, frac, round, trunc
from minidl.ops.running import cummax, cummin, diff, logcumsumexp
from minidl.ops.scatter_reductions import (
    diagonal_scatter,
    index_put,
    index_reduce,
    masked_scatter,
    scatter_reduce,
    select_scatter,
    slice_scatter,
)
from minidl.ops.searching import (
    bucketize,
    histc,
    histogram,
    isin,
    mode,
    searchsorted,
    unique_consecutive,
)
from minidl.ops.second_names import (
    absolute,
    adjoint,
    clamp_max,
    clamp_min,
    detach,
    fix,
    fliplr,
    flipud,
    greater,
    greater_equal,
    less,
    less_equal,
    moveaxis,
    msort,
    negative,
    not_equal,
    swapdims,
)
from minidl.ops.shapes import flatten, ravel, reshape, squeeze, unflatten, unsqueeze
from minidl.ops.shuffles import channel_shuffle, pixel_shuffle, pixel_unshuffle
from minidl.ops.signs import abs, neg, sign
from minidl.ops.signs_of_floats import (
    copysign,
    fmax,
    fmin,
    heaviside,
    isneginf,
    isposinf,
    isreal,
    nextafter,
    positive,
    sgn,
    signbit,
)
from minidl.ops.softmax import log_softmax, logsumexp, softmax
from minidl.ops.sorting import argsort, kthvalue, median, sort, topk, unique
from minidl.ops.spacings import (
    asarray,
    bartlett_window,
    blackman_window,
    hamming_window,
    hann_window,
    logspace,
    poisson,
    range,
    scalar_tensor,
)
from minidl.ops.splitting import chunk, narrow, select, split, split_with_sizes, unbind
from minidl.ops.statistics import (
    aminmax,
    cdist,
    corrcoef,
    cov,
    cumulative_trapezoid,
    dist,
    pdist,
    renorm,
    std_mean,
    trapezoid,
    trapz,
    vander,
    var_mean,
)
from minidl.ops.tiling import broadcast_to, meshgrid, repeat_interleave, tile
from minidl.ops.trigonometry import (
    acos,
    acosh,
    arccos,
    arccosh,
    arcsin,
    arcsinh,
    arctan,
    arctan2,
    arctanh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cos,
    cosh,
    sin,
    sinh,
    tan,
    tanh,
)
from minidl.ops.vectors import bincount, cross, index_copy, index_fill, inner, take
from minidl.random import Generator, get_state, initial_seed, manual_seed, seed, set_state
from minidl.tensors import Shape as Size
from minidl.tensors import Tensor
from minidl import linalg
from minidl.ops import in_place as _in_place  # Tensor.t_, transpose_ ...
from minidl.ops import windows as _windows  # Tensor.unfold

true_divide = divide = div
subtract = sub
multiply = mul
get_rng_state, set_rng_state = get_state, set_state

__version__ = "0.1.0"


# Rooms above the ops are opened when first used (minidl.nn, minidl.optim ...), which keeps `import minidl` light.
_ROOMS = (
    "amp", "backends", "compress", "cuda", "data", "distributions", "func", "inside", "io", "metrics", "models", "nn",
    "optim", "special", "testing", "train", "utils",
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
}


def trace(input: _Any, *args: _Any, **kwargs: _Any) -> _Any:
    """Two things of one name: of a matrix the sum of its diagonal, as in torch; of a loss (a single element) or of a
    function that computes one its backward pass, step by step: :func:`minidl.inside.traces.trace`.
    """
    if callable(input) or (isinstance(input, Tensor) and input.ndim != 2 and input.numel() == 1) or args or kwargs:
        from minidl.inside.traces import trace

        return trace(input, *args, **kwargs)
    return _matrix_trace(input)


def __getattr__(name: str) -> _Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"minidl.{name}")
    if name in _LATER:
        found = getattr(import_module(f"minidl.{_LATER[name]}"), name)
        globals()[name] = found
        return found
    from minidl.compat import IN_PLACE, advice

    if name in IN_PLACE:
        return getattr(Tensor, name)
    raise AttributeError(f"module 'minidl' has no attribute {name!r}{advice(name)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_LATER})


if _TYPE_CHECKING:
    from minidl import amp, backends, compress, cuda, data, distributions, func, inside, io, metrics, models, nn, optim
    from minidl import special, testing, train, utils
    from minidl.amp import autocast
    from minidl.func import vmap
    from minidl.gradchecks import gradcheck, gradgradcheck
    from minidl.inside import checkup, explain, graph, hunt, profile
    from minidl.io import load, save
    from minidl.train import evaluate, fit, predict
