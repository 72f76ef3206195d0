"""Arguments for every operation that has CUDA variants: sizes 0, 1, one below, at and one above a tile, odd ones.

`CASES[op]` is a list of cases; a case is a function of a dtype that gives the arguments, arrays on the host. `KIND[op]`
says how results are compared: "float", at most twice as far from the exact result as the reference in the same dtype;
"bits", equal to the reference to the last bit.
"""

import numpy as np

import minidl_kernels as mk

CASES, KIND = {}, {}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def cases(op, kind="float"):
    """Register a generator of argument functions for an operation."""
    KIND[op] = kind

    def register(generate):
        with mk.use("reference"):  # what goes into a backward comes from the reference, too
            CASES[op] = list(generate())
        return generate

    return register


def cast(args, dtype):
    """Float arrays of the arguments in one dtype."""
    if isinstance(args, np.ndarray):
        return args.astype(dtype) if args.dtype == np.float64 else args
    return type(args)(cast(a, dtype) for a in args) if isinstance(args, (list, tuple)) else args


def fixed(*args):
    return lambda dtype: cast(args, dtype)


# --- along rows: a block has up to 256 threads, a warp 32 ---

ROWS = [(0, 5), (1, 1), (3, 31), (2, 32), (2, 33), (2, 3, 70), (2, 257), (3, 0)]

for name in ("softmax", "log_softmax"):

    @cases(name)
    def _(name=name):
        for shape in ROWS:
            yield fixed(3 * normal(0, *shape))
        odd = normal(1, 6, 40)
        odd[0, 3], odd[1, 5], odd[2], odd[3, 7] = np.nan, np.inf, -np.inf, -np.inf
        yield fixed(odd)

    @cases(f"{name}_backward")
    def _(name=name):
        for shape in ROWS:
            x = normal(0, *shape)
            yield fixed(normal(1, *shape), getattr(mk, name)(x))


CLASSES = [(0, 3), (1, 1), (5, 31), (4, 33), (3, 300)]


@cases("cross_entropy")
def _():
    for rows, c in CLASSES:
        x, t = 3 * normal(0, rows, c), np.random.default_rng(1).integers(0, c, rows)
        for w, smoothing in ((None, 0.0), (np.abs(normal(2, c)), 0.1), (None, 0.2)):
            t[: rows // 3] = -100
            yield fixed(x, t, w, -100, smoothing)


@cases("cross_entropy_backward")
def _():
    for args in CASES["cross_entropy"]:
        x, t, w, ignore, smoothing = args("float64")
        lse = mk.cross_entropy(x, t, w, ignore, smoothing)[1]
        yield fixed(normal(3, len(t)), x, t.astype(np.int32), lse, w, ignore, smoothing)


# --- normalisation ---

PLANES = [(8, 3, 5), (4, 6, 33), (9, 3), (3, 6, 7, 5), (33, 3, 40)]


@cases("layer_norm")
def _():
    for shape in [(0, 5), (2, 31), (3, 33), (2, 3, 70), (2, 600)]:
        d = shape[-1]
        yield fixed(2 + 3 * normal(0, *shape), normal(1, d), normal(2, d), 1e-3)
        yield fixed(normal(0, *shape), None, None, 1e-3)


@cases("layer_norm_backward")
def _():
    for shape in [(0, 5), (2, 31), (33, 33), (2, 3, 70), (600, 9)]:
        x = 2 + 3 * normal(0, *shape)
        for w in (normal(1, shape[-1]), None):
            yield fixed(normal(3, *shape), x, w, *mk.layer_norm(x, w, None, 1e-3)[1:], 1e-3)


@cases("rms_norm")
def _():
    for args in CASES["layer_norm"]:
        x, w, _, eps = args("float64")
        yield fixed(x, w, eps)


@cases("rms_norm_backward")
def _():
    for args in CASES["layer_norm_backward"]:
        dy, x, w, *_ = args("float64")
        yield fixed(dy, x, w, mk.rms_norm(x, w, 1e-3)[1], 1e-3)


@cases("batch_norm")
def _():
    for shape in PLANES:
        yield fixed(2 + 3 * normal(0, *shape), normal(1, shape[1]), normal(2, shape[1]), 1e-3)
        yield fixed(normal(0, *shape), None, None, 1e-3)


@cases("batch_norm_backward")
def _():
    for shape in PLANES:
        x = 2 + 3 * normal(0, *shape)
        for w in (normal(1, shape[1]), None):
            yield fixed(normal(3, *shape), x, w, *mk.batch_norm(x, w, None, 1e-3)[1:], 1e-3)


@cases("channel_affine")
def _():
    for shape, f in zip(PLANES, ("", "relu", "relu6", "relu", "relu6")):
        yield fixed(9 * normal(0, *shape), normal(1, shape[1]), normal(2, shape[1]), f, None)


@cases("group_norm")
def _():
    for shape in PLANES[1:2] + PLANES[3:]:
        yield fixed(2 + 3 * normal(0, *shape), 3, normal(1, shape[1]), normal(2, shape[1]), 1e-3)
        yield fixed(normal(0, *shape), 1, None, None, 1e-3)


@cases("group_norm_backward")
def _():
    for shape in PLANES[1:2] + PLANES[3:]:
        x = 2 + 3 * normal(0, *shape)
        for groups, w in ((3, normal(1, shape[1])), (1, None)):
            yield fixed(normal(3, *shape), x, groups, w, *mk.group_norm(x, groups, w, None, 1e-3)[1:], 1e-3)


# --- products: tiles of 16 and 64, depths of 16, 32 and 64 ---

PRODUCTS = [(0, 3, 2), (2, 0, 3), (3, 2, 0), (1, 1, 1), (15, 17, 16), (66, 3, 64), (65, 33, 63), (70, 131, 66)]


@cases("matmul")
def _():
    for m, k, n in PRODUCTS:
        yield fixed(normal(0, m, k), normal(1, k, n))
    yield fixed(normal(0, 33, 20).T, normal(1, 18, 33).T)  # transposed, read where they are
    yield fixed(normal(0, 40, 40)[::2, 1::2], normal(1, 20, 30)[:, ::-1])
    yield fixed(normal(0, 3, 1, 5, 9), normal(1, 2, 9, 4))  # batches that broadcast
    yield fixed(normal(0, 3, 5, 9), normal(1, 9, 4))
    odd = normal(0, 5, 40)
    odd[0, 1], odd[1, 2], odd[2, 3] = np.nan, np.inf, -np.inf
    yield fixed(odd, np.abs(normal(1, 40, 6)))


@cases("linear")
def _():
    for m, k, n in PRODUCTS:
        yield fixed(normal(0, m, k), normal(1, n, k), normal(2, n))
    yield fixed(normal(0, 2, 3, 20), normal(1, 7, 20), None)
    yield fixed(normal(0, 20), normal(1, 20, 7).T, None)


# How far operands are rounded where a variant rounds them: a unit of the last place that is kept, halved.
ROUNDED = {"tf32": 2.0**-11, "bf16": 2.0**-8}


@cases("int8_matmul", "bits")
def _():
    draw = np.random.default_rng(0).integers
    for m, k, n in [*PRODUCTS, (3, 260, 5)]:
        yield lambda dtype, m=m, k=k, n=n: (
            draw(-128, 128, (m, k)).astype(np.int8),
            draw(-128, 128, (k, n)).astype(np.int8),
        )
    yield lambda dtype: (draw(-128, 128, (2, 3, 70)).astype(np.int8), draw(-128, 128, (9, 70)).astype(np.int8).T)
    yield lambda dtype: (np.full((2, 100), -128, np.int8), np.full((100, 3), -128, np.int8))


@cases("int8_linear", "bits")
def _():
    rng = np.random.default_rng(0)
    for m, k, n in PRODUCTS:
        w_q, w_scale = rng.integers(-128, 128, (n, k)).astype(np.int8), np.abs(normal(1, n)).astype(np.float32)
        x = normal(2, m, k)
        x[: m // 2] *= 100
        x[m // 3 : m // 3 + 1] = 0
        for b, x_scale in ((normal(3, n), None), (None, 0.03)):
            yield fixed(x, w_q, w_scale, b, x_scale)
    x = normal(0, 4, 20)
    x[0, 1], x[1, 2] = np.nan, np.inf
    yield fixed(x, rng.integers(-9, 9, (3, 20)).astype(np.int8), np.ones(3, np.float32), None, None)
    yield fixed(x, rng.integers(-9, 9, (3, 20)).astype(np.int8), np.ones(3, np.float32), None, 0.1)


# N, C, H, W; K, R, S; stride, padding, dilation, groups
CONVOLUTIONS = [
    ((1, 1, 1, 1), (1, 1, 1), 1, 0, 1, 1),
    ((2, 3, 7, 9), (5, 3, 3), 1, 1, 1, 1),
    ((2, 4, 8, 6), (6, 3, 2), (2, 1), (1, 0), 1, 2),
    ((1, 6, 9, 9), (6, 3, 3), 2, 2, 2, 6),
    ((0, 2, 5, 5), (3, 3, 3), 1, 0, 1, 1),
    ((3, 2, 12, 11), (65, 1, 1), 1, 0, 1, 1),
    ((1, 70, 4, 4), (3, 3, 3), 1, 1, 1, 1),
    (
        (2, 3, 17, 16),
        (6, 3, 2),
        (2, 1),
        (1, 2),
        (1, 2),
        3,
    ),  # depthwise: two filters a channel, more than a block of pixels
    ((0, 2, 4, 4), (2, 3, 3), 1, 1, 1, 2),
]


@cases("conv2d")
def _():
    for x, (k, r, s), *how in CONVOLUTIONS:
        w = normal(1, k, x[1] // how[-1], r, s)
        for b in (normal(2, k), None):
            yield fixed(normal(0, *x), w, b, *how)


def _odd_weights(w):
    w[0, 0, 0, 0] = np.inf
    return w


@cases("conv2d_dx")
def _():
    for args in CASES["conv2d"][::2]:
        x, w, _, *how = args("float64")
        yield fixed(normal(3, *mk.conv2d(x, w, None, *how).shape), w, x.shape, *how)
    x, w, _, *how = CASES["conv2d"][2]("float64")
    yield fixed(normal(3, *mk.conv2d(x, w, None, *how).shape), _odd_weights(w.copy()), x.shape, *how)


@cases("conv2d_dw")
def _():
    for args in CASES["conv2d"][::2]:
        x, w, _, *how = args("float64")
        yield fixed(normal(3, *mk.conv2d(x, w, None, *how).shape), x, w.shape, *how)
    x = normal(0, 2, 1, 30, 35)  # more windows than one share
    yield fixed(normal(3, 2, 2, 28, 33), x, (2, 1, 3, 3), 1, 0, 1, 1)


@cases("int8_conv2d", "bits")
def _():
    rng = np.random.default_rng(0)
    for x, (k, r, s), *how in CONVOLUTIONS:
        w_q = rng.integers(-128, 128, (k, x[1] // how[-1], r, s)).astype(np.int8)
        yield fixed(normal(0, *x), w_q, np.abs(normal(1, k)).astype(np.float32), normal(2, k), *how, None)
        yield fixed(normal(0, *x), w_q, np.abs(normal(1, k)).astype(np.float32), None, *how, 0.02)


@cases("int4_linear")
def _():
    rng = np.random.default_rng(0)
    for m, k, n, group in [
        (0, 32, 3, 32),
        (1, 32, 1, 32),
        (3, 64, 9, 32),
        (5, 160, 7, 160),
        (65, 96, 66, 32),
        (2, 64, 0, 64),
    ]:
        q, shape = rng.integers(0, 16, (n, k)).astype(np.uint8), (n, k // group)
        scale, zero = rng.uniform(0.1, 1, shape).astype(np.float32), rng.integers(0, 16, shape).astype(np.uint8)
        yield fixed(normal(1, m, k), mk.pack_int4(q), scale, zero, normal(2, n))
    yield fixed(
        normal(1, 2, 2, k),
        mk.pack_int4(rng.integers(0, 16, (5, k)).astype(np.uint8)),
        np.ones((5, 1), np.float32),
        None,
        None,
    )
    yield fixed(normal(1, 3, 0), np.zeros((4, 0), np.uint8), np.zeros((4, 0), np.float32), None, normal(2, 4))


def _ends(seed, n, spread):
    """bias, multiplier, zero, low, high for sums of about +-spread."""
    rng = np.random.default_rng(seed)
    bias = rng.integers(-spread, spread + 1, n).astype(np.int32)
    return bias, (rng.uniform(10, 80, n) / spread).astype(np.float32), int(rng.integers(-60, 60)), -100, 90


def _int8(seed, *shape):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


# shape, axis, bounds of a number of bits: a scale for all; runs of many, of few and of single elements
CODES = [
    ((1030,), None, (-127, 127)),
    ((1,), 0, (-128, 127)),
    ((3, 300), 0, (-128, 127)),
    ((2, 33, 3), 1, (-7, 7)),
    ((5, 257), -1, (-8, 7)),
    ((4, 0, 3), 0, (-2, 1)),
    ((0, 3), 1, (-1, 1)),
    ((), None, (-127, 127)),
]


def _scales(shape, axis, low, high, dtype=np.int8):
    """A scale and a zero point, or as many as the axis has."""
    if axis is None:
        return 0.37, 3
    n, rng = shape[axis], np.random.default_rng(5)
    return rng.uniform(0.01, 0.5, n).astype(np.float32), rng.integers(low, high + 1, n).astype(dtype)


@cases("quantize", "bits")
def _():
    odd = [np.nan, np.inf, -np.inf, 0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -0.0]
    for shape, axis, ends in CODES:
        x = 20 * normal(0, *shape) if shape else np.array(7.0)
        if x.size > 99:
            x.reshape(-1)[90:99] = odd[:9]
        yield fixed(x, *_scales(shape, axis, *ends), *ends, axis)
    yield fixed(np.array(odd), 1.0, 0, -127, 127, None)
    yield fixed(np.array(odd), 1.0, -100, -128, 127, None)
    yield fixed(normal(0, 9, 40).T[::2], *_scales((20, 9), 0, -5, 5), -128, 127, 0)
    yield fixed(normal(0, 3, 5), np.float32([1, 0.1, 0.3]), 2, -128, 127, 0)  # one zero point for many scales


@cases("dequantize", "bits")
def _():
    for shape, axis, ends in CODES:
        yield fixed(_int8(0, *shape), *_scales(shape, axis, *ends), axis)
        yield fixed(_int8(0, *shape).view(np.uint8), *_scales(shape, axis, 0, 255, np.uint8), axis)
    yield fixed(_int8(0, 9, 40).T[::2], *_scales((20, 9), 0, -5, 5), 0)
    yield fixed(_int8(0, 3, 5).view(np.uint8), np.float32([1, 0.1, 3e38]), 200, 0)


@cases("requantize", "bits")
def _():
    for shape in [(0, 3), (1, 1), (3, 5, 100), (2, 0)]:
        acc = np.random.default_rng(0).integers(-9000, 9000, shape).astype(np.int32)
        yield fixed(acc, *_ends(1, shape[-1], 3000))
    half = np.array([[5, 3, 1, -1, -3, -5, 2**31 - 1]], np.int32)  # half to even; a sum that wraps
    yield fixed(half, np.array([0] * 6 + [1], np.int32), np.full(7, 0.5, np.float32), 3, -128, 127)


@cases("static_add", "bits")
def _():
    for shape in [(0,), (1,), (3, 257)]:
        yield fixed(_int8(0, *shape), _int8(1, *shape), 3, -7, 0.37, 0.8, 5, -100, 100)


@cases("static_linear", "bits")
def _():
    for m, k, n in PRODUCTS:
        yield fixed(_int8(0, m, k), _int8(1, n, k), *_ends(2, n, 5460 * int(k**0.5) + 1))
    yield fixed(_int8(0, 2, 3, 20), _int8(1, 5, 20), *_ends(2, 5, 24000))


@cases("static_conv2d", "bits")
def _():
    for (b, c, h, w), (k, r, s), stride, padding, dilation, groups in CONVOLUTIONS:
        ends = _ends(2, k, 5460 * int((r * s * c // groups) ** 0.5) + 1)
        yield fixed(
            _int8(0, b, h, w, c),
            _int8(1, k, r, s, c // groups),
            *ends[:2],
            stride,
            padding,
            dilation,
            groups,
            11,
            *ends[2:],
        )
    args = _int8(0, 1, 6, 7, 5), _int8(1, 3, 3, 2, 5), *_ends(2, 3, 30000)[:2]
    yield fixed(*args, (2, 1), (0, 1, 2, 1), 1, 1, -3, 0, -128, 127)


# --- attention: 8 queries to a block, 32 keys at a time, 32 features to a lane's register ---

# B, H, Hkv, T, S, D, E; mask; causal
ATTENTIONS = [
    ((1, 1, 1, 1, 1, 1, 1), None, False),
    ((2, 2, 2, 5, 33, 31, 33), None, True),
    ((1, 4, 2, 9, 32, 32, 32), "bool", False),
    ((1, 2, 1, 7, 70, 9, 65), "float", True),
    ((2, 1, 1, 3, 4, 256, 256), None, False),
    ((1, 2, 1, 40, 70, 9, 10), None, False),  # several blocks of keys and of queries
    ((1, 1, 1, 0, 3, 4, 4), None, False),
    ((1, 1, 1, 3, 0, 4, 4), None, False),
    ((1, 1, 1, 6, 6, 0, 2), None, False),
]


def _attention(sizes, mask, causal):
    b, h, hk, t, s, d, e = sizes
    q, k, v = normal(0, b, h, t, d), normal(1, b, hk, s, d), normal(2, b, hk, s, e)
    if mask == "bool":
        mask = normal(3, b, 1, t, s) > 0
        mask[:, :, 0] = False  # a query without keys
    elif mask == "float":
        mask = normal(3, 1, h, 1, s)
        mask[..., 3] = -np.inf
        k[:, :, 3], v[:, :, 3] = np.nan, np.inf  # takes no part
    return q, k, v, mask, causal, None


@cases("attention")
def _():
    for how in ATTENTIONS:
        yield fixed(*_attention(*how))
    q, k, v, *_ = _attention((1, 1, 1, 3, 40, 5, 5), None, False)
    k[0, 0, 36, 2] = np.nan
    yield fixed(q, k, v, None, False, 0.5)


@cases("attention_backward")
def _():
    for how in ATTENTIONS:
        q, k, v, mask, causal, scale = _attention(*how)
        out, lse = mk.attention(q, k, v, mask, causal, scale)
        yield fixed(normal(5, *out.shape), q, k, v, out, lse, mask, causal, scale)
    q, k, v = (normal(i, 1, 1, 4, 3) for i in range(3))
    q[0, 0, 1, 0], mask = np.nan, ~np.eye(4, dtype=bool)  # the NaN must not reach keys that its query does not see
    out, lse = mk.attention(q, k, v, mask)
    yield fixed(normal(5, *out.shape), q, k, v, out, lse, mask, False, None)


# --- element by element ---

NAMES = ("relu", "exp", "tanh", "sigmoid", "relu6", "silu", "gelu", "gelu_tanh")
ELEMENTS = np.concatenate([4 * normal(0, 600), [0, -0.0, 40, -40, 200, -200, np.nan, np.inf, -np.inf]])


@cases("activation")
def _():
    for name in NAMES:
        yield fixed(ELEMENTS, name)
    yield fixed(normal(0, 0, 3), "gelu")
    yield fixed(normal(0, 3, 5).T, "silu")


@cases("activation_backward")
def _():
    for name in NAMES:
        saved = mk.activation(ELEMENTS, name) if name in NAMES[:5] else ELEMENTS
        keep = np.abs(saved) < 1e30  # of the others only NaN's place matters, and 0 * Inf differs by formula
        yield fixed(normal(1, int(keep.sum())), saved[keep], name)
    yield fixed(np.ones(2), np.array([np.nan, -1.0]), "relu")


@cases("dropout", "bits")
def _():
    for n in (0, 1, 3, 4, 5, 1025):
        yield fixed(normal(0, n), 2**63 + 5, 7, 2**32 - 1, 0.3)
    yield fixed(normal(0, 3, 5, 7), 0, 0, 0, 0.0)


@cases("mask_scale", "bits")
def _():
    x = normal(0, 300)
    x[:3] = np.nan, np.inf, -np.inf
    yield fixed(x, normal(1, 300) > 0, 1.25)
    yield fixed(normal(0, 0), np.zeros(0, bool), 2.0)


@cases("max_pool2d", "bits")
def _():
    x = normal(0, 2, 3, 9, 10)
    x[0, 0, 2, 3], x[0, 1, :2, :2] = np.nan, 5
    for window, stride, padding, dilation, size in [
        ((2, 2), (2, 2), (0, 0), (1, 1), (4, 5)),
        ((3, 3), (2, 1), (1, 1), (1, 1), (5, 10)),
        ((2, 3), (3, 2), (0, 1), (2, 2), (3, 4)),
        ((9, 10), (1, 1), (0, 0), (1, 1), (1, 1)),
    ]:
        yield fixed(x, window, stride, padding, dilation, size)
    yield fixed(normal(0, 0, 3, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1), (2, 2))


@cases("scatter_plane", "bits")
def _():
    for rows, length, width in [(2, 5, 4), (3, 300, 257), (2, 90, 7), (2, 300, 9), (1, 0, 3), (2, 0, 0), (0, 2, 3)]:
        index = np.random.default_rng(1).integers(0, max(width, 1), (rows, length))
        yield fixed(normal(0, rows, length), index, width)


@cases("gather_plane", "bits")
def _():
    for rows, length, width in [(2, 5, 4), (3, 300, 257), (1, 0, 3), (0, 2, 3)]:
        yield fixed(normal(0, rows, width), np.random.default_rng(1).integers(0, width, (rows, length)))


# --- sparse: a warp goes along a row ---


@cases("csr_linear")
def _():
    for m, k, n in [(0, 3, 2), (1, 1, 1), (3, 31, 9), (2, 70, 17), (2, 5, 0)]:
        w = normal(1, n, k) * (normal(2, n, k) > 0)
        yield fixed(normal(0, m, k), *mk.pack_csr(w), normal(3, n))
    yield fixed(normal(0, 2, 2, 40), *mk.pack_csr(normal(1, 3, 40)), None)
    yield fixed(normal(0, 2, 40), *mk.pack_csr(np.zeros((3, 40))), None)


@cases("csr_linear_dx")
def _():
    for args in CASES["csr_linear"]:
        x, values, indices, indptr, _ = args("float64")
        yield fixed(normal(4, *x.shape[:-1], len(indptr) - 1), values, indices, indptr, x.shape[-1])


def two_of_four(seed, n, k):
    """A matrix with two numbers in most groups of four, in some fewer."""
    w, rng = normal(seed, n, k // 4, 4), np.random.default_rng(seed)
    w[rng.permuted(np.broadcast_to(np.arange(4) < 2, w.shape), axis=2)] = 0
    w[rng.random(w.shape) < 0.1] = 0
    return w.reshape(n, k)


@cases("nm_linear")
def _():
    for m, k, n in [(0, 8, 2), (1, 8, 1), (3, 40, 9), (5, 264, 17), (65, 24, 66), (2, 0, 3), (2, 8, 0)]:
        yield fixed(normal(0, m, k), *mk.pack_nm(two_of_four(1, n, k), 2, 4), 4, normal(2, n))
    yield fixed(normal(0, 2, 2, 40), *mk.pack_nm(two_of_four(1, 3, 40), 2, 4), 4, None)
    x = normal(0, 3, 32)
    x[0, 5], x[1, 6] = np.inf, np.nan  # weights beside them that are not stored take no part
    yield fixed(x, *mk.pack_nm(two_of_four(1, 20, 32), 2, 4), 4, None)


@cases("scatter_rows")
def _():
    for length, d, rows in [(0, 3, 2), (1, 1, 1), (40, 33, 9), (70, 32, 3), (300, 5, 257), (3, 0, 2), (0, 2, 0)]:
        yield fixed(normal(0, length, d), np.random.default_rng(1).integers(0, max(rows, 1), length), rows)
    yield fixed(normal(0, 5, 4), np.array([1, 1, 0, 1, 2], np.int32), 3)


# --- recurrences ---

SEQUENCES = [((3, 3, 2), 5, False), ((4, 1), 17, True), ((2,), 1, False), ((1, 1, 1, 1), 70, True)]


def _recurrent(gates):
    for sizes, units, reverse in SEQUENCES:
        rows, batch = sum(sizes), max(sizes)
        state = [normal(i, batch, units) for i in (1, 2)]
        yield normal(0, rows, gates * units), state, normal(3, gates * units, units) / units**0.5, sizes, reverse


@cases("rnn")
def _():
    for gx, (h, _), w, sizes, reverse in _recurrent(1):
        for name in ("tanh", "relu"):
            yield fixed(gx, h, w, sizes, reverse, name, name == "tanh")


@cases("rnn_backward")
def _():
    for args in CASES["rnn"]:
        gx, h, w, sizes, reverse, name, _ = args("float64")
        y = mk.rnn(gx, h, w, sizes, reverse, name)[0]
        yield fixed(normal(4, *y.shape), normal(5, *h.shape), w, y, sizes, reverse, name)


@cases("lstm")
def _():
    for i, (gx, (h, c), w, sizes, reverse) in enumerate(_recurrent(4)):
        yield fixed(gx, h, c, w, sizes, reverse, i != 1)


@cases("lstm_backward")
def _():
    for args in CASES["lstm"]:
        gx, h, c, w, sizes, reverse, _ = args("float64")
        y, _, _, gates, cells, _ = mk.lstm(gx, h, c, w, sizes, reverse)
        yield fixed(normal(4, *y.shape), normal(5, *h.shape), normal(6, *h.shape), w, c, gates, cells, sizes, reverse)


@cases("gru")
def _():
    for i, (gx, (h, _), w, sizes, reverse) in enumerate(_recurrent(3)):
        yield fixed(gx, h, w, normal(4, len(w)) if i % 2 else None, sizes, reverse, i != 1)


@cases("gru_backward")
def _():
    for args in CASES["gru"]:
        gx, h, w, b, sizes, reverse, _ = args("float64")
        y, _, gates, inner, before = mk.gru(gx, h, w, b, sizes, reverse)
        yield fixed(normal(4, *y.shape), normal(5, *h.shape), w, gates, inner, before, sizes, reverse)


# --- optimizers ---

PARAMETERS = [(1,), (2047,), (2048,), (3, 700), (0, 4)]


def _lists(n):
    return [[normal(i, *shape) for shape in PARAMETERS] for i in range(n)]


def _masks(w, g):
    """For every other parameter; some of what is pruned is NaN, some of what stays -0."""
    w[1][:3], g[1][:3] = [np.nan, -0.0, -0.0], [0, 0, 0]
    return [normal(9 + i, *shape) > 0 if i % 2 else None for i, shape in enumerate(PARAMETERS)]


@cases("sgd_step", "bits")
def _():
    for buffers, more in [
        (False, (0.1, 0.0, 0.0, 0.0, False, False)),
        (False, (0.1, 0.0, 0.0, 0.01, False, True)),
        (True, (0.1, 0.9, 0.0, 0.01, True, False)),
        (True, (0.1, 0.9, 0.3, 0.0, False, True)),
    ]:
        w, g, m = _lists(3)
        yield fixed(w, g, m if buffers else None, *more, None)
    w, g, m = _lists(3)
    yield fixed(w, g, m, 0.1, 0.9, 0.0, 0.01, False, False, _masks(w, g))


@cases("adam_step", "bits")
def _():
    for greatest, more in [
        (False, (0.01, 0.9, 0.999, 1e-8, 0.0, False, False)),
        (True, (0.01, 0.9, 0.99, 1e-6, 0.1, False, True)),
        (False, (0.01, 0.8, 0.999, 1e-8, 0.1, True, False)),
    ]:
        w, g, m, v, u = _lists(5)
        v, u = [v_i**2 for v_i in v], [u_i**2 for u_i in u]
        yield fixed(w, g, m, v, u if greatest else None, [1, 2, 3, 10, 1], *more, None)
    w, g, m, v, _ = _lists(5)
    v = [v_i**2 for v_i in v]
    how = (0.01, 0.9, 0.99, 1e-6, 0.1, False, False)
    yield fixed(w, g, m, v, None, [1, 2, 3, 10, 1], *how, _masks(w, g))
