"""Recurrences over whole sequences: the reference against torch, every variant against the reference, promises."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import (
    GUARD_PAGE,
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
from minidl_kernels.recurrent import cpu, reference

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STATES = {"rnn": 1, "lstm": 2, "gru": 1}
kinds = st.sampled_from(["rnn", "lstm", "gru"])
# Rows of each step: any that do not grow, a step without rows at the end included.
ragged = st.lists(st.integers(0, 20), min_size=1, max_size=6).map(lambda s: tuple(sorted(s, reverse=True)))


def arguments(kind, seed, steps, units, dtype="float32", nonlinearity="tanh", reverse=False):
    """Of the forward; weights so small that states neither vanish nor saturate."""
    rows, g = sum(steps), GATES[kind]
    states = [normal(seed + 1 + k, steps[0], units, dtype=dtype) for k in range(STATES[kind])]
    w = normal(seed + 3, g * units, units, dtype=dtype) / np.dtype(dtype).type(max(units, 1) ** 0.5)
    more = {"rnn": (steps, reverse, nonlinearity), "lstm": (steps, reverse)}.get(
        kind, (normal(seed + 4, g * units, dtype=dtype), steps, reverse)
    )
    return (normal(seed, rows, g * units, dtype=dtype), *states, w, *more)


def gradients_of(kind, args, seed):
    """Arguments of the backward: gradients of the outputs, and what the reference kept of the forward."""
    out = getattr(reference, kind)(*args, True)
    given_ = [normal(seed + k, *a.shape, dtype=a.dtype) for k, a in enumerate(out[: 1 + STATES[kind]])]
    if kind == "rnn":
        _, _, w, *how = args
        return (*given_, w, out[0], *how)
    if kind == "lstm":
        _, _, c, w, *how = args
        return (*given_, w, c, *out[3:5], *how)
    _, _, w, _, *how = args
    return (*given_, w, *out[2:], *how)


def wide(args):
    return tuple(a.astype(np.longdouble) if isinstance(a, np.ndarray) else a for a in args)


def check(name, args, more=(), layout="plain"):
    """The fused variant is as good as the reference in the same precision, both measured by the reference in a wider
    one.
    """
    laid = tuple(laid_out(a, layout) if isinstance(a, np.ndarray) else a for a in args)
    args = tuple(np.array(a) if isinstance(a, np.ndarray) else a for a in laid)  # "broadcast" changes values
    with mk.use(**{name: "fused"}), unmodified(*(a for a in laid if isinstance(a, np.ndarray))):
        found = getattr(mk, name)(*laid, *more)
    plain = getattr(reference, name)(*args, *more)
    exact = getattr(reference, name)(*wide(args), *more)
    assert len(found) == len(plain)
    for k, (f, p, e) in enumerate(zip(found, plain, exact, strict=True)):
        assert f.flags.c_contiguous
        assert_as_good(f, p, e, f"{name}, result {k}")


def torchs(kind, args, seed):
    """Outputs and gradients of gx, the states, w (and b) by torch, whose W_ih is the unit matrix."""
    arrays = [torch.tensor(a, requires_grad=True) for a in args if isinstance(a, np.ndarray)]
    steps, reverse, *nonlinearity = [a for a in args if not isinstance(a, np.ndarray)]
    gx, *rest = arrays
    states, (w, *b) = rest[: STATES[kind]], rest[STATES[kind] :]
    weights = [torch.eye(gx.shape[1], dtype=gx.dtype), w, *(x for v in b for x in (torch.zeros_like(v), v))]
    # Only the second half of a bidirectional layer runs backwards.
    both = 2 if reverse else 1
    stacked = [torch.stack([h] * both) for h in states]
    run = getattr(torch._VF, {"lstm": "lstm", "gru": "gru"}.get(kind, f"rnn_{(nonlinearity or ['tanh'])[0]}"))
    hx = stacked if kind == "lstm" else stacked[0]
    y, *last = run(gx, torch.tensor(steps), hx, weights * both, bool(b), 1, 0.0, True, reverse)
    outs = [y[:, y.shape[1] // both * (both - 1) :], *(h[-1] for h in last)]
    given_ = [torch.tensor(normal(seed + k, *o.shape, dtype="float64")) for k, o in enumerate(outs)]
    grads = torch.autograd.grad(outs, arrays, given_)
    return [o.detach().numpy() for o in outs], [g.numpy() for g in grads]


@given(
    kinds, seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 6), st.booleans(), st.booleans()
)
def test_reference_is_torchs(kind, seed, steps, units, reverse, relu):
    steps = tuple(sorted(steps, reverse=True))
    args = arguments(kind, seed, steps, units, "float64", "relu" if relu else "tanh", reverse)
    outs, grads = torchs(kind, args, seed + 10)
    found = getattr(reference, kind)(*args, True)
    before = found[-1]
    # float64, at most four steps of sums of six terms: some hundred roundings of numbers about 1.
    for o, want in zip(found, outs, strict=False):
        assert_close(o, want, rtol=1e-12, atol=1e-12)
    da, *rest = getattr(reference, f"{kind}_backward")(*gradients_of(kind, args, seed + 10))
    dp, rest = (rest[0], rest[1:]) if kind == "gru" else (da, rest)
    ours = [da, *rest, dp.T @ before, *([dp.sum(0)] if kind == "gru" else [])]
    for g, want in zip(ours, grads, strict=True):
        assert_close(np.ascontiguousarray(g), want, rtol=1e-11, atol=1e-11)


@given(kinds, seeds, ragged, sizes(16, 70), floats, layouts, st.booleans(), st.booleans())
def test_fused_computes_the_reference(kind, seed, steps, units, dtype, layout, reverse, relu):
    args = arguments(kind, seed, steps, units, dtype, "relu" if relu else "tanh", reverse)
    check(kind, args, (True,), layout)
    check(f"{kind}_backward", gradients_of(kind, args, seed + 10), layout=layout)


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", GATES)
def test_every_tier(kind, dtype, tier):
    with machine.use_tier(tier):
        # Rows around the heights of tiles, units around vectors; 2 threads where there is work for them.
        for steps, units in (((1,), 1), ((9, 9, 4), 17), ((40, 7, 3, 2, 1), 67), ((5,) * 3, 40)):
            args = arguments(kind, 0, steps, units, dtype, reverse=units == 17)
            check(kind, args, (True,))
            check(f"{kind}_backward", gradients_of(kind, args, 10))


@pytest.mark.parametrize("kind", GATES)
def test_nothing_is_kept_unless_asked_for(kind):
    args = arguments(kind, 0, (3, 2), 5)
    full, bare = getattr(mk, kind)(*args), getattr(mk, kind)(*args, keep=False)
    outs = 1 + STATES[kind]
    assert same_bits(full[:outs], bare[:outs])
    assert bare[outs:] == (None,) * len(full[outs:])
    with mk.use("reference"):
        assert getattr(mk, kind)(*args, keep=False)[outs:] == bare[outs:]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "nonlinearity"), [("rnn", "tanh"), ("rnn", "relu"), ("lstm", ""), ("gru", "")])
def test_nan_and_infinities_come_out_where_the_reference_has_them(kind, nonlinearity, dtype):
    args = arguments(kind, 0, (6, 6, 5), 20, dtype, nonlinearity)
    for k, value in enumerate((np.nan, np.inf, -np.inf, 1e30)):
        args[0][k, 3 * k] = args[1][k + 1, 0] = value
    back = gradients_of(kind, args, 10)
    back[0][0, 0], back[1][1, 3] = np.nan, np.inf
    for name, given_, more in ((kind, args, (True,)), (f"{kind}_backward", back, ())):
        with mk.use(**{name: "fused"}):
            found = getattr(mk, name)(*given_, *more)
        for f, want in zip(found, getattr(reference, name)(*given_, *more), strict=True):
            assert np.array_equal(np.isnan(f), np.isnan(want))
            assert np.array_equal(f[np.isinf(want)], want[np.isinf(want)])
            assert np.isfinite(f[np.isfinite(want)]).all()


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("steps", [(23,) * 6, (50, 20, 20, 3, 1), (2, 1)])
def test_results_do_not_depend_on_the_number_of_threads(kind, steps):
    args = arguments(kind, 0, steps, 50)
    back, found = gradients_of(kind, args, 10), []
    for n in (1, 2, 3, 7):
        with threads.threads(n):
            found.append((getattr(mk, kind)(*args), getattr(mk, f"{kind}_backward")(*back)))
    assert all(same_bits(found[0], other) for other in found[1:])


def test_shares_of_ragged_batches_are_about_equal():
    steps = (100,) + (10,) * 99
    bounds, most = cpu._cuts(steps, 2)
    # 10 rows run 100 steps, 90 rows one: 5 or 6 of the long ones are half of the work.
    assert bounds.tolist()[::2] == [0, 100]
    assert bounds[1] in (5, 6)
    assert most == 100 - bounds[1]
    # More shares than rows with work: some are empty, none overlap.
    assert cpu._cuts((3, 0), 3)[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("kind", GATES)
def test_nothing_is_written_outside(kind, tier, monkeypatch):
    for steps, units in (((7, 7, 2), 19), ((30,) * 5, 70), ((1,), 16)):
        args = arguments(kind, 0, steps, units)
        back = gradients_of(kind, args, 10)
        with machine.use_tier(tier), guarded(monkeypatch, cpu):
            found = getattr(cpu, kind)(*args, True), getattr(cpu, f"{kind}_backward")(*back)
        # Scratch memory and outputs began as NaN.
        assert all(np.isfinite(a).all() for out in found for a in out)


def test_nothing_is_read_outside():
    code = GUARD_PAGE + (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import minidl_kernels as mk\n"
        "from test_recurrent import arguments, gradients_of\n"
        "for kind in ('rnn', 'lstm', 'gru'):\n"
        "    for steps, units in (((3, 2), 5), ((7, 7), 17)):\n"
        "        args = arguments(kind, 0, steps, units)\n"
        "        back = gradients_of(kind, args, 9)\n"
        "        edge = lambda these: [at_end_of_page(a) if isinstance(a, np.ndarray) else a for a in these]\n"
        "        getattr(mk, kind)(*edge(args)); getattr(mk, kind + '_backward')(*edge(back))\n"
        "print('read nothing')\n"
    )
    from pathlib import Path

    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "read nothing", done.stderr


ONE = np.ones((1, 1), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mk.rnn(ONE, ONE, np.ones((2, 1), np.float32), (1,)), ValueError, "w must have 1 rows"),
        (lambda: mk.rnn(ONE, ONE, ONE, (2,)), ValueError, r"gx must have shape \(2, 1\)"),
        (lambda: mk.rnn(np.ones((3, 1)), ONE, ONE, (1, 2)), ValueError, "must not grow"),
        (lambda: mk.rnn(ONE, ONE, ONE, (1,), False, "sigmoid"), ValueError, "'tanh' or 'relu'"),
        (lambda: mk.rnn(ONE, ONE, ONE, (1.5,)), TypeError, "must be an integer"),
        (lambda: mk.rnn(ONE, ONE, ONE, 1), TypeError, "sizes must be a tuple"),
        (lambda: mk.rnn(ONE, ONE.astype(np.float64), ONE, (1,)), TypeError, "convert one"),
        (lambda: mk.rnn(ONE, ONE, ONE, (1,), keep=2), TypeError, "keep must be True or False"),
        (lambda: mk.lstm(ONE, ONE, ONE, np.ones((4, 1), np.float32), (1,)), ValueError, r"gx must have shape \(1, 4\)"),
        (
            lambda: mk.gru(np.ones((1, 3)), np.ones((2, 1)), np.ones((3, 1)), None, (1,)),
            ValueError,
            r"h must have shape \(1, 1\)",
        ),
        (
            lambda: mk.gru(np.ones((1, 3)), np.ones((1, 1)), np.ones((3, 1)), np.ones(1), (1,)),
            ValueError,
            r"b must have shape \(3,\)",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
