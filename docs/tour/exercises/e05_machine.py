"""Chapter 5: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import math


def floats_added(loop):
    """How many float32 numbers the additions of a loop add in one round; `loop`: lines such as "vaddps %zmm1, ..."."""
    total = 0
    for line in loop:
        name, _, operands = line.partition(" ")
        if name in ("vaddss", "addss"):
            total += 1
        elif name in ("vaddps", "addps"):
            total += 16 if "%zmm" in operands else 8 if "%ymm" in operands else 4
    return total


def check_floats_added(f):
    wide = ["vmovups (%rbx), %zmm0", "vaddps (%r11), %zmm0, %zmm0", "vaddps 64(%r11), %zmm1, %zmm1", "addq $32, %r14"]
    cases = [(wide, 32), (["vaddps %ymm0, %ymm1, %ymm1"], 8), (["addps (%rax), %xmm0", "addss %xmm1, %xmm2"], 5)]
    for loop, right in [*cases, (["vaddss %xmm0, %xmm1, %xmm1", "vmulps %zmm0, %zmm1, %zmm1", "jne .LBB0_2"], 1)]:
        assert f(loop) == right, f"{loop}: {right}, not {f(loop)}"


def steps(n, lanes):
    """(steps with whole vectors, steps for what is left) of a loop over n elements."""
    return n // lanes, n % lanes


def check_steps(f):
    for n, lanes in [(1000, 16), (16, 16), (5, 8), (0, 4)]:
        found = tuple(f(n, lanes))
        assert found[0] * lanes + found[1] == n, f"n={n}, lanes={lanes}: {found} are not {n} elements"
        assert 0 <= found[1] < lanes, f"n={n}, lanes={lanes}: {found[1]} left would fill a vector"


def least_time(n, bytes_per_ns, adds_per_ns):
    """Nanoseconds that y = a + b takes at least for n float32 numbers: memory and arithmetic work side by side."""
    return max(12 * n / bytes_per_ns, n / adds_per_ns)


def check_least_time(f):
    assert math.isclose(f(1_000_000, 10, 100), 1_200_000), "a, b and y are 12 bytes for each number"
    assert math.isclose(f(1000, 1000, 2), 500), "with fast memory the additions are the limit"


WRONG = {
    "floats_added": [lambda loop: sum(16 for line in loop if "add" in line), len],
    "steps": [lambda n, lanes: (-(-n // lanes), 0)],
    "least_time": [lambda n, b, a: 12 * n / b + n / a, lambda n, b, a: 8 * n / b],
}
