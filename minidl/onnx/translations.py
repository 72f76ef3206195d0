"""Each op as operators of ONNX: https://onnx.ai/onnx/operators. A function takes the writer and the op's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import Watcher, no_grad, state
from minidl.compress.record import Step, Value
from minidl.onnx.writer import UnsupportedOperatorError, Writer

__all__ = ["supported", "translate"]

_TABLE: dict[str, Callable[..., str]] = {}


def supported() -> tuple[str, ...]:
    """The ops that can be exported."""
    return tuple(sorted({*_TABLE, *_SAME}))


def translate(writer: Writer, step: Step) -> None:
    """Write one step of a recording. Raises UnsupportedOperatorError."""
    writer.scope = step.scope
    if step.op in _SAME:
        name = writer.add(_SAME[step.op], writer.name(step.args[0]))
    elif step.op in _TABLE:
        name = _TABLE[step.op](writer, *step.args, **step.kwargs)
    else:
        raise _unknown(step.op, step.scope)
    writer.give(step, name)


class _Names(Watcher):
    """The ops that ran, and where."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], None] = {}

    def ran(self, ctx: Any, inputs: Any, args: tuple, kwargs: dict, out: Any) -> None:
        self.found[ctx.name(), state.scope] = None


def check(model: Any, x: Any, error: Exception) -> None:
    """Raise UnsupportedOperatorError, from `error`, for the first op that the model runs without a translation."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad(), _Names() as names:
            model(x)
    finally:
        for module, mode in modes:
            module.training = mode
    known = supported()
    for op, scope in names.found:
        if op not in known:
            raise _unknown(op, scope) from error


def _unknown(op: str, scope: str) -> UnsupportedOperatorError:
    return _unsupported(f"op {op}", scope, f"those that can be exported: {', '.join(supported())}")


def _unsupported(what: str, scope: str, more: str) -> UnsupportedOperatorError:
    where = f" in module {scope}" if scope else ""
    return UnsupportedOperatorError(f"onnx.export: {what}{where} has no translation to ONNX; {more}")


def _translates(op: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def note(f: Callable[..., str]) -> Callable[..., str]:
        _TABLE[op] = f
        return f

    return note


# -- element by element -----------------------------------------------------------------------------------------------

_SAME = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "neg": "Neg",
    "abs": "Abs", "erf": "Erf", "sin": "Sin", "cos": "Cos", "floor": "Floor", "ceil": "Ceil", "clone": "Identity",
    "reciprocal": "Reciprocal",
}  # fmt: skip


def _binary(op: str, operator: str) -> None:
    @_translates(op)
    def write(w: Writer, a: Any, b: Any, *, alpha: Any = 1) -> str:
        left, right = w.name(a, like=b), w.name(b, like=a)
        if alpha != 1:
            right = w.add("Mul", right, w.constant(np.asarray(alpha, w.array(b).dtype)))
        return w.add(operator, left, right)


for _op, _operator in (
    ("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("true_divide", "Div"), ("pow", "Pow"), ("matmul", "MatMul"),
):  # fmt: skip
    _binary(_op, _operator)


@_translates("rsqrt")
def _rsqrt(w: Writer, x: Any) -> str:
    return w.add("Reciprocal", w.add("Sqrt", w.name(x)))


@_translates("silu")
def _silu(w: Writer, x: Any) -> str:
    return w.add("Mul", w.name(x), w.add("Sigmoid", w.name(x)))


@_translates("gelu")
def _gelu(w: Writer, x: Any, approximate: str = "none") -> str:
    return w.add("Gelu", w.name(x), approximate=approximate)


@_translates("leaky_relu")
def _leaky_relu(w: Writer, x: Any, negative_slope: float = 0.01) -> str:
    return w.add("LeakyRelu", w.name(x), alpha=float(negative_slope))


@_translates("hard_range")
def _hard_range(w: Writer, x: Any, low: float, high: float) -> str:
    return w.add("Clip", w.name(x), w.name(low, like=x), w.name(high, like=x))


@_translates("softmax")
def _softmax(w: Writer, x: Any, dim: int, dtype: Any = None) -> str:
    return w.add("Softmax", w.name(x), axis=int(dim))


@_translates("log_softmax")
def _log_softmax(w: Writer, x: Any, dim: int, dtype: Any = None) -> str:
    return w.add("LogSoftmax", w.name(x), axis=int(dim))


def _reduction(op: str, operator: str) -> None:
    @_translates(op)
    def write(w: Writer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> str:
        dims = range(w.array(x).ndim) if dim is None or dim == () else dim if isinstance(dim, tuple) else (dim,)
        return w.add(operator, w.name(x), w.sizes(*dims), keepdims=int(keepdim))


for _op, _operator in (("mean", "ReduceMean"), ("sum", "ReduceSum"), ("amax", "ReduceMax"), ("amin", "ReduceMin")):
    _reduction(_op, _operator)


# -- shapes -----------------------------------------------------------------------------------------------------------


@_translates("reshape")
def _reshape(w: Writer, x: Any, size: Any) -> str:
    return w.add("Reshape", w.name(x), _shape(w, size))


@_translates("broadcast_to")
def _broadcast_to(w: Writer, x: Any, size: Any) -> str:
    return w.add("Expand", w.name(x), _shape(w, size))


def _shape(w: Writer, size: Any) -> str:
    """A shape, in which Value(-1) stands for the number of inputs in the batch."""
    if not any(isinstance(n, Value) for n in size):
        return w.sizes(*size)
    batch = w.add("Shape", w.input_name, start=0, end=1)
    return w.add("Concat", *(batch if isinstance(n, Value) else w.sizes(n) for n in size), axis=0)


@_translates("permute")
def _permute(w: Writer, x: Any, dims: Any) -> str:
    return w.add("Transpose", w.name(x), perm=[int(d) % len(dims) for d in dims])


@_translates("cat")
def _cat(w: Writer, xs: Any, dim: int = 0) -> str:
    return w.add("Concat", *(w.name(x) for x in xs), axis=int(dim))


@_translates("pad_constant")
def _pad_constant(w: Writer, x: Any, pads: Any, value: float = 0.0) -> str:
    sides = [int(p[0]) for p in pads] + [int(p[1]) for p in pads]
    return w.add("Pad", w.name(x), w.sizes(*sides), w.name(value, like=x), mode="constant")


@_translates("getitem")
def _getitem(w: Writer, x: Any, index: Any) -> str:
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, (int, slice, np.integer)) or i is Ellipsis or i is None for i in index):
        raise _unsupported(
            f"getitem with the index {index!r}", w.scope, "numbers, slices, None and ... can be exported"
        )
    rank, taken = w.array(x).ndim, sum(i is not None and i is not Ellipsis for i in index)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (rank - taken), *index[at + 1 :])
    starts, ends, axes, steps, single, fresh = [], [], [], [], [], []
    axis = place = 0
    for i in index:
        if i is None:
            fresh.append(place)
            place += 1
            continue
        if isinstance(i, slice):
            if i != slice(None):
                lowest = i.step is not None and i.step < 0
                starts.append(i.start if i.start is not None else 2**62 if lowest else 0)
                ends.append(i.stop if i.stop is not None else -(2**62) if lowest else 2**62)
                steps.append(i.step or 1)
                axes.append(axis)
            place += 1
        else:
            starts.append(int(i))
            ends.append(int(i) + 1 or 2**62)
            steps.append(1)
            axes.append(axis)
            single.append(axis)
        axis += 1
    y = w.name(x)
    if axes:
        y = w.add("Slice", y, w.sizes(*starts), w.sizes(*ends), w.sizes(*axes), w.sizes(*steps))
    if single:
        y = w.add("Squeeze", y, w.sizes(*single))
    return w.add("Unsqueeze", y, w.sizes(*fresh)) if fresh else y if axes else w.add("Identity", y)


# -- layers -----------------------------------------------------------------------------------------------------------


@_translates("linear")
def _linear(w: Writer, x: Any, weight: Any, bias: Any = None) -> str:
    if w.array(x).ndim == 2:
        return w.add("Gemm", *(w.name(a) for a in (x, weight, bias) if a is not None), transB=1)
    y = w.add("MatMul", w.name(x), w.add("Transpose", w.name(weight), perm=[1, 0]))
    return y if bias is None else w.add("Add", y, w.name(bias))


@_translates("lookup")
def _lookup(w: Writer, x: Any, weight: Any, padding_idx: int | None = None, by_freq: bool = False) -> str:
    return w.add("Gather", w.name(weight), w.name(x), axis=0)


@_translates("conv2d")
def _conv2d(w: Writer, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> str:
    return w.add(
        "Conv", *(w.name(a) for a in (x, weight, bias) if a is not None), kernel_shape=w.array(weight).shape[2:],
        strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups,
    )  # fmt: skip


@_translates("conv2d_dx")
def _conv_transpose2d(
    w: Writer, dy: Any, weight: Any, x_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> str:
    stride, padding, dilation = ((v, v) if isinstance(v, int) else v for v in (stride, padding, dilation))
    kernel, small = w.array(weight).shape[2:], w.array(dy).shape[2:]
    least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in zip(small, stride, padding, dilation, kernel)]
    return w.add(
        "ConvTranspose", w.name(dy), w.name(weight), kernel_shape=kernel, strides=stride, dilations=dilation,
        pads=[*padding, *padding], group=groups, output_padding=[n - m for n, m in zip(x_shape[2:], least)],
    )  # fmt: skip


@_translates("max_pool2d")
def _max_pool2d(w: Writer, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, size: Any) -> str:
    return w.add(
        "MaxPool", w.name(x), kernel_shape=kernel, strides=stride, dilations=dilation,
        pads=_pads(w.array(x).shape[2:], kernel, stride, padding, dilation, size),
    )  # fmt: skip


@_translates("avg_pool2d")
def _avg_pool2d(w: Writer, x: Any, kernel: Any, stride: Any, padding: Any, size: Any, weight: Any) -> str:
    pads = _pads(w.array(x).shape[2:], kernel, stride, padding, (1, 1), size)
    y = w.add("AveragePool", w.name(x), kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=1)
    share = math.prod(kernel) * w.array(weight)  # more than 1 at the edges, if padding does not count
    dtype = w.array(x).dtype
    return y if np.allclose(share, 1, 0, np.finfo(dtype).eps) else w.add("Mul", y, w.constant(share, dtype))


def _pads(sizes: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, out: Any) -> list[int]:
    """Padding before, then after, both axes; where windows go on over the edge (ceil_mode), the rest of the last."""
    spans = [(o - 1) * s + d * (k - 1) + 1 for k, s, d, o in zip(kernel, stride, dilation, out)]
    return [*padding, *(max(p, span - n - p) for n, p, span in zip(sizes, padding, spans))]


@_translates("standardize")
def _standardize(w: Writer, x: Any, weight: Any, bias: Any, dims: Any, eps: float, statistics: Any = None) -> str:
    shape = w.array(x).shape
    dims = tuple(d % len(shape) for d in dims)
    inner = shape[dims[0] :]
    rows = dims == tuple(range(dims[0], len(shape))) and all(
        p is not None and w.is_constant(p) and w.array(p).size == math.prod(inner) for p in (weight, bias)
    )
    if rows:
        parameters = [w.constant(w.array(p).reshape(inner)) for p in (weight, bias)]
        return w.add("LayerNormalization", w.name(x), *parameters, axis=dims[0], epsilon=float(eps))
    axes = w.sizes(*dims)
    centred = w.add("Sub", w.name(x), w.add("ReduceMean", w.name(x), axes, keepdims=1))
    variance = w.add("ReduceMean", w.add("Mul", centred, centred), axes, keepdims=1)
    y = w.add("Div", centred, w.add("Sqrt", w.add("Add", variance, w.name(float(eps), like=x))))
    y = y if weight is None else w.add("Mul", y, w.name(weight))
    return y if bias is None else w.add("Add", y, w.name(bias))


@_translates("attention")
def _attention(
    w: Writer, q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None
) -> str:
    """softmax(q k^T scale + mask) v; where a row may see nothing, zeros."""
    (_, heads, t, d), (_, groups, s, _) = w.array(q).shape, w.array(k).shape
    keys, values = w.name(k), w.name(v)
    if heads != groups:  # several heads share a key
        share = w.sizes(*np.repeat(np.arange(groups), heads // groups).tolist())
        keys, values = w.add("Gather", keys, share, axis=1), w.add("Gather", values, share, axis=1)
    dtype = w.array(q).dtype
    scores = w.add("MatMul", w.name(q), w.add("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = w.add("Mul", scores, w.constant(d**-0.5 if scale is None else scale, dtype))
    shown = None
    if causal:
        shown = w.constant(np.tri(t, s, dtype=bool))
    if mask is not None:
        seen = w.name(mask)
        if w.array(mask).dtype != bool:  # numbers to add; -inf hides
            seen = w.add("Not", w.add("IsInf", w.name(mask), detect_positive=0))
            scores = w.add("Add", scores, w.add("Where", seen, w.name(mask), w.constant(0, dtype)))
        shown = seen if shown is None else w.add("And", shown, seen)
    if shown is None:
        return w.add("MatMul", w.add("Softmax", scores, axis=-1), values)
    low = w.constant(np.finfo(dtype).min, dtype)
    weights = w.add("Softmax", w.add("Where", shown, scores, low), axis=-1)
    return w.add("MatMul", w.add("Where", shown, weights, w.constant(0, dtype)), values)
