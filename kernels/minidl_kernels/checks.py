"""The shape and dtype rules of the public functions, as code that raises in the user's words.

Kernels trust what passes here: they work on raw memory and would corrupt it instead of raising.
"""

from __future__ import annotations

import itertools
import math
import numbers
import operator
from typing import Any

FLOATS = ("float32", "float64")


def array(op: str, name: str, a: Any, ndim: int | None = None, layout: str = "") -> None:
    """`a` is an array (of a device `device_of` knows), with `ndim` axes."""
    if not (hasattr(a, "shape") and hasattr(a, "dtype") and hasattr(a, "strides")):
        packed = callable(getattr(type(a), "dequantize", None))
        raise TypeError(
            f"{op}: {name} must be a NumPy or CuPy array, got {type(a).__name__}; "
            + ("it is packed: .dequantize() gives the float array" if packed else "convert with numpy.asarray")
        )
    if ndim is not None and a.ndim != ndim:
        raise ValueError(f"{op}: {name} must have {ndim} axes {layout}, got shape {tuple(a.shape)}")


def same_float(op: str, **arrays: Any) -> None:
    """All arrays (None is skipped) are float32, or all are float64."""
    first, kind = "", None
    for name, a in arrays.items():
        if a is None:
            continue
        if a.dtype not in FLOATS or not a.dtype.isnative:
            raise TypeError(
                f"{op}: {name} must be float32 or float64, got {a.dtype}; convert with {name}.astype('float32')"
            )
        if kind is None:
            first, kind = name, a.dtype
        elif a.dtype != kind:
            raise TypeError(f"{op}: {first} is {kind} but {name} is {a.dtype}; convert one: {name}.astype('{kind}')")


def dtype(op: str, name: str, a: Any, *allowed: str) -> None:
    """`a` has one of the allowed dtypes."""
    if a.dtype not in allowed or not a.dtype.isnative:
        raise TypeError(f"{op}: {name} must be {' or '.join(allowed)}, got {a.dtype}")


def integer(op: str, name: str, value: Any, least: int) -> int:
    """`value` as an int, at least `least`."""
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}") from None
    if n < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {n}")
    return n


def pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """`value`, an integer or a pair of them (height, width), as a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} must be an integer or a pair (height, width), got {value!r}")
        return integer(op, name, value[0], least), integer(op, name, value[1], least)
    n = integer(op, name, value, least)
    return n, n


def shape(op: str, name: str, value: Any, ndim: int) -> tuple[int, ...]:
    """`value` as a shape of `ndim` axes."""
    if not isinstance(value, (tuple, list)) or len(value) != ndim:
        raise ValueError(f"{op}: {name} must be a shape of {ndim} axes, got {value!r}")
    return tuple(integer(op, name, v, 0) for v in value)


def _bias(op: str, b: Any, n: int, of: str) -> None:
    if b is not None:
        array(op, "b", b)
        if tuple(b.shape) != (n,):
            raise ValueError(f"{op}: b must have shape ({n},), one value per {of}, got {tuple(b.shape)}")


# --- products ---


def _product_shapes(op: str, a: Any, b: Any) -> None:
    for name, x in (("a", a), ("b", b)):
        array(op, name, x)
        if x.ndim < 2:
            raise ValueError(
                f"{op}: {name} must have at least 2 axes, got shape {tuple(x.shape)};"
                f" add one with {name}[None] or {name}[:, None]"
            )
    if a.shape[-1] != b.shape[-2]:
        hint = "; did you mean b transposed (b.swapaxes(-1, -2))?" if a.shape[-1] == b.shape[-1] else ""
        raise ValueError(
            f"{op}: inner sizes differ: a {tuple(a.shape)} has {a.shape[-1]} columns,"
            f" b {tuple(b.shape)} has {b.shape[-2]} rows{hint}"
        )
    for m, n in zip(reversed(a.shape[:-2]), reversed(b.shape[:-2]), strict=False):
        if m != n and 1 not in (m, n):
            raise ValueError(
                f"{op}: leading axes of a {tuple(a.shape)} and b {tuple(b.shape)} do not broadcast: {m} against {n}"
            )


def matmul(a: Any, b: Any) -> None:
    """a (..., M, K), b (..., K, N), one dtype: bool, integer or float."""
    _product_shapes("matmul", a, b)
    for name, x in (("a", a), ("b", b)):
        if x.dtype.kind not in "biuf" or not x.dtype.isnative:
            raise TypeError(f"matmul: {name} must hold bool, integer or float numbers, got {x.dtype}")
    if a.dtype != b.dtype:
        raise TypeError(f"matmul: a is {a.dtype} but b is {b.dtype}; convert one: b.astype('{a.dtype}')")


def linear(x: Any, w: Any, b: Any) -> None:
    """x (..., K), w (N, K), b (N,)."""
    array("linear", "x", x)
    array("linear", "w", w, 2, "(N, K)")
    _rows("linear", x, w)
    _bias("linear", b, w.shape[0], "row of w")
    same_float("linear", x=x, w=w, b=b)


def linear_backward(dy: Any, x: Any, w: Any, needs: Any) -> None:
    """dy (..., N), x (..., K), w (N, K), and three flags."""
    op = "linear_backward"
    array(op, "x", x)
    array(op, "w", w, 2, "(N, K)")
    _rows(op, x, w)
    array(op, "dy", dy)
    if tuple(dy.shape) != (*x.shape[:-1], w.shape[0]):
        raise ValueError(f"{op}: dy must have shape {(*x.shape[:-1], w.shape[0])}, got {tuple(dy.shape)}")
    same_float(op, dy=dy, x=x, w=w)
    if not isinstance(needs, tuple) or len(needs) != 3:
        raise ValueError(f"{op}: needs must be three flags, for x, w and b, got {needs!r}")


def _rows(op: str, x: Any, w: Any) -> None:
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        hint = "; w is (out, in): did you mean w.T?" if x.ndim and x.shape[-1] == w.shape[0] else ""
        raise ValueError(
            f"{op}: last axis of x {tuple(x.shape)} must be the {w.shape[1]} columns of w {tuple(w.shape)}{hint}"
        )


# --- convolution ---


def conv_out(op: str, size: int, window: int, stride: int, padding: int, dilation: int, axis: str) -> int:
    """Output positions along one axis; raises where the window is wider than the padded input."""
    reach = dilation * (window - 1) + 1
    if size + 2 * padding < reach:
        raise ValueError(
            f"{op}: a window of {window} with dilation {dilation} covers {reach} in {axis},"
            f" but the input is {size} + 2 * {padding} of padding; use a larger padding or a smaller window"
        )
    return (size + 2 * padding - reach) // stride + 1


def conv_geometry(
    op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[int, int, int, int]:
    """The output shape (N, K, P, Q) of x (N, C, H, W) and w (K, C / groups, R, S); raises where they do not fit."""
    (sh, sw), (ph, pw), (dh, dw) = (
        pair(op, "stride", stride, 1),
        pair(op, "padding", padding, 0),
        pair(op, "dilation", dilation, 1),
    )
    g = integer(op, "groups", groups, 1)
    n, c, h, w = x_shape
    k, cg, r, s = w_shape
    if c % g or k % g:
        raise ValueError(
            f"{op}: groups {g} must divide the {c} channels of x {x_shape} and the {k} filters of w {w_shape}"
        )
    if cg != c // g:
        raise ValueError(f"{op}: w {w_shape} expects {cg * g} input channels with groups {g}, x {x_shape} has {c}")
    if r < 1 or s < 1:
        raise ValueError(f"{op}: the window of w {w_shape} is empty")
    return n, k, conv_out(op, h, r, sh, ph, dh, "height"), conv_out(op, w, s, sw, pw, dw, "width")


def conv2d(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> None:
    """x (N, C, H, W), w (K, C / groups, R, S), b (K,)."""
    array("conv2d", "x", x, 4, "(N, C, H, W)")
    array("conv2d", "w", w, 4, "(K, C / groups, R, S)")
    conv_geometry("conv2d", tuple(x.shape), tuple(w.shape), stride, padding, dilation, groups)
    _bias("conv2d", b, w.shape[0], "filter of w")
    same_float("conv2d", x=x, w=w, b=b)


def conv2d_dx(dy: Any, w: Any, x_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> None:
    """dy (N, K, P, Q), w (K, C / groups, R, S); x_shape (N, C, H, W)."""
    array("conv2d_dx", "dy", dy, 4, "(N, K, P, Q)")
    array("conv2d_dx", "w", w, 4, "(K, C / groups, R, S)")
    y = conv_geometry(
        "conv2d_dx", shape("conv2d_dx", "x_shape", x_shape, 4), tuple(w.shape), stride, padding, dilation, groups
    )
    if tuple(dy.shape) != y:
        raise ValueError(
            f"conv2d_dx: dy has shape {tuple(dy.shape)}, but x {tuple(x_shape)} and w {tuple(w.shape)} give outputs {y}"
        )
    same_float("conv2d_dx", dy=dy, w=w)


def conv2d_dw(dy: Any, x: Any, w_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> None:
    """dy (N, K, P, Q), x (N, C, H, W); w_shape (K, C / groups, R, S)."""
    array("conv2d_dw", "dy", dy, 4, "(N, K, P, Q)")
    array("conv2d_dw", "x", x, 4, "(N, C, H, W)")
    y = conv_geometry(
        "conv2d_dw", tuple(x.shape), shape("conv2d_dw", "w_shape", w_shape, 4), stride, padding, dilation, groups
    )
    if tuple(dy.shape) != y:
        raise ValueError(
            f"conv2d_dw: dy has shape {tuple(dy.shape)}, but x {tuple(x.shape)} and w {tuple(w_shape)} give outputs {y}"
        )
    same_float("conv2d_dw", dy=dy, x=x)


# --- attention ---


def attention(q: Any, k: Any, v: Any, mask: Any, causal: Any, scale: Any, op: str = "attention") -> None:
    """q (B, H, T, D), k (B, G, S, D), v (B, G, S, E), H a multiple of G; mask broadcasts to (B, H, T, S)."""
    array(op, "q", q, 4, "(B, H, T, D)")
    array(op, "k", k, 4, "(B, Hkv, S, D)")
    array(op, "v", v, 4, "(B, Hkv, S, D)")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"{op}: k {tuple(k.shape)} and v {tuple(v.shape)} must agree in batch, heads and length")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"{op}: q {tuple(q.shape)} has batch {q.shape[0]}, k {tuple(k.shape)} has {k.shape[0]}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(
            f"{op}: q {tuple(q.shape)} has {q.shape[3]} features per head, k {tuple(k.shape)} has {k.shape[3]}"
        )
    h, g = q.shape[1], k.shape[1]
    if h != g and (g == 0 or h % g):
        raise ValueError(
            f"{op}: the {h} heads of q {tuple(q.shape)} must be a multiple of the {g} heads of k {tuple(k.shape)}"
        )
    same_float(op, q=q, k=k, v=v)
    if mask is not None:
        array(op, "mask", mask)
        if mask.dtype != "bool":
            if mask.dtype not in FLOATS:
                raise TypeError(
                    f"{op}: mask must be bool (True = attend) or float (added to the scores), got {mask.dtype};"
                    f" use mask.astype(bool)"
                )
            same_float(op, q=q, mask=mask)
        full = (*q.shape[:3], k.shape[2])
        if mask.ndim > 4 or any(m not in (1, n) for m, n in zip(reversed(mask.shape), reversed(full), strict=False)):
            raise ValueError(f"{op}: mask {tuple(mask.shape)} does not broadcast to (B, H, T, S) = {full}")
    if causal not in (True, False):
        raise TypeError(f"{op}: causal must be True or False, got {causal!r}")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, numbers.Real)):
        raise TypeError(f"{op}: scale must be a number or None (1 / sqrt(D)), got {scale!r}")


def attention_backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, mask: Any, causal: Any, scale: Any
) -> None:
    """As `attention`; dout and out (B, H, T, E), lse (B, H, T)."""
    op = "attention_backward"
    attention(q, k, v, mask, causal, scale, op=op)
    full = (*q.shape[:3], v.shape[3])
    for name, a, want in (("dout", dout, full), ("out", out, full), ("lse", lse, full[:3])):
        array(op, name, a)
        if tuple(a.shape) != want:
            raise ValueError(f"{op}: {name} must have shape {want}, got {tuple(a.shape)}")
    same_float(op, q=q, dout=dout, out=out, lse=lse)


# --- int8 ---


def int8_matmul(a: Any, b: Any) -> None:
    """a (..., M, K) int8, b (K, N) int8."""
    _product_shapes("int8_matmul", a, b)
    if b.ndim != 2:
        raise ValueError(f"int8_matmul: b must have 2 axes (K, N), got shape {tuple(b.shape)}")
    dtype("int8_matmul", "a", a, "int8")
    dtype("int8_matmul", "b", b, "int8")
    # |a * b| <= 2^14, so a sum of 2^17 products could leave int32.
    if a.shape[-1] >= 1 << 17:
        raise ValueError(f"int8_matmul: K = {a.shape[-1]} could overflow int32; split it below {1 << 17}")


def _quantized(op: str, x: Any, w_q: Any, w_scale: Any, b: Any, x_scale: Any) -> None:
    same_float(op, x=x)
    dtype(op, "w_q", w_q, "int8")
    array(op, "w_scale", w_scale)
    if tuple(w_scale.shape) != (w_q.shape[0],):
        raise ValueError(
            f"{op}: w_scale must have shape ({w_q.shape[0]},), one per output of w_q {tuple(w_q.shape)},"
            f" got {tuple(w_scale.shape)}"
        )
    dtype(op, "w_scale", w_scale, "float32")
    _bias(op, b, w_q.shape[0], "output")
    if b is not None:
        dtype(op, "b", b, *FLOATS)
    if math.prod(w_q.shape[1:]) >= 1 << 17:
        raise ValueError(
            f"{op}: {math.prod(w_q.shape[1:])} products per output could overflow int32; split w_q {tuple(w_q.shape)}"
        )
    if x_scale is not None:
        if isinstance(x_scale, bool) or not isinstance(x_scale, (int, float)):
            raise TypeError(f"{op}: x_scale must be a number or None (measured from x), got {x_scale!r}")
        if not (x_scale > 0 and math.isfinite(x_scale)):
            raise ValueError(f"{op}: x_scale must be positive and finite, got {x_scale}")


def int8_linear(x: Any, w_q: Any, w_scale: Any, b: Any, x_scale: Any) -> None:
    """x (..., K) float, w_q (N, K) int8, w_scale (N,) float32, b (N,)."""
    array("int8_linear", "x", x)
    array("int8_linear", "w_q", w_q, 2, "(N, K)")
    _rows("int8_linear", x, w_q)
    _quantized("int8_linear", x, w_q, w_scale, b, x_scale)


def int8_conv2d(
    x: Any, w_q: Any, w_scale: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any, x_scale: Any
) -> None:
    """x (N, C, H, W) float, w_q (K, C / groups, R, S) int8, w_scale (K,) float32, b (K,)."""
    op = "int8_conv2d"
    array(op, "x", x, 4, "(N, C, H, W)")
    array(op, "w_q", w_q, 4, "(K, C / groups, R, S)")
    conv_geometry(op, tuple(x.shape), tuple(w_q.shape), stride, padding, dilation, groups)
    _quantized(op, x, w_q, w_scale, b, x_scale)


def _codes(op: str, zero: Any, low: Any, high: Any) -> None:
    for name, value in (("zero", zero), ("low", low), ("high", high)):
        code(op, name, value)
    if low > high:
        raise ValueError(f"{op}: low must not be above high, got {low} and {high}")


def code(op: str, name: str, value: Any) -> None:
    """`value` is an int8."""
    if integer(op, name, value, -128) > 127:
        raise ValueError(f"{op}: {name} must be a code in -128 ... 127, got {value}")


def _pipeline(op: str, bias: Any, multiplier: Any, n: int, zero: Any, low: Any, high: Any) -> None:
    for name, a, kind in (("bias", bias, "int32"), ("multiplier", multiplier, "float32")):
        array(op, name, a)
        if tuple(a.shape) != (n,):
            raise ValueError(f"{op}: {name} must have shape ({n},), one per output, got {tuple(a.shape)}")
        dtype(op, name, a, kind)
    _codes(op, zero, low, high)


def _exact(op: str, k: int) -> None:
    if k >= 1 << 16:  # |x w| <= 2^14: the sum stays below 2^30, and so does the bias
        raise ValueError(f"{op}: {k} products per output could overflow int32; split them below {1 << 16}")


def _scales(op: str, a: Any, scale: Any, zero: Any, axis: Any, kind: str) -> None:
    """One scale and zero point (axis None), or arrays of them along an axis of a; codes are of dtype `kind`."""
    least, most = (-128, 127) if kind == "int8" else (0, 255)
    if not hasattr(zero, "dtype"):
        if not least <= integer(op, "zero", zero, least) <= most:
            raise ValueError(f"{op}: zero must be a code in {least} ... {most}, got {zero}")
    elif axis is None:
        raise TypeError(f"{op}: zero must be an integer where axis is None, got an array {tuple(zero.shape)}")
    if axis is None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"{op}: scale must be a number where axis is None, got {type(scale).__name__}")
        if not 2.0**-149 <= scale < 2.0**128:
            raise ValueError(f"{op}: scale must be positive and finite in float32, got {scale}")
        return
    if not -a.ndim <= integer(op, "axis", axis, -a.ndim) < a.ndim:
        raise ValueError(f"{op}: axis {axis} is not one of an array of shape {tuple(a.shape)}")
    for name, s, of in (("scale", scale, "float32"), ("zero", zero, kind)):
        if name == "scale" or hasattr(s, "dtype"):
            array(op, name, s)
            if tuple(s.shape) != (a.shape[axis],):
                raise ValueError(
                    f"{op}: {name} must have shape ({a.shape[axis]},), one for each index of axis {axis} of "
                    f"{tuple(a.shape)}, got {tuple(s.shape)}"
                )
            dtype(op, name, s, of)


def quantize(x: Any, scale: Any, zero: Any, low: Any, high: Any, axis: Any) -> None:
    """x float; scale and zero numbers, or arrays (C,) along an axis; low and high codes."""
    array("quantize", "x", x)
    same_float("quantize", x=x)
    _scales("quantize", x, scale, zero, axis, "int8")
    _codes("quantize", 0, low, high)


def dequantize(q: Any, scale: Any, zero: Any, axis: Any) -> None:
    """q int8 or uint8; scale and zero numbers, or arrays (C,) along an axis, zero of q's dtype."""
    array("dequantize", "q", q)
    dtype("dequantize", "q", q, "int8", "uint8")
    _scales("dequantize", q, scale, zero, axis, str(q.dtype))


def requantize(acc: Any, bias: Any, multiplier: Any, zero: Any, low: Any, high: Any) -> None:
    """acc (..., N) int32, bias (N,) int32, multiplier (N,) float32."""
    array("requantize", "acc", acc)
    if acc.ndim < 1:
        raise ValueError("requantize: acc must have at least one axis (..., N)")
    dtype("requantize", "acc", acc, "int32")
    _pipeline("requantize", bias, multiplier, acc.shape[-1], zero, low, high)


def static_linear(x: Any, w: Any, bias: Any, multiplier: Any, zero: Any, low: Any, high: Any) -> None:
    """x (..., K) int8, w (N, K) int8."""
    op = "static_linear"
    array(op, "x", x)
    array(op, "w", w, 2, "(N, K)")
    _rows(op, x, w)
    dtype(op, "x", x, "int8")
    dtype(op, "w", w, "int8")
    _exact(op, w.shape[1])
    _pipeline(op, bias, multiplier, w.shape[0], zero, low, high)


def static_conv2d(
    x: Any, w: Any, bias: Any, multiplier: Any, stride: Any, padding: Any, dilation: Any, groups: Any, border: Any,
    zero: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """x (B, H, W, C) int8, w (K, R, S, C / groups) int8."""
    op = "static_conv2d"
    array(op, "x", x, 4, "(B, H, W, C)")
    array(op, "w", w, 4, "(K, R, S, C / groups)")
    dtype(op, "x", x, "int8")
    dtype(op, "w", w, "int8")
    if isinstance(padding, (tuple, list)) and len(padding) == 4:
        top, bottom, left, right = (integer(op, "padding", v, 0) for v in padding)
    else:
        top, left = pair(op, "padding", padding, 0)
        bottom, right = top, left
    (n, h, wide, c), (k, r, s, cg) = x.shape, w.shape
    padded = (n, c, h + top + bottom, wide + left + right)
    conv_geometry(op, padded, (k, cg, r, s), stride, 0, dilation, groups)
    code(op, "border", border)
    _exact(op, r * s * cg)
    _pipeline(op, bias, multiplier, k, zero, low, high)


def static_add(
    a: Any, b: Any, a_zero: Any, b_zero: Any, a_ratio: Any, b_ratio: Any, zero: Any, low: Any, high: Any
) -> None:
    """a, b int8 of one shape."""
    op = "static_add"
    for name, array_ in (("a", a), ("b", b)):
        array(op, name, array_)
        dtype(op, name, array_, "int8")
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"{op}: a {tuple(a.shape)} and b {tuple(b.shape)} must have one shape")
    for name, value in (("a_zero", a_zero), ("b_zero", b_zero)):
        code(op, name, value)
    for name, value in (("a_ratio", a_ratio), ("b_ratio", b_ratio)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            raise ValueError(f"{op}: {name} must be a positive number below 1e30, got {value!r}")
    _codes(op, zero, low, high)


def int4_linear(x: Any, w_q: Any, scale: Any, zero: Any, b: Any) -> None:
    """x (..., K) float, w_q (N, K / 2) uint8, scale (N, K / G) float32, zero (N, K / G) uint8, b (N,)."""
    op = "int4_linear"
    array(op, "x", x)
    array(op, "w_q", w_q, 2, "(N, K / 2)")
    array(op, "scale", scale, 2, "(N, K / G)")
    (n, half), groups = w_q.shape, scale.shape[1]
    if x.ndim < 1 or x.shape[-1] != 2 * half:
        raise ValueError(
            f"{op}: last axis of x {tuple(x.shape)} must be the {2 * half} columns that w_q {tuple(w_q.shape)} holds"
        )
    if scale.shape[0] != n or (groups == 0) != (half == 0) or (groups and 2 * half % (32 * groups)):
        raise ValueError(
            f"{op}: scale {tuple(scale.shape)} must have a row for each of the {n} outputs of w_q {tuple(w_q.shape)},"
            f" in groups of equal size, a multiple of 32, along its {2 * half} columns"
        )
    dtype(op, "w_q", w_q, "uint8")
    dtype(op, "scale", scale, "float32")
    if zero is not None:
        array(op, "zero", zero)
        if tuple(zero.shape) != tuple(scale.shape):
            raise ValueError(f"{op}: zero must have scale's shape {tuple(scale.shape)}, got {tuple(zero.shape)}")
        dtype(op, "zero", zero, "uint8")
    _bias(op, b, n, "output")
    same_float(op, x=x, b=b)


# --- sparse ---


def csr(op: str, values: Any, indices: Any, indptr: Any) -> None:
    """values (Z,) float, indices (Z,) uint16 or int32, indptr (N + 1,) int64; kernels look at the numbers in them."""
    for name, a, layout in (("values", values, "(Z,)"), ("indices", indices, "(Z,)"), ("indptr", indptr, "(N + 1,)")):
        array(op, name, a, 1, layout)
    if tuple(values.shape) != tuple(indices.shape):
        raise ValueError(
            f"{op}: values {tuple(values.shape)} and indices {tuple(indices.shape)} need one entry per stored number"
        )
    if indptr.shape[0] < 1:
        raise ValueError(f"{op}: indptr must have N + 1 entries, from 0 to the {values.shape[0]} stored numbers")
    same_float(op, values=values)
    dtype(op, "indices", indices, "uint16", "int32")
    dtype(op, "indptr", indptr, "int64")


def csr_linear(x: Any, values: Any, indices: Any, indptr: Any, b: Any) -> None:
    """x (..., K), W (N, K) in compressed sparse rows, b (N,)."""
    array("csr_linear", "x", x)
    if x.ndim < 1:
        raise ValueError("csr_linear: x must have at least 1 axis (..., K), got shape ()")
    csr("csr_linear", values, indices, indptr)
    _bias("csr_linear", b, indptr.shape[0] - 1, "row of W")
    same_float("csr_linear", x=x, values=values, b=b)


def csr_linear_dx(dy: Any, values: Any, indices: Any, indptr: Any, k: Any) -> None:
    """dy (..., N), W (N, K) in compressed sparse rows."""
    op = "csr_linear_dx"
    array(op, "dy", dy)
    csr(op, values, indices, indptr)
    if dy.ndim < 1 or dy.shape[-1] != indptr.shape[0] - 1:
        raise ValueError(
            f"{op}: last axis of dy {tuple(dy.shape)} must be the {indptr.shape[0] - 1} rows that indptr describes"
        )
    integer(op, "k", k, 0)
    same_float(op, dy=dy, values=values)


def groups(op: str, values: Any, indices: Any, m: Any, k: int) -> None:
    """values (N, G, n) float, indices (N, R) uint8 of W (N, K); kernels look at the numbers in them."""
    m = integer(op, "m", m, 2)
    array(op, "values", values, 3, "(N, G, n)")
    array(op, "indices", indices, 2, "(N, R)")
    rows, many, n = values.shape
    if m > 16 or not 1 <= n <= m:
        raise ValueError(f"{op}: n of m with 1 <= n <= m <= 16, got {n}:{m}")
    if many != -(-k // m):
        raise ValueError(
            f"{op}: values {tuple(values.shape)} must have ceil(K / m) = {-(-k // m)} groups of {m}, K = {k}"
        )
    fits = rows, -(-many * n * (1 if m <= 2 else 2 if m <= 4 else 4) // 8)
    if tuple(indices.shape) != fits:
        raise ValueError(
            f"{op}: indices {tuple(indices.shape)} must be {fits} for values {tuple(values.shape)} and m = {m}"
        )
    same_float(op, values=values)
    dtype(op, "indices", indices, "uint8")


def nm_linear(x: Any, values: Any, indices: Any, m: Any, b: Any) -> None:
    """x (..., K), n of every m weights of W (N, K), b (N,)."""
    array("nm_linear", "x", x)
    if x.ndim < 1:
        raise ValueError("nm_linear: x must have at least 1 axis (..., K), got shape ()")
    groups("nm_linear", values, indices, m, x.shape[-1])
    _bias("nm_linear", b, values.shape[0], "row of W")
    same_float("nm_linear", x=x, values=values, b=b)


# --- planes and rows ---


def scatter_rows(x: Any, index: Any, rows: Any) -> None:
    """x (L, D) of numbers, index (L,) integer, rows from 0."""
    op = "scatter_rows"
    array(op, "x", x, 2, "(L, D)")
    array(op, "index", index, 1, "(L,)")
    if x.dtype.kind not in "iuf":
        raise TypeError(f"{op}: x must hold numbers, got {x.dtype}")
    if index.dtype.kind not in "iu":
        raise TypeError(f"{op}: index must be of integers, got {index.dtype}")
    if len(index) != len(x):
        raise ValueError(f"{op}: index must name a place for each of the {len(x)} rows of x, got {len(index)}")
    integer(op, "rows", rows, 0)


def max_pool2d(x: Any, window: Any, stride: Any, padding: Any, dilation: Any, size: Any) -> None:
    """Every window has a tap inside x."""
    array("max_pool2d", "x", x, 4, "(N, C, H, W)")
    if x.dtype.kind not in "iuf" or not x.dtype.isnative:
        raise TypeError(f"max_pool2d: x must be numbers, got {x.dtype}")
    for axis, (n, k, s, p, d, o) in enumerate(zip(x.shape[2:], window, stride, padding, dilation, size)):
        if o < 0 or (x.size and not all(any(0 <= i * s - p + r * d < n for r in range(k)) for i in range(o))):
            raise ValueError(
                f"max_pool2d: {o} windows of {k} (stride {s}, padding {p}, dilation {d}) do not all touch axis "
                f"{axis + 2} of x, which has {n} elements; padding may be at most half of the window"
            )


def scatter_plane(x: Any, index: Any, width: Any) -> None:
    """x and index have the same shape."""
    array("scatter_plane", "x", x)
    array("scatter_plane", "index", index)
    if x.ndim < 1 or tuple(x.shape) != tuple(index.shape):
        raise ValueError(
            f"scatter_plane: x {tuple(x.shape)} and index {tuple(index.shape)} must have the same shape (..., L)"
        )
    if index.dtype.kind not in "iu":
        raise TypeError(f"scatter_plane: index must be integers, got {index.dtype}")
    integer("scatter_plane", "width", width, 0)


def gather_plane(x: Any, index: Any) -> None:
    """x and index have the same leading axes."""
    array("gather_plane", "x", x)
    array("gather_plane", "index", index)
    if x.ndim < 1 or x.ndim != index.ndim or tuple(x.shape[:-1]) != tuple(index.shape[:-1]):
        raise ValueError(
            f"gather_plane: x {tuple(x.shape)} and index {tuple(index.shape)} must agree in all axes but the last"
        )
    if index.dtype.kind not in "iu":
        raise TypeError(f"gather_plane: index must be integers, got {index.dtype}")


# --- element by element ---

ACTIVATIONS = ("relu", "exp", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "relu6")


def _same_shape(op: str, **arrays: Any) -> None:
    (first, a), *rest = arrays.items()
    for name, other in rest:
        if tuple(other.shape) != tuple(a.shape):
            raise ValueError(f"{op}: {name} must have {first}'s shape {tuple(a.shape)}, got {tuple(other.shape)}")


def activation(x: Any, name: Any, op: str = "activation") -> None:
    """x float, name one of ACTIVATIONS."""
    array(op, "x", x)
    if name not in ACTIVATIONS:
        raise ValueError(f"{op}: there is no activation {name!r}; there are: {', '.join(ACTIVATIONS)}")
    same_float(op, x=x)


def activation_backward(dy: Any, saved: Any, name: Any) -> None:
    """dy and saved of one shape."""
    op = "activation_backward"
    array(op, "dy", dy)
    activation(saved, name, op)
    _same_shape(op, saved=saved, dy=dy)
    same_float(op, dy=dy, saved=saved)


def dropout(x: Any, seed: Any, stream: Any, block: Any, p: Any) -> None:
    """x float; seed, stream and block 64-bit words; 0 <= p < 1."""
    array("dropout", "x", x)
    same_float("dropout", x=x)
    for name, value in (("seed", seed), ("stream", stream), ("block", block)):
        if integer("dropout", name, value, 0) >= 1 << 64:
            raise ValueError(f"dropout: {name} must be below 2^64, got {value}")
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
        raise ValueError(f"dropout: p must be a number in [0, 1), got {p!r}")


def mask_scale(x: Any, mask: Any, scale: Any) -> None:
    """x float, mask bool, of one shape."""
    array("mask_scale", "x", x)
    array("mask_scale", "mask", mask)
    _same_shape("mask_scale", x=x, mask=mask)
    same_float("mask_scale", x=x)
    dtype("mask_scale", "mask", mask, "bool")
    _number("mask_scale", "scale", scale)


def _number(op: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}")


# --- along rows ---


def softmax(x: Any, op: str = "softmax") -> None:
    """x (..., C), float."""
    array(op, "x", x)
    if x.ndim < 1:
        raise ValueError(f"{op}: x must have at least 1 axis (..., C), got shape ()")
    same_float(op, x=x)


def softmax_backward(dy: Any, y: Any, op: str = "softmax_backward") -> None:
    """dy and y (..., C)."""
    array(op, "dy", dy)
    softmax(y, op)
    _same_shape(op, y=y, dy=dy)
    same_float(op, dy=dy, y=y)


def log_softmax(x: Any) -> None:
    """As softmax."""
    softmax(x, "log_softmax")


def log_softmax_backward(dy: Any, y: Any) -> None:
    """As softmax_backward."""
    softmax_backward(dy, y, "log_softmax_backward")


def cross_entropy(x: Any, t: Any, w: Any, ignore_index: Any, smoothing: Any, op: str = "cross_entropy") -> None:
    """x (N, C), t (N,) integer, w (C,)."""
    array(op, "x", x, 2, "(N, C)")
    array(op, "t", t, 1, "(N,)")
    if t.shape[0] != x.shape[0]:
        raise ValueError(f"{op}: t must have one class for each of the {x.shape[0]} rows of x, got {tuple(t.shape)}")
    if t.dtype.kind not in "iu" or not t.dtype.isnative:
        raise TypeError(f"{op}: t must be integers, got {t.dtype}")
    if w is not None:
        array(op, "w", w)
        if tuple(w.shape) != (x.shape[1],):
            raise ValueError(f"{op}: w must have shape ({x.shape[1]},), one per class, got {tuple(w.shape)}")
    same_float(op, x=x, w=w)
    try:
        operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"{op}: ignore_index must be an integer, got {ignore_index!r}") from None
    _number(op, "smoothing", smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{op}: smoothing must lie in [0, 1], got {smoothing}")


def cross_entropy_backward(dy: Any, x: Any, t: Any, lse: Any, w: Any, ignore_index: Any, smoothing: Any) -> None:
    """As cross_entropy; dy and lse (N,)."""
    op = "cross_entropy_backward"
    cross_entropy(x, t, w, ignore_index, smoothing, op)
    for name, a in (("dy", dy), ("lse", lse)):
        array(op, name, a)
        if tuple(a.shape) != (x.shape[0],):
            raise ValueError(f"{op}: {name} must have shape ({x.shape[0]},), got {tuple(a.shape)}")
    same_float(op, x=x, dy=dy, lse=lse)


# --- normalisation ---


def _per(op: str, n: int, of: str, **arrays: Any) -> None:
    for name, a in arrays.items():
        if a is not None:
            array(op, name, a)
            if tuple(a.shape) != (n,):
                raise ValueError(f"{op}: {name} must have shape ({n},), one value per {of}, got {tuple(a.shape)}")


def _statistics(op: str, want: tuple[int, ...], **arrays: Any) -> None:
    for name, a in arrays.items():
        if a is not None:
            array(op, name, a)
            if tuple(a.shape) != want:
                raise ValueError(f"{op}: {name} must have shape {want}, got {tuple(a.shape)}")


def layer_norm(x: Any, w: Any, b: Any, eps: Any, op: str = "layer_norm") -> None:
    """x (..., D), w and b (D,)."""
    array(op, "x", x)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"{op}: x must be (..., D) with D at least 1, got shape {tuple(x.shape)}")
    _per(op, x.shape[-1], "element of a row", w=w, b=b)
    same_float(op, x=x, w=w, b=b)
    _number(op, "eps", eps)


def layer_norm_backward(
    dy: Any, x: Any, w: Any, mean: Any, var: Any, eps: Any, op: str = "layer_norm_backward"
) -> None:
    """As layer_norm; dy shaped as x, mean and var (...)."""
    layer_norm(x, w, None, eps, op)
    array(op, "dy", dy)
    _same_shape(op, x=x, dy=dy)
    _statistics(op, tuple(x.shape[:-1]), mean=mean, var=var)
    same_float(op, x=x, dy=dy, mean=mean, var=var)


def rms_norm(x: Any, w: Any, eps: Any) -> None:
    """x (..., D), w (D,)."""
    layer_norm(x, w, None, eps, "rms_norm")


def rms_norm_backward(dy: Any, x: Any, w: Any, square: Any, eps: Any) -> None:
    """As rms_norm; dy shaped as x, square (...)."""
    layer_norm_backward(dy, x, w, None, square, eps, "rms_norm_backward")


def group_norm(x: Any, groups: Any, w: Any, b: Any, eps: Any, op: str = "group_norm") -> None:
    """x (N, C, ...), groups divides C, w and b (C,)."""
    _channels(op, x)
    if x.shape[1] % integer(op, "groups", groups, 1):
        raise ValueError(f"{op}: the {x.shape[1]} channels of x {tuple(x.shape)} must be a multiple of groups {groups}")
    _per(op, x.shape[1], "channel", w=w, b=b)
    same_float(op, x=x, w=w, b=b)
    _number(op, "eps", eps)


def _channels(op: str, x: Any) -> None:
    array(op, "x", x)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"{op}: x must be (N, C, ...) and not empty, got shape {tuple(x.shape)}")


def group_norm_backward(dy: Any, x: Any, groups: Any, w: Any, mean: Any, var: Any, eps: Any) -> None:
    """As group_norm; dy shaped as x, mean and var (N, groups)."""
    op = "group_norm_backward"
    group_norm(x, groups, w, None, eps, op)
    array(op, "dy", dy)
    _same_shape(op, x=x, dy=dy)
    _statistics(op, (x.shape[0], groups), mean=mean, var=var)
    same_float(op, x=x, dy=dy, mean=mean, var=var)


def batch_norm(x: Any, w: Any, b: Any, eps: Any) -> None:
    """x (N, C, ...), w and b (C,)."""
    group_norm(x, 1, w, b, eps, "batch_norm")


def batch_norm_backward(dy: Any, x: Any, w: Any, mean: Any, var: Any, eps: Any) -> None:
    """As batch_norm; dy shaped as x, mean and var (C,)."""
    op = "batch_norm_backward"
    group_norm(x, 1, w, None, eps, op)
    array(op, "dy", dy)
    _same_shape(op, x=x, dy=dy)
    _per(op, x.shape[1], "channel", mean=mean, var=var)
    same_float(op, x=x, dy=dy, mean=mean, var=var)


def channel_affine(x: Any, scale: Any, shift: Any, f: Any, out: Any) -> None:
    """x (N, C, ...), scale and shift (C,), f a name, out shaped as x, without gaps."""
    op = "channel_affine"
    _channels(op, x)
    array(op, "scale", scale)
    array(op, "shift", shift)
    _per(op, x.shape[1], "channel", scale=scale, shift=shift)
    same_float(op, x=x, scale=scale, shift=shift, out=out)
    if f not in ("", "relu", "relu6"):
        raise ValueError(f"{op}: f must be 'relu', 'relu6' or '', got {f!r}")
    if out is not None:
        _same_shape(op, x=x, out=out)
        if not out.flags.c_contiguous:
            raise ValueError(f"{op}: out must have no gaps, got strides {out.strides} of shape {tuple(out.shape)}")


# --- recurrences ---


def _scan(
    op: str, gates: int, w: Any, sizes: Any, reverse: Any, states: dict[str, Any], /, **like: tuple[Any, int]
) -> None:
    """w (gates H, H), each state (B, H), each of `like`, given with its gates, (L, gates H)."""
    array(op, "w", w, 2, f"({gates} H, H)" if gates > 1 else "(H, H)")
    n = w.shape[1]
    if w.shape[0] != gates * n:
        raise ValueError(f"{op}: w must have {gates} rows for each of its {n} columns, got shape {tuple(w.shape)}")
    if not isinstance(sizes, tuple):
        raise TypeError(f"{op}: sizes must be a tuple, the rows of each step, got {type(sizes).__name__}")
    counts = [integer(op, "each of sizes", b, 0) for b in sizes]
    if any(b > a for a, b in itertools.pairwise(counts)):
        raise ValueError(f"{op}: sizes must not grow from step to step, got {sizes}")
    for name, (a, g) in like.items():
        array(op, name, a)
        if tuple(a.shape) != (sum(counts), g * n):
            raise ValueError(
                f"{op}: {name} must have shape ({sum(counts)}, {g * n}), the rows of all steps by what w"
                f" {tuple(w.shape)} asks, got {tuple(a.shape)}"
            )
    for name, a in states.items():
        array(op, name, a)
        if a.ndim != 2 or a.shape[1] != n or (counts and a.shape[0] != counts[0]):
            raise ValueError(
                f"{op}: {name} must have shape ({counts[0] if counts else 'B'}, {n}), got {tuple(a.shape)}"
            )
    if len({a.shape[0] for a in states.values()}) > 1:
        raise ValueError(f"{op}: the states have different numbers of rows")
    if reverse not in (True, False):
        raise TypeError(f"{op}: reverse must be True or False, got {reverse!r}")
    same_float(op, w=w, **{name: a for name, (a, _) in like.items()}, **states)


def _keep(op: str, keep: Any) -> None:
    if keep not in (True, False):
        raise TypeError(f"{op}: keep must be True or False, got {keep!r}")


def _nonlinearity(op: str, name: Any) -> None:
    if name not in ("tanh", "relu"):
        raise ValueError(f"{op}: nonlinearity must be 'tanh' or 'relu', got {name!r}")


def rnn(gx: Any, h: Any, w: Any, sizes: Any, reverse: Any, nonlinearity: Any, keep: Any) -> None:
    """gx (L, H), h (B, H), w (H, H)."""
    _scan("rnn", 1, w, sizes, reverse, {"h": h}, gx=(gx, 1))
    _nonlinearity("rnn", nonlinearity)
    _keep("rnn", keep)


def rnn_backward(dy: Any, dh: Any, w: Any, y: Any, sizes: Any, reverse: Any, nonlinearity: Any) -> None:
    """As rnn; dy and y (L, H)."""
    _scan("rnn_backward", 1, w, sizes, reverse, {"dh": dh}, dy=(dy, 1), y=(y, 1))
    _nonlinearity("rnn_backward", nonlinearity)


def lstm(gx: Any, h: Any, c: Any, w: Any, sizes: Any, reverse: Any, keep: Any) -> None:
    """gx (L, 4 H), h and c (B, H), w (4 H, H)."""
    _scan("lstm", 4, w, sizes, reverse, {"h": h, "c": c}, gx=(gx, 4))
    _keep("lstm", keep)


def lstm_backward(dy: Any, dh: Any, dc: Any, w: Any, c: Any, gates: Any, cells: Any, sizes: Any, reverse: Any) -> None:
    """As lstm; dy and cells (L, H), gates (L, 4 H)."""
    like = {"dy": (dy, 1), "gates": (gates, 4), "cells": (cells, 1)}
    _scan("lstm_backward", 4, w, sizes, reverse, {"dh": dh, "dc": dc, "c": c}, **like)


def gru(gx: Any, h: Any, w: Any, b: Any, sizes: Any, reverse: Any, keep: Any) -> None:
    """gx (L, 3 H), h (B, H), w (3 H, H), b (3 H,)."""
    _scan("gru", 3, w, sizes, reverse, {"h": h}, gx=(gx, 3))
    _bias("gru", b, w.shape[0], "row of w")
    same_float("gru", gx=gx, b=b)
    _keep("gru", keep)


def gru_backward(dy: Any, dh: Any, w: Any, gates: Any, inner: Any, before: Any, sizes: Any, reverse: Any) -> None:
    """As gru; dy, inner and before (L, H), gates (L, 3 H)."""
    like = {"dy": (dy, 1), "gates": (gates, 3), "inner": (inner, 1), "before": (before, 1)}
    _scan("gru_backward", 3, w, sizes, reverse, {"dh": dh}, **like)


# --- optimizers ---


def _in_step(op: str, params: Any, grads: Any, **states: Any) -> None:
    """Lists of arrays, entry by entry of one shape, all of one dtype; all but grads can be written in place."""
    lists = {"params": params, "grads": grads, **{name: s for name, s in states.items() if s is not None}}
    for name, arrays in lists.items():
        if not isinstance(arrays, (tuple, list)) or len(arrays) != len(params):
            raise ValueError(f"{op}: {name} must be a list with an array for each parameter")
    kind = getattr(params[0], "dtype", None) if params else None
    for name, arrays in lists.items():
        written = name != "grads"
        for i, (a, p) in enumerate(zip(arrays, params)):
            # Hundreds of arrays come this way at every step: in one line what most of them are.
            seen = i or arrays is not params  # the first parameter's dtype is everybody's
            if seen and type(a) is type(p) and a.dtype is kind and a.shape == p.shape and (not written or _writable(a)):
                continue
            array(op, f"{name}[{i}]", a)
            same_float(op, **{"params[0]": params[0], f"{name}[{i}]": a})
            if a.shape != p.shape:
                raise ValueError(
                    f"{op}: {name}[{i}] must have its parameter's shape {tuple(p.shape)}, got {tuple(a.shape)}"
                )
            if written and not _writable(a):
                raise ValueError(
                    f"{op}: {name}[{i}] is written in place and must be C-contiguous, aligned and writeable; its "
                    f"shape is {tuple(a.shape)}, its strides are {tuple(a.strides)}"
                )


def _writable(a: Any) -> bool:
    """C-contiguous, aligned and writeable; CuPy's arrays, always the latter two, tell only the first."""
    return getattr(a.flags, "carray", None) or (not hasattr(a.flags, "carray") and a.flags.c_contiguous)


def _masks(op: str, params: Any, masks: Any) -> None:
    """None, or a list of bool arrays and Nones, one for each parameter."""
    if masks is None:
        return
    if not isinstance(masks, (tuple, list)) or len(masks) != len(params):
        raise ValueError(f"{op}: masks must be a list with a bool array or None for each parameter")
    for i, (mask, p) in enumerate(zip(masks, params)):
        if mask is None:
            continue
        array(op, f"masks[{i}]", mask)
        dtype(op, f"masks[{i}]", mask, "bool")
        if type(mask) is not type(p) or mask.shape != p.shape:
            raise ValueError(
                f"{op}: masks[{i}] must have its parameter's shape {tuple(p.shape)}, on its device, got "
                f"{tuple(mask.shape)}"
            )


def sgd_step(
    params: Any, grads: Any, buffers: Any, lr: Any, momentum: Any, dampening: Any, weight_decay: Any, nesterov: Any,
    maximize: Any, masks: Any,
) -> None:  # fmt: skip
    """Lists of arrays; numbers."""
    op = "sgd_step"
    _in_step(op, params, grads, buffers=buffers)
    _masks(op, params, masks)
    for name, value in (("lr", lr), ("momentum", momentum), ("dampening", dampening), ("weight_decay", weight_decay)):
        _number(op, name, value)
    if buffers is None and (momentum or nesterov):
        raise ValueError(f"{op}: momentum {momentum} needs buffers, a list with an array for each parameter")


def adam_step(
    params: Any, grads: Any, means: Any, squares: Any, greatest: Any, steps: Any, lr: Any, beta1: Any, beta2: Any,
    eps: Any, weight_decay: Any, decoupled: Any, maximize: Any, masks: Any,
) -> None:  # fmt: skip
    """Lists of arrays, and of numbers of steps from 1."""
    op = "adam_step"
    for name, value in (("means", means), ("squares", squares)):
        if value is None:
            raise ValueError(f"{op}: {name} must be a list with an array for each parameter")
    _in_step(op, params, grads, means=means, squares=squares, greatest=greatest)
    _masks(op, params, masks)
    if not isinstance(steps, (tuple, list)) or len(steps) != len(params):
        raise ValueError(f"{op}: steps must be a list with a number for each parameter")
    for t in set(steps):
        integer(op, "steps", t, 1)
    for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        _number(op, name, value)
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        _number(op, name, value)
        if not 0 <= value < 1:
            raise ValueError(f"{op}: {name} must lie in [0, 1), got {value}")
