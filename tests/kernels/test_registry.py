"""The table of variants: choosing, forcing, asking, and what happens to bad arguments."""

import inspect
import re
import subprocess
import sys
import threading
import timeit
from pathlib import Path

import numpy as np
import pytest
from kernel_testing import assert_close

import minidl_kernels as mk
from minidl_kernels import registry
from minidl_kernels.registry import REFERENCE, Op, Variant

F32 = np.float32


def calls(op: Op, *args):
    return registry.call(op, args)


def toy(*more: Variant) -> Op:
    return Op(
        "toy", check=lambda *args: None, variants=(Variant("reference", load="operator:add", cost=REFERENCE), *more)
    )


# --- the table ---


def test_every_public_function_has_a_row_and_a_reference():
    public = {name for name in mk.__all__ if name not in registry.__all__ and "num_threads" not in name}
    public -= {name for name in public if "precision" in name}
    public -= {name for name in public if name.startswith(("pack_", "unpack_", "frozen"))}  # they prepare arguments
    assert public == set(registry.ops())
    for name in public:
        assert "reference" in mk.variants(name, "cpu")


@pytest.mark.parametrize("row", mk.table(), ids=lambda row: f"{row['op']}-{row['variant']}-{row['device']}")
def test_every_variant_loads_and_takes_the_arguments_of_its_function(row):
    op = registry.ops()[row["op"]]
    (variant,) = [v for v in op.variants if (v.name, v.device) == (row["variant"], row["device"])]
    if row["device"] != "cpu":
        assert row["source"].startswith("minidl_kernels.")
        return
    kernel = variant.kernel()
    public = inspect.signature(getattr(mk, row["op"])).parameters
    names = list(inspect.signature(kernel).parameters)
    assert names == list(public), f"{row['source']} names its parameters differently: {names}"


def test_reference_is_never_chosen_where_another_variant_runs():
    a = np.ones((2, 2), F32)
    x, w = np.ones((1, 1, 3, 3), F32), np.ones((1, 1, 1, 1), F32)
    q = np.ones((1, 1, 2, 2), F32)
    assert mk.which("matmul", a, a) != "reference"
    assert mk.which("conv2d", x, w) != "reference"
    assert mk.which("attention", q, q, q) != "reference"


def test_import_loads_neither_numba_nor_cupy():
    code = (
        "import sys, minidl_kernels as mk; mk.set_num_threads(1); mk.table();"
        "assert mk.get_num_threads() == 1; print(*sorted({'numba', 'llvmlite', 'cupy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_thread_count_set_before_numba_is_loaded_holds_afterwards():
    code = (
        "import numpy as np, minidl_kernels as mk; mk.set_num_threads(1);"
        "x, w = np.ones((4, 8, 16, 16), np.float32), np.ones((8, 8, 3, 3), np.float32); mk.conv2d(x, w);"
        "from minidl_kernels.cpu import pool; assert mk.which('conv2d', x, w) == 'tiled';"
        "print(mk.get_num_threads(), pool.workers())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_thread_counts_are_checked(n, error):
    with pytest.raises(error, match="threads"):
        mk.set_num_threads(n)


def test_an_op_needs_a_reference_and_each_variant_once():
    with pytest.raises(ValueError, match="no variant 'reference'"):
        Op("toy", check=lambda: None, variants=(Variant("fast", load="operator:add"),))
    with pytest.raises(ValueError, match="twice"):
        toy(Variant("reference", load="operator:sub"))


def test_a_variant_can_be_added(monkeypatch):
    op = toy()
    monkeypatch.setitem(registry.ops(), "toy", op)
    a = np.full(2, 3.0)
    assert calls(op, a, a).tolist() == [6.0, 6.0]
    registry.add("toy", Variant("mul", load="operator:mul"))
    assert calls(op, a, a).tolist() == [9.0, 9.0]
    with pytest.raises(ValueError, match="toy lists variant 'mul' for cpu twice"):
        registry.add("toy", Variant("mul", load="operator:mul"))


# --- choosing ---


def test_the_cheapest_variant_that_accepts_runs_and_the_choice_is_cached():
    seen = []

    def accepts(a, b):
        seen.append(a.shape)
        return a.shape[0] > 2

    op = toy(
        Variant("sub", load="operator:sub", accepts=accepts, needs="more than 2 rows", cost=lambda a, b: 1.0),
        Variant("mul", load="operator:mul", cost=2.0),
    )
    small, large = np.full(2, 3.0), np.full(3, 3.0)
    assert calls(op, small, small).tolist() == [9.0, 9.0]
    assert calls(op, large, large).tolist() == [0.0, 0.0, 0.0]
    asked = len(seen)
    assert calls(op, large, large).tolist() == [0.0, 0.0, 0.0]
    assert len(seen) == asked
    calls(op, large[::-1], large)  # other strides: asked again
    assert len(seen) == asked + 1


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(registry, "CACHE_LIMIT", 3)
    op = toy()
    for n in range(10):
        calls(op, np.zeros(n), np.zeros(n))
        assert len(op.cache) <= 3


def test_no_variant_for_these_arguments_is_an_error():
    op = Op(
        "toy",
        check=lambda *a: None,
        variants=(Variant("reference", load="operator:add", accepts=lambda *a: False, needs="nothing you have"),),
    )
    with pytest.raises(NotImplementedError, match=r"toy: no variant on cpu takes float64\(3,\)"):
        calls(op, np.zeros(3), np.zeros(3))


def test_a_dispatched_call_costs_little():
    op = Op("toy", check=lambda *a: None, variants=(Variant("reference", load="itertools:chain", cost=1.0),))
    a = np.zeros((4, 4), F32)
    args = (a, a, None, 1, 0, 1, 1)
    seconds = min(timeit.repeat(lambda: registry.call(op, args), number=2000, repeat=20)) / 2000
    assert len(op.cache) == 1
    # 1.0 us on a quiet 3.5 GHz core. The bound is loose because the machine that runs the tests may be busy; a choice
    # that is not cached takes ten times as long.
    assert seconds < 10e-6


# --- forcing ---


def test_use_forces_one_op_all_ops_and_nests():
    a = np.ones((64, 64), F32)
    free = mk.which("matmul", a, a)
    with mk.use("reference"):
        assert mk.which("matmul", a, a) == "reference"
        assert mk.which("linear", a, a) == "reference"
        with mk.use(matmul="blas"):
            assert mk.which("matmul", a, a) == "blas"
            assert mk.which("linear", a, a) == "reference"
            with mk.use("reference"):
                assert mk.which("matmul", a, a) == "reference"
        assert mk.which("matmul", a, a) == "reference"
    assert mk.which("matmul", a, a) == free


def test_use_is_undone_by_an_exception_and_can_be_entered_again():
    a = np.ones((2, 2), F32)
    forced = mk.use("reference")
    for _ in range(2):
        with pytest.raises(KeyError), forced:
            with forced:
                assert mk.which("matmul", a, a) == "reference"
            raise KeyError
        assert mk.which("matmul", a, a) != "reference"


def test_use_holds_in_its_own_thread_only():
    a = np.ones((2, 2), F32)
    seen = []
    with mk.use("reference"):
        thread = threading.Thread(target=lambda: seen.append(mk.which("matmul", a, a)))
        thread.start()
        thread.join()
    assert seen != ["reference"]


def test_forced_variant_really_runs(monkeypatch):
    from minidl_kernels.gemm import reference

    a = np.ones((2, 2), F32)
    monkeypatch.setattr(reference, "matmul", lambda a, b: "the reference")
    assert_close(mk.matmul(a, a), np.full((2, 2), 2, F32))
    with mk.use("reference"):
        assert mk.matmul(a, a) == "the reference"
    assert_close(mk.matmul(a, a), np.full((2, 2), 2, F32))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: mk.use(), "needs a variant"),
        (lambda: mk.use("nonsense"), "no variant 'nonsense'; it has: reference"),
        (lambda: mk.use(matmul="nonsense"), "matmul has no variant 'nonsense'"),
        (lambda: mk.use(nonsense="reference"), "no operation 'nonsense'; there are: matmul"),
        (lambda: mk.which("nonsense"), "no operation 'nonsense'"),
        (lambda: mk.variants("nonsense"), "no operation 'nonsense'"),
    ],
)
def test_unknown_names_raise(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_forced_variant_that_cannot_run_says_what_it_needs():
    a = np.ones((2, 2), np.int64)
    with (
        mk.use(matmul="tiled"),
        pytest.raises(RuntimeError, match=r"'tiled' cannot run int64\(2, 2\).*needs .*float32"),
    ):
        mk.matmul(a, a)


# --- devices ---


class _FakeCupy:
    """What the registry may look at of a CuPy array."""

    def __init__(self, *shape):
        self.shape, self.dtype, self.strides, self.ndim = shape, np.dtype("float32"), (4,) * len(shape), len(shape)


_FakeCupy.__name__ = _FakeCupy.__qualname__ = "ndarray"
_FakeCupy.__module__ = "cupy"


def test_the_device_is_that_of_the_arrays():
    before = "cupy" in sys.modules  # other tests import it
    a, c = np.ones((2, 2), F32), _FakeCupy(2, 2)
    assert registry.device_of("matmul", a, a) == "cpu"
    assert registry.device_of("matmul", c, c, None, 1) == "cuda"
    with pytest.raises(TypeError, match=r"one device, got \(2, 2\) on cpu, \(2, 2\) on cuda"):
        mk.matmul(a, c)
    with mk.use(linear="blas"), pytest.raises(RuntimeError, match="'blas' does not exist on cuda"):
        mk.linear(c, c)
    assert ("cupy" in sys.modules) == before


@pytest.mark.parametrize("bad", [[[1.0]], 1.0, None, "text"])
def test_other_things_than_arrays_are_refused(bad):
    with pytest.raises(TypeError, match=r"array, got|takes NumPy"):
        mk.matmul(bad, bad)


def test_subclasses_scalars_and_lists_are_taken_for_what_they_are(tmp_path):
    x, w = np.ones((1, 1, 5, 5), F32), np.ones((1, 1, 3, 3), F32)
    expected = mk.conv2d(x, w, stride=2, padding=(1, 0))
    for _ in range(2):  # the second call would hit the cache
        assert_close(mk.conv2d(x, w, stride=np.int64(2), padding=[1, 0]), expected)
        assert mk.conv2d(x, w, stride=np.int64(1), padding=[1, 0]).shape == (1, 1, 5, 3)
    mapped = np.memmap(tmp_path / "x", F32, "w+", shape=x.shape)
    mapped[...] = x
    assert type(mk.conv2d(mapped, w)) is np.ndarray
    with pytest.raises(TypeError, match="masked array would lose its mask"):
        mk.conv2d(np.ma.masked_array(x), w)


# --- bad arguments, in the user's words ---

A, X, W, Q = np.ones((2, 3), F32), np.ones((2, 4, 5, 5), F32), np.ones((6, 4, 3, 3), F32), np.ones((2, 4, 5, 8), F32)
I8, ONE = np.ones((2, 3), np.int8), np.ones(2, F32)

BAD = [
    (
        lambda: mk.matmul(A, A),
        ValueError,
        r"inner sizes differ: a \(2, 3\) has 3 columns, b \(2, 3\) has 2 rows; did you mean",
    ),
    (lambda: mk.matmul(A, A[0]), ValueError, "b must have at least 2 axes"),
    (lambda: mk.matmul(A, A.T.astype("f8")), TypeError, "a is float32 but b is float64"),
    (lambda: mk.matmul(np.ones((2, 3, 4)), np.ones((3, 4, 5))), ValueError, "do not broadcast: 2 against 3"),
    (lambda: mk.matmul(A.astype(complex), A.T.astype(complex)), TypeError, "bool, integer or float"),
    (lambda: mk.matmul(A.astype(">f4"), A.T.astype(">f4")), TypeError, "bool, integer or float"),
    (lambda: mk.linear(A, A.T), ValueError, r"x \(2, 3\) must be the 2 columns of w \(3, 2\); w is \(out, in\)"),
    (lambda: mk.linear(A, A, A), ValueError, r"b must have shape \(2,\), one value per row of w"),
    (lambda: mk.linear(A.astype("i4"), A), TypeError, "x must be float32 or float64, got int32"),
    (lambda: mk.conv2d(X[0], W), ValueError, r"x must have 4 axes \(N, C, H, W\), got shape \(4, 5, 5\)"),
    (lambda: mk.conv2d(X, W[:, :3]), ValueError, "expects 3 input channels with groups 1, x .* has 4"),
    (lambda: mk.conv2d(X, W, groups=3), ValueError, "groups 3 must divide the 4 channels"),
    (lambda: mk.conv2d(X, W, groups=0), ValueError, "groups must be at least 1"),
    (lambda: mk.conv2d(X, W, stride=0), ValueError, "stride must be at least 1, got 0"),
    (lambda: mk.conv2d(X, W, stride=1.0), TypeError, "stride must be an integer, got 1.0"),
    (lambda: mk.conv2d(X, W, padding=(1, 2, 3)), ValueError, "padding must be an integer or a pair"),
    (lambda: mk.conv2d(X, W, padding=-1), ValueError, "padding must be at least 0"),
    (
        lambda: mk.conv2d(X, W, dilation=3),
        ValueError,
        r"a window of 3 with dilation 3 covers 7 in height, but the input is 5",
    ),
    (lambda: mk.conv2d(X, W, np.ones(5, F32)), ValueError, r"b must have shape \(6,\)"),
    (lambda: mk.conv2d(X, W.astype("f8")), TypeError, "x is float32 but w is float64"),
    (lambda: mk.conv2d(X.astype("f2"), W), TypeError, "x must be float32 or float64, got float16"),
    (
        lambda: mk.conv2d_dx(X, W, (2, 4, 5, 5)),
        ValueError,
        r"dy has shape \(2, 4, 5, 5\), but .* give outputs \(2, 6, 3, 3\)",
    ),
    (lambda: mk.conv2d_dx(X, W, (4, 5, 5)), ValueError, "x_shape must be a shape of 4 axes"),
    (lambda: mk.conv2d_dw(X, X, (6, 4, 3, 3)), ValueError, "dy has shape"),
    (lambda: mk.conv2d_dw(X, X, "wxyz"), ValueError, "w_shape must be a shape of 4 axes"),
    (lambda: mk.attention(Q, Q[:, :3], Q[:, :3]), ValueError, "4 heads of q .* must be a multiple of the 3 heads"),
    (lambda: mk.attention(Q, Q, Q[:, :, :4]), ValueError, "must agree in batch, heads and length"),
    (lambda: mk.attention(Q, Q[..., :4], Q), ValueError, "q .* has 8 features per head, k .* has 4"),
    (lambda: mk.attention(Q, Q[:1], Q[:1]), ValueError, "has batch 2, k .* has 1"),
    (
        lambda: mk.attention(Q, Q, Q, np.ones((5, 4), bool)),
        ValueError,
        r"mask \(5, 4\) does not broadcast to .* \(2, 4, 5, 5\)",
    ),
    (lambda: mk.attention(Q, Q, Q, np.ones((5, 5), int)), TypeError, r"mask must be bool .* or float .*, got int64"),
    (lambda: mk.attention(Q, Q, Q, np.ones((5, 5))), TypeError, "q is float32 but mask is float64"),
    (lambda: mk.attention(Q, Q, Q, scale="1"), TypeError, "scale must be a number"),
    (lambda: mk.attention(Q, Q, Q, causal="yes"), TypeError, "causal must be True or False"),
    (lambda: mk.attention_backward(Q, Q, Q, Q, Q[:1], Q[..., 0]), ValueError, r"out must have shape \(2, 4, 5, 8\)"),
    (lambda: mk.attention_backward(Q, Q, Q, Q, Q, Q), ValueError, r"lse must have shape \(2, 4, 5\)"),
    (lambda: mk.int8_matmul(A, I8.T), TypeError, "a must be int8, got float32"),
    (lambda: mk.int8_matmul(I8, np.ones((1, 3, 2), np.int8)), ValueError, r"b must have 2 axes \(K, N\)"),
    (
        lambda: mk.int8_matmul(*(np.ones(s, np.int8) for s in ((1, 1 << 17), (1 << 17, 1)))),
        ValueError,
        "could overflow int32",
    ),
    (lambda: mk.int8_linear(A, I8, ONE, x_scale=0.0), ValueError, "x_scale must be positive and finite, got 0.0"),
    (lambda: mk.int8_linear(A, I8, ONE, x_scale=float("nan")), ValueError, "positive and finite"),
    (lambda: mk.int8_linear(A, I8, ONE[:1]), ValueError, r"w_scale must have shape \(2,\)"),
    (lambda: mk.int8_linear(A, A, ONE), TypeError, "w_q must be int8"),
    (lambda: mk.int8_conv2d(X, W, ONE), TypeError, "w_q must be int8"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[2][:40])
def test_bad_arguments_raise_in_the_users_words(case):
    call, error, match = case
    for _ in range(2):
        with pytest.raises(error, match=match):
            call()


# --- the README ---


def _examples():
    text = (Path(mk.__file__).parent / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(_examples())))
def test_readme_examples_run(number):
    done = subprocess.run([sys.executable, "-c", _examples()[number]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("(1, 4, 8, 8) tiled", str((*mk.variants("matmul"), "outer")))[number]


def test_readme_names_every_public_function():
    text = (Path(mk.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert [name for name in mk.__all__ if f"`{name}(" not in text] == []
