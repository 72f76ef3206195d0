"""machine_code: what a loop became; loops: which part of it is run over and over."""

import numba
import numpy as np
import pytest

from minidl.inside import loops, machine_code


@numba.njit
def add(a, b, y):
    for i in range(y.size):
        y[i] = a[i] + b[i]


def test_the_addition_is_in_the_innermost_loop():
    y = np.full(4, 7.0, np.float32)
    code = machine_code(add, y, y, y)
    assert any("add" in line for line in loops(code)[0])
    assert "fadd" in machine_code(add, y, y, y, llvm=True)
    np.testing.assert_array_equal(y, 7.0)  # compiled, not called
    # Whole numbers are another program: no addition of floats is left.
    whole = np.zeros(4, np.int64)
    assert "fadd" not in machine_code(add, whole, whole, whole, llvm=True)


def test_loops_are_what_jumps_back_to_its_own_label():
    code = "f:\n\tmovq %rsi, %rax\n.L2:\n\tvaddss (%rdi), %xmm0, %xmm0\n\tjne .L2\n\tret\n.L3:\n\tnop\n\tjmp .L9\n"
    assert loops(code) == [["vaddss (%rdi), %xmm0, %xmm0", "jne .L2"]]
    assert loops("") == []


def test_only_compiled_functions_have_machine_code():
    with pytest.raises(TypeError, match="a function compiled by Numba is wanted, not a function"):
        machine_code(lambda: 0)
