"""Three bits, in eight bytes.

The sample offers `bits = 3`. No array holds three-bit numbers, so each is stored in the next larger type, which here is
int64: a "three-bit" network on disk is twice the float one.

Right: codes one after another without a gap, ceil(n b / 8) bytes, for every b in 2 ... 8, and a scale for each output;
what the file takes is measured on disk.
"""

import os
import tempfile

import numpy as np

import minidl
from minidl import nn
from minidl.compress import quantize_, save_model

SHAPE = (100, 333)


def layer():
    minidl.manual_seed(0)
    return nn.Linear(SHAPE[1], SHAPE[0], bias=False)


def size(write):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "w.safetensors")
        write(path)
        return os.path.getsize(path)


def broken(bits=3):
    w = layer().weight.array
    step = np.abs(w).max() / (2 ** (bits - 1) - 1)
    codes = np.round(w / step).astype(np.int64)
    return size(lambda path: minidl.save({"weight": minidl.tensor(codes)}, path))


def fixed():
    return {
        bits: size(lambda path, b=bits: save_model(quantize_(layer(), b, weight_only=True), path))
        for bits in range(2, 9)
    }


def check(broken, fixed):
    n = SHAPE[0] * SHAPE[1]
    assert broken > 8 * n
    for bits, found in fixed.items():
        exact = -(-n * bits // 8) + 4 * SHAPE[0]
        assert exact < found < exact + 1000  # the file's header


if __name__ == "__main__":
    from clinic import show

    show(globals())
