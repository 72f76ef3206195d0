"""Optimizers' steps: the reference against torch, the vectors against the reference to the last bit, and promises."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import assert_close, floats, laid_out, layouts, normal, same_bits, seeds, sizes

import minidl_kernels as mk
from minidl_kernels.cpu import machine, threads

SHAPES = [(3,), (), (17, 5), (0, 2), (1,), (300, 201), (64,)]  # one of several tasks among small ones and none
SMALL = [(3,), (1, 1), (17, 5), (0, 2)]


def lists(seed, count, shapes=SHAPES, dtype="float32"):
    """`count` lists of arrays, the last two without negative numbers: squares."""
    found = [
        [np.asarray(normal(seed + 100 * k + i, *shape), dtype) for i, shape in enumerate(shapes)] for k in range(count)
    ]
    return found[:3] + [[np.asarray(np.abs(a)) for a in arrays] for arrays in found[3:]]


def copied(arrays):
    return tuple(a.copy() for a in arrays)


SGD = st.fixed_dictionaries(
    {
        "momentum": st.sampled_from([None, 0.9, 0.5]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "nesterov": st.booleans(),
        "maximize": st.booleans(),
    }
)
ADAM = st.fixed_dictionaries(
    {
        "amsgrad": st.booleans(),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "decoupled": st.booleans(),
        "maximize": st.booleans(),
    }
)


def sgd(how, w, g, m):
    """One step; what was written."""
    momentum = how["momentum"]
    how = how | {"momentum": momentum or 0.0, "nesterov": how["nesterov"] and momentum is not None}
    mk.sgd_step(w, g, None if momentum is None else m, 0.1, **how)
    return (*w, *m)


def adam(how, w, g, m, v, u, first=1):
    """One step, parameter i's number `first` + i; what was written."""
    how = dict(how)
    greatest = u if how.pop("amsgrad") else None
    mk.adam_step(w, g, m, v, greatest, [first + i for i in range(len(w))], 0.1, 0.8, 0.95, 1e-6, **how)
    return (*w, *m, *v, *u)


@given(SGD, ADAM, seeds, st.lists(sizes(16, 70), min_size=1, max_size=4), floats, layouts)
def test_vectors_are_the_reference_to_the_last_bit(how, hows, seed, shape, dtype, layout):
    shapes = [tuple(shape[:2]), tuple(shape), (3,)]
    w, g, m, v, u = lists(seed % 10**6, 5, shapes, dtype)
    g = [laid_out(a, layout) for a in g]
    before = copied(g)
    found = []
    for variant in ("reference", "vectors"):
        with mk.use(sgd_step=variant, adam_step=variant):
            found.append(sgd(how, copied(w), g, copied(m)) + adam(hows, copied(w), g, copied(m), copied(v), copied(u)))
    assert same_bits(found[0], found[1])
    assert same_bits(before, copied(g))


@pytest.mark.parametrize("variant", mk.variants("adam_step", "cpu"))
def test_pruned_weights_stay_zero_whatever_the_step_makes_of_them(variant):
    w, g, m, v, _ = lists(3, 5, SMALL)
    w[2][0, 0], m[2][0, 1], g[2][1, 0] = np.nan, np.inf, 0
    masks = [None, w[1] > 9, normal(7, 17, 5) > 0, None]
    masks[2][0, :2] = False
    with mk.use(adam_step=variant, sgd_step=variant), np.errstate(all="ignore"):
        plain = [copied(w), copied(w)]
        mk.sgd_step(plain[0], g, copied(m), 0.1, 0.9)
        mk.adam_step(plain[1], g, copied(m), copied(v), None, [2] * 4, 0.1)
        pruned = [copied(w), copied(w)]
        mk.sgd_step(pruned[0], g, copied(m), 0.1, 0.9, masks=masks)
        mk.adam_step(pruned[1], g, copied(m), copied(v), None, [2] * 4, 0.1, masks=masks)
    for some, all_of_them in zip(pruned, plain):
        for a, b, mask in zip(some, all_of_them, masks):
            assert same_bits(a, b if mask is None else np.where(mask, b + 0, np.float32(0)))


@given(SGD, seeds)
def test_sgd_is_torchs(how, seed):
    """Two steps in float64; some roundings of numbers about 1 on either side."""
    w, g, _ = lists(seed % 10**6, 3, SMALL, "float64")
    if how["nesterov"]:
        how = how | {"momentum": 0.9, "dampening": 0.0}
    ours, m = copied(w), copied(g)
    # torch's first step makes the buffer, which for us holds the first gradient with what belongs to it
    theirs = [torch.tensor(a, requires_grad=True) for a in w]
    run = torch.optim.SGD(theirs, lr=0.1, **(how | {"momentum": how["momentum"] or 0.0}))
    for step in range(2):
        for p, a in zip(theirs, g):
            p.grad = torch.tensor(a)
        run.step()
        if step == 0 and how["momentum"] is not None:
            for p, a, b in zip(theirs, ours, m):
                a[...] = p.detach().numpy()
                b[...] = run.state[p]["momentum_buffer"].numpy()
        else:
            sgd(how, ours, g, m)
    for a, p in zip(ours, theirs):
        assert_close(a, p.detach().numpy(), rtol=1e-14, atol=1e-14)


@given(ADAM, seeds)
def test_adam_is_torchs(how, seed):
    """Three steps in float64; the quotient is at most about 1, its roundings some 1e-15 of that."""
    w, g, *_ = lists(seed % 10**6, 2, SMALL, "float64")
    ours = copied(w)
    m, v, u = ([np.zeros_like(a) for a in w] for _ in range(3))
    theirs = [torch.tensor(a, requires_grad=True) for a in w]
    named = {k: how[k] for k in ("amsgrad", "weight_decay", "maximize")}
    kind = torch.optim.AdamW if how["decoupled"] else torch.optim.Adam
    run = kind(theirs, lr=0.1, betas=(0.8, 0.95), eps=1e-6, **named)
    for step in range(3):
        for p, a in zip(theirs, g):
            p.grad = torch.tensor(a * (3 - step))
        run.step()
        mk.adam_step(
            ours, [a * (3 - step) for a in g], m, v, u if how["amsgrad"] else None, [step + 1] * len(w), 0.1, 0.8, 0.95,
            1e-6, how["weight_decay"], how["decoupled"], how["maximize"],
        )  # fmt: skip
    for a, p in zip(ours, theirs):
        assert_close(a, p.detach().numpy(), rtol=1e-13, atol=1e-13)


AMSGRAD = {"amsgrad": True, "weight_decay": 0.1, "decoupled": False, "maximize": True}


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_tier_agrees_and_nothing_is_written_outside(tier, dtype):
    """Arrays with a margin on either side, of a pattern that stays."""
    shapes = [(n,) for n in (1, 15, 16, 17, 33, 70)]
    arrays = lists(7, 5, shapes, dtype)
    wide = [[np.pad(a, 64, constant_values=12345) for a in group] for group in arrays]
    inner = [[a[64:-64] for a in group] for group in wide]
    with machine.use_tier(tier), mk.use(adam_step="vectors"):
        adam(AMSGRAD, *inner)
    with mk.use(adam_step="reference"):
        adam(AMSGRAD, *arrays)
    for i in (0, 2, 3, 4):
        assert same_bits(tuple(arrays[i]), copied(inner[i]))
    for group in wide:
        for a in group:
            assert (a[:64] == 12345).all()
            assert (a[-64:] == 12345).all()


def test_results_do_not_depend_on_the_number_of_threads():
    found = []
    for n in (1, 2, 5):
        with threads.threads(n):
            found.append(adam(AMSGRAD, *lists(1, 5)))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


def test_nan_and_infinities_are_the_references():
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1e-40, -3.0] * 3, np.float32)
    found = []
    for variant in ("reference", "vectors"):
        arrays = [[np.roll(odd, k)] for k in (0, 1, 3, 5, 6)]
        # bad numbers are what this is about
        with mk.use(adam_step=variant, sgd_step=variant), np.errstate(all="ignore"):
            found.append(adam(AMSGRAD, *arrays) + sgd({"momentum": 0.9, "nesterov": True}, *lists_of(odd)))
    for a, b in zip(*found):
        assert np.array_equal(a, b, equal_nan=True)
        there = ~np.isnan(a)
        assert np.array_equal(np.signbit(a[there]), np.signbit(b[there]))


def lists_of(odd):
    return [np.roll(odd, 2)], [odd.copy()], [np.roll(odd, 4)]


@pytest.mark.parametrize("variant", mk.variants("sgd_step", "cpu"))
def test_memory_listed_twice_is_updated_twice_in_order(variant):
    """The same array twice, and a view that overlaps it: as one call after the other."""
    w, g = normal(0, 100_000), normal(1, 100_000)
    want = w.copy()
    for part in (want, want, want[:60_000]):
        part -= g[: part.size] * np.float32(0.5)
    with mk.use(sgd_step=variant):
        mk.sgd_step([w, w, w[:60_000]], [g, g, g[:60_000]], None, 0.5)
    assert same_bits(w, want)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: mk.sgd_step([a], [a, a], None, 0.1), ValueError, "grads must be a list with an array for each"),
        (lambda a: mk.sgd_step([a], [a[:2]], None, 0.1), ValueError, r"shape \(4,\), got \(2,\)"),
        (lambda a: mk.sgd_step([a], [a.astype("f4")], None, 0.1), TypeError, "convert one"),
        (lambda a: mk.sgd_step([a.astype(int)], [a.astype(int)], None, 0.1), TypeError, "float32 or float64"),
        (lambda a: mk.sgd_step([a[::2]], [a[::2]], None, 0.1), ValueError, "written in place"),
        (lambda a: mk.sgd_step([laid_out(a, "readonly")], [a], None, 0.1), ValueError, "written in place"),
        (lambda a: mk.sgd_step([a], [a], None, 0.1, momentum=0.9), ValueError, "needs buffers"),
        (lambda a: mk.sgd_step([a], [a], None, 0.1, masks=[]), ValueError, "masks must be a list"),
        (lambda a: mk.sgd_step([a], [a], None, 0.1, masks=[a]), TypeError, r"masks\[0\] must be bool"),
        (lambda a: mk.sgd_step([a], [a], None, 0.1, masks=[a[:2] > 0]), ValueError, r"shape \(4,\), on its device"),
        (lambda a: mk.sgd_step([a], [a], None, "fast"), TypeError, "lr must be a number"),
        (lambda a: mk.adam_step([a], [a], [a], None, None, [1], 0.1), TypeError, "NoneType"),
        (lambda a: mk.adam_step([a], [a], [a], [a], None, [0], 0.1), ValueError, "at least 1"),
        (lambda a: mk.adam_step([a], [a], [a], [a], None, [], 0.1), ValueError, "a number for each"),
        (lambda a: mk.adam_step([a], [a], [a], [a], None, [1], 0.1, 1.0), ValueError, "beta1"),
    ],
)
def test_bad_arguments(call, error, message):
    a = np.arange(4.0)
    with pytest.raises(error, match=message):
        call(a)
    assert a.tolist() == [0, 1, 2, 3]
