"""Codes without bounds, and no way back.

The document's formula is Q = round(theta / s), with a step size s, and ends there. A number of b bits has 2^b values:
whatever lies outside must be clamped, or it wraps around when it is stored, and a large weight comes back as a negative
one. A range that is not centred needs a zero point, and nothing can be computed before somebody says how to return.

Right: q = clip(rint(theta / s) + z, lo, hi), and theta ~ (q - z) s. Inside the range the error is at most s / 2.
"""

import numpy as np

from minidl.compress import dequantize_array, quantize_array

WEIGHTS = np.float32([0.4, -1.2, 3.9, -6.3])
STEP = 0.03  # of 8 bits, it reaches to 127 * 0.03 = 3.81


def broken():
    codes = np.round(WEIGHTS / STEP).astype(np.int64).astype(np.int8)  # stored in 8 bits: 130 wraps to -126
    return (codes * STEP).round(2).tolist()


def fixed():
    codes = quantize_array(WEIGHTS, STEP, axis=None)
    return [round(float(x), 2) for x in dequantize_array(codes, STEP, axis=None)]


def check(broken, fixed):
    assert abs(broken[2] - 3.9) > 7  # a large positive weight became a negative one
    assert np.allclose(fixed[:2], WEIGHTS[:2], atol=STEP / 2)
    assert np.allclose(fixed[2:], [3.81, -3.81])  # clamped to the ends of the range


if __name__ == "__main__":
    from clinic import show

    show(globals())
