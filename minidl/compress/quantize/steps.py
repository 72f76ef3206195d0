"""The steps of a network in integers: what each does with codes and, in training, with the floats they stand for.

A `Quant` is a scale and a zero point: codes q stand for x = s (q - z). Images travel with channels last. Every step has
two faces that compute the same numbers: `integer` takes and gives codes; `straight` takes and gives floats that codes
stand for, calls `integer` in between, and lets gradients through as if nothing had been rounded (Bengio, Leonard &
Courville 2013, arXiv:1308.3432), but not where a code was cut off at an end of its range.

docs/quantization.md has the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import Op
from minidl.compress.quantize.arrays import nearest_scale, quantize_array
from minidl.compress.quantize.weights import stored
from minidl.ops.conv import conv2d_dw, conv2d_dx
from minidl.ops.joining import cat
from minidl.ops.linalg import matmul
from minidl.ops.padding import pad
from minidl.ops.pool import avg_pool2d_dx, max_pool2d
from minidl.ops.reduce import sum as sum_over
from minidl.ops.shapes import reshape
from minidl.storage import Int8, Packed
from minidl_kernels.int8_static.geometry import windows

__all__ = ["Codes", "Quant", "codes_of", "floats_of", "steps_by_name"]

ROOM = 2**28  # of a bias in units of its sums: beside sums below 2^30 nothing can leave int32


@dataclass(frozen=True)
class Quant:
    """x = scale (q - zero), q in -2**(bits - 1) ... 2**(bits - 1) - 1, held in int8."""

    scale: float
    zero: int
    bits: int = 8

    @property
    def low(self) -> int:
        """The lowest code."""
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        """The highest code."""
        return 2 ** (self.bits - 1) - 1

    def code(self, value: float) -> int:
        """The code of a number, inside the range."""
        return int(np.clip(np.rint(np.float32(value) / np.float32(self.scale)) + self.zero, self.low, self.high))


@dataclass
class Codes:
    """int8 codes with what they stand for; images (N, H, W, C)."""

    q: np.ndarray
    quant: Quant


def codes_of(x: np.ndarray, quant: Quant) -> Codes:
    """Floats as codes: clip(rint(x / s) + z, low, high), float32, half to even, NaN as z; images (N, H, W, C)."""
    x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    q = kernels.quantize(x, quant.scale, quant.zero, quant.low, quant.high)
    return Codes(q.transpose(0, 2, 3, 1) if q.ndim == 4 else q, quant)


def floats_of(codes: Codes) -> np.ndarray:
    """float32(q - z) * s; images become (N, C, H, W) again."""
    q = codes.q.transpose(0, 3, 1, 2) if codes.q.ndim == 4 else codes.q
    return kernels.dequantize(q, codes.quant.scale, codes.quant.zero)


class rounded(Op):
    """Floats through codes and back, straight-through: dx = dy where the code was not cut off."""

    def forward(ctx, x: Any, quant: Quant) -> Any:
        codes = codes_of(x, quant)
        ctx.inside = _inside(codes.q, quant.low, quant.high)
        return floats_of(codes)

    def backward(ctx, dy: Any) -> Any:
        return (dy * ctx.inside,)


def _inside(q: np.ndarray, low: int, high: int) -> np.ndarray:
    """1 where a gradient passes, as floats in the layout of the floats."""
    inside = ((q > low) & (q < high)).astype(np.float32)
    return inside.transpose(0, 3, 1, 2) if q.ndim == 4 else inside


# -- layers with weights ------------------------------------------------------------------------------------------


def weight_codes(w: Any, b: Any, x_scale: float, bits: int = 8) -> Int8:
    """A layer's weight as codes of so many bits, in int8, with a scale per output; w (N, ...) float or packed already.

    The scale is `nearest_scale`'s (8 bits: max|w| / 127), but never so small that the bias, in units of s_x s_w, needs
    more room than int32 has: an output that is all bias keeps it.
    """
    if isinstance(w, Int8):
        return w
    if isinstance(w, Packed):
        return Int8((w.codes().astype(np.int16) - 2 ** (w.bits - 1)).astype(np.int8), w.scale[:, 0])
    scale = nearest_scale(w, bits)
    if b is not None:
        least = np.abs(b).astype(np.float64) / (x_scale * ROOM)
        scale = np.maximum(scale, (least * (1 + 1e-6)).astype(np.float32))
    return Int8(quantize_array(w, scale, bits=bits), scale)


class rounded_weight(Op):
    """The weight as it will be packed, for an op that reads it beside the layer: straight-through."""

    def forward(ctx, w: Any, b: Any, layer: Any) -> Any:
        return layer.packed(w, b).dequantize()

    def backward(ctx, dy: Any) -> Any:
        return dy, None


def table_codes(w: Any, bits: int, mask: Any = None) -> Any:
    """A weight that is used as floats, as Codes with a scale for each index of its first axis."""
    flat = w.reshape(len(w), -1)
    scale = nearest_scale(flat, bits)
    return stored(quantize_array(flat, scale, bits=bits), scale[:, None], None, bits, w.shape, mask, floats=False)


class rounded_table(Op):
    """The floats that `table_codes` stands for, straight-through."""

    def forward(ctx, w: Any, bits: int) -> Any:
        return table_codes(w, bits).dequantize()

    def backward(ctx, dy: Any) -> Any:
        return (dy,)


@dataclass
class _Layer:
    """What convolution and linear share. `y` None: the result stays float, as the last layer's."""

    x: int
    out: int
    weight: str
    bias: str | None
    x_quant: Quant
    y: Quant | None
    low: int = -128
    high: int = 127
    bits: int = 8  # of the weight
    finest: float = 0.0  # the smallest scale of inputs among the layers that share the weight; 0: it is not shared
    ready: Any = field(default=None, repr=False, compare=False)  # what was made of packed weights

    def packed(self, w: Any, b: Any) -> Int8:
        """The weight as codes; see weight_codes."""
        return weight_codes(w, b, self.finest or self.x_quant.scale, self.bits)

    def stored(self, w: Any, b: Any, mask: Any) -> Any:
        """The weight as it is kept once training is over: Int8, or of fewer bits Codes."""
        int8 = self.packed(w, b)
        if self.bits == 8:
            int8.mask = mask
            return int8
        return stored(int8.q, int8.scale[:, None], None, self.bits, w.shape, mask, floats=False)

    def prepared(self, w: Any, b: Any) -> tuple[Any, ...]:
        """(weight as the kernel reads it, bias int32, multiplier float32) of a float or packed weight."""
        on_host = b is None or isinstance(b, np.ndarray)
        held = b.tobytes() if on_host and b is not None else None  # a bias may be written in place
        if self.ready is not None and self.ready[0] is w and (on_host and self.ready[1] == held):
            return self.ready[2]
        packed = self.packed(w, b)
        q = self.turned(packed.q)
        if isinstance(q, np.ndarray):
            q.flags.writeable = False  # so the kernel packs it once
        unit = np.float64(self.x_quant.scale) * packed.scale.astype(np.float64)
        offset = -self.x_quant.zero * q.reshape(len(q), -1).sum(1, dtype=np.int64)
        if b is not None:
            offset = offset + np.rint(np.clip(b.astype(np.float64) / unit, -ROOM, ROOM))
        step = 1.0 if self.y is None else self.y.scale
        made = q, offset.astype(np.int32), (unit / step).astype(np.float32)
        if isinstance(w, Packed):
            self.ready = w, held, made
        return made

    def turned(self, q: np.ndarray) -> np.ndarray:
        """The codes of the weight as the kernel reads them."""
        return q

    def integer(self, x: Codes, w: Any, b: Any) -> Codes | np.ndarray:
        """Codes in, codes (or floats) out."""
        w, bias, multiplier = self.prepared(w, b)
        if self.y is None:
            y = (self.sums(x.q, w) + bias).astype(np.float32) * multiplier
            return np.ascontiguousarray(y.transpose(0, 3, 1, 2)) if y.ndim == 4 and isinstance(self, Conv2d) else y
        return Codes(self.codes(x.q, w, bias, multiplier, self.y), self.y)

    def straight(self, x: Any, w: Any, b: Any) -> Any:
        """Floats in, floats out."""
        return straight_layer(x, w, b, self)

    # Both kinds of layer have these.
    def codes(self, q: Any, w: Any, bias: Any, multiplier: Any, y: Quant) -> Any: ...
    def sums(self, q: Any, w: Any) -> Any: ...
    def dx(self, dy: Any, w: Any, shape: Any) -> Any: ...
    def dw(self, dy: Any, x: Any, shape: Any) -> Any: ...
    def db(self, dy: Any) -> Any: ...


class straight_layer(Op):
    """The integer layer on floats: forward by the kernel, gradients as of the float layer with the rounded weight."""

    def forward(ctx, x: Any, w: Any, b: Any, layer: Any) -> Any:
        ctx.save(x, w)
        packed = layer.packed(w, b)
        ctx.layer, ctx.seen = layer, packed.dequantize()
        y = layer.integer(codes_of(x, layer.x_quant), packed, b)
        if layer.y is None:
            ctx.inside = None
            return y
        ctx.inside = _inside(y.q, layer.low, layer.high)
        return floats_of(y)

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved
        dy = dy if ctx.inside is None else dy * ctx.inside
        return ctx.wanted(
            lambda: ctx.layer.dx(dy, ctx.seen, x.shape),
            lambda: ctx.layer.dw(dy, x, w.shape),
            lambda: ctx.layer.db(dy),
        )


@dataclass
class Linear(_Layer):
    """x (..., K) -> y (..., N)"""

    def codes(self, q: Any, w: Any, bias: Any, multiplier: Any, y: Quant) -> Any:
        return kernels.static_linear(q, w, bias, multiplier, y.zero, self.low, self.high)

    def sums(self, q: Any, w: Any) -> Any:
        return kernels.int8_matmul(q, w.T)

    def dx(self, dy: Any, w: Any, shape: Any) -> Any:
        return matmul(dy, w)

    def dw(self, dy: Any, x: Any, shape: Any) -> Any:
        return matmul(reshape(dy, (-1, shape[0])).T, reshape(x, (-1, shape[1])))

    def db(self, dy: Any) -> Any:
        return sum_over(reshape(dy, (-1, dy.shape[-1])), 0)


@dataclass
class Conv2d(_Layer):
    """x (N, C, H, W) -> y (N, K, P, Q); padding (top, bottom, left, right)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def turned(self, q: np.ndarray) -> np.ndarray:
        return q.transpose(0, 2, 3, 1).copy()

    def codes(self, q: Any, w: Any, bias: Any, multiplier: Any, y: Quant) -> Any:
        return kernels.static_conv2d(
            q, w, bias, multiplier, self.stride, self.padding, self.dilation, self.groups, self.x_quant.zero,
            y.zero, self.low, self.high,
        )  # fmt: skip

    def sums(self, q: Any, w: Any) -> Any:
        """int32 (N, P, Q, K), for a result that nobody rounds: the last layer's."""
        rows = windows(q, w.shape[1:3], self.stride, self.padding, self.dilation, self.x_quant.zero)  # N, P, Q, R, S, C
        parts = np.split(rows, self.groups, -1)
        filters = w.reshape(self.groups, len(w) // self.groups, -1)
        made = [kernels.int8_matmul(x.reshape(*x.shape[:3], -1), f.T) for x, f in zip(parts, filters, strict=True)]
        return np.concatenate(made, -1)

    def _border(self) -> tuple[int, int, int, int]:
        """What F.pad takes."""
        top, bottom, left, right = self.padding
        return left, right, top, bottom

    def dx(self, dy: Any, w: Any, shape: Any) -> Any:
        left, right, top, bottom = self._border()
        n, c, h, wide = shape
        size = (n, c, h + top + bottom, wide + left + right)
        d = conv2d_dx(dy, w, size, self.stride, (0, 0), self.dilation, self.groups)
        return d[:, :, top : top + h, left : left + wide]

    def dw(self, dy: Any, x: Any, shape: Any) -> Any:
        return conv2d_dw(dy, pad(x, self._border()), shape, self.stride, (0, 0), self.dilation, self.groups)

    def db(self, dy: Any) -> Any:
        return sum_over(dy, (0, 2, 3))


# -- steps without weights ----------------------------------------------------------------------------------------


@dataclass
class Add:
    """A residual sum of two results of one shape, each with a scale of its own."""

    x: int
    b: int
    out: int
    x_quant: Quant
    b_quant: Quant
    y: Quant
    low: int = -128
    high: int = 127

    def integer(self, a: Codes, b: Codes) -> Codes:
        """Codes in, codes out."""
        left, right = (float(np.float32(q.scale / self.y.scale)) for q in (self.x_quant, self.b_quant))
        zeros = self.x_quant.zero, self.b_quant.zero
        q = kernels.static_add(a.q, b.q, *zeros, left, right, self.y.zero, self.low, self.high)
        return Codes(q, self.y)

    def straight(self, a: Any, b: Any) -> Any:
        """Floats in, floats out."""
        return straight_add(a, b, self)


class straight_add(Op):
    """The integer sum on floats, straight-through."""

    def forward(ctx, a: Any, b: Any, step: Any) -> Any:
        y = step.integer(codes_of(a, step.x_quant), codes_of(b, step.b_quant))
        ctx.inside = _inside(y.q, step.low, step.high)
        return floats_of(y)

    def backward(ctx, dy: Any) -> Any:
        dy = dy * ctx.inside
        return dy, dy


@dataclass
class Cat:
    """Results one after the other along an axis, counted as of (N, C, H, W). Codes of the result's own scale and zero
    point are copied, others go through the output pipeline: rint(float32(q - z) r) + z_y with r = float32(s / s_y).
    """

    xs: tuple[int, ...]
    out: int
    dim: int
    quants: tuple[Quant, ...]
    y: Quant

    def integer(self, *xs: Codes) -> Codes:
        """Codes in, codes out."""
        axis = (0, 3, 1, 2)[self.dim] if xs[0].q.ndim == 4 else self.dim
        return Codes(
            np.concatenate([self.same(x.q, quant) for x, quant in zip(xs, self.quants, strict=True)], axis), self.y
        )

    def same(self, q: np.ndarray, quant: Quant) -> np.ndarray:
        """Codes of one operand as codes of the result."""
        if quant == self.y:
            return q
        c = q.shape[-1]
        ratio = np.full(c, quant.scale / self.y.scale, np.float32)
        offset = np.full(c, -quant.zero, np.int32)
        return kernels.requantize(q.astype(np.int32), offset, ratio, self.y.zero, self.y.low, self.y.high)

    def straight(self, *xs: Any) -> Any:
        """Floats in, floats out."""
        whole = [
            x if quant == self.y else straight_cast(x, self, quant) for x, quant in zip(xs, self.quants, strict=True)
        ]
        return cat(whole, self.dim)


class straight_cast(Op):
    """Codes of one scale as codes of another, on floats, straight-through."""

    def forward(ctx, x: Any, step: Any, quant: Quant) -> Any:
        y = step.same(codes_of(x, quant).q, quant)
        ctx.inside = _inside(y, step.y.low, step.y.high)
        return floats_of(Codes(y, step.y))

    def backward(ctx, dy: Any) -> Any:
        return (dy * ctx.inside,)


@dataclass
class MaxPool2d:
    """The greatest code of each window: exact, since codes are in the order of what they stand for."""

    x: int
    out: int
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]
    y: Quant

    def integer(self, x: Codes) -> Codes:
        """Codes in, codes out."""
        (p, q), (sh, sw), (dh, dw) = self.size, self.stride, self.dilation
        n, h, w, c = x.q.shape
        ph, pw = self.padding
        rows = max(h + 2 * ph, (p - 1) * sh + dh * (self.window[0] - 1) + 1)
        columns = max(w + 2 * pw, (q - 1) * sw + dw * (self.window[1] - 1) + 1)
        wide = x.q
        if (rows, columns) != (h, w):
            wide = np.full_like(x.q, -128, shape=(n, rows, columns, c))
            wide[:, ph : ph + h, pw : pw + w] = x.q
        best: Any = None
        for i in range(self.window[0]):
            for j in range(self.window[1]):
                top, left = i * dh, j * dw
                tap = wide[:, top : top + (p - 1) * sh + 1 : sh, left : left + (q - 1) * sw + 1 : sw]
                best = tap.copy() if best is None else np.maximum(best, tap, out=best)
        return Codes(best, x.quant)

    def straight(self, x: Any) -> Any:
        """Floats in, floats out: the same elements win."""
        h, w = x.shape[-2:]
        spans = ((h, 0), (w, 1))
        exact = all(
            (n + 2 * self.padding[i] - self.dilation[i] * (self.window[i] - 1) - 1) // self.stride[i] + 1
            == self.size[i]
            for n, i in spans
        )
        return max_pool2d(x, self.window, self.stride, self.padding, self.dilation, ceil_mode=not exact)


@dataclass
class AvgPool2d:
    """The mean of windows of one size, without a border: an exact sum, then the output pipeline."""

    x: int
    out: int
    window: tuple[int, int]
    stride: tuple[int, int]
    x_quant: Quant
    y: Quant

    def integer(self, x: Codes) -> Codes:
        """Codes in, codes out."""
        count = self.window[0] * self.window[1]
        if x.q.shape[1:3] == self.window:
            acc = x.q.sum((1, 2), dtype=np.int32, keepdims=True)
        else:
            taps = np.lib.stride_tricks.sliding_window_view(x.q, self.window, (1, 2))
            acc = taps[:, :: self.stride[0], :: self.stride[1]].sum((-2, -1), dtype=np.int32)
        c = (acc.shape[-1],)
        bias = np.full_like(acc, -count * self.x_quant.zero, np.int32, shape=c)
        multiplier = np.full_like(acc, self.x_quant.scale / (count * self.y.scale), np.float32, shape=c)
        return Codes(kernels.requantize(acc, bias, multiplier, self.y.zero, self.y.low, self.y.high), self.y)

    def straight(self, x: Any) -> Any:
        """Floats in, floats out."""
        return straight_mean(x, self)


class straight_mean(Op):
    """The integer mean on floats, straight-through."""

    def forward(ctx, x: Any, step: Any) -> Any:
        y = step.integer(codes_of(x, step.x_quant))
        ctx.inside, ctx.size = _inside(y.q, step.y.low, step.y.high), x.shape
        count = step.window[0] * step.window[1]
        out = ctx.inside.shape[2:]
        ctx.how = (step.window, step.stride, (0, 0), out, np.full(out, 1 / count))
        return floats_of(y)

    def backward(ctx, dy: Any) -> Any:
        return (avg_pool2d_dx(dy * ctx.inside, ctx.size, *ctx.how),)


@dataclass
class Clamp:
    """A relu or relu6 that no layer before took in: exact on codes."""

    x: int
    out: int
    low: int
    high: int
    y: Quant

    def integer(self, x: Codes) -> Codes:
        """Codes in, codes out."""
        return Codes(np.clip(x.q, np.int8(self.low), np.int8(self.high)), x.quant)

    def straight(self, x: Any) -> Any:
        """Floats in, floats out."""
        return straight_clamp(x, self)


class straight_clamp(Op):
    """The integer clamp on floats."""

    def forward(ctx, x: Any, step: Any) -> Any:
        codes = step.integer(codes_of(x, step.y))
        ctx.inside = _inside(codes.q, step.low, step.high)
        return floats_of(codes)

    def backward(ctx, dy: Any) -> Any:
        return (dy * ctx.inside,)


@dataclass
class Pad:
    """Zeros around images, (left, right, top, bottom): the zero point, exact."""

    x: int
    out: int
    border: tuple[int, ...]
    y: Quant

    def integer(self, x: Codes) -> Codes:
        """Codes in, codes out."""
        left, right, top, bottom = self.border
        widths = ((0, 0), (top, bottom), (left, right), (0, 0))
        return Codes(np.pad(x.q, widths, constant_values=x.quant.zero), x.quant)

    def straight(self, x: Any) -> Any:
        """Floats in, floats out."""
        return pad(x, self.border)


@dataclass
class Reshape:
    """Another shape (-1, ...) of the same codes; sizes are those of (N, C, H, W)."""

    x: int
    out: int
    shape: tuple[int, ...]
    y: Quant

    def integer(self, x: Codes) -> Codes:
        """Codes in, codes out."""
        q = x.q.transpose(0, 3, 1, 2) if x.q.ndim == 4 else x.q
        q = q.reshape(self.shape)
        return Codes(q.transpose(0, 2, 3, 1).copy() if q.ndim == 4 else q, x.quant)

    def straight(self, x: Any) -> Any:
        """Floats in, floats out."""
        return reshape(x, self.shape)


def steps_by_name() -> dict[str, Any]:
    """The kinds of steps, as files call them."""
    return {cls.__name__: cls for cls in (Linear, Conv2d, Add, Cat, MaxPool2d, AvgPool2d, Clamp, Pad, Reshape)}


def pair(quant: Quant) -> tuple:
    """A scale and zero point as plain values, and the bits where they are not 8."""
    return (quant.scale, quant.zero) if quant.bits == 8 else (quant.scale, quant.zero, quant.bits)


def plain(step: Any) -> dict[str, Any]:
    """A step as plain values, for files."""
    found: dict[str, Any] = {"step": type(step).__name__}
    for f in fields(step):
        if f.name != "ready":
            value = getattr(step, f.name)
            if f.name == "quants":
                value = [pair(quant) for quant in value]
            found[f.name] = pair(value) if isinstance(value, Quant) else value
    return found
