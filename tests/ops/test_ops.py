"""Every op of the table against torch, finite differences, other memory layouts and plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case, Sample, flat_outputs, run_minidl, run_torch, to_minidl

import minidl
import minidl.nn.functional
from minidl.autograd import TABLE, Op

# torch's remark on the copy that padding="same" takes.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
SAMPLES = [
    pytest.param(case, sample, id=f"{case.name}-{i}")
    for case in CASES.values()
    for i, sample in enumerate(case.samples)
]
COMPARED = [p for p in SAMPLES if p.values[0].theirs is not None]
SMOOTH = [p for p in COMPARED if p.values[0].smooth]


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
    """Ops behind a function (reshape, permute, avg_pool2d) and the bookkeeping of in-place changes."""
    behind = {"reshape", "permute", "conv2d", "avg_pool2d", "view_write", "index_put_done"}
    for c in _op_classes():
        if "<locals>" in c.__qualname__ or (c.__name__.startswith("_") and c.__subclasses__()):
            continue  # a class that measures the interpreter, or what several pages share
        assert TABLE.get(c.__name__) is c or c.__name__ in behind, c
        assert c.__doc__, f"{c.__name__} has no page"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("case", "sample"), COMPARED)
def test_forward(case: Case, sample: Sample, dtype: str) -> None:
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
@pytest.mark.parametrize(("case", "sample"), SMOOTH)
def test_gradient(case: Case, sample: Sample, dtype: str) -> None:
    """d (sum over outputs of y dy) / d inputs, dy random."""
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


@pytest.mark.parametrize(("case", "sample"), [p for p in SMOOTH if p.values[1].check])
def test_gradcheck(case: Case, sample: Sample) -> None:
    function, leaves = as_function(case, sample)
    if leaves:
        assert minidl.gradcheck(function, leaves)


@pytest.mark.parametrize(("case", "sample"), [p for p in SMOOTH if p.values[1].check])
def test_gradgradcheck(case: Case, sample: Sample) -> None:
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
