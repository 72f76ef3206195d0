"""A quantizer that keeps next to nothing.

The sample scales weights by 2^(b - 1) and rounds. Weights are far below 1, most of them below 2^-b, so what is left of
one is 0, or whether it is large. It then puts the integers, as int64, into a Parameter, which refuses to hold integers
that want gradients; and if it did not, the result would take eight bytes for every four, and nobody would ever divide
by the scale again.

Right: the scale comes from the weights, max|w| / (2^(b - 1) - 1) for each output; codes take b bits; the layer knows
how to use them.
"""

import numpy as np

import minidl
from minidl import nn
from minidl.compress import pack_weight


def weights():
    minidl.manual_seed(0)
    return nn.Linear(256, 64).weight.array  # uniform on +-1/16, as layers start


def broken(bits=4):
    w = weights()
    codes = np.round(w * 2 ** (bits - 1)).astype(np.int64)
    error = np.linalg.norm(codes - w) / np.linalg.norm(w)  # never divided by the scale again
    return {"codes": np.unique(codes).tolist(), "bytes": codes.nbytes, "relative error": round(float(error), 2)}


def fixed(bits=4):
    w = weights()
    packed = pack_weight(w, bits)
    back = packed.dequantize()
    error = np.linalg.norm(back - w) / np.linalg.norm(w)
    codes = sorted(set(np.rint(back[0] / packed.scale[0]).astype(int).tolist()))
    return {"codes": codes, "bytes": packed.nbytes, "relative error": round(float(error), 2)}


def check(broken, fixed):
    floats = 4 * 256 * 64
    assert len(broken["codes"]) <= 3
    assert broken["bytes"] == 2 * floats
    assert broken["relative error"] >= 0.9
    assert len(fixed["codes"]) == 15
    assert fixed["bytes"] < 0.15 * floats
    assert fixed["relative error"] < 0.1


if __name__ == "__main__":
    from clinic import show

    show(globals())
