"""Array kernels of minidl: plain NumPy (or CuPy) arrays in, fresh arrays out.

The public functions stand here by hand, each with its contract. Every one checks its arguments, lets the registry
choose the fastest variant that can run them, and calls it; `which` tells the choice, `use` forces one. The README
says what a kernel promises and how to add one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import checks
from .registry import call, ops, table, use, variants, which

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Pair = int | tuple[int, int]

__all__ = [
    "attention",
    "attention_backward",
    "conv2d",
    "conv2d_dw",
    "conv2d_dx",
    "get_num_threads",
    "int8_conv2d",
    "int8_linear",
    "int8_matmul",
    "linear",
    "matmul",
    "max_pool2d",
    "gather_plane",
    "scatter_plane",
    "set_num_threads",
    "table",
    "use",
    "variants",
    "which",
]

_ops = ops()
_max_pool2d, _scatter_plane, _gather_plane = (_ops[n] for n in ("max_pool2d", "scatter_plane", "gather_plane"))
_matmul, _linear = _ops["matmul"], _ops["linear"]
_conv2d, _conv2d_dx, _conv2d_dw = _ops["conv2d"], _ops["conv2d_dx"], _ops["conv2d_dw"]
_attention, _attention_backward = _ops["attention"], _ops["attention_backward"]
_int8_matmul, _int8_linear, _int8_conv2d = _ops["int8_matmul"], _ops["int8_linear"], _ops["int8_conv2d"]


def matmul(a: Array, b: Array) -> Array:
    """C = A @ B, leading axes broadcast.    (..., M, K) @ (..., K, N) -> (..., M, N)

    Both of one dtype. float32 and float64 accumulate in their own precision or better; bool and integers as NumPy's
    matmul. Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> matmul(np.ones((2, 3), np.float32), np.ones((3, 1), np.float32)).tolist()
    [[3.0], [3.0]]
    """
    return call(_matmul, (a, b))


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """y = x @ w.T + b.    x (..., K), w (N, K), b (N,) -> y (..., N); float32 or float64.

    Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> linear(np.ones(3), np.ones((2, 3)), np.array([0.0, 1.0])).tolist()
    [3.0, 4.0]
    """
    return call(_linear, (x, w, b))


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
    return call(_conv2d, (x, w, b, stride, padding, dilation, groups))


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
    return call(_conv2d_dx, (dy, w, x_shape, stride, padding, dilation, groups))


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
    return call(_conv2d_dw, (dy, x, w_shape, stride, padding, dilation, groups))


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
    return call(_attention, (q, k, v, mask, causal, scale))


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
    return call(_attention_backward, (dout, q, k, v, out, lse, mask, causal, scale))


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
    checks.array("max_pool2d", "x", x, 4, "(N, C, H, W)")
    given = (("window", window, 1), ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    pairs = [checks.pair("max_pool2d", *v) for v in given]
    if size is None:
        taps = zip(x.shape[2:], *pairs)
        size = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in taps)
    return call(_max_pool2d, (x, *pairs, checks.shape("max_pool2d", "size", size, 2)))


def scatter_plane(x: Array, index: Array, width: int) -> Array:
    """Zeros with x added at index.    x (..., L), index (..., L) int -> y (..., width)

    y[..., index[..., i]] += x[..., i], in order of i. Raises IndexError for an index outside 0 .. width - 1.

    >>> import numpy as np
    >>> scatter_plane(np.array([1.0, 2.0, 3.0]), np.array([0, 2, 0]), 3).tolist()
    [4.0, 0.0, 2.0]
    """
    return call(_scatter_plane, (x, index, width))


def gather_plane(x: Array, index: Array) -> Array:
    """x at index.    x (..., W), index (..., L) int -> y (..., L); IndexError for an index outside 0 .. W - 1.

    >>> import numpy as np
    >>> gather_plane(np.array([1.0, 2.0, 3.0]), np.array([2, 0])).tolist()
    [3.0, 1.0]
    """
    return call(_gather_plane, (x, index))


def int8_matmul(a: Array, b: Array) -> Array:
    """Exact integer product.    a (..., M, K) int8 @ b (K, N) int8 -> (..., M, N) int32

    K stays below 2^17, so no sum can leave int32. Raises ValueError for shapes that do not fit, TypeError for dtypes.

    >>> import numpy as np
    >>> int8_matmul(np.full((1, 2), -128, np.int8), np.full((2, 1), -128, np.int8)).tolist()
    [[32768]]
    """
    return call(_int8_matmul, (a, b))


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
    return call(_int8_linear, (x, w_q, w_scale, b, x_scale))


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
    return call(_int8_conv2d, (x, w_q, w_scale, b, stride, padding, dilation, groups, x_scale))


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
