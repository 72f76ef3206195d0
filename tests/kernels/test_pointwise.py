"""Activations: accuracy of the polynomials, every variant against torch and the definition, what kernels promise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import assert_close, floats, guarded, laid_out, layouts, normal, same_bits, seeds, sizes, unmodified

import minidl_kernels as mk
from minidl_kernels.checks import ACTIVATIONS
from minidl_kernels.cpu import machine, threads
from minidl_kernels.pointwise import cpu, reference

FROM_Y = ("relu", "exp", "tanh", "sigmoid", "relu6")
names = st.sampled_from(ACTIVATIONS)


def torchs(name, x):
    """The activation in torch."""
    functions = {
        "silu": torch.nn.functional.silu,
        "relu6": torch.nn.functional.relu6,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }
    return functions.get(name, getattr(torch, name, None))(x)


def spread(dtype, n=20000):
    """Numbers of both signs and every size at which an activation does something."""
    rng = np.random.default_rng(0)
    return (rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-8, 2, n)).astype(dtype)


# Units in the last place: those of cpu/mathfn.py, and two roundings more where something is multiplied.
ULPS = {"relu": 0, "exp": 1.5, "tanh": 3, "sigmoid": 3, "silu": 4}


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ULPS)
def test_polynomials_are_right_to_the_last_places(name, dtype, tier):
    x = spread(dtype)
    with machine.use_tier(tier):
        y = cpu.activation(x, name)
    with np.errstate(over="ignore"):
        exact = reference.activation(x.astype(np.longdouble), name)
    info = np.finfo(dtype)
    # Without fused multiply-add (generic) the reduction of exp's argument loses up to two more.
    ulps = ULPS[name] + 2 * (tier == "generic" and name != "relu")
    # silu multiplies a result that may be subnormal, whose last place is an absolute one.
    tiny = float(info.smallest_subnormal) * (1 if name != "silu" else 128)
    keep = np.abs(exact) <= float(info.max)  # longdouble overflows later
    assert np.isinf(y[~keep]).all()
    assert_close(y[keep].astype(np.longdouble), exact[keep], bound=ulps * float(info.eps) * np.abs(exact[keep]) + tiny)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gelu_is_right_far_down_the_tail(dtype):
    """gelu(x) / x = Phi(x) against math.erfc, relative to itself.

    The exponent -x^2 / 2 carries two roundings, each of which moves Phi by x^2 / 2 units of 2^-24 or 2^-53; 8 are for
    the polynomials.
    """
    x = np.linspace(-12, 8, 4001).astype(dtype)
    x = x[x != 0]
    exact = np.array([v * 0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])
    eps, tiny = np.finfo(dtype).eps, float(np.finfo(dtype).smallest_normal)
    found = cpu.activation(x, "gelu").astype(np.float64)
    assert_close(found, exact, bound=(8 + x.astype(np.float64) ** 2) * eps * np.abs(exact) + tiny)


@given(names, seeds, st.lists(sizes(16, 40), min_size=0, max_size=3))
def test_reference_is_torchs(name, seed, shape):
    x, dy = (np.asarray(normal(seed + i, *shape, dtype="float64") * 3) for i in (0, 1))
    t = torch.tensor(x, requires_grad=True)
    want = torchs(name, t)
    want.backward(torch.tensor(dy))
    y = reference.activation(x, name)
    # A few roundings on either side of numbers around 10 at most.
    assert_close(y, want.detach().numpy(), rtol=1e-13, atol=1e-14)
    saved = y if name in FROM_Y else x
    assert_close(reference.activation_backward(dy, saved, name), t.grad.numpy(), rtol=1e-12, atol=1e-13)


@given(names, seeds, st.lists(sizes(16, 40), min_size=0, max_size=3), floats, layouts)
def test_vectors_compute_the_reference(name, seed, shape, dtype, layout):
    x, dy = (laid_out(np.asarray(normal(seed + i, *shape, dtype=dtype) * 3, dtype), layout) for i in (0, 1))
    with mk.use(activation="vectors", activation_backward="vectors"), unmodified(x, dy):
        y = mk.activation(x, name)
        saved = y if name in FROM_Y else x
        dx = mk.activation_backward(dy, saved, name)
    assert y.flags.c_contiguous
    assert dx.flags.c_contiguous
    eps = np.finfo(dtype).eps
    wide = [np.asarray(a, np.float64) for a in (x, dy, saved)]
    exact, slope = reference.activation(wide[0], name), reference.activation_backward(*wide[1:], name)
    # 8 roundings of the result, and x^2 where an exponent was rounded (see above); 32 of dy f', with f' made of terms
    # below 3 + |x|, or 3 + x^2 for gelu_tanh.
    with np.errstate(invalid="ignore"):
        assert_close(
            np.asarray(y, np.float64), np.asarray(exact), bound=(8 + wide[0] ** 2) * eps * (np.abs(exact) + eps)
        )
        size = np.abs(wide[1]) * (3 + np.abs(wide[2]) + wide[2] ** 2 * (name == "gelu_tanh"))
        assert_close(np.asarray(dx, np.float64), np.asarray(slope), bound=32 * eps * (size + np.abs(slope)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_and_infinities_are_torchs(name, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1000.0, -1000.0], dtype)
    want = torchs(name, torch.tensor(x)).numpy()
    if name.startswith("gelu"):
        # Which NaN torch gives depends on the length of its vectors; this is x Phi(x), Phi being 0 and 1 at the ends.
        want = np.array([np.nan, np.inf, np.nan, 0.0, -0.0, 1000.0, -0.0], dtype)
    for variant in ("reference", "vectors"):
        with mk.use(activation=variant):
            assert_close(mk.activation(x, name), want, atol=0, what=variant)
    assert np.array_equal(np.signbit(cpu.activation(x, "tanh")[3:5]), [False, True])


def test_results_do_not_depend_on_the_number_of_threads():
    x, dy = normal(0, 300, 301), normal(1, 300, 301)
    found = []
    for n in (1, 2, 5):
        with threads.threads(n):
            found.append((mk.activation(x, "gelu"), mk.activation_backward(dy, x, "gelu")))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, 70])
def test_nothing_is_written_outside(n, tier, monkeypatch):
    x = normal(0, n)
    with machine.use_tier(tier), guarded(monkeypatch, cpu):
        y, dx = cpu.activation(x, "relu"), cpu.activation_backward(x, x, "relu")
    assert same_bits(y, np.maximum(x, 0))
    assert same_bits(dx, np.maximum(x, 0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mk.activation(np.ones(2), "swish"), ValueError, "no activation 'swish'"),
        (lambda: mk.activation(np.ones(2, int), "relu"), TypeError, "float32 or float64"),
        (lambda: mk.activation_backward(np.ones(2), np.ones(3), "relu"), ValueError, "saved's shape"),
        (lambda: mk.activation_backward(np.ones(2), np.ones(2, np.float32), "relu"), TypeError, "convert one"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_planted_fault_is_caught(monkeypatch):
    """The bound above rejects tanh with a coefficient of the exponential off by 1e-5."""
    from minidl_kernels.cpu import mathfn, sweep

    x = spread("float32")
    exact = np.tanh(x.astype(np.float64))
    monkeypatch.setattr(mathfn, "_EXP_32", (0.50001, *mathfn._EXP_32[1:]))
    monkeypatch.setattr(cpu, "FORWARD", {"tanh": lambda v, xs, _: [mathfn.tanh(v, xs[0])]})
    monkeypatch.setattr(sweep, "_elementwise", sweep._elementwise.__wrapped__)
    monkeypatch.setattr(sweep, "jit", _uncached)
    wrong = cpu.activation(x, "tanh")
    assert (np.abs(wrong - exact) > 3 * np.finfo(np.float32).eps * np.abs(exact)).any()


def _uncached(**how):
    """@jit that neither reads nor writes the disk: the fault must not stay there."""
    import numba

    from minidl_kernels.cpu.jit import OPTIONS

    return numba.njit(**OPTIONS)
