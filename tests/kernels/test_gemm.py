"""matmul and linear: every variant against the definition, and what kernels promise of memory, threads and tiers."""

import contextlib
import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_testing import (
    GUARD_PAGE,
    assert_close,
    floats,
    guarded,
    laid_out,
    layouts,
    normal,
    same_bits,
    seeds,
    sizes,
    sum_bound,
    unmodified,
)

import minidl_kernels as mk
from minidl_kernels.cpu import machine, product, threads
from minidl_kernels.gemm import cpu, reference, vector

MATMUL = [v for v in mk.variants("matmul", "cpu") if v != "reference"]
LINEAR = [v for v in mk.variants("linear", "cpu") if v != "reference"]

# Around the tile's 14 (AVX2: 6) rows and 2 vectors of 16 or 8 (8 or 4) columns, its lower halves, and squares of the
# transpose.
rows, columns, depths = sizes(14, 40), sizes(32, 70) | sizes(16, 20), sizes(16, 40)


def check_matmul(variant, a, b):
    """The variant is within the bound of any order of summation of the exact product; the inputs are as before."""
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    magnitude = np.matmul(np.abs(a).astype(np.float64), np.abs(b).astype(np.float64))
    bound = sum_bound(a.shape[-1], magnitude, a.dtype) + sum_bound(a.shape[-1], magnitude, np.float64)
    for way in ways(variant):
        with mk.use(matmul=variant), unmodified(a, b), way:
            c = mk.matmul(a, b)
        assert c.dtype == a.dtype
        assert_close(c.astype(np.float64), exact, bound=bound, what=variant)


def ways(variant):
    """The tiled variant with panels, and as small products do without."""
    return [packing(True), packing(False)] if variant == "tiled" else [contextlib.nullcontext()]


@contextlib.contextmanager
def packing(on):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "LITTLE", -1 if on else 1 << 62)
        patch.setattr(cpu, "FEW", -1 if on else 1 << 62)
        yield


@st.composite
def products(draw):
    """Shapes of a and b: leading axes of up to two sizes, each broadcast in one of them or in neither."""
    m, n, k = draw(rows), draw(columns), draw(depths)
    lead = draw(st.lists(st.integers(0, 3), max_size=2))
    lead_a = [1 if draw(st.booleans()) else s for s in lead][draw(st.integers(0, len(lead))) :]
    lead_b = [1 if draw(st.booleans()) else s for s in lead][draw(st.integers(0, len(lead))) :]
    return (*lead_a, m, k), (*lead_b, k, n)


@pytest.mark.parametrize("variant", MATMUL)
@given(shapes=products(), dtype=floats, layout_a=layouts, layout_b=layouts, seed=seeds)
@example(((3, 14, 16), (16, 32)), "float32", "plain", "plain", 0)  # one tall product
@example(((3, 14, 16), (3, 16, 32)), "float64", "sliced", "transposed", 0)
@example(((2, 3, 15, 17), (3, 17, 33)), "float32", "plain", "plain", 0)  # a batch in a loop
@example(((1, 0), (0, 1)), "float32", "plain", "plain", 0)
def test_matmul_equals_the_definition(variant, shapes, dtype, layout_a, layout_b, seed):
    a = laid_out(normal(seed, *shapes[0], dtype=dtype), layout_a)
    b = laid_out(normal(seed + 1, *shapes[1], dtype=dtype), layout_b)
    check_matmul(variant, a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reference_and_default_against_torch(dtype):
    a, b = normal(0, 4, 3, 50, 40, dtype=dtype), normal(1, 3, 40, 30, dtype=dtype)
    theirs = (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    bound = 2 * sum_bound(40, np.abs(a) @ np.abs(b), dtype)
    assert_close(reference.matmul(a, b), theirs, bound=bound)
    assert_close(mk.matmul(a, b), theirs, bound=bound)


@pytest.mark.parametrize("variant", LINEAR)
@given(lead=st.lists(st.integers(0, 5), max_size=3), n=columns, k=depths, dtype=floats, layout=layouts, seed=seeds)
@example([], 32, 16, "float32", "plain", 0)
@example([2, 0], 3, 0, "float32", "plain", 0)
@example([15], 33, 0, "float64", "plain", 0)
def test_linear_equals_the_definition(variant, lead, n, k, dtype, layout, seed):
    x = laid_out(normal(seed, *lead, k, dtype=dtype), layout)
    w = laid_out(normal(seed + 1, n, k, dtype=dtype), layout)
    bias = laid_out(normal(seed + 2, n, dtype=dtype), layout)
    for b, way in [(b, way) for b in (bias, None) for way in ways(variant)]:
        with mk.use(linear=variant), unmodified(x, w, bias), way:
            y = mk.linear(x, w, b)
        wide = [a.astype(np.float64) for a in (x, w)]
        magnitude = np.abs(wide[0]) @ np.abs(wide[1]).T + (0 if b is None else np.abs(b))
        exact = wide[0] @ wide[1].T + (0 if b is None else b)
        bound = sum_bound(k + 1, magnitude, dtype) + sum_bound(k + 1, magnitude, np.float64)
        assert y.dtype == dtype
        assert_close(y.astype(np.float64), exact, bound=bound, what=variant)


@given(
    n=sizes(4, 300), k=sizes(32, 300), dtype=floats, layout=layouts, seed=seeds, tier=st.sampled_from(machine.tiers())
)
def test_vector_equals_the_definition(n, k, dtype, layout, seed, tier):
    """A matrix with rows, then with columns without gaps, times a vector or a few; either operand first."""
    s = normal(seed, n, k, dtype=dtype)
    x = laid_out(normal(seed + 1, k, dtype=dtype), layout)
    few = laid_out(normal(seed + 2, seed % vector.MOST + 1, k, dtype=dtype), layout)
    upside_down = np.ascontiguousarray(s[::-1])[::-1]
    with machine.use_tier(tier):
        for matrix in (s, laid_out(s, "transposed"), upside_down, laid_out(s, "readonly")):
            check_matmul("tiled", matrix, x[:, None])
            check_matmul("tiled", x[None], matrix.T)
            check_matmul("tiled", few, matrix.T)
            with mk.use(linear="tiled"):
                y = mk.linear(x, matrix, s[:, 0] if k else None)
            magnitude = np.abs(s).astype(np.float64) @ np.abs(x) + (np.abs(s[:, 0]) if k else 0)
            exact = s.astype(np.float64) @ x.astype(np.float64) + (s[:, 0] if k else 0)
            bound = sum_bound(k + 1, magnitude, dtype) + sum_bound(k + 1, magnitude, np.float64)
            assert_close(y.astype(np.float64), exact, bound=bound, what="tiled")


# float64 differs from float32 in the number of lanes only; its lesser tiers are left to the slow run.
TIERS = [(tier, "float32") for tier in machine.tiers()] + [
    pytest.param(tier, "float64", marks=[pytest.mark.slow] if i else []) for i, tier in enumerate(machine.tiers())
]


@pytest.mark.parametrize(("tier", "dtype"), TIERS)
def test_every_tier(tier, dtype):
    with machine.use_tier(tier):
        for m, n, k in ((1, 1, 1), (4, 9, 5), (5, 17, 16), (6, 16, 300), (13, 31, 15), (14, 32, 16), (30, 70, 33)):
            a, b = normal(m, m, k, dtype=dtype), normal(n, k, n, dtype=dtype)
            check_matmul("tiled", a, b)
            check_matmul("tiled", laid_out(a, "transposed"), laid_out(b, "transposed"))
            check_matmul("tiled", laid_out(a, "sliced"), laid_out(b, "reversed"))


def test_a_planted_fault_is_caught(monkeypatch):
    """The check fails if the kernel forgets the last k, writes the wrong column, or yields NaN."""
    a, b = normal(0, 20, 30), normal(1, 30, 40)
    right, small = product.multiply_at, cpu.small.multiply_at

    def forgets(kind, batch, m, n, k, *rest, **kw):
        return right(kind, batch, m, n, k - 1, *rest, **kw)

    def shifted(kind, batch, m, n, k, a, a_next, a_row, a_col, b, *rest, **kw):
        return right(kind, batch, m, n - 1, k, a, a_next, a_row, a_col, b + 4, *rest, **kw)

    def nothing(*args, **kw):
        return True

    check_matmul("tiled", a, b)
    for fault, module in itertools.product((forgets, shifted, nothing), (cpu, cpu.small)):
        monkeypatch.setattr(cpu, "multiply_at", right)
        monkeypatch.setattr(cpu.small, "multiply_at", small)
        monkeypatch.setattr(module, "multiply_at", fault)
        with guarded(monkeypatch, cpu), pytest.raises(AssertionError, match=r"tiled: .* (off|differ)"):
            check_matmul("tiled", a, b)


def test_nothing_is_written_outside(monkeypatch):
    for dtype in ("float32", "float64"):
        for m, n, k in ((1, 1, 1), (4, 15, 3), (13, 33, 20), (14, 32, 16), (29, 65, 300)):
            a, b, bias = normal(0, 2, m, k, dtype=dtype), normal(1, 2, k, n, dtype=dtype), normal(2, n, dtype=dtype)
            with guarded(monkeypatch, cpu, vector):
                check_matmul("tiled", a[0], b[0, :, :1])
                check_matmul("tiled", laid_out(a[0], "transposed"), b[0, :, :1])
                check_matmul("tiled", a, b)
                check_matmul("tiled", laid_out(a, "transposed"), laid_out(b, "transposed"))
                for on in (True, False):
                    with packing(on):
                        y = cpu.linear(a, laid_out(b[0], "transposed").T, bias)
            assert np.isfinite(y).all()


def test_nothing_is_read_outside():
    """Operands that end where the process may not read, in every order of packing."""
    code = GUARD_PAGE + (
        "import minidl_kernels as mk\n"
        "import minidl_kernels.cpu.machine\n"
        "from minidl_kernels.gemm import cpu\n"
        "for tier in mk.cpu.machine.tiers():\n"
        "    for cpu.LITTLE in (-1, 1 << 62):\n"
        "      cpu.FEW = cpu.LITTLE\n"
        "      with mk.cpu.machine.use_tier(tier), mk.use(matmul='tiled', linear='tiled'):\n"
        "        for m, n, k in ((1, 1, 1), (5, 3, 17), (13, 31, 15), (14, 32, 16), (15, 33, 18)):\n"
        "            a, b = at_end_of_page(np.ones((m, k), 'f')), at_end_of_page(np.ones((k, n), 'f'))\n"
        "            at, bt = at_end_of_page(np.ones((k, m), 'f')).T, at_end_of_page(np.ones((n, k), 'f')).T\n"
        "            bias = at_end_of_page(np.ones(n, 'f'))\n"
        "            for x in (a, at):\n"
        "                for y in (b, bt):\n"
        "                    assert (mk.matmul(x, y) == k).all() and (mk.linear(x, y.T, bias) == k + 1).all()\n"
        "            v = at_end_of_page(np.ones((k, 1), 'f'))\n"
        "            with mk.use(matmul='tiled'):\n"
        "                assert (mk.matmul(a, v) == k).all() and (mk.matmul(at, v) == k).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def small_cache(monkeypatch):
    """An L2 cache of 128 KiB, and plans made for it."""
    small = machine.machine()._replace(l2=128 << 10)
    product._planned.cache_clear()
    monkeypatch.setattr(machine, "machine", lambda: small)
    yield
    product._planned.cache_clear()


def test_products_of_many_shares(monkeypatch, small_cache):
    """Every loop of the product runs more than once: batch, shares down and across, stretches of k."""
    monkeypatch.setattr(product, "DEPTH", {"f32": 16})
    a, b = normal(0, 3, 150, 50), normal(1, 3, 50, 2000)
    check_matmul("tiled", a, b)
    check_matmul("tiled", a[:, :5, :16], b[:, :16, :5])
    plan = product._planned(machine.tier(), "f32", 1, 3, 150, 2000, 50)[1]
    assert plan.tasks > 6
    assert plan.wide * 32 < 2000
    assert plan.each < 50


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_for_any_number_of_threads(dtype):
    """Sizes above and below where a second thread starts, several stretches of k; the default choice and the tiled
    variant.
    """
    for shape in (
        (1, 70, 90, 700),
        (40, 20, 30, 25),
        (1, 300, 10, 300),
        (1, 3, 400, 400),
        (1, 900, 1, 700),
        (1, 1, 900, 700),
    ):
        batch, m, n, k = shape
        a, b = normal(0, batch, m, k, dtype=dtype), normal(1, batch, k, n, dtype=dtype)
        w, bias = np.ascontiguousarray(b[0].T), normal(2, n, dtype=dtype)
        results = []
        for count in (1, 2, 5):
            with threads.threads(count):
                with mk.use(matmul="tiled"):
                    forced = mk.matmul(a, b)
                results.append((mk.matmul(a, b), forced, mk.linear(a[0], w, bias), mk.matmul(a[0], b[0])))
        assert same_bits(results[0], results[1]), shape
        assert same_bits(results[0], results[2]), shape


@pytest.mark.parametrize("kind", ["f32", "f64", *(["f32x6"] if machine.multiplies_bfloat16() else [])])
def test_same_bits_however_shared_out(request, kind):
    """How C is cut depends on the caches and the number of threads; where k is cut must not."""
    dtype = "float64" if kind == "f64" else "float32"
    cases = [(normal(0, 1, 170, k, dtype=dtype), normal(1, 1, k, 180, dtype=dtype)) for k in (300, 1100, 2500)]

    def products() -> list[np.ndarray]:
        found = []
        for a, b in cases:
            c = np.empty((1, 170, 180), dtype)
            with threads.threads(1):
                product.multiply_arrays(kind, a, b, c)
            found.append(c)
        return found

    plan = lambda: product._planned(machine.tier(), kind, 1, 1, 170, 180, 300)[1]
    few, whole = plan().tasks, products()
    request.getfixturevalue("small_cache")
    assert plan().tasks > few
    assert all(map(same_bits, whole, products()))


@pytest.mark.parametrize("variant", MATMUL)
def test_nan_and_infinity(variant):
    a, b = normal(0, 20, 40), normal(1, 40, 50)
    a[3, 5], a[7, 0], b[9, 11], b[2, 40] = np.nan, np.inf, -np.inf, np.nan
    a[8], b[:, 30] = 0, np.inf  # 0 * inf
    with mk.use(matmul=variant), np.errstate(invalid="ignore"):
        c = mk.matmul(a, b)
    with np.errstate(invalid="ignore"):
        expected = reference.matmul(a, b)
    assert_close(c, expected, rtol=1e-4, atol=1e-4)
    assert np.isnan(c).any()
    assert np.isinf(c).any()


def test_eight_python_threads_at_once():
    a, b = normal(0, 120, 300), normal(1, 300, 100)
    expected = cpu.matmul(a, b)
    wrong = []

    def call():
        for _ in range(30):
            if not same_bits(cpu.matmul(a, b), expected):
                wrong.append(1)

    team = [threading.Thread(target=call) for _ in range(8)]
    for t in team:
        t.start()
    for t in team:
        t.join(timeout=60)
        assert not t.is_alive()
    assert not wrong


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_integers_are_numpys(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 100, (2, 5, 7)).astype(dtype), rng.integers(0, 100, (7, 3)).astype(dtype)
    assert same_bits(mk.matmul(a, b), np.matmul(a, b))


@pytest.mark.parametrize("variant", ["blas", "tiled"])
def test_float16_is_rounded_once(variant):
    a, b = normal(0, 30, 200, dtype="float16"), normal(1, 200, 20, dtype="float16")
    exact = a.astype(np.float64) @ b.astype(np.float64)
    with mk.use(matmul=variant):
        c = mk.matmul(a, b)
    magnitude = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    # The float32 sum, then half a unit in the last place of a float16.
    bound = sum_bound(200, magnitude, np.float32) + 2.0**-11 * (np.abs(exact) + 1e-2)
    assert c.dtype == np.float16
    assert_close(c.astype(np.float64), exact, bound=bound)


def test_what_runs():
    def which(m, n, k, lead=(), dtype="float32"):
        return mk.which("matmul", np.empty((*lead, m, k), dtype), np.empty((*lead, k, n), dtype))

    assert which(256, 256, 256) == which(256, 256, 256, (4,)) == "tiled"
    assert which(8, 8, 8) == "blas"
    assert which(1, 1000, 1000) == which(1000, 1, 1000) == "tiled"
    assert which(8, 8, 8, dtype="int32") == "reference"
    assert mk.which("linear", np.empty((200, 300), "f"), np.empty((100, 300), "f")) == "tiled"
    with pytest.raises(RuntimeError, match="tiled.*float32"), mk.use(matmul="tiled"):
        mk.matmul(np.ones((2, 2), int), np.ones((2, 2), int))


@given(
    lead=st.sampled_from([(), (1,), (7,), (2, 3), (40,), (5, 0), (3, 90)]),
    n=sizes(32, 70),
    k=sizes(16, 40),
    dtype=floats,
    layout=layouts,
    needs=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    variant=st.sampled_from([v for v in mk.variants("linear_backward", "cpu") if v != "reference"]),
    seed=seeds,
)
def test_gradients_of_linear_equal_the_definition(lead, n, k, dtype, layout, needs, variant, seed):
    x, w, dy = (
        normal(seed, *lead, k, dtype=dtype),
        normal(seed + 1, n, k, dtype=dtype),
        normal(seed + 2, *lead, n, dtype=dtype),
    )
    x, w, dy = (laid_out(a, layout) for a in (x, w, dy))
    with mk.use(linear_backward="reference"):
        right = mk.linear_backward(dy, x, w, needs)
        sizes_of = mk.linear_backward(abs(dy), abs(x), abs(w), (True, True, True))
    with unmodified(x, w, dy), mk.use(linear_backward=variant):
        found = mk.linear_backward(dy, x, w, needs)
    r = max(1, int(np.prod(lead)))
    for name, a, b, size, length, need in zip(
        ("dx", "dw", "db"), found, right, sizes_of, (n, r, r), needs, strict=True
    ):
        assert (a is None) == (b is None) == (not need)
        if need:
            assert_close(a, b, bound=sum_bound(length, size, a.dtype), what=name)


def test_gradients_of_linear_refuse_what_does_not_fit():
    x, w = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"dy must have shape \(2, 4\), got \(2, 3\)"):
        mk.linear_backward(x, x, w)
    with pytest.raises(TypeError, match="dy is float64 but x is float32"):
        mk.linear_backward(np.ones((2, 4)), x, w)
    with pytest.raises(ValueError, match="three flags"):
        mk.linear_backward(np.ones((2, 4), np.float32), x, w, (True, True))
