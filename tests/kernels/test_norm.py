"""Normalisations: the reference against torch, vectors against it, what kernels promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import (
    assert_as_good,
    assert_close,
    floats,
    guarded,
    laid_out,
    layouts,
    normal,
    same_bits,
    seeds,
    sizes,
    unmodified,
)

import minidl_kernels as mk
from minidl_kernels.cpu import machine, threads
from minidl_kernels.norm import cpu, reference

KINDS = ("layer", "rms", "batch", "group")
EPS = 1e-3


@st.composite
def settings(draw, dtype=floats):
    """kind, x, w, b, dy, groups; at least 8 numbers are normalised together"""
    kind, seed, dtype = draw(st.sampled_from(KINDS)), draw(seeds), draw(dtype)
    groups = draw(st.integers(1, 3))
    if kind in ("layer", "rms"):
        shape = (*draw(st.lists(st.integers(1, 9), max_size=2)), draw(sizes(16, 150, least=8)))
        c = shape[-1]
    else:
        c = groups * draw(st.integers(1, 4))
        least = 1 if kind == "batch" else 8
        shape = (
            draw(st.integers(8, 12)) if kind == "batch" else draw(st.integers(1, 4)),
            c,
            draw(sizes(16, 80, least)),
        )
    layout = draw(layouts)
    x = laid_out(normal(seed, *shape, dtype=dtype) * np.asarray(3, dtype) + np.asarray(2, dtype), layout)
    if layout == "broadcast" and kind == "batch":
        x = normal(seed, *shape, dtype=dtype)  # the same in every example: x - mean is rounding alone
    w, b = (normal(seed + i, c, dtype=dtype) if draw(st.booleans()) else None for i in (1, 2))
    return kind, x, w, None if kind == "rms" else b, laid_out(normal(seed + 3, *shape, dtype=dtype), layout), groups


def run(variant, kind, x, w, b, dy, groups, eps=EPS):
    """y, statistics, dx, dw, db; "exact" is the reference in longer numbers."""
    forward, backward = f"{kind}_norm", f"{kind}_norm_backward"
    more = (groups,) if kind == "group" else ()
    source = mk
    if variant == "exact":
        source, variant = reference, "reference"
        x, w, b, dy = (None if a is None else a.astype(np.longdouble) for a in (x, w, b, dy))
    with mk.use(**{forward: variant, backward: variant}):
        y, *found = getattr(source, forward)(x, *more, w, *(() if kind == "rms" else (b,)), eps)
        return y, *found, *getattr(source, backward)(dy, x, *more, w, *found, eps)


@given(settings(dtype=st.just("float64")))
def test_reference_is_torchs(setting):
    kind, x, w, b, dy, groups = setting
    if kind == "group" and w is None:
        b = None  # torch cannot differentiate a group_norm with b alone
    setting = kind, x, w, b, dy, groups
    t = torch.tensor(x.copy(), requires_grad=True)
    weights = [None if a is None else torch.tensor(a, requires_grad=True) for a in (w, b)]
    F = torch.nn.functional
    want = {
        "layer": lambda: F.layer_norm(t, x.shape[-1:], *weights, EPS),
        "rms": lambda: F.rms_norm(t, x.shape[-1:], weights[0], EPS),
        "batch": lambda: F.batch_norm(t, None, None, *weights, True, 0.1, EPS),
        "group": lambda: F.group_norm(t, groups, *weights, EPS),
    }[kind]()
    want.backward(torch.tensor(dy.copy()))
    y, *_, dx, dw, db = run("reference", *setting) if kind != "rms" else (*run("reference", *setting), None)
    # Sums of at most 1000 terms of size 10 in float64, on both sides; 1 / sqrt(var + eps) is at most 32.
    assert_close(y, want.detach().numpy(), rtol=1e-11, atol=1e-11)
    assert_close(dx, t.grad.numpy(), rtol=1e-10, atol=1e-10)
    for found, given_one in zip((dw, db), weights):
        if given_one is not None:
            assert_close(found, given_one.grad.numpy(), rtol=1e-10, atol=1e-10)


@given(settings())
def test_vectors_are_as_good_as_the_reference(setting):
    kind, x, w, b, dy, groups = setting
    with unmodified(x, w, b, dy):
        found = run("vectors", *setting)
    plain, exact = run("reference", *setting), run("exact", *setting)
    for name, y, p, e in zip(("y", "mean", "var", "dx", "dw", "db"), found, plain, exact):
        assert_as_good(y, p, e, what=f"{kind}: {name}")


@pytest.mark.parametrize("kind", ["layer", "batch", "group"])
def test_a_mean_far_from_zero_costs_no_digits(kind):
    """x = 10000 + noise of 1: the variance of the float32 numbers, to 1e-5; a sum of squares would be off by 6."""
    x = (10000 + normal(0, 8, 6, 50)).astype(np.float32)
    var = run("vectors", kind, x, None, None, x, 2)[2]
    exact = run("reference", kind, x.astype(np.float64), None, None, x.astype(np.float64), 2)[2]
    # The deviations are exact to 2^-11 / 2 (the grid of x) and there are at least 50 of them: the rest is rounding.
    assert_close(var, exact.astype(np.float32), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_stay_where_they_are_normalised(kind, value):
    x = normal(0, 4, 6, 20)
    x[1, 2, 3] = value
    found, want = (run(v, kind, x, None, None, np.ones_like(x), 2) for v in ("vectors", "reference"))
    for name, y, e in zip(("y", "a", "b", "dx"), found, want):
        # As the comparison above: sums of at most 80 terms.
        assert_close(y, e, rtol=1e-4, atol=1e-4, what=name)
    assert np.isnan(found[0]).any()
    assert np.isfinite(found[0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_number_of_threads(kind):
    shape = (301, 333) if kind in ("layer", "rms") else (6, 30, 500)
    x, dy, w = normal(0, *shape), normal(1, *shape), normal(2, shape[-1] if kind in ("layer", "rms") else 30)
    found = []
    for n in (1, 2, 5):
        with threads.threads(n):
            found.append(run("vectors", kind, x, w, None, dy, 3))
    assert all(same_bits(found[0], other) for other in found[1:])


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("length", [8, 15, 17, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_outside(kind, length, tier, monkeypatch):
    x, dy = normal(0, 3, 4, length), normal(1, 3, 4, length)
    w = normal(2, length if kind in ("layer", "rms") else 4)
    b = None if kind == "rms" else w
    want = run("exact", kind, x, w, b, dy, 2)
    plain = run("reference", kind, x, w, b, dy, 2)
    with machine.use_tier(tier), guarded(monkeypatch, cpu):
        found = run("vectors", kind, x, w, b, dy, 2)
    for y, p, e in zip(found, plain, want):
        assert_as_good(y, p, e)


FS = ("", "relu", "relu6")


def affine(variant, x, scale, shift, f, out=None):
    with mk.use(channel_affine=variant):
        return mk.channel_affine(x, scale, shift, f, out)


@given(
    seeds, st.tuples(st.integers(1, 4), st.integers(1, 9), sizes(16, 80, least=1)), floats, layouts,
    st.sampled_from(FS), st.sampled_from(machine.tiers()),
)  # fmt: skip
def test_channel_affine_has_the_bits_of_the_reference(seed, shape, dtype, layout, f, tier):
    x = laid_out(normal(seed, *shape, dtype=dtype) * np.asarray(5, dtype), layout)
    scale, shift = (normal(seed + i, shape[1], dtype=dtype) for i in (1, 2))
    with unmodified(x, scale, shift), machine.use_tier(tier):
        y = affine("vectors", x, scale, shift, f)
    assert same_bits(y, affine("reference", x, scale, shift, f))


def test_channel_affine_is_batch_norm_in_evaluation():
    x, scale, shift = 9 * normal(0, 3, 5, 7, 6, dtype="float64"), *(normal(i, 5, dtype="float64") for i in (1, 2))
    F, t = torch.nn.functional, [torch.tensor(a) for a in (x, scale, shift)]
    y = F.batch_norm(t[0], torch.zeros(5, dtype=t[0].dtype), torch.ones(5, dtype=t[0].dtype), *t[1:], eps=0.0)
    for f, name in ((lambda y: y, ""), (F.relu, "relu"), (F.relu6, "relu6")):
        # Two roundings of numbers of about 30 on either side.
        assert_close(affine("reference", x, scale, shift, name), f(y).numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("f", FS)
@pytest.mark.parametrize("length", [1, 15, 49, 333])
def test_channel_affine_writes_nothing_outside(length, f, tier, monkeypatch):
    x, scale, shift = 5 * normal(0, 3, 70, length), normal(1, 70), normal(2, 70)
    want = reference.channel_affine(x, scale, shift, f, None)
    for n in (1, 2, 5):
        with machine.use_tier(tier), threads.threads(n), guarded(monkeypatch, cpu):
            assert same_bits(cpu.channel_affine(x, scale, shift, f, None), want)
    mine = x.copy()
    assert cpu.channel_affine(mine, scale, shift, f, mine) is mine
    assert same_bits(mine, want)


def test_channel_affine_into_memory_that_overlaps_x():
    memory, scale, shift = normal(0, 600), normal(1, 7), normal(2, 7)
    x, out = memory[:560].reshape(4, 7, 20), memory[7:567].reshape(4, 7, 20)
    want = reference.channel_affine(x, scale, shift, "", None)
    assert same_bits(cpu.channel_affine(x, scale, shift, "", out), want)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("f", FS)
def test_channel_affine_keeps_nan_and_infinities(f, value):
    x = normal(0, 2, 3, 40)
    x[1, 2, 3] = value
    one = np.ones(3, np.float32)
    found, want = (affine(v, x, one, one, f) for v in ("vectors", "reference"))
    assert np.array_equal(found, want, equal_nan=True)
    assert np.isnan(found[1, 2, 3]) == np.isnan(value)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_no_rows(shape):
    x = np.ones(shape, np.float32)
    for variant in ("vectors", "reference"):
        y, mean, var, dx, dw, db = run(variant, "layer", x, None, None, x, 1)
        assert y.shape == dx.shape == shape
        assert mean.shape == var.shape == shape[:-1]
        assert not dw.any()
        assert not db.any()
        assert dw.shape == db.shape == (3,)


def into(out):
    return mk.channel_affine(np.ones((2, 3)), np.ones(3), np.ones(3), out=out)


def frozen(a):
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mk.layer_norm(np.ones(())), ValueError, "D at least 1"),
        (lambda: mk.layer_norm(np.ones((2, 3)), np.ones(2)), ValueError, "w must have shape"),
        (lambda: mk.layer_norm(np.ones((2, 3)), np.ones(3, np.float32)), TypeError, "convert one"),
        (lambda: mk.batch_norm(np.ones((0, 3))), ValueError, "not empty"),
        (lambda: mk.group_norm(np.ones((2, 3)), 2), ValueError, "multiple of groups 2"),
        (lambda: mk.group_norm(np.ones((2, 3)), 0), ValueError, "at least 1"),
        (
            lambda: mk.batch_norm_backward(np.ones((2, 3)), np.ones((2, 3)), None, np.ones(2), np.ones(3)),
            ValueError,
            "mean must have shape",
        ),
        (lambda: mk.channel_affine(np.ones((2, 3)), np.ones(2), np.ones(3)), ValueError, "scale must have shape"),
        (lambda: mk.channel_affine(np.ones((2, 3)), None, np.ones(3)), TypeError, "scale must be"),
        (lambda: mk.channel_affine(np.ones((2, 3)), np.ones(3), np.ones(3), "gelu"), ValueError, "f must be"),
        (lambda: into(np.ones((3, 2))), ValueError, "out must have"),
        (lambda: into(np.ones((3, 2)).T), ValueError, "no gaps"),
        (lambda: into(np.ones((2, 3), np.float32)), TypeError, "convert one"),
        (lambda: into(np.broadcast_to(np.ones(()), (2, 3))), ValueError, "no gaps"),
        (lambda: into(frozen(np.ones((2, 3)))), ValueError, "read-only"),
        (
            lambda: mk.layer_norm_backward(np.ones((2, 3)), np.ones((2, 3)), None, np.ones(3), np.ones(2)),
            ValueError,
            "mean must have shape",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_planted_fault_is_caught(monkeypatch):
    """The comparison rejects a variance that is 1 % too large."""
    x = normal(0, 4, 33)
    exact, plain = reference.layer_norm(x.astype(np.float64), None, None, EPS), reference.layer_norm(x, None, None, EPS)
    right = cpu._rows
    assert_as_good(cpu.layer_norm(x, None, None, EPS)[0], plain[0], exact[0])
    monkeypatch.setattr(
        cpu,
        "_rows",
        lambda *how: lambda each, tasks, k, rows, n, eps, *at: right(*how)(each, tasks, k, rows, n, eps + 0.01, *at),
    )
    with pytest.raises(AssertionError):
        assert_as_good(cpu.layer_norm(x, None, None, EPS)[0], plain[0], exact[0])
