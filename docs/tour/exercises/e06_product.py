"""Chapter 6: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import math

import numpy as np


def intensity(m, k, n, size=4):
    """Operations for each byte of (M, K) @ (K, N); numbers of `size` bytes, every matrix read or written once."""
    return 2 * m * k * n / (size * (m * k + k * n + m * n))


def check_intensity(f):
    for m, k, n, size, right in [(600, 600, 600, 4, 100), (1, 1024, 1024, 4, 0.499), (64, 64, 64, 1, 42.67)]:
        assert math.isclose(f(m, k, n, size), right, rel_tol=1e-3), f"{m, k, n}: {right}, not {f(m, k, n, size)}"


def blocked_product(a, b, block):
    """a @ b by products of pieces that are at most `block` in each direction."""
    (m, k), n = a.shape, b.shape[1]
    c = np.zeros((m, n))
    for i in range(0, m, block):
        for j in range(0, n, block):
            for p in range(0, k, block):
                c[i : i + block, j : j + block] += (
                    a[i : i + block, p : p + block] @ b[p : p + block, j : j + block]
                )  # fmt: skip
    return c


class _Small(np.ndarray):
    """An array that refuses products larger than `most`."""

    most = 0

    def __matmul__(self, other):
        sizes = *self.shape, other.shape[-1]
        assert max(sizes) <= _Small.most, f"a product of {sizes}, and pieces of {_Small.most} were asked for"
        return np.asarray(self) @ np.asarray(other)


def check_blocked_product(f):
    rng = np.random.default_rng(0)
    for m, k, n, block in [(8, 8, 8, 4), (5, 7, 3, 2), (3, 3, 3, 10), (1, 9, 1, 4)]:
        a, b = rng.integers(-9, 10, (m, k)).astype(float), rng.integers(-9, 10, (k, n)).astype(float)
        _Small.most = block
        found = np.asarray(f(a.view(_Small), b.view(_Small), block))
        assert np.array_equal(found, a @ b), f"{m, k, n} in blocks of {block}: wrong"


def tile(rows, cols, lanes, registers):
    """(multiplications for each number loaded in a step, whether sums, b and one of a fit into the registers)"""
    vectors = cols // lanes
    return rows * cols / (rows + cols), rows * vectors + vectors + 1 <= registers


def check_tile(f):
    for case, right in [((14, 32, 16, 32), (448 / 46, True)), ((16, 32, 16, 32), (512 / 48, False)),
                        ((6, 16, 8, 16), (96 / 22, True)), ((1, 16, 16, 32), (16 / 17, True))]:  # fmt: skip
        ratio, fits = f(*case)
        assert math.isclose(ratio, right[0]), f"{case}: {right[0]:.3f} multiplications for a number, not {ratio}"
        assert bool(fits) == right[1], f"{case}: fits is {right[1]}"


WRONG = {
    "intensity": [lambda m, k, n, size=4: m * k * n / (size * (m * k + k * n + m * n))],
    "blocked_product": [lambda a, b, block: a @ b],
    "tile": [lambda rows, cols, lanes, registers: (rows * cols / (rows + cols), rows * cols <= registers * lanes)],
}
