"""What is timed: one entry per kernel. To add one:

    Row("softmax", "softmax", make=_softmax, operations=lambda g: 4.0 * g["m"] * g["n"])

that is: the operation's name in minidl_kernels, the section of the shape files it takes, how its arguments are made
from a shape, and how many multiplies and adds it needs at least. The bytes are those of its arguments and results. A
peer takes part as soon as its page (peers/*.py) has a function of the kernel's name, with the kernel's arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.bench.ceilings import Work
from minidl.bench.shapes import Shape, array_shapes
from minidl.bench.verify import arrays

__all__ = ["ROWS", "Row"]

Args = tuple[Any, ...]
Numbers = Mapping[str, Any]
EPSILON = float(np.finfo(np.float32).eps) / 2


@dataclass(frozen=True)
class Row:
    """One kernel of the benchmark.

    kernel      its name in minidl_kernels, and on the command line
    section     the section of the shape files whose entries it takes
    make        make(rng, numbers) -> the kernel's arguments
    operations  operations(numbers) -> multiplies and adds that no implementation can save, for the ceiling
    terms       terms(numbers) -> how many products the longest sum has, for the tolerance
    expect      expect(*args) -> the right result; by default the kernel's reference on float64
    kind        whose ceiling applies: "f32", "product" or "int8"
    faster      variant or peer -> how many times fewer operations its algorithm needs at most (Winograd: 4)
    slack       peer -> tolerance, where its contract is another than ours
    """

    kernel: str
    section: str
    make: Callable[[np.random.Generator, Numbers], Args]
    operations: Callable[[Numbers], float]
    terms: Callable[[Numbers], int] = lambda g: 1
    expect: Callable[..., Any] | None = None
    kind: str = "f32"
    faster: Mapping[str, float] = field(default_factory=dict)
    slack: Mapping[str, float] = field(default_factory=dict)

    def call(self, args: Args) -> Callable[[], Any]:
        """Our contestant."""
        return functools.partial(getattr(kernels, self.kernel), *args)

    def right(self, *args: Any) -> Any:
        """The right result: by the reference, with every float argument in float64."""
        if self.expect is not None:
            return self.expect(*args)
        wide = (a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in args)
        with kernels.use("reference"):
            return getattr(kernels, self.kernel)(*wide)

    def tolerance(self, numbers: Numbers) -> float:
        """The error that rounding explains, relative to the largest element of the result.

        A sum of K products of independent numbers in float32 is a random walk of roundings: about eps * sqrt(K / 2) of
        the result's own spread, and the worst of a million elements 5 times as much; its largest element is about 5
        times its spread. 8 eps sqrt(K) leaves a factor of ten for another order and for shorter ways (Winograd); below
        1e-5 the roundings of exp and of the last operation count. One product left out of K is about 0.2 / sqrt(K) of
        the largest element: for every K here a hundred times more.
        """
        return max(1e-5, 8 * EPSILON * self.terms(numbers) ** 0.5)

    def work(self, numbers: Numbers, args: Args, out: Any) -> Work:
        """What a call has to do."""
        read = sum(a.nbytes for a in args if isinstance(a, np.ndarray))
        return Work(self.operations(numbers), read, sum(a.nbytes for a in arrays(out)), self.kind)


# --- arguments from shapes -------------------------------------------------------------------------------------------


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _int8(rng: np.random.Generator, shape: Sequence[int], low: int = -127) -> np.ndarray:
    return rng.integers(low, 128, shape, np.int8)


def _weights(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """int8 weights that nobody can write, as those of a deployed layer: they are packed once."""
    w = _int8(rng, shape)
    w.flags.writeable = False
    return w


def _scales(rng: np.random.Generator, n: int) -> np.ndarray:
    """Of n output channels, so that the weights are about 1."""
    return rng.uniform(0.5, 1.5, (n,)).astype(np.float32) / np.float32(127)


def _shaped(rng: np.random.Generator, section: str, g: Numbers, *names: str) -> list[np.ndarray]:
    return [_normal(rng, array_shapes(section, g)[name]) for name in names]


def _matmul(rng: np.random.Generator, g: Numbers) -> Args:
    a, b = _shaped(rng, "matmul", g, "a", "b")
    if "a" in g["transpose"]:
        a = a.swapaxes(-1, -2).copy().swapaxes(-1, -2)
    if "b" in g["transpose"]:
        b = b.swapaxes(-1, -2).copy().swapaxes(-1, -2)
    return a, b


def _linear(rng: np.random.Generator, g: Numbers) -> Args:
    x, w = _shaped(rng, "linear", g, "x", "w")
    return x, w, _normal(rng, (g["n"],)) if g["bias"] else None


def _how(g: Numbers) -> Args:
    return g["stride"], g["padding"], g["dilation"], g["groups"]


def _conv2d(rng: np.random.Generator, g: Numbers) -> Args:
    return (*_shaped(rng, "conv2d", g, "x", "w"), None, *_how(g))


def _conv2d_dx(rng: np.random.Generator, g: Numbers) -> Args:
    return (*_shaped(rng, "conv2d", g, "y", "w"), array_shapes("conv2d", g)["x"], *_how(g))


def _conv2d_dw(rng: np.random.Generator, g: Numbers) -> Args:
    return (*_shaped(rng, "conv2d", g, "y", "x"), array_shapes("conv2d", g)["w"], *_how(g))


def _attention(rng: np.random.Generator, g: Numbers) -> Args:
    q, k, v = _shaped(rng, "attention", g, "q", "k", "v")
    mask: np.ndarray | None = None
    if g["mask"] == "bool":  # padding: the sequences of a batch have different lengths, at least 1
        lengths = rng.integers(1, g["s"] + 1, (g["b"], 1, 1, 1))
        mask = np.arange(g["s"]) < lengths
    elif g["mask"] == "float":
        mask = _normal(rng, (1, g["h"], g["t"], g["s"]))
    return q, k, v, mask, g["causal"]


def _attention_backward(rng: np.random.Generator, g: Numbers) -> Args:
    q, k, v, mask, causal = _attention(rng, g)
    out, lse = kernels.attention(q, k, v, mask, causal)
    return _normal(rng, out.shape), q, k, v, out, lse, mask, causal


def _int8_matmul(rng: np.random.Generator, g: Numbers) -> Args:
    return _int8(rng, (g["m"], g["k"]), -128), _int8(rng, (g["k"], g["n"]), -128)


def _code_scales(rng: np.random.Generator, g: Numbers) -> tuple[Any, Any, int | None]:
    """Scale, zero point and axis. Powers of two and no offset: torch rounds x (1 / s) + z, which is then the same."""
    if not g["per"]:
        return 2.0**-5, 0, None
    n = g["m" if g["per"] == "row" else "n"]
    return np.exp2(rng.integers(-6, -3, n)).astype(np.float32), np.zeros(n, np.int8), int(g["per"] == "column")


def _quantize(rng: np.random.Generator, g: Numbers) -> Args:
    scale, zero, axis = _code_scales(rng, g)
    return _normal(rng, (g["m"], g["n"])), scale, zero, -128, 127, axis


def _dequantize(rng: np.random.Generator, g: Numbers) -> Args:
    return _int8(rng, (g["m"], g["n"]), -128), *_code_scales(rng, g)


def _int8_linear(rng: np.random.Generator, g: Numbers) -> Args:
    x, w = _normal(rng, (g["m"], g["k"])), _weights(rng, (g["n"], g["k"]))
    scale = _scales(rng, g["n"])
    return x, w, scale, _normal(rng, (g["n"],)), 4.0 / 127 if g["static"] else None


def _int8_conv2d(rng: np.random.Generator, g: Numbers) -> Args:
    shapes = array_shapes("int8_conv2d", g)
    x, w = _normal(rng, shapes["x"]), _weights(rng, shapes["w"])
    scale = _scales(rng, g["k"])
    return x, w, scale, _normal(rng, (g["k"],)), *_how(g), 4.0 / 127 if g["static"] else None


def _int4_linear(rng: np.random.Generator, g: Numbers) -> Args:
    q = rng.integers(0, 16, (g["n"], g["k"]), np.uint8)
    shape = g["n"], g["k"] // g["group"]
    scale, zero = rng.uniform(0.1, 0.3, shape).astype(np.float32), rng.integers(6, 10, shape, np.uint8)
    return _normal(rng, (g["m"], g["k"])), kernels.pack_int4(q), scale, zero, _normal(rng, (g["n"],))


def _csr(rng: np.random.Generator, g: Numbers) -> Args:
    w = _normal(rng, (g["n"], g["k"]))
    w.flat[rng.permutation(w.size)[: w.size - _stored(g)]] = 0
    return kernels.pack_csr(w)


def _csr_linear(rng: np.random.Generator, g: Numbers) -> Args:
    return _normal(rng, (g["m"], g["k"])), *_csr(rng, g), _normal(rng, (g["n"],))


def _csr_linear_dx(rng: np.random.Generator, g: Numbers) -> Args:
    return _normal(rng, (g["m"], g["n"])), *_csr(rng, g), g["k"]


def _nm_linear(rng: np.random.Generator, g: Numbers) -> Args:
    w = _normal(rng, (g["n"], g["k"] // g["of"], g["of"]))
    dropped = np.argsort(np.abs(w), axis=2)[:, :, : g["of"] - g["keep"]]
    np.put_along_axis(w, dropped, 0, 2)
    packed = kernels.pack_nm(w.reshape(g["n"], g["k"]), g["keep"], g["of"])
    return _normal(rng, (g["m"], g["k"])), *packed, g["of"], _normal(rng, (g["n"],))


def _max_pool2d(rng: np.random.Generator, g: Numbers) -> Args:
    shapes = array_shapes("max_pool2d", g)
    pairs = ((g[what], g[what]) for what in ("window", "stride", "padding"))
    return _normal(rng, shapes["x"]), *pairs, (1, 1), shapes["y"][2:]


def _softmax(rng: np.random.Generator, g: Numbers) -> Args:
    return (_normal(rng, (g["m"], g["n"])),)


def _softmax_backward(rng: np.random.Generator, g: Numbers) -> Args:
    x, dy = _normal(rng, (g["m"], g["n"])), _normal(rng, (g["m"], g["n"]))
    return dy, kernels.softmax(x)


def _cross_entropy(rng: np.random.Generator, g: Numbers) -> Args:
    return _normal(rng, (g["m"], g["n"])), rng.integers(0, g["n"], g["m"])


def _cross_entropy_backward(rng: np.random.Generator, g: Numbers) -> Args:
    x, t = _cross_entropy(rng, g)
    return _normal(rng, (g["m"],)), x, t, kernels.cross_entropy(x, t)[1]


def _norm(rng: np.random.Generator, shape: Sequence[int], features: int) -> Args:
    """x, w, b: numbers about 1, so that means are not just rounding."""
    return tuple(1 + _normal(rng, s) for s in (shape, (features,), (features,)))


def _layer_norm(rng: np.random.Generator, g: Numbers) -> Args:
    return _norm(rng, (g["m"], g["n"]), g["n"])


def _layer_norm_backward(rng: np.random.Generator, g: Numbers) -> Args:
    x, w, b = _layer_norm(rng, g)
    return _normal(rng, x.shape), x, w, *kernels.layer_norm(x, w, b)[1:]


def _rms_norm(rng: np.random.Generator, g: Numbers) -> Args:
    return _layer_norm(rng, g)[:2]


def _rms_norm_backward(rng: np.random.Generator, g: Numbers) -> Args:
    x, w = _rms_norm(rng, g)
    return _normal(rng, x.shape), x, w, kernels.rms_norm(x, w)[1]


def _batch_norm(rng: np.random.Generator, g: Numbers) -> Args:
    return _norm(rng, (g["n"], g["c"], g["h"], g["w"]), g["c"])


def _batch_norm_backward(rng: np.random.Generator, g: Numbers) -> Args:
    x, w, b = _batch_norm(rng, g)
    return _normal(rng, x.shape), x, w, *kernels.batch_norm(x, w, b)[1:]


def _activation(rng: np.random.Generator, g: Numbers) -> Args:
    return _normal(rng, (g["size"],)), g["f"]


def _activation_backward(rng: np.random.Generator, g: Numbers) -> Args:
    x, f = _activation(rng, g)
    return _normal(rng, x.shape), x if f in ("silu", "gelu", "gelu_tanh") else kernels.activation(x, f), f


def _dropout(rng: np.random.Generator, g: Numbers) -> Args:
    return _normal(rng, (g["m"], g["n"])), 1234, 0, 0, 0.1


# --- operations, and right results where the reference is too slow for whole layers ----------------------------------


def _product(g: Numbers) -> float:
    return 2.0 * (g.get("batch") or 1) * g["m"] * g["k"] * g["n"]


def _stored(g: Numbers) -> int:
    return int(g["k"] * g["n"] * (100 - g["zeros"]) // 100)


def _sparse(g: Numbers) -> float:
    return 2.0 * g["m"] * _stored(g)


def _some_of_many(g: Numbers) -> float:
    return 2.0 * g["m"] * g["n"] * g["k"] * g["keep"] / g["of"]


def _convolution(g: Numbers) -> float:
    n, k, p, q = array_shapes("conv2d", g)["y"]
    return 2.0 * n * k * p * q * _taps(g)


def _moved(g: Numbers) -> float:
    """No operations to speak of: the time is that of moving the numbers."""
    return 0.0


def _channel(g: Numbers) -> int:
    return int(g["n"] * g["h"] * g["w"])


def _taps(g: Numbers) -> int:
    return int(g["c"] // g["groups"] * g["r"] * g["s"])


def _dx_terms(g: Numbers) -> int:
    return int(g["k"] // g["groups"] * g["r"] * g["s"])


def _dw_terms(g: Numbers) -> int:
    n, _, p, q = array_shapes("conv2d", g)["y"]
    return n * p * q


def _pairs(g: Numbers) -> float:
    """(query, key) pairs that may not be skipped: all, or those with s <= t."""
    t, s = g["t"], g["s"]
    one = sum(min(i + 1, s) for i in range(t)) if g["causal"] else t * s
    return float(g["b"] * g["h"] * one)


def _exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The int32 product through float64 BLAS: every sum stays below 2^53, so nothing is rounded. The reference's
    integer loops give the same numbers in a hundred times the time.
    """
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int32)


def _right_int8_linear(*args: Any) -> Any:
    from minidl_kernels.gemm_int8.reference import linear_by

    return linear_by(_exact, *args)


def _right_int8_conv2d(*args: Any) -> Any:
    from minidl_kernels.gemm_int8.reference import conv2d_by

    return conv2d_by(_exact, *args)


def _as_it_is(kernel: str) -> Callable[..., Any]:
    """The reference on the arguments as they are: its scales are float32 whatever the rest is."""

    def right(*args: Any) -> Any:
        with kernels.use("reference"):
            return getattr(kernels, kernel)(*args)

    return right


# F(4x4, 3x3) needs 36 products for 16 outputs instead of 144. Lavin and Gray 2015, arXiv:1509.09308.
_WINOGRAD = {"winograd": 4.0, "torch": 4.0, "onnxruntime": 4.0}
# A peer that quantizes a whole tensor to 8 bits, and not each row: half a step of 1/127 .. 1/255 of the largest x in
# each of K terms, as a random walk against a sum that is one too, comes to about 1 %.
_OTHER_STEPS = {"onnxruntime": 0.03}

# A peer draws its own random numbers: only the size of its result is examined, at most twice the largest element off.
_OTHER_NUMBERS = {"torch": 2.0}

ROWS: dict[str, Row] = {
    row.kernel: row
    for row in (
        Row("matmul", "matmul", _matmul, _product, lambda g: g["k"], kind="product"),
        Row("linear", "linear", _linear, _product, lambda g: g["k"], kind="product"),
        Row("conv2d", "conv2d", _conv2d, _convolution, _taps, faster=_WINOGRAD),
        Row("conv2d_dx", "conv2d", _conv2d_dx, _convolution, _dx_terms, faster=_WINOGRAD),
        Row("conv2d_dw", "conv2d", _conv2d_dw, _convolution, _dw_terms, faster=_WINOGRAD),
        Row("attention", "attention", _attention, lambda g: 4.0 * g["d"] * _pairs(g), lambda g: g["s"], kind="product"),
        # Scores again, dp, and the three gradients: five products where the forward has two.
        Row(
            "attention_backward",
            "attention",
            _attention_backward,
            lambda g: 10.0 * g["d"] * _pairs(g),
            lambda g: 16 * g["s"],  # differences of sums, times a sum
            kind="product",
        ),
        Row("quantize", "codes", _quantize, _moved, expect=_as_it_is("quantize")),
        Row("dequantize", "codes", _dequantize, _moved, expect=_as_it_is("dequantize")),
        Row("int8_matmul", "int8_matmul", _int8_matmul, _product, expect=_exact, kind="int8"),
        Row(
            "int8_linear",
            "int8_linear",
            _int8_linear,
            _product,
            expect=_right_int8_linear,
            kind="int8",
            slack=_OTHER_STEPS,
        ),
        Row(
            "int8_conv2d",
            "int8_conv2d",
            _int8_conv2d,
            _convolution,
            expect=_right_int8_conv2d,
            kind="int8",
            slack=_OTHER_STEPS,
        ),
        Row("int4_linear", "int4_linear", _int4_linear, _product, lambda g: g["k"], expect=_as_it_is("int4_linear")),
        Row("csr_linear", "sparse_linear", _csr_linear, _sparse, lambda g: g["k"]),
        Row("csr_linear_dx", "sparse_linear", _csr_linear_dx, _sparse, lambda g: g["n"]),
        Row("nm_linear", "nm_linear", _nm_linear, _some_of_many, lambda g: g["k"] * g["keep"] // g["of"]),
        Row("max_pool2d", "max_pool2d", _max_pool2d, _moved),
        Row("softmax", "rows", _softmax, _moved),
        Row("softmax_backward", "rows", _softmax_backward, _moved, lambda g: g["n"]),
        Row("cross_entropy", "rows", _cross_entropy, _moved),
        Row("cross_entropy_backward", "rows", _cross_entropy_backward, _moved),
        Row("layer_norm", "rows", _layer_norm, _moved, lambda g: g["n"]),
        Row("layer_norm_backward", "rows", _layer_norm_backward, _moved, lambda g: max(g["m"], g["n"])),
        Row("rms_norm", "rows", _rms_norm, _moved, lambda g: g["n"]),
        Row("rms_norm_backward", "rows", _rms_norm_backward, _moved, lambda g: max(g["m"], g["n"])),
        Row("batch_norm", "images", _batch_norm, _moved, _channel),
        Row("batch_norm_backward", "images", _batch_norm_backward, _moved, _channel),
        Row("channel_affine", "images", _batch_norm, _moved),
        Row("activation", "activation", _activation, _moved),
        Row("activation_backward", "activation", _activation_backward, _moved),
        Row("dropout", "rows", _dropout, _moved, slack=_OTHER_NUMBERS),
    )
}


def label(row: Row, shape: Shape) -> str:
    """Where the shape is from, and its numbers."""
    origin = f"{shape.network} {shape.name}".strip()
    return f"{shape.label}  ({origin})"
