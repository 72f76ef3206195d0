"""Array kernels of minidl: plain NumPy (or CuPy) arrays in, fresh arrays out.

The public functions stand here by hand, each with its contract. Every one checks its arguments, lets the registry
choose the fastest variant that can run them, and calls it; `which` tells the choice, `use` forces one. The README
says what a kernel promises and how to add one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import memory
from .precision import get_float32_matmul_precision, set_float32_matmul_precision
from .registry import call, listen, table, use, variants, which

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Pair = int | tuple[int, int]

__all__ = [
    "activation",
    "activation_backward",
    "adam_step",
    "attention",
    "attention_backward",
    "batch_norm",
    "batch_norm_backward",
    "channel_affine",
    "conv2d",
    "conv2d_dw",
    "conv2d_dx",
    "cross_entropy",
    "cross_entropy_backward",
    "csr_linear",
    "csr_linear_dx",
    "dequantize",
    "dropout",
    "frozen",
    "gather_plane",
    "get_float32_matmul_precision",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "gru",
    "gru_backward",
    "int4_linear",
    "int8_conv2d",
    "int8_linear",
    "int8_matmul",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "listen",
    "log_softmax",
    "log_softmax_backward",
    "lstm",
    "lstm_backward",
    "mask_scale",
    "matmul",
    "max_pool2d",
    "nm_linear",
    "pack_csr",
    "pack_int4",
    "pack_nm",
    "quantize",
    "requantize",
    "rms_norm",
    "rms_norm_backward",
    "rnn",
    "rnn_backward",
    "scatter_plane",
    "scatter_rows",
    "set_float32_matmul_precision",
    "set_num_threads",
    "sgd_step",
    "softmax",
    "softmax_backward",
    "static_add",
    "static_conv2d",
    "static_linear",
    "table",
    "unpack_csr",
    "unpack_int4",
    "unpack_nm",
    "use",
    "variants",
    "which",
]

memory.keep()

# Opened at first use, as the families are: importing the package stays light.
_LATER = {
    "check_index": ".cuda.launch",
    "frozen": ".kept",
    "pack_csr": ".sparse.pack",
    "pack_int4": ".gemm_int4.reference",
    "pack_nm": ".sparse.pack",
    "unpack_csr": ".sparse.pack",
    "unpack_int4": ".gemm_int4.reference",
    "unpack_nm": ".sparse.pack",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def matmul(a: Array, b: Array) -> Array:
    """C = A @ B, leading axes broadcast.    (..., M, K) @ (..., K, N) -> (..., M, N)

    Both of one dtype. float32 and float64 accumulate in their own precision or better; bool and integers as NumPy's
    matmul. Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> matmul(np.ones((2, 3), np.float32), np.ones((3, 1), np.float32)).tolist()
    [[3.0], [3.0]]
    """
    return call("matmul", (a, b))


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """y = x @ w.T + b.    x (..., K), w (N, K), b (N,) -> y (..., N); float32 or float64.

    Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> linear(np.ones(3), np.ones((2, 3)), np.array([0.0, 1.0])).tolist()
    [3.0, 4.0]
    """
    return call("linear", (x, w, b))


def linear_backward(
    dy: Array, x: Array, w: Array, needs: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = dy @ w, dw = dy.T @ x, db = the sum of dy's rows.    dy (..., N), x (..., K), w (N, K)

    None in place of each that `needs` has no need of. Raises ValueError for shapes that do not fit, TypeError for
    dtypes.

    >>> import numpy as np
    >>> dx, dw, db = linear_backward(np.ones((2, 1)), np.array([[1.0], [2.0]]), np.array([[3.0]]), (True, True, False))
    >>> dx.tolist(), dw.tolist(), db
    ([[3.0], [3.0]], [[3.0]], None)
    """
    return call("linear_backward", (dy, x, w, needs))


def conv2d(
    x: Array, w: Array, b: Array | None = None, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1
) -> Array:
    """Cross-correlation, as torch's conv2d.    x (N, C, H, W), w (K, C / groups, R, S), b (K,) -> y (N, K, P, Q)

        y[n, k, p, q] = b[k] + sum over c, r, s of x[n, c, p * stride + r * dilation - padding, q * ...] * w[k, c, r, s]

    with zeros outside x and P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1. stride, padding and
    dilation are one integer or a pair (height, width). An empty batch is legal. Raises ValueError for shapes that do
    not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), padding=1)[0, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    return call("conv2d", (x, w, b, stride, padding, dilation, groups))


def conv2d_dx(
    dy: Array,
    w: Array,
    x_shape: tuple[int, ...],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Gradient of conv2d for its input (also the transposed convolution).

    dy (N, K, P, Q), w (K, C / groups, R, S) -> dx (N, C, H, W)

    `x_shape` is the (N, C, H, W) of the forward's x. Raises ValueError where dy is not the shape that the forward
    gives, TypeError for dtypes.

    >>> import numpy as np
    >>> conv2d_dx(np.ones((1, 1, 1, 1)), np.array([[[[1.0, 2.0]]]]), (1, 1, 1, 2)).tolist()
    [[[[1.0, 2.0]]]]
    """
    return call("conv2d_dx", (dy, w, x_shape, stride, padding, dilation, groups))


def conv2d_dw(
    dy: Array,
    x: Array,
    w_shape: tuple[int, ...],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Gradient of conv2d for its filters.    dy (N, K, P, Q), x (N, C, H, W) -> dw (K, C / groups, R, S)

    `w_shape` is the shape of the forward's w. Raises ValueError where dy is not the shape that the forward gives,
    TypeError for dtypes.

    >>> import numpy as np
    >>> conv2d_dw(np.ones((1, 1, 1, 1)), np.array([[[[3.0, 4.0]]]]), (1, 1, 1, 2)).tolist()
    [[[[3.0, 4.0]]]]
    """
    return call("conv2d_dw", (dy, x, w_shape, stride, padding, dilation, groups))


def attention(
    q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False, scale: float | None = None
) -> tuple[Array, Array]:
    """softmax(q k^T * scale + mask) v.

    q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, E) -> out (B, H, T, E), lse (B, H, T)

    H is a multiple of Hkv: query head h reads key head h // (H / Hkv). `mask` broadcasts to (B, H, T, S): bool (True
    = attend) or float (added to the scores). `causal`: row t attends to s <= t, counted from the first key, as
    torch's. `scale` defaults to 1 / sqrt(D). `lse` is the logarithm of each row's softmax sum, which the backward
    needs; a row that may attend to nothing gives zeros and lse = -inf. Raises ValueError for shapes that do not fit,
    TypeError for dtypes. Vaswani et al. 2017, arXiv:1706.03762, equation 1.

    >>> import numpy as np
    >>> out, lse = attention(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 2, 2)), np.array([[[[1.0], [3.0]]]]))
    >>> float(out[0, 0, 0, 0])
    2.0
    """
    return call("attention", (q, k, v, mask, causal, scale))


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    mask: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of attention.

    dout (B, H, T, E), what went in, out and lse as they came out -> dq, dk, dv, shaped as q, k, v

    The scores are computed again from q, k and lse (Dao et al. 2022, arXiv:2205.14135, algorithm 4). Raises as
    `attention`.

    >>> import numpy as np
    >>> q, v = np.zeros((1, 1, 1, 2)), np.array([[[[1.0], [3.0]]]])
    >>> k = np.zeros((1, 1, 2, 2))
    >>> out, lse = attention(q, k, v)
    >>> dq, dk, dv = attention_backward(np.ones((1, 1, 1, 1)), q, k, v, out, lse)
    >>> dv.ravel().tolist()
    [0.5, 0.5]
    """
    return call("attention_backward", (dout, q, k, v, out, lse, mask, causal, scale))


def max_pool2d(
    x: Array, window: Pair, stride: Pair, padding: Pair = 0, dilation: Pair = 1, size: tuple[int, int] | None = None
) -> tuple[Array, Array]:
    """The greatest element of each window and where it is.    x (N, C, H, W) -> y, index (N, C, P, Q)

    index is int64, flat in the H x W plane. Of equals the first wins; NaN wins over numbers. `size` is (P, Q): by
    default every whole window; more of them where the last may be partial. Raises ValueError for shapes that do not
    fit, or a window that lies outside x altogether.

    >>> import numpy as np
    >>> y, index = max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2, 2)
    >>> y[0, 0].tolist(), index[0, 0].tolist()
    ([[5.0, 7.0], [13.0, 15.0]], [[5, 7], [13, 15]])
    """
    from . import checks

    checks.array("max_pool2d", "x", x, 4, "(N, C, H, W)")
    given = (("window", window, 1), ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    pairs = [checks.pair("max_pool2d", *v) for v in given]
    if size is None:
        taps = zip(x.shape[2:], *pairs)
        size = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in taps)
    return call("max_pool2d", (x, *pairs, checks.shape("max_pool2d", "size", size, 2)))


def scatter_plane(x: Array, index: Array, width: int) -> Array:
    """Zeros with x added at index.    x (..., L), index (..., L) int -> y (..., width)

    y[..., index[..., i]] += x[..., i], in order of i. Raises IndexError for an index outside 0 .. width - 1.

    >>> import numpy as np
    >>> scatter_plane(np.array([1.0, 2.0, 3.0]), np.array([0, 2, 0]), 3).tolist()
    [4.0, 0.0, 2.0]
    """
    return call("scatter_plane", (x, index, width))


def gather_plane(x: Array, index: Array) -> Array:
    """x at index.    x (..., W), index (..., L) int -> y (..., L); IndexError for an index outside 0 .. W - 1.

    >>> import numpy as np
    >>> gather_plane(np.array([1.0, 2.0, 3.0]), np.array([2, 0])).tolist()
    [3.0, 1.0]
    """
    return call("gather_plane", (x, index))


def scatter_rows(x: Array, index: Array, rows: int) -> Array:
    """y[index[i]] += x[i] for every i, from zeros.    x (L, D), index (L,) integer -> y (rows, D)

    What an embedding's gradient is; the same bits in every run, on a GPU too. Raises IndexError for a place outside
    0 ... rows - 1 (a GPU leaves such a row out), ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> scatter_rows(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([2, 0, 2]), 3).tolist()
    [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
    """
    return call("scatter_rows", (x, index, rows))


def int8_matmul(a: Array, b: Array) -> Array:
    """Exact integer product.    a (..., M, K) int8 @ b (K, N) int8 -> (..., M, N) int32

    K stays below 2^17, so no sum can leave int32. Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> int8_matmul(np.full((1, 2), -128, np.int8), np.full((2, 1), -128, np.int8)).tolist()
    [[32768]]
    """
    return call("int8_matmul", (a, b))


def int8_linear(x: Array, w_q: Array, w_scale: Array, b: Array | None = None, x_scale: float | None = None) -> Array:
    """y = (quantize(x) @ w_q.T) * (x_scale * w_scale) + b.

    x (..., K) float, w_q (N, K) int8, w_scale (N,), b (N,) -> y (..., N)

    Without `x_scale` each row of x is quantized by its own scale max|x| / 127 (1 for a row of zeros): round half to
    even, clip to [-127, 127]. Sums are int32 and exact. Raises ValueError for shapes that do not fit, TypeError for
    dtypes.

    >>> import numpy as np
    >>> int8_linear(np.array([[127.0]], np.float32), np.array([[2]], np.int8), np.array([0.5], np.float32)).tolist()
    [[127.0]]
    """
    return call("int8_linear", (x, w_q, w_scale, b, x_scale))


def int8_conv2d(
    x: Array,
    w_q: Array,
    w_scale: Array,
    b: Array | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    x_scale: float | None = None,
) -> Array:
    """conv2d in integers.

    x (N, C, H, W) float, w_q (K, C / groups, R, S) int8, w_scale (K,), b (K,) -> y (N, K, P, Q)

    As `int8_linear`, with one dynamic scale per image. Raises ValueError for shapes that do not fit, TypeError for
    dtypes.

    >>> import numpy as np
    >>> x, w = np.full((1, 1, 1, 1), 127.0, np.float32), np.full((1, 1, 1, 1), 2, np.int8)
    >>> int8_conv2d(x, w, np.ones(1, np.float32)).item()
    254.0
    """
    return call("int8_conv2d", (x, w_q, w_scale, b, stride, padding, dilation, groups, x_scale))


def int4_linear(x: Array, w_q: Array, scale: Array, zero: Array | None = None, b: Array | None = None) -> Array:
    """y = x @ W.T + b with W[n, k] = (q[n, k] - zero[n, k // G]) * scale[n, k // G], rounded to float32.

    x (..., K), w_q (N, K / 2) uint8, scale (N, K / G) float32, zero (N, K / G) uint8, b (N,) -> y (..., N)

    w_q is `pack_int4(q)`, q in 0 .. 15. Without `zero` every group's is 8. G, the size of a group, follows from scale's
    shape; it is a multiple of 32. Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> from minidl_kernels import pack_int4
    >>> w_q = pack_int4(np.full((1, 32), 10, np.uint8))
    >>> int4_linear(np.ones((1, 32), np.float32), w_q, np.full((1, 1), 0.5, np.float32)).tolist()
    [[32.0]]
    """
    return call("int4_linear", (x, w_q, scale, zero, b))


# --- layers that stay in int8 ---


def quantize(
    x: Array, scale: float | Array, zero: int | Array = 0, low: int = -127, high: int = 127, axis: int | None = None
) -> Array:
    """q = clip(rint(x / scale) + zero, low, high), half to even; a NaN becomes zero.    x (...) float -> q (...) int8

    scale and zero are numbers, or float32 (C,) and int8 (C,), one for each index of `axis`. The division is one of
    float32, to which float64 is rounded first. Raises ValueError for shapes that do not fit and for what are no codes,
    TypeError for dtypes.

    >>> import numpy as np
    >>> quantize(np.float32([0.5, 1.5, -300, np.nan]), 1.0).tolist()
    [0, 2, -127, 0]
    >>> quantize(np.float32([[1, 2], [1, 2]]), np.float32([0.5, 2]), low=-7, high=7, axis=0).tolist()  # 4 bits
    [[2, 4], [0, 1]]
    """
    return call("quantize", (x, scale, zero, low, high, axis))


def dequantize(q: Array, scale: float | Array, zero: int | Array = 0, axis: int | None = None) -> Array:
    """x = float32(q - zero) * scale.    q (...) int8 or uint8 -> x (...) float32

    scale and zero as in `quantize`, zero of q's dtype. Raises as `quantize`.

    >>> import numpy as np
    >>> dequantize(np.int8([2, -127]), 0.5, zero=1).tolist()
    [0.5, -64.0]
    """
    return call("dequantize", (q, scale, zero, axis))


def requantize(acc: Array, bias: Array, multiplier: Array, zero: int = 0, low: int = -128, high: int = 127) -> Array:
    """y = clip(rint(float32(acc + bias) * multiplier) + zero, low, high), half to even.    (..., N) int32 -> int8

    bias (N,) int32, multiplier (N,) float32; acc + bias wraps modulo 2^32. Raises ValueError for shapes that do not
    fit and for what are no codes, TypeError for dtypes.

    >>> import numpy as np
    >>> requantize(np.int32([[5, 700]]), np.int32([0, 0]), np.float32([0.5, 0.5]), zero=1).tolist()
    [[3, 127]]
    """
    return call("requantize", (acc, bias, multiplier, zero, low, high))


def static_linear(
    x: Array, w: Array, bias: Array, multiplier: Array, zero: int = 0, low: int = -128, high: int = 127
) -> Array:
    """requantize(x @ w.T, ...): a linear layer from int8 to int8.    x (..., K), w (N, K) -> y (..., N)

    The family's page (int8_static) has the arithmetic. K stays below 2^16. Raises as `requantize`.

    >>> import numpy as np
    >>> one, w = np.ones(1, np.float32), np.int8([[2, 3]])
    >>> static_linear(np.int8([10, 20]), w, np.zeros(1, np.int32), one).tolist()
    [80]
    """
    return call("static_linear", (x, w, bias, multiplier, zero, low, high))


def static_conv2d(
    x: Array, w: Array, bias: Array, multiplier: Array, stride: Pair = 1,
    padding: Pair | tuple[int, int, int, int] = 0, dilation: Pair = 1, groups: int = 1,
    border: int = 0, zero: int = 0, low: int = -128, high: int = 127,
) -> Array:  # fmt: skip
    """conv2d from int8 to int8, channels last.    x (B, H, W, C), w (K, R, S, C / groups) -> y (B, P, Q, K)

    padding is one integer, (height, width) or (top, bottom, left, right); `border` is the code around the image, x's
    zero point. R * S * C / groups stays below 2^16. Raises as `requantize`.

    >>> import numpy as np
    >>> x, w = np.full((1, 2, 2, 1), 3, np.int8), np.ones((1, 3, 3, 1), np.int8)
    >>> static_conv2d(x, w, np.zeros(1, np.int32), np.ones(1, np.float32), padding=1)[0, 0, 0, 0].item()
    12
    """
    return call("static_conv2d", (x, w, bias, multiplier, stride, padding, dilation, groups, border, zero, low, high))


def static_add(
    a: Array, b: Array, a_zero: int, b_zero: int, a_ratio: float, b_ratio: float,
    zero: int = 0, low: int = -128, high: int = 127,
) -> Array:  # fmt: skip
    """clip(rint((a - a_zero) * a_ratio + (b - b_zero) * b_ratio) + zero, low, high), float32.    int8, int8 -> int8

    Arrays of one shape; the ratios are s_a / s_y and s_b / s_y. Raises as `requantize`.

    >>> import numpy as np
    >>> static_add(np.int8([10]), np.int8([6]), 2, 0, 0.5, 1.0).tolist()
    [10]
    """
    return call("static_add", (a, b, a_zero, b_zero, a_ratio, b_ratio, zero, low, high))


# --- sparse ---


def csr_linear(x: Array, values: Array, indices: Array, indptr: Array, b: Array | None = None) -> Array:
    """y = x @ W.T + b with W in compressed sparse rows.

    x (..., K), values (Z,) float, indices (Z,) uint16 or int32, indptr (N + 1,) int64, b (N,) -> y (..., N)

    `pack_csr` makes the three of a dense W; what they do not store takes no part. Raises IndexError for an index
    outside 0 .. K - 1 or an indptr that does not rise from 0 to Z, ValueError for shapes, TypeError for dtypes.

    >>> import numpy as np
    >>> w = np.array([[0.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    >>> from minidl_kernels import pack_csr
    >>> csr_linear(np.array([[1.0, 10.0]]), *pack_csr(w)).tolist()
    [[20.0, 0.0, 43.0]]
    """
    return call("csr_linear", (x, values, indices, indptr, b))


def csr_linear_dx(dy: Array, values: Array, indices: Array, indptr: Array, k: int) -> Array:
    """Gradient of csr_linear for x, dy @ W.    dy (..., N) -> dx (..., K); `k` is K, the columns of W.

    Raises as `csr_linear`.

    >>> import numpy as np
    >>> w = np.array([[0.0, 2.0], [3.0, 4.0]])
    >>> from minidl_kernels import pack_csr
    >>> csr_linear_dx(np.array([[1.0, 10.0]]), *pack_csr(w), 2).tolist()
    [[30.0, 42.0]]
    """
    return call("csr_linear_dx", (dy, values, indices, indptr, k))


def nm_linear(x: Array, values: Array, indices: Array, m: int, b: Array | None = None) -> Array:
    """y = x @ W.T + b with n of every m neighbours in a row of W stored.

    x (..., K), values (N, G, n) float, indices (N, R) uint8, b (N,) -> y (..., N); G = ceil(K / m), m up to 16

    `pack_nm` makes values and indices of a dense W. Raises IndexError for a place outside its group or beyond K,
    ValueError for shapes, TypeError for dtypes.

    >>> import numpy as np
    >>> w = np.array([[0.0, 2.0, 0.0, 3.0], [4.0, 0.0, 0.0, 0.0]])
    >>> from minidl_kernels import pack_nm
    >>> nm_linear(np.array([[1.0, 10.0, 100.0, 1000.0]]), *pack_nm(w, 2, 4), 4).tolist()
    [[3020.0, 4.0]]
    """
    return call("nm_linear", (x, values, indices, m, b))


# --- along rows ---


def softmax(x: Array) -> Array:
    """y = e^x / sum e^x along the last axis, from x - max x.    x (..., C) -> y (..., C); float32 or float64.

    A row with NaN or +Inf, or of -Inf only, is NaN, here and in the functions below. Raises ValueError for an x without
    axes, TypeError for dtypes.

    >>> import numpy as np
    >>> softmax(np.zeros((1, 4))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    return call("softmax", (x,))


def softmax_backward(dy: Array, y: Array) -> Array:
    """dx = y (dy - sum dy y): softmax's gradient.    dy, y (..., C) -> dx (..., C)

    >>> import numpy as np
    >>> softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5])).tolist()
    [0.25, -0.25]
    """
    return call("softmax_backward", (dy, y))


def log_softmax(x: Array) -> Array:
    """y = x - ln sum e^x along the last axis.    x (..., C) -> y (..., C); raises as `softmax`.

    >>> import numpy as np
    >>> log_softmax(np.array([5.0])).tolist()
    [0.0]
    """
    return call("log_softmax", (x,))


def log_softmax_backward(dy: Array, y: Array) -> Array:
    """dx = dy - e^y sum dy: log_softmax's gradient.    dy, y (..., C) -> dx (..., C)

    >>> import numpy as np
    >>> log_softmax_backward(np.array([1.0, 1.0]), np.log([0.25, 0.75])).round(12).tolist()
    [0.5, -0.5]
    """
    return call("log_softmax_backward", (dy, y))


def cross_entropy(
    x: Array, t: Array, w: Array | None = None, ignore_index: int = -100, smoothing: float = 0.0
) -> tuple[Array, Array]:
    """-log softmax(x)[t] of each row.    x (N, C), t (N,) classes, w (C,) -> loss (N,), lse (N,)

        loss = (1 - s) w_t (lse - x_t) + s / C sum_c w_c (lse - x_c),    lse = ln sum_c e^(x_c)

    with s the smoothing, and 0 where t is `ignore_index`. Raises IndexError for a class outside 0 .. C - 1, ValueError
    for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> loss, lse = cross_entropy(np.log([[1.0, 3.0]]), np.array([1]))
    >>> round(float(np.exp(-loss[0])), 12), round(float(np.exp(lse[0])), 12)
    (0.75, 4.0)
    """
    return call("cross_entropy", (x, t, w, ignore_index, smoothing))


def cross_entropy_backward(
    dy: Array,
    x: Array,
    t: Array,
    lse: Array,
    w: Array | None = None,
    ignore_index: int = -100,
    smoothing: float = 0.0,
) -> Array:
    """Gradient of cross_entropy's loss for x.    dy, lse (N,), what went in -> dx (N, C)

    The probabilities are computed again, from x and lse. Raises as `cross_entropy`.

    >>> import numpy as np
    >>> x, t = np.zeros((1, 2)), np.array([0])
    >>> cross_entropy_backward(np.ones(1), x, t, cross_entropy(x, t)[1]).round(12).tolist()
    [[-0.5, 0.5]]
    """
    return call("cross_entropy_backward", (dy, x, t, lse, w, ignore_index, smoothing))


# --- normalisation ---


def layer_norm(
    x: Array, w: Array | None = None, b: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """y = (x - mean) / sqrt(var + eps) w + b along the last axis.    x (..., D), w, b (D,) -> y, mean (...), var (...)

    var is the mean of (x - mean)^2. Raises ValueError for shapes that do not fit, TypeError for dtypes.
    Ba, Kiros & Hinton 2016, arXiv:1607.06450.

    >>> import numpy as np
    >>> y, mean, var = layer_norm(np.array([[1.0, 3.0]]), eps=0.0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([[-1.0, 1.0]], [2.0], [1.0])
    """
    return call("layer_norm", (x, w, b, eps))


def layer_norm_backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Gradients of layer_norm.    dy (..., D), what went in, mean and var as they came out -> dx, dw (D,), db (D,)

    dw and db come out whether or not w was given. Raises as `layer_norm`.

    >>> import numpy as np
    >>> x = np.array([[1.0, 3.0]])
    >>> dx, dw, db = layer_norm_backward(np.ones((1, 2)), x, None, np.array([2.0]), np.array([1.0]), 0.0)
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[0.0, 0.0]], [-1.0, 1.0], [1.0, 1.0])
    """
    return call("layer_norm_backward", (dy, x, w, mean, var, eps))


def rms_norm(x: Array, w: Array | None = None, eps: float = 1e-5) -> tuple[Array, Array]:
    """y = x / sqrt(square + eps) w along the last axis.    x (..., D), w (D,) -> y, square (...), the mean of x^2

    Raises as `layer_norm`. Zhang & Sennrich 2019, arXiv:1910.07467.

    >>> import numpy as np
    >>> y, square = rms_norm(np.array([[3.0, -3.0]]), eps=0.0)
    >>> y.tolist(), square.tolist()
    ([[1.0, -1.0]], [9.0])
    """
    return call("rms_norm", (x, w, eps))


def rms_norm_backward(dy: Array, x: Array, w: Array | None, square: Array, eps: float = 1e-5) -> tuple[Array, Array]:
    """Gradients of rms_norm.    dy (..., D), what went in, square as it came out -> dx, dw (D,)

    >>> import numpy as np
    >>> dx, dw = rms_norm_backward(np.ones((1, 2)), np.array([[2.0, -2.0]]), None, np.array([4.0]), 0.0)
    >>> dx.tolist(), dw.tolist()
    ([[0.5, 0.5]], [1.0, -1.0])
    """
    return call("rms_norm_backward", (dy, x, w, square, eps))


def batch_norm(
    x: Array, w: Array | None = None, b: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """y = (x - mean) / sqrt(var + eps) w + b over each channel.    x (N, C, ...), w, b (C,) -> y, mean (C,), var (C,)

    var is the mean of (x - mean)^2. Raises ValueError for shapes that do not fit and for an empty x, TypeError for
    dtypes. Ioffe & Szegedy 2015, arXiv:1502.03167.

    >>> import numpy as np
    >>> y, mean, var = batch_norm(np.array([[1.0], [3.0]]), eps=0.0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([[-1.0], [1.0]], [2.0], [1.0])
    """
    return call("batch_norm", (x, w, b, eps))


def batch_norm_backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Gradients of batch_norm.    dy (N, C, ...), what went in, mean and var as they came out -> dx, dw (C,), db (C,)

    >>> import numpy as np
    >>> x, dy = np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]])
    >>> dx, dw, db = batch_norm_backward(dy, x, None, np.array([2.0]), np.array([1.0]), 0.0)
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[0.0], [0.0]], [1.0], [1.0])
    """
    return call("batch_norm_backward", (dy, x, w, mean, var, eps))


def channel_affine(x: Array, scale: Array, shift: Array, f: str = "", out: Array | None = None) -> Array:
    """y = f(x scale + shift), channel by channel: batch norm in evaluation.    x (N, C, ...), scale, shift (C,) -> y

    f is "relu", "relu6" or "" for none. With `out`, an array of x's shape and dtype without gaps, y is written there
    and `out` returned; x itself will do. Raises as `batch_norm`, and ValueError for another f or an `out` that does
    not fit. On the CPU product and sum are rounded one after the other, as in NumPy.

    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0]])
    >>> channel_affine(x, np.array([2.0]), np.array([-4.0]), "relu").tolist()
    [[0.0], [2.0]]
    """
    return call("channel_affine", (x, scale, shift, f, out))


def group_norm(
    x: Array, groups: int, w: Array | None = None, b: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """y = (x - mean) / sqrt(var + eps) w + b over each group of C / groups channels of each example.

    x (N, C, ...), w, b (C,) -> y, mean (N, groups), var (N, groups)

    Raises as `batch_norm`. Wu & He 2018, arXiv:1803.08494.

    >>> import numpy as np
    >>> y, mean, var = group_norm(np.array([[1.0, 3.0, 5.0, 5.0]]), 2, eps=1.0)
    >>> mean.tolist(), var.tolist()
    ([[2.0, 5.0]], [[1.0, 0.0]])
    """
    return call("group_norm", (x, groups, w, b, eps))


def group_norm_backward(
    dy: Array, x: Array, groups: int, w: Array | None, mean: Array, var: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Gradients of group_norm.    dy (N, C, ...), what went in, mean and var (N, groups) -> dx, dw (C,), db (C,)

    >>> import numpy as np
    >>> x, dy = np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]])
    >>> dx, dw, db = group_norm_backward(dy, x, 1, None, np.array([[2.0]]), np.array([[1.0]]), 0.0)
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[0.0, 0.0]], [0.0, 1.0], [0.0, 1.0])
    """
    return call("group_norm_backward", (dy, x, groups, w, mean, var, eps))


# --- element by element ---


def activation(x: Array, name: str) -> Array:
    """y = f(x), f being relu, gelu or another one of the table in pointwise/__init__.py.

    x of any shape, float32 or float64 -> y, of x's shape. Raises ValueError for another name, TypeError for dtypes.

    >>> import numpy as np
    >>> activation(np.array([-1.0, 2.0]), "relu").tolist()
    [0.0, 2.0]
    """
    return call("activation", (x, name))


def activation_backward(dy: Array, saved: Array, name: str) -> Array:
    """dx = dy f'(x), from y (relu, exp, tanh, sigmoid, relu6) or from x (the others), which `saved` is.

    dy and saved of one shape -> dx. Raises ValueError for shapes that differ or another name, TypeError for dtypes.

    >>> import numpy as np
    >>> activation_backward(np.array([3.0]), np.array([0.5]), "tanh").tolist()
    [2.25]
    """
    return call("activation_backward", (dy, saved, name))


def dropout(x: Array, seed: int, stream: int, block: int, p: float) -> tuple[Array, Array]:
    """x / (1 - p) where a random number is at least p, else 0.    x of any shape -> y, mask (bool), of x's shape

    The numbers are the 24-bit uniforms of Philox4x32-10 from `block` on; `seed`, `stream` and `block` are 64 bits each
    (the rule is in drop/__init__.py). Raises ValueError unless 0 <= p < 1, TypeError for dtypes.

    >>> import numpy as np
    >>> y, mask = dropout(np.ones(4), 0, 0, 0, 0.5)
    >>> y.tolist(), mask.tolist()
    ([0.0, 2.0, 2.0, 2.0], [False, True, True, True])
    """
    return call("dropout", (x, seed, stream, block, p))


def mask_scale(x: Array, mask: Array, scale: float) -> Array:
    """x * scale where mask, else 0: dropout's gradient.    x, mask of one shape -> y; raises as `dropout`.

    >>> import numpy as np
    >>> mask_scale(np.array([1.0, 2.0]), np.array([True, False]), 2.0).tolist()
    [2.0, 0.0]
    """
    return call("mask_scale", (x, mask, scale))


# --- recurrences over whole sequences ---


def rnn(
    gx: Array,
    h: Array,
    w: Array,
    sizes: tuple[int, ...],
    reverse: bool = False,
    nonlinearity: str = "tanh",
    keep: bool = True,
) -> tuple[Array, Array, Array | None]:
    """h_t = tanh(gx_t + W h_(t-1)), or relu.    gx (L, H), h (B, H), w (H, H) -> y (L, H), h_n (B, H), before (L, H)

    gx is W_ih x_t + b for all steps; y every h_t, before every h_(t-1), None unless `keep`. Step t has sizes[t] rows,
    never more than the step before; those of all steps stand one after the other (recurrent/__init__.py). In reverse,
    steps run from the last to the first. float32 or float64. Raises ValueError for shapes or sizes that do not fit,
    TypeError for dtypes. Elman 1990, doi 10.1207/s15516709cog1402_1.

    >>> import numpy as np
    >>> y, h, before = rnn(np.ones((2, 1)), np.zeros((1, 1)), np.array([[2.0]]), (1, 1), nonlinearity="relu")
    >>> y.tolist(), h.tolist(), before.tolist()
    ([[1.0], [3.0]], [[3.0]], [[0.0], [1.0]])
    """
    return call("rnn", (gx, h, w, sizes, reverse, nonlinearity, keep))


def rnn_backward(
    dy: Array, dh: Array, w: Array, y: Array, sizes: tuple[int, ...], reverse: bool = False, nonlinearity: str = "tanh"
) -> tuple[Array, Array]:
    """Gradients of rnn.    dy (L, H), dh (B, H) of h_n, w (H, H), y (L, H) as it came out -> da (L, H), dh (B, H)

    da is the gradient of gx; that of w is da.T @ before. Raises as `rnn`.

    >>> import numpy as np
    >>> da, dh = rnn_backward(np.ones((1, 1)), np.ones((1, 1)), np.array([[2.0]]), np.array([[0.5]]), (1,))
    >>> da.tolist(), dh.tolist()
    ([[1.5]], [[3.0]])
    """
    return call("rnn_backward", (dy, dh, w, y, sizes, reverse, nonlinearity))


def lstm(
    gx: Array, h: Array, c: Array, w: Array, sizes: tuple[int, ...], reverse: bool = False, keep: bool = True
) -> tuple[Array, Array, Array, Array | None, Array | None, Array | None]:
    """Long short-term memory.    gx (L, 4 H), h, c (B, H), w (4 H, H) -> y (L, H), h_n, c_n (B, H), and what was kept

        i, f, o = sigmoid(gx + W h),  g = tanh(gx + W h);    c' = f c + i g,  h' = o tanh(c')

    with the gates in the order i, f, g, o. Kept for the backward, None unless `keep`: gates (L, 4 H) after their
    functions, cells (L, H), every c', before (L, H), every h_(t-1). The rest is as in `rnn`. Hochreiter & Schmidhuber
    1997, doi 10.1162/neco.1997.9.8.1735; Gers et al. 2000.

    >>> import numpy as np
    >>> y, h, c, *kept = lstm(np.zeros((1, 4)), np.zeros((1, 1)), np.ones((1, 1)), np.zeros((4, 1)), (1,))
    >>> c.tolist(), kept[0].tolist()
    ([[0.5]], [[0.5, 0.5, 0.0, 0.5]])
    """
    return call("lstm", (gx, h, c, w, sizes, reverse, keep))


def lstm_backward(
    dy: Array,
    dh: Array,
    dc: Array,
    w: Array,
    c: Array,
    gates: Array,
    cells: Array,
    sizes: tuple[int, ...],
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """Gradients of lstm.    dy (L, H), dh, dc (B, H) of h_n, c_n -> da (L, 4 H), dh, dc (B, H)

    c is the initial one; gates and cells are as they came out. da is the gradient of gx; that of w is da.T @ before.
    Raises as `lstm`.

    >>> import numpy as np
    >>> one, gates = np.ones((1, 1)), np.array([[0.5, 0.5, 0.0, 0.5]])
    >>> da, dh, dc = lstm_backward(0 * one, 0 * one, one, np.zeros((4, 1)), 2 * one, gates, one, (1,))
    >>> da.tolist(), dc.tolist()
    ([[0.0, 0.5, 0.5, 0.0]], [[0.5]])
    """
    return call("lstm_backward", (dy, dh, dc, w, c, gates, cells, sizes, reverse))


def gru(
    gx: Array,
    h: Array,
    w: Array,
    b: Array | None,
    sizes: tuple[int, ...],
    reverse: bool = False,
    keep: bool = True,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    """Gated recurrent unit.    gx (L, 3 H), h (B, H), w (3 H, H), b (3 H,) -> y (L, H), h_n (B, H), and what was kept

        p = W h + b;  r, z = sigmoid(gx + p),  n = tanh(gx_n + r p_n);    h' = (h - n) z + n

    with the gates in the order r, z, n. Kept for the backward, None unless `keep`: gates (L, 3 H) after their
    functions, inner (L, H), every p_n, before (L, H), every h_(t-1). The rest is as in `rnn`. Cho et al. 2014,
    arXiv:1406.1078, in torch's variant.

    >>> import numpy as np
    >>> y, h, *kept = gru(np.zeros((1, 3)), np.ones((1, 1)), np.zeros((3, 1)), None, (1,))
    >>> h.tolist(), kept[0].tolist()
    ([[0.5]], [[0.5, 0.5, 0.0]])
    """
    return call("gru", (gx, h, w, b, sizes, reverse, keep))


def gru_backward(
    dy: Array,
    dh: Array,
    w: Array,
    gates: Array,
    inner: Array,
    before: Array,
    sizes: tuple[int, ...],
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """Gradients of gru.    dy (L, H), dh (B, H) of h_n, w, and what was kept -> da, dp (L, 3 H), dh (B, H)

    da is the gradient of gx and dp that of p; that of w is dp.T @ before, that of b the sum of dp. Raises as `gru`.

    >>> import numpy as np
    >>> one, gates = np.ones((1, 1)), np.array([[0.5, 0.5, 0.0]])
    >>> da, dp, dh = gru_backward(one, 0 * one, np.zeros((3, 1)), gates, 0 * one, one, (1,))
    >>> da.tolist(), dp.tolist(), dh.tolist()
    ([[0.0, 0.25, 0.5]], [[0.0, 0.25, 0.25]], [[0.5]])
    """
    return call("gru_backward", (dy, dh, w, gates, inner, before, sizes, reverse))


# --- optimizers: the functions that write into what they are given ---


def sgd_step(
    params: Sequence[Array], grads: Sequence[Array], buffers: Sequence[Array] | None, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
    masks: Sequence[Array | None] | None = None,
) -> None:  # fmt: skip
    """w -= lr d for every parameter, in place, d its gradient or, with `buffers`, the running sum of gradients.

    Lists with an array for each parameter, of its shape and all of one dtype, float32 or float64; params and buffers
    are written and must be C-contiguous, aligned and writeable. `masks` are bool arrays, or None: where one is False
    the weight becomes 0. The formula is in optim/__init__.py; a new buffer holds
    the first gradient. Raises ValueError for lists or shapes that do not fit, TypeError for dtypes; nothing has been
    written then.

    >>> import numpy as np
    >>> w, g = np.array([1.0, 2.0]), np.array([1.0, -1.0])
    >>> sgd_step([w], [g], None, lr=0.5)
    >>> w.tolist()
    [0.5, 2.5]
    """
    # Of lists no choice of a variant is kept.
    call(
        "sgd_step",
        (
            list(params), list(grads), None if buffers is None else list(buffers), lr, momentum, dampening,
            weight_decay, nesterov, maximize, None if masks is None else list(masks),
        ),
    )  # fmt: skip


def adam_step(
    params: Sequence[Array], grads: Sequence[Array], means: Sequence[Array], squares: Sequence[Array],
    greatest: Sequence[Array] | None, steps: Sequence[int], lr: float, beta1: float = 0.9, beta2: float = 0.999,
    eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False, maximize: bool = False,
    masks: Sequence[Array | None] | None = None,
) -> None:  # fmt: skip
    """A step of Adam for every parameter, in place; `decoupled`, of AdamW; with `greatest`, of AMSGrad.

    As `sgd_step`, with the running means of gradients and of their squares, the greatest of the latter, and how many
    steps each parameter has made, this one counted. Raises as `sgd_step`, and ValueError for a step below 1 or a beta
    outside [0, 1). Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101.

    >>> import numpy as np
    >>> w, g, m, v = np.array([[1.0, 2.0], [4.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    >>> adam_step([w], [g], [m], [v], None, [1], lr=0.5)
    >>> w.round(6).tolist()
    [0.5, 2.5]
    """
    call(
        "adam_step",
        (
            list(params), list(grads), list(means), list(squares), None if greatest is None else list(greatest),
            list(steps), lr, beta1, beta2, eps, weight_decay, decoupled, maximize,
            None if masks is None else list(masks),
        ),
    )  # fmt: skip


def set_num_threads(n: int) -> None:
    """Use `n` threads (at least 1) in every kernel, and in BLAS where kernels call it. Does not load Numba.

    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    from .cpu import threads

    threads.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that kernels use: what was set, else the CPUs this process may run on."""
    from .cpu import threads

    return threads.get_num_threads()
