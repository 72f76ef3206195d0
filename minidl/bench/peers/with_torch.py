"""torch, eager, on the very memory of the arrays."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import minidl_kernels as kernels
from minidl_kernels.gemm_int4.reference import weights

Call = Callable[[], Any]
Pair = int | tuple[int, int]


@contextlib.contextmanager
def start(nthreads: int) -> Any:
    """Inside, torch has this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(nthreads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _t(*arrays: Any) -> list[Any]:
    """As tensors that share memory, NumPy's or a GPU's; what nobody can write is copied: torch takes no such memory."""
    return [None if a is None else _tensor(a) for a in arrays]


def _tensor(a: Any) -> Any:
    if not isinstance(a, np.ndarray):
        return torch.from_dlpack(a)
    return torch.from_numpy(a if a.flags.writeable else a.copy())


def matmul(a: np.ndarray, b: np.ndarray) -> Call:
    ta, tb = _t(a, b)
    return lambda: ta @ tb


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> Call:
    tx, tw, tb = _t(x, w, b)
    return lambda: F.linear(tx, tw, tb)


def int4_linear(
    x: np.ndarray, w_q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, b: np.ndarray | None = None
) -> Call:
    """The layer in float32, its weights made floats before."""
    call = linear(x, weights(w_q, scale, zero), b)
    call.keeps = True  # type: ignore[attr-defined]
    return call


def csr_linear(
    x: np.ndarray, values: np.ndarray, indices: np.ndarray, indptr: np.ndarray, b: np.ndarray | None = None
) -> Call:
    """The dense layer, with the zeros."""
    call = linear(x, kernels.unpack_csr(values, indices, indptr, x.shape[-1]), b)
    call.keeps = True  # type: ignore[attr-defined]
    return call


def csr_linear_dx(dy: np.ndarray, values: np.ndarray, indices: np.ndarray, indptr: np.ndarray, k: int) -> Call:
    """The dense product, with the zeros."""
    call = matmul(dy, kernels.unpack_csr(values, indices, indptr, k))
    call.keeps = True  # type: ignore[attr-defined]
    return call


def nm_linear(x: np.ndarray, values: np.ndarray, indices: np.ndarray, m: int, b: np.ndarray | None = None) -> Call:
    """The dense layer, with the zeros."""
    call = linear(x, kernels.unpack_nm(values, indices, m, x.shape[-1]), b)
    call.keeps = True  # type: ignore[attr-defined]
    return call


def conv2d(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Call:
    tx, tw, tb = _t(x, w, b)
    return lambda: F.conv2d(tx, tw, tb, stride, padding, dilation, groups)


def _conv_gradient(
    of_x: bool, dy: Any, x: Any, w: Any, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Call:
    pair = lambda v: [v, v] if isinstance(v, int) else list(v)
    how = (pair(stride), pair(padding), pair(dilation), False, [0, 0], groups)
    backward = torch.ops.aten.convolution_backward
    if of_x:
        return lambda: backward(dy, x, w, None, *how, [True, False, False])[0]
    return lambda: backward(dy, x, w, None, *how, [False, True, False])[1]


def conv2d_dx(dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], *how: Any) -> Call:
    tdy, tw = _t(dy, w)
    return _conv_gradient(True, tdy, torch.empty(x_shape), tw, *how)


def conv2d_dw(dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *how: Any) -> Call:
    tdy, tx = _t(dy, x)
    return _conv_gradient(False, tdy, tx, torch.empty(w_shape), *how)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, causal: bool) -> Call:
    """Without the log-sum-exp, which SDPA keeps to itself."""
    tq, tk, tv, tm = _t(q, k, v, mask)
    grouped = q.shape[1] != k.shape[1]
    return lambda: F.scaled_dot_product_attention(tq, tk, tv, tm, is_causal=causal, enable_gqa=grouped)


def attention_backward(
    dout: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray,
    out: np.ndarray, lse: np.ndarray, mask: np.ndarray | None, causal: bool,
) -> Call:  # fmt: skip
    """The backward alone: the graph of one forward is kept and walked again and again."""
    tdout, tq, tk, tv, tm = _t(dout, q, k, v, mask)
    for t in (tq, tk, tv):
        t.requires_grad_()
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(tq, tk, tv, tm, is_causal=causal, enable_gqa=grouped)
    call = lambda: torch.autograd.grad(y, (tq, tk, tv), tdout, retain_graph=True)
    call.keeps = True  # type: ignore[attr-defined]
    return call


@functools.cache
def _warned() -> None:
    """Torch says once that its quantized tensors will go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)


def quantize(x: np.ndarray, scale: Any, zero: Any, low: int, high: int, axis: int | None) -> Call | None:
    """Its quantized tensor, and the codes copied out of it."""
    if (low, high) != (-128, 127) or not isinstance(x, np.ndarray):
        return None
    _warned()
    (tx,) = _t(x)
    if axis is None:
        return lambda: torch.quantize_per_tensor(tx, scale, zero, torch.qint8).int_repr()
    s, z = _t(scale, zero)
    return lambda: torch.quantize_per_channel(tx, s, z, axis, torch.qint8).int_repr()


def dequantize(q: np.ndarray, scale: Any, zero: Any, axis: int | None) -> Call | None:
    """Of its quantized tensor, made before."""
    if not isinstance(q, np.ndarray):
        return None
    _warned()
    (tq,) = _t(q)
    if axis is None:
        made = torch._make_per_tensor_quantized_tensor(tq, scale, zero)
    else:
        s, z = _t(scale, zero)
        made = torch._make_per_channel_quantized_tensor(tq, s, z, axis)
    call = lambda: made.dequantize()
    call.keeps = True  # type: ignore[attr-defined]
    return call


def int8_matmul(a: np.ndarray, b: np.ndarray) -> Call | None:
    ta, tb = _t(a, b)
    if a.shape[0] <= 16:
        return None  # _int_mm wants more than 16 rows
    return lambda: torch._int_mm(ta, tb)


def int8_linear(
    x: np.ndarray, w_q: np.ndarray, w_scale: np.ndarray, b: np.ndarray | None, x_scale: float | None
) -> Call | None:
    """`_int_mm` with the rescaling around it as eager operations."""
    if x.shape[0] <= 16:
        return None
    tx, tw, ts, tb = _t(x, w_q, w_scale, b)
    wt = tw.t()

    def call() -> Any:
        if x_scale is None:
            scale = tx.abs().amax(1, keepdim=True) / 127
            scale = torch.where(scale == 0, 1.0, scale)
        else:
            scale = torch.tensor(x_scale)
        q = torch.clamp(torch.round(tx / scale), -127, 127).to(torch.int8)
        y = torch._int_mm(q, wt).float() * (scale * ts)
        return y if tb is None else y + tb

    return call


def max_pool2d(x: np.ndarray, window: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Call:
    (tx,) = _t(x)
    return lambda: F.max_pool2d(tx, window, stride, padding, dilation, return_indices=True)


def softmax(x: np.ndarray) -> Call:
    (tx,) = _t(x)
    return lambda: F.softmax(tx, -1)


def softmax_backward(dy: np.ndarray, y: np.ndarray) -> Call:
    tdy, ty = _t(dy, y)
    return lambda: torch.ops.aten._softmax_backward_data(tdy, ty, -1, torch.float32)


def _kept(forward: Callable[..., Any], dy: np.ndarray, *arrays: np.ndarray) -> Call:
    """The gradients of a forward that has run once: its graph is kept and walked again and again."""
    inputs = [t.requires_grad_() for t in _t(*arrays)]
    y, (tdy,) = forward(*inputs), _t(dy)
    call = lambda: torch.autograd.grad(y, inputs, tdy, retain_graph=True)
    call.keeps = True  # type: ignore[attr-defined]
    return call


def cross_entropy(x: np.ndarray, t: np.ndarray) -> Call:
    tx, tt = _t(x, t)
    return lambda: F.cross_entropy(tx, tt, reduction="none")


def cross_entropy_backward(dy: np.ndarray, x: np.ndarray, t: np.ndarray, lse: np.ndarray) -> Call:
    (tt,) = _t(t)
    return _kept(lambda x: F.cross_entropy(x, tt, reduction="none"), dy, x)


def layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Call:
    tx, tw, tb = _t(x, w, b)
    return lambda: F.layer_norm(tx, w.shape, tw, tb)


def layer_norm_backward(dy: np.ndarray, x: np.ndarray, w: np.ndarray, mean: np.ndarray, var: np.ndarray) -> Call:
    return _kept(lambda x, w, b: F.layer_norm(x, w.shape, w, b), dy, x, w, np.zeros_like(w))


def rms_norm(x: np.ndarray, w: np.ndarray) -> Call:
    tx, tw = _t(x, w)
    return lambda: F.rms_norm(tx, w.shape, tw, 1e-5)


def rms_norm_backward(dy: np.ndarray, x: np.ndarray, w: np.ndarray, square: np.ndarray) -> Call:
    return _kept(lambda x, w: F.rms_norm(x, w.shape, w, 1e-5), dy, x, w)


def batch_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Call:
    tx, tw, tb = _t(x, w, b)
    return lambda: F.batch_norm(tx, None, None, tw, tb, training=True)


def channel_affine(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> Call:
    """Batch norm in evaluation, of mean 0 and variance 1."""
    tx, tw, tb = _t(x, scale, shift)
    mean, var = torch.zeros_like(tw), torch.ones_like(tw)
    return lambda: F.batch_norm(tx, mean, var, tw, tb, eps=0.0)


def batch_norm_backward(dy: np.ndarray, x: np.ndarray, w: np.ndarray, mean: np.ndarray, var: np.ndarray) -> Call:
    return _kept(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), dy, x, w, np.zeros_like(w))


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu6": F.relu6,
}


def activation(x: np.ndarray, name: str) -> Call:
    (tx,), f = _t(x), _FUNCTIONS[name]
    return lambda: f(tx)


def activation_backward(dy: np.ndarray, saved: np.ndarray, name: str) -> Call | None:
    aten = torch.ops.aten
    tdy, ts = _t(dy, saved)
    calls: dict[str, Call] = {
        "relu": lambda: aten.threshold_backward(tdy, ts, 0),
        "tanh": lambda: aten.tanh_backward(tdy, ts),
        "sigmoid": lambda: aten.sigmoid_backward(tdy, ts),
        "silu": lambda: aten.silu_backward(tdy, ts),
        "gelu": lambda: aten.gelu_backward(tdy, ts),
        "gelu_tanh": lambda: aten.gelu_backward(tdy, ts, approximate="tanh"),
        "relu6": lambda: aten.hardtanh_backward(tdy, ts, 0, 6),
    }
    return calls[name]


def dropout(x: np.ndarray, seed: int, stream: int, block: int, p: float) -> Call:
    (tx,) = _t(x)
    return lambda: torch.native_dropout(tx, p, True)[0]
