"""Every op of the table against torch, finite differences, other memory layouts and plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case, Const, Sample, flat_outputs, run_minidl, run_torch, to_minidl, to_torch

import minidl
import minidl.nn.functional
from minidl.autograd import TABLE, Op, OpType

# torch's remark on the copy that padding="same" takes.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
COMPARED = [case for case in CASES.values() if case.theirs is not None]
SMOOTH = [case for case in COMPARED if case.smooth]


def each(case: Case, small: bool = False) -> Iterator[Sample]:
    """The samples of a case; an error says at which it came up. One test for all of them, for pytest's time's sake."""
    for i, sample in enumerate(case.samples):
        if small and not sample.check:
            continue
        current[:] = [f"{case.name}, sample {i}: {sample.args} {sample.kwargs}"]
        yield sample
    current.clear()


current: list[str] = []


@pytest.fixture(autouse=True)
def _say_which_sample() -> Iterator[None]:
    current.clear()
    yield
    if current:  # the loop did not come to its end
        print(current[0])


def assert_close(got: Any, want: Any, bound: float) -> None:
    """Same shape, NaN and Inf in the same places, finite elements within `bound`. Written so that NaN fails."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    gap = np.abs(got[finite].astype(np.float64) - want[finite].astype(np.float64))
    assert np.all(gap <= bound), f"off by {gap.max()} where {bound} is allowed:\n{got}\n{want}"


def size(x: Any) -> float:
    x = np.abs(np.asarray(x, np.float64))
    x = x[np.isfinite(x)]
    return float(x.max()) if x.size else 0.0


def compare(ours: Any, theirs: Any, exact: Any, scale: float = 0.0) -> None:
    """A result in its own precision against torch's, `exact` being torch's in float64 from the same rounded inputs.

    Integers and bools must be equal. In float32 ours may be at most twice as far from the truth as torch's is, plus 8
    ulp of the greatest element for the rounding of single operations (or of `scale`, the size of the terms, where they
    cancel); in float64, where the truth is not at hand, they may differ by 5000 ulp: the samples sum at most some
    hundred terms of size 1.
    """
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    a, t, e = ours.detach().numpy(), theirs.detach().numpy(), exact.detach().numpy()
    if a.dtype.kind != "f":
        np.testing.assert_array_equal(a, t)
    elif a.dtype == np.float32:
        finite = np.isfinite(e)
        off = np.abs(t[finite].astype(np.float64) - e[finite])
        assert_close(a, e.astype(np.float32), 2 * size(off) + 8 * np.finfo(np.float32).eps * max(size(e), scale))
    else:
        assert_close(a, t, 5000 * np.finfo(np.float64).eps * max(1.0, size(t)))


def test_every_op_has_a_case() -> None:
    named = {name for name, f in TABLE.items()}
    assert named <= set(CASES), f"ops without a case in tests/ops/cases.py: {sorted(named - set(CASES))}"
    public = {name for name in minidl.nn.functional.__all__ if callable(getattr(minidl.nn.functional, name))}
    assert public <= set(CASES)


def _op_classes(base: type = Op) -> Iterator[type]:
    for c in base.__subclasses__():
        if c.__module__.startswith(("minidl.ops", "minidl.inplace")) and "forward" in c.__dict__:
            yield c
        yield from _op_classes(c)


def test_every_op_class_is_entered_or_reached_by_a_case() -> None:
    """Ops behind a function (reshape, permute, avg_pool2d), in-place changes, and what has no derivative."""
    behind = {
        "reshape",
        "permute",
        "conv2d",
        "avg_pool2d",
        "adaptive_avg_pool",
        "adaptive_avg_pool_dx",
        "max_pool2d",
        "view_write",
        "index_put_done",
        "softmax_loss",
        "draw_and_scale",
        "_Found",
    }
    for c in _op_classes():
        if "<locals>" in c.__qualname__ or (c.__name__.startswith("_") and c.__subclasses__()):
            continue  # a class that measures the interpreter, or what several pages share
        assert TABLE.get(c.__name__) is c or c.__name__ in behind, c
        assert c.__doc__, f"{c.__name__} has no page"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", COMPARED, ids=repr)
def test_forward(case: Case, dtype: str) -> None:
    for sample in each(case):
        ours, theirs, exact = results(case, sample, dtype)
        assert len(ours) == len(theirs)
        for a, t, e in zip(ours, theirs, exact, strict=True):
            compare(a, t, e)


def results(case: Case, sample: Sample, dtype: str) -> tuple[list, list, list]:
    return (
        flat_outputs(run_minidl(case, sample, dtype)[0]),
        flat_outputs(run_torch(case, sample, dtype)[0]),
        flat_outputs(run_torch(case, sample, dtype, as_dtype="float64")[0]),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_gradient(case: Case, dtype: str) -> None:
    """d (sum over outputs of y dy) / d inputs, dy random."""
    for sample in each(case):
        compare_gradient(case, sample, dtype)


def compare_gradient(case: Case, sample: Sample, dtype: str) -> None:
    y, leaves = run_minidl(case, sample, dtype, grad=True)
    ours = [t for t in flat_outputs(y) if t.requires_grad]
    rng = np.random.default_rng(3)
    seeds = [np.asarray(rng.standard_normal(tuple(t.shape))).astype(dtype) for t in ours]

    def theirs(as_dtype: Any = None) -> tuple[list, list]:
        y, leaves = run_torch(case, sample, dtype, grad=True, as_dtype=as_dtype)
        ys = [t for t in flat_outputs(y) if t.requires_grad]
        if not ys:
            return [], [None] * len(leaves)
        dys = [torch.tensor(s.astype(str(t.dtype)[6:])) for s, t in zip(seeds, ys, strict=True)]
        return ys, list(torch.autograd.grad(ys, leaves, dys, allow_unused=True))

    ys, t_grads = theirs()
    assert len(ours) == len(ys), "not the same outputs require gradients"
    if not ours:
        return
    dys = [minidl.tensor(s.astype(t.array.dtype)) for s, t in zip(seeds, ours, strict=True)]
    m_grads = minidl.autograd.grad(ours, leaves, dys, allow_unused=True)
    scale = max(size(s) for s in seeds)
    for leaf, a, t, e in zip(leaves, m_grads, t_grads, theirs("float64")[1], strict=True):
        zeros = torch.zeros(tuple(leaf.shape), dtype=getattr(torch, dtype))
        a = minidl.zeros_like(leaf) if a is None else a
        compare(a, zeros if t is None else t, zeros.double() if e is None else e, scale)


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_gradcheck(case: Case) -> None:
    for sample in each(case, small=True):
        function, leaves = as_function(case, sample)
        if leaves:
            assert minidl.gradcheck(function, leaves)


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_gradgradcheck(case: Case) -> None:
    for sample in each(case, small=True):
        function, leaves = as_function(case, sample)
        if leaves and any(t.requires_grad for t in flat_outputs(function(*leaves))):
            assert minidl.gradgradcheck(function, leaves)


def as_function(case: Case, sample: Sample) -> tuple[Any, list]:
    """The case as a function of its leaves alone, and the leaves in float64; float32 outputs are left out."""
    leaves: list = []
    for v in (*sample.args, *sample.kwargs.values()):
        to_minidl(v, "float64", leaves)

    def function(*given: Any) -> tuple:
        rest = iter(given)

        def fill(v: Any) -> Any:
            if isinstance(v, np.ndarray) and v.dtype == np.float64:
                return next(rest)
            if isinstance(v, (list, tuple)):
                return type(v)(fill(u) for u in v)
            return to_minidl(v, "float64")

        y = case.ours(*[fill(a) for a in sample.args], **{k: fill(v) for k, v in sample.kwargs.items()})
        return tuple(t for t in flat_outputs(y) if t.array.dtype == np.float64)

    return function, leaves


LAYOUTS = ("fortran", "step", "negative")


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """The same values in other memory: column-major, every second element of a larger array, or backwards."""
    if a.ndim == 0 or layout == "fortran":
        return a.copy(order="F")
    if layout == "negative":
        every = (slice(None, None, -1),) * a.ndim
        return np.array(a[every])[every]
    larger = np.full(tuple(2 * n + 1 for n in a.shape), np.nan if a.dtype.kind == "f" else 77).astype(a.dtype)
    part = larger[tuple(slice(1, None, 2) for _ in a.shape)]
    part[...] = a
    return part


def in_layout(v: Any, layout: str, leaves: list) -> Any:
    if isinstance(v, Const):
        return minidl.from_numpy(laid_out(v.array, layout))
    if isinstance(v, np.ndarray):
        t = minidl.from_numpy(laid_out(v, layout))
        if v.dtype == np.float64:
            leaves.append(t.requires_grad_())
        return t
    if isinstance(v, (list, tuple)) and any(isinstance(u, (np.ndarray, Const)) for u in v):
        return type(v)(in_layout(u, layout, leaves) for u in v)
    return v


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "case",
    [c for c in CASES.values() if c.theirs is not None and not c.name.startswith(("view", "as_strided"))],
    ids=repr,
)
def test_memory_layout(case: Case, layout: str) -> None:
    """Strides change nothing but the last bits, in either direction, and inputs are not written."""
    for sample in case.samples:
        leaves: list = []
        args = [in_layout(a, layout, leaves) for a in sample.args]
        kwargs = {k: in_layout(v, layout, leaves) for k, v in sample.kwargs.items()}
        tensors = flat_tensors([*args, *kwargs.values()])
        before = [t.array.copy() for t in tensors]
        got = flat_outputs(case.ours(*args, **kwargs))
        y, plain_leaves = run_minidl(case, sample, "float64", grad=True)
        want = flat_outputs(y)
        for g, w in zip(got, want, strict=True):
            near(g, w)
        roots = [(g, w) for g, w in zip(got, want, strict=True) if w.requires_grad]
        if roots and leaves and case.smooth:
            # the incoming gradient has an odd layout too
            seeds = [laid_out(np.cos(np.arange(w.array.size)).reshape(w.array.shape), layout) for _, w in roots]
            seeds = [s.astype(w.array.dtype, copy=False) for s, (_, w) in zip(seeds, roots, strict=True)]
            grads = minidl.autograd.grad(
                [g for g, _ in roots], leaves, [minidl.from_numpy(s) for s in seeds], allow_unused=True
            )
            plain = minidl.autograd.grad(
                [w for _, w in roots], plain_leaves, [minidl.tensor(s) for s in seeds], allow_unused=True
            )
            for a, b in zip(grads, plain, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    near(a, b)
        for t, b in zip(tensors, before, strict=True):
            np.testing.assert_array_equal(t.array, b, err_msg="an input was written")


def near(got: Any, want: Any) -> None:
    g, w = got.detach().numpy(), want.detach().numpy()
    assert g.dtype == w.dtype
    assert_close(g, w, 0 if w.dtype.kind != "f" else 5000 * np.finfo(w.dtype).eps * max(1.0, size(w)))


def flat_tensors(values: Any) -> list:
    found = []
    for v in values:
        if isinstance(v, minidl.Tensor):
            found.append(v)
        elif isinstance(v, (list, tuple)):
            found += flat_tensors(v)
    return found


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.theirs is not None], ids=repr)
def test_views_are_views_where_torchs_are(case: Case) -> None:
    for sample in case.samples:
        args = [to_minidl(a, "float32") for a in sample.args]
        base = next((a for a in args if isinstance(a, minidl.Tensor)), None)
        y = flat_outputs(case.ours(*args, **{k: to_minidl(v, "float32") for k, v in sample.kwargs.items()}))[0]
        t_args = [to_torch(a, "float32") for a in sample.args]
        t_base = next((a for a in t_args if isinstance(a, torch.Tensor)), None)
        t_y = flat_outputs(case.theirs(*t_args, **{k: to_torch(v, "float32") for k, v in sample.kwargs.items()}))[0]
        if base is None or not t_y.numel():
            continue
        shares = t_y.untyped_storage().data_ptr() == t_base.untyped_storage().data_ptr()
        assert np.shares_memory(base.array, y.array) == shares, f"torch {'shares' if shares else 'copies'}: {sample}"


@pytest.mark.parametrize("case", [c for c in CASES.values() if isinstance(c.ours, OpType)], ids=repr)
def test_on_plain_arrays_ops_only_compute(case: Case) -> None:
    for sample in case.samples:
        if case.theirs is None:
            continue
        plain = lambda v: v.array if isinstance(v, Const) else v
        args = [type(a)(plain(u) for u in a) if isinstance(a, (list, tuple)) else plain(a) for a in sample.args]
        y = case.ours(*args, **{k: plain(v) for k, v in sample.kwargs.items()})
        want, _ = run_minidl(case, sample, "float64")
        for a, w in zip(y if isinstance(y, tuple) else (y,), flat_outputs(want), strict=True):
            assert isinstance(a, (np.ndarray, np.generic))
            bound = 0 if w.array.dtype.kind != "f" else 5000 * np.finfo(w.array.dtype).eps * max(1.0, size(w.array))
            assert_close(a, w.array, bound)


def test_methods_are_the_functions() -> None:
    """Every op that is a method of Tensor gives the same as its function."""
    methods = {name: m.op for name, m in vars(minidl.Tensor).items() if hasattr(m, "op") and not name.startswith("_")}
    assert len(methods) > 80
    for name, f in methods.items():
        case = next((c for c in CASES.values() if c.ours is f), None) or CASES[name]
        if case.theirs is None:
            continue
        sample = case.samples[0]
        args = [to_minidl(a, "float32") for a in sample.args]
        if case.ours is not f:
            continue  # the case calls the method
        got, want = getattr(args[0], name)(*args[1:], **sample.kwargs), f(*args, **sample.kwargs)
        for g, w in zip(flat_outputs(got), flat_outputs(want), strict=True):
            np.testing.assert_array_equal(g.array, w.array)


@pytest.mark.parametrize(
    "name",
    ["sum", "mean", "amax", "amin", "prod", "var", "logsumexp", "softmax", "log_softmax", "cumsum", "cumprod", "cummax",
     "cummin", "logcumsumexp", "layer_norm", "pad", "cat", "stack", "roll", "max", "median"],
)  # fmt: skip
def test_results_have_no_gaps_where_torchs_have_none(name: str) -> None:
    """Of transposed and of repeated inputs: a program that views the result must run."""
    extra: dict[str, Any] = {
        "layer_norm": lambda L, x: L.nn.functional.layer_norm(x, x.shape[-1:]),
        "pad": lambda L, x: L.nn.functional.pad(x, (1, 1)),
        "cat": lambda L, x: L.cat([x, x], 1),
        "stack": lambda L, x: L.stack([x, x], 1),
        "roll": lambda L, x: L.roll(x, 1, 1),
    }
    run = extra.get(name, lambda L, x: getattr(L, name)(x, 1))
    a = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    for prepare in (
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x[:, :1].expand(2, 3, 4, 5),
        lambda x: x.transpose(0, 3),
    ):
        ours, theirs = run(minidl, prepare(minidl.tensor(a))), run(torch, prepare(torch.tensor(a)))
        if isinstance(theirs, tuple):
            ours, theirs = ours[0], theirs[0]
        assert ours.is_contiguous() or not theirs.is_contiguous()
