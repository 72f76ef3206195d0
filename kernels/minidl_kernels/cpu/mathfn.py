"""Exponential, hyperbolic tangent, logistic and error function of whole vectors, as polynomials (LLVM has none).

What the tests find, in units of the last place of float32 / float64: exp 1, sigmoid 3, tanh 3, the normal
distribution function 6 / 16 (relative to itself, so far down the left tail, too). NaN stays NaN, infinities go where
they should, and results below the smallest normal number are right to that number's last place.

The polynomials are minimax (Remez), fitted for these pages: the errors stated are those of the exact polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .simd import F32, Vectors

# (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2; e^r is right to 5e-10 and 5e-19.
_EXP_32 = (0.5, 1.6666526e-01, 4.1666232e-02, 8.368319e-03, 1.3949182e-03)
_EXP_64 = (
    0.5000000000000006, 0.16666666666666688, 0.04166666666656813, 0.008333333333312664, 0.0013888888934798884,
    0.00019841269907282773, 2.4801501342328866e-05, 2.755722418852394e-06, 2.7627564578847233e-07,
    2.511564067159602e-08,
)  # fmt: skip
# e^(a^2) erfc(a) (a + 3) in t = (a - 3) / (a + 3) for 0 <= a <= 10 or 27; right to 2e-9 and 1e-17 of itself.
_ERFC_32 = (
    1.0740069, -0.88339448, 0.59022834, -0.31046607, 0.11952846, -0.026839431, -0.0012234831, 0.0030805479,
    -0.00048801138, -0.00032834365,
)  # fmt: skip
_ERFC_64 = (
    1.0740069070883398, -0.8833944531698837, 0.5902283571040998, -0.31046726190055907, 0.11952776128741321,
    -0.026827234624762542, -0.0012124166301396258, 0.0030340620054105294, -0.0005483096559307059,
    -0.0002767778789471665, 0.0001075612327020987, 3.0398302166958826e-05, -1.7469454615906496e-05,
    -4.749527221132722e-06, 2.762300995742786e-06, 9.990343471601725e-07, -4.025242066375213e-07,
    -2.3266528411302553e-07, 4.0236537548520404e-08, 4.848718965691909e-08, 2.347014984841269e-09,
    -6.297504074810963e-09, -1.5672576890530208e-09,
)  # fmt: skip


def const(v: Vectors, value: float) -> ir.Value:
    """Every lane `value`, rounded to the lanes' precision as LLVM's constants must be."""
    return ir.Constant(v.type, [float(np.float32(value)) if v.element == F32 else value] * v.lanes)


def choose(v: Vectors, a: ir.Value, relation: str, b: ir.Value, yes: ir.Value, no: ir.Value) -> ir.Value:
    """yes where a (relation) b, else no; a comparison with NaN is false."""
    return v.builder.select(v.builder.fcmp_ordered(relation, a, b), yes, no)


def magnitude(v: Vectors, x: ir.Value) -> ir.Value:
    """|x|"""
    return _unary(v, "fabs", x)


def root(v: Vectors, x: ir.Value) -> ir.Value:
    """The square root, correctly rounded."""
    return _unary(v, "sqrt", x)


def _unary(v: Vectors, name: str, x: ir.Value) -> ir.Value:
    suffix = f"v{v.lanes}f{8 * v.bytes}"
    shape = ir.FunctionType(v.type, [v.type])
    return v.builder.call(cgutils.get_or_insert_function(v.builder.module, shape, f"llvm.{name}.{suffix}"), [x])


def polynomial(v: Vectors, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """The polynomial of x, the constant term first, by Horner's rule."""
    y = const(v, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = v.multiply_add(y, x, const(v, c))
    return y


def _reduced(v: Vectors, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """n as integers and e^r - 1, where x = n ln 2 + r and |r| <= ln 2 / 2; x must be within the range of exp."""
    b, single = v.builder, v.element == F32
    mantissa = 23 if single else 52
    # ln 2 in two parts: n times the first is exact, having trailing zeros enough for the bits of n.
    high = float.fromhex("0x1.62e400p-1" if single else "0x1.62e42fefa3800p-1")
    low = float.fromhex("0x1.7f7d1cp-20" if single else "0x1.ef35793c76730p-45")
    # Adding 1.5 * 2^mantissa rounds to an integer and leaves it in the lowest bits.
    magic = const(v, 1.5 * 2.0**mantissa)
    shifted = v.multiply_add(x, const(v, 1 / math.log(2)), magic)
    n = b.fsub(shifted, magic)
    r = v.multiply_add(n, const(v, -high), x)
    r = v.multiply_add(n, const(v, -low), r)
    q = polynomial(v, r, _EXP_32 if single else _EXP_64)
    bits = ir.VectorType(ir.IntType(8 * v.bytes), v.lanes)
    whole = b.sub(b.bitcast(shifted, bits), b.bitcast(magic, bits))
    return whole, v.multiply_add(b.fmul(r, r), q, r)


def _power(v: Vectors, n: ir.Value) -> ir.Value:
    """2^n for integers n of the normal range."""
    b = v.builder
    mantissa, bias = (23, 127) if v.element == F32 else (52, 1023)
    places = ir.Constant(n.type, [mantissa] * v.lanes)
    return b.bitcast(b.shl(b.add(n, ir.Constant(n.type, [bias] * v.lanes)), places), v.type)


def exp(v: Vectors, x: ir.Value) -> ir.Value:
    """e^x"""
    b, single = v.builder, v.element == F32
    lowest, highest = (-105.0, 89.0) if single else (-746.0, 710.0)
    inside = choose(v, x, "<", const(v, lowest), const(v, lowest), x)
    inside = choose(v, inside, ">", const(v, highest), const(v, highest), inside)
    n, more = _reduced(v, inside)
    # 2^n in two steps: neither n = 128 nor a result below the smallest normal number has a power of its own.
    half = b.ashr(n, ir.Constant(n.type, [1] * v.lanes))
    y = b.fmul(b.fadd(more, const(v, 1.0)), _power(v, half))
    return b.fmul(y, _power(v, b.sub(n, half)))


def exp_below(v: Vectors, x: ir.Value) -> ir.Value:
    """e^x for x <= 0 (or NaN), faster: results below the smallest normal number are 0."""
    b, single = v.builder, v.element == F32
    lowest = const(v, math.log(2) * (-126 if single else -1022))
    n, more = _reduced(v, choose(v, x, "<", lowest, lowest, x))
    y = b.fmul(b.fadd(more, const(v, 1.0)), _power(v, n))
    return choose(v, x, "<", lowest, v.zero(), y)


def sigmoid(v: Vectors, x: ir.Value) -> ir.Value:
    """1 / (1 + e^-x), computed from e^-|x|, which cannot overflow."""
    b = v.builder
    e, one = exp(v, b.fneg(magnitude(v, x))), const(v, 1.0)
    return b.fdiv(choose(v, x, "<", v.zero(), e, one), b.fadd(one, e))


def tanh(v: Vectors, x: ir.Value) -> ir.Value:
    """-m / (2 + m) with m = e^(-2 |x|) - 1, and the sign of x: no digits are lost near 0."""
    b = v.builder
    furthest = const(v, 12.0 if v.element == F32 else 24.0)  # tanh is 1 from there on
    a = magnitude(v, x)
    a = choose(v, a, ">", furthest, furthest, a)
    n, more = _reduced(v, b.fmul(a, const(v, -2.0)))
    power = _power(v, n)
    m = v.multiply_add(power, more, b.fsub(power, const(v, 1.0)))
    y = b.fdiv(b.fneg(m), b.fadd(const(v, 2.0), m))
    shape = ir.FunctionType(v.type, [v.type] * 2)
    name = f"llvm.copysign.v{v.lanes}f{8 * v.bytes}"
    return b.call(cgutils.get_or_insert_function(b.module, shape, name), [y, x])


def normal(v: Vectors, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The normal distribution function Phi(x) = erfc(-x / sqrt 2) / 2, and e^(-x^2 / 2).

    erfc by one polynomial in (a - 3) / (a + 3), after Schonfelder, "Chebyshev expansions for the error and related
    functions", Math. Comp. 32 (1978): right relative to itself in the left tail, where nothing is taken from 1.
    """
    b, single = v.builder, v.element == F32
    one = const(v, 1.0)
    bell = exp(v, b.fmul(b.fmul(x, x), const(v, -0.5)))
    a, far = b.fmul(magnitude(v, x), const(v, math.sqrt(0.5))), const(v, 10.0 if single else 27.0)
    a = choose(v, a, ">", far, far, a)
    inverse = b.fdiv(one, b.fadd(a, const(v, 3.0)))
    t = v.multiply_add(inverse, const(v, -6.0), one)
    tail = b.fmul(polynomial(v, t, _ERFC_32 if single else _ERFC_64), b.fmul(inverse, const(v, 0.5)))
    tail = b.fmul(tail, bell)
    return choose(v, x, ">", v.zero(), b.fsub(one, tail), tail), bell
