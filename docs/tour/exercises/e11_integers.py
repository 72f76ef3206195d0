"""Chapter 11: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import math

import numpy as np


def quantize(w, bits):
    """(codes, scale) of a weight, symmetric: w is about codes * scale, |codes| <= 2^(bits - 1) - 1."""
    top = 2 ** (bits - 1) - 1
    scale = np.abs(w).max() / top or 1.0
    return np.clip(np.rint(w / scale), -top, top).astype(np.int8), scale


def check_quantize(f):
    rng = np.random.default_rng(0)
    for bits in (8, 4, 2):
        for w in (rng.normal(size=50), np.array([0.0, -3.0, 1.0]), np.zeros(4)):
            q, scale = f(w, bits)
            top = 2 ** (bits - 1) - 1
            assert np.asarray(q).dtype.kind == "i", "codes are whole numbers"
            assert np.abs(q).max() <= top, f"{bits} bits: a code of {np.abs(q).max()}, where {top} is the largest"
            assert scale > 0, f"the scale is {scale}"
            assert np.abs(q * scale - w).max() <= scale / 2 + 1e-12, f"{bits} bits: off by more than half of a step"
            assert scale <= max(np.abs(w).max(), 1e-300) / top + 1e-12 or not w.any(), "the scale is larger than needed"


def dot(x, w):
    """The dot product of two float vectors by int8 codes, the sum in whole numbers."""
    (qx, sx), (qw, sw) = quantize(x, 8), quantize(w, 8)
    return int(qx.astype(np.int32) @ qw.astype(np.int32)) * sx * sw


def check_dot(f):
    rng = np.random.default_rng(1)
    for n in (3, 1000):
        x, w = rng.normal(size=n), rng.normal(size=n)
        found, right = f(x, w), float(x @ w)
        bound = sum(np.abs(a).max() / 254 * np.abs(b).sum() for a, b in ((x, w), (w, x))) + 1e-9
        bound += n * np.abs(x).max() * np.abs(w).max() / 254**2
        assert abs(found - right) <= bound, f"{n} numbers: {found}, exactly {right}: more than rounding"
    assert math.isclose(f(np.full(400, 127.0), np.full(400, 127.0)), 400 * 127.0**2), "does the sum fit into its type?"


def affine(low, high):
    """(scale, zero point) of int8 codes for low ... high: x is about (code - zero) * scale, and 0 has a code."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def check_affine(f):
    for low, high in [(0.0, 6.0), (-1.0, 1.0), (-0.1, 5.0), (2.0, 3.0), (-4.0, -1.0), (0.0, 0.0)]:
        scale, zero = f(low, high)
        assert scale > 0, f"{low} to {high}: the scale is {scale}"
        assert zero == int(zero), f"{low} to {high}: the zero point {zero} is no whole number"
        assert -128 <= zero <= 127, f"{low} to {high}: the zero point {zero} is no code"
        for x in (low, high, 0.0):
            code = np.clip(np.rint(x / scale) + zero, -128, 127)
            assert abs((code - zero) * scale - x) <= scale + 1e-12, f"{low} to {high}: {x} becomes {code}"
        assert scale <= max((max(high, 0) - min(low, 0)) / 254, 1e-300) or low == high == 0, "codes are wasted"


WRONG = {
    "quantize": [
        lambda w, bits: (np.rint(w * 2 ** (bits - 1)).astype(np.int64), 2.0 ** (1 - bits)),
        lambda w, bits: (np.rint(w).astype(np.int8), 1.0),
    ],
    "dot": [lambda x, w: int((quantize(x, 8)[0] * quantize(w, 8)[0]).sum()) * quantize(x, 8)[1] * quantize(w, 8)[1]],
    "affine": [
        lambda low, high: ((high - low) / 255 or 1.0, -128),
        lambda low, high: (max(-low, high) / 127 or 1.0, 0),
    ],
}
