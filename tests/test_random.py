"""The generator against published and foreign numbers, its state, and the distributions it claims."""

import copy
import math
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import random
from minidl.random import Generator, philox4x32

# -- the words --------------------------------------------------------------------------------------------------

# Rows "philox4x32 10" of tests/kat_vectors in the authors' distribution (Random123): counter, key, result.
KAT = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

# Printed by at::philox_engine(seed, subsequence, offset), compiled from ATen/core/PhiloxRNGEngine.h of torch 2.13.0.
TORCH = [
    ((0, 0, 0), [1713891541, 3781805453, 3159862348, 2600524760, 4175744164, 1555169499, 2980410603, 159317863]),
    ((42, 0, 0), [2632642643, 2012563771, 314527917, 1463989207, 4242219303, 1404726525, 2207210094, 1951270651]),
    ((2**64 - 1, 0, 0), [1923381001, 356992825, 2671882271, 578394714, 436131089, 1265098804, 2636907234, 2682804148]),
    (
        (1311768467463790320, 7, 0),
        [3803110135, 729087593, 2601999116, 2917520603, 534538774, 848029543, 3220752498, 2629616893],
    ),
    (
        (42, 81985529216486895, 4294967295),
        [2010398006, 1343014449, 533304648, 1165389639, 3006183164, 3191853305, 1148252479, 2182860963],
    ),
    (
        (5, 9223372036854775809, 1099511627776),
        [2910268889, 2854032722, 2471142311, 1946123241, 2381874931, 1583846799, 1100449374, 3659599663],
    ),
]

MANY = random._CHUNK + random._FEW + 5  # blocks: more than one piece, by arrays


def hexes(text):
    return [int(word, 16) for word in text.split()]


def at(seed, stream, block):
    g = Generator()
    g.set_state(np.array([seed, stream, block, 0], dtype=np.uint64))
    return g


@pytest.mark.parametrize(("counter", "key", "result"), KAT)
def test_known_answers(counter, key, result):
    assert philox4x32(hexes(counter), hexes(key)).tolist() == hexes(result)
    assert list(random._block(tuple(hexes(counter)), tuple(hexes(key)))) == hexes(result)


@pytest.mark.parametrize(("place", "words"), TORCH)
def test_words_of_a_stream_are_torchs(place, words):
    few = random._blocks(*(place[0], place[1], place[2], 2), np)
    many = random._blocks(*(place[0], place[1], place[2], 500), np)
    assert few.tolist() == words
    assert many[:8].tolist() == words
    drawn = at(*place).integers(0, 2**32, 4)  # 64 random bits times 2**32, shifted by 64: the upper word of each pair
    assert drawn.tolist() == words[1::2]


def test_a_stream_does_not_depend_on_how_it_is_cut():
    whole = random._blocks(9, 3, 2**32 - 20, 40, np)  # across the carry into the second counter word
    single = [random._blocks(9, 3, 2**32 - 20 + i, 1, np) for i in range(40)]
    assert np.array_equal(whole, np.concatenate(single))
    long = Generator(4).uniform(4 * MANY)
    assert np.array_equal(long[: 4 * 3], Generator(4).uniform(4 * 3))
    assert np.array_equal(long[-4:], at(4, 0, MANY - 1).uniform(4))
    wide = Generator(4).uniform(2 * MANY, dtype=np.float64)
    assert np.array_equal(wide[-2:], at(4, 0, MANY - 1).uniform(2, dtype=np.float64))


@pytest.mark.parametrize(
    ("draw", "blocks"),
    [
        (lambda g: g.uniform(5), 2),
        (lambda g: g.uniform((2, 2), dtype=np.float64), 2),
        (lambda g: g.normal(5), 2),
        (lambda g: g.normal(5, dtype=np.float64), 3),
        (lambda g: g.exponential(5), 2),
        (lambda g: g.exponential(5, dtype=np.float64), 3),
        (lambda g: g.bernoulli(0.5, 9), 3),
        (lambda g: g.bernoulli(0.0, 9), 3),
        (lambda g: g.bernoulli(np.full(9, 0.5)), 3),
        (lambda g: g.integers(0, 2**32, 3), 2),
        (lambda g: g.integers(0, 2**32 + 1, 3), 3),
        (lambda g: g.permutation(5), 3),
        (lambda g: g.uniform((3, 0)), 0),
        (lambda g: g.uniform(()), 1),
    ],
)
def test_a_draw_consumes_what_the_table_says(draw, blocks):
    g = Generator(1)
    draw(g)
    assert g.get_state().tolist() == [1, 0, blocks, 0]


# -- state ------------------------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 30))
def test_a_resumed_generator_goes_on_bit_for_bit(seed, n):
    g = Generator(seed)
    g.normal(n)
    state = g.get_state()
    expected = [g.uniform(7), g.normal(3), g.integers(0, 9, 4)]
    for other in (Generator(), copy.deepcopy(g), pickle.loads(pickle.dumps(g)), g.clone()):
        other.set_state(state)
        for a, b in zip(expected, [other.uniform(7), other.normal(3), other.integers(0, 9, 4)]):
            assert a.tobytes() == b.tobytes()


def test_copies_carry_the_state():
    g = Generator(11)
    g.uniform(3)
    twins = [copy.deepcopy(g), copy.copy(g), pickle.loads(pickle.dumps(g)), g.clone()]
    expected = g.uniform(5)
    for twin in twins:
        assert np.array_equal(twin.uniform(5), expected)


def test_seeds():
    g = Generator(-1)
    assert g.initial_seed() == 2**64 - 1
    assert g.manual_seed(3) is g
    assert g.initial_seed() == 3
    assert np.array_equal(g.uniform(4), Generator(np.int64(3)).uniform(4))
    assert g.seed() == g.initial_seed()
    for bad, error in [(2**64, ValueError), (-(2**63) - 1, ValueError), (1.0, TypeError), ("1", TypeError)]:
        with pytest.raises(error, match="seed must"):
            Generator(bad)
    assert repr(Generator(5)) == "Generator(seed=5, block=0)"
    assert repr(at(5, 255, 2)) == "Generator(seed=5, stream=0xff, block=2)"


@pytest.mark.parametrize(
    "state",
    [
        np.zeros(4),
        np.zeros(3, np.uint64),
        np.array([0, 0, 2**63 + 1, 0], np.uint64),
        np.array([0, 0, 0, 2**63 + 1], np.uint64),
    ],
)
def test_a_wrong_state_changes_nothing(state):
    g = Generator(6)
    with pytest.raises(ValueError, match="state"):
        g.set_state(state)
    assert g.get_state().tolist() == [6, 0, 0, 0]


def test_a_used_up_stream_raises():
    g = at(0, 0, 2**63 - 1)
    assert g.uniform(4).shape == (4,)
    with pytest.raises(OverflowError, match="spawn"):
        g.uniform(1)


def test_substreams_are_distinct_and_leave_the_parent_alone():
    g = Generator(8)
    children = g.spawn(3) + [g.fork()]
    grandchildren = [c.fork() for c in children]
    streams = [int(c.get_state()[1]) for c in children + grandchildren]
    assert len({0, *streams}) == 9
    assert np.array_equal(g.uniform(5), Generator(8).uniform(5))
    again = Generator(8).spawn(4)
    for a, b in zip(children, again):
        assert np.array_equal(a.uniform(5), b.uniform(5))
    assert g.spawn(0) == []
    with pytest.raises(ValueError, match="-1"):
        g.spawn(-1)


def test_threads_share_a_generator_without_sharing_numbers():
    g, results = Generator(2), []

    def work():
        for _ in range(50):
            results.append(g.uniform(4))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    got = np.sort(np.concatenate(results))
    assert np.array_equal(got, np.sort(Generator(2).uniform(4 * 200)))


def test_the_module_level_functions_are_the_default_generators():
    random.manual_seed(12)
    state = random.get_state()
    assert random.initial_seed() == 12
    first = random.normal(3)
    assert np.array_equal(first, Generator(12).normal(3))
    random.set_state(state)
    assert np.array_equal(random.normal(3), first)
    assert random.seed() == random.default_generator.initial_seed()


# -- values -----------------------------------------------------------------------------------------------------

N = 200_000


def sigmas(sample, mean, var, fourth):
    """How many standard errors the sample's mean and variance are away from the true ones (fourth: central moment)."""
    n = sample.size
    x = sample.astype(np.float64)
    z_mean = (x.mean() - mean) / math.sqrt(var / n)
    z_var = (((x - mean) ** 2).mean() - var) / math.sqrt((fourth - var**2) / n)
    return max(abs(z_mean), abs(z_var))


def ks(sample, cdf):
    """Kolmogorov-Smirnov distance of a sample to a continuous distribution, times sqrt(n)."""
    x = np.sort(sample.astype(np.float64))
    n = x.size
    f = cdf(x)
    i = np.arange(n)
    return math.sqrt(n) * max((f - i / n).max(), ((i + 1) / n - f).max())


# P(sqrt(n) D > t) <= 2 exp(-2 t^2) (Massart 1990): 2.7 is passed with probability 1e-6. So is 5 standard errors.
KS_LIMIT, SIGMA_LIMIT = 2.7, 5.0
erf = np.vectorize(math.erf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_is_uniform(dtype):
    x = Generator(1).uniform(N, dtype=dtype)
    assert x.dtype == dtype
    assert x.min() >= 0
    assert x.max() < 1
    assert sigmas(x, 1 / 2, 1 / 12, 1 / 80) < SIGMA_LIMIT
    assert ks(x, lambda v: v) < KS_LIMIT
    grid = 2.0**24 if dtype == np.float32 else 2.0**53
    assert np.array_equal(x * grid, np.floor(x * grid))
    pairs = np.corrcoef(x[0::2], x[1::2])[0, 1]
    assert abs(pairs) * math.sqrt(N / 2) < SIGMA_LIMIT


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_is_normal(dtype):
    x = Generator(1).normal(N, dtype=dtype)
    assert x.dtype == dtype
    assert sigmas(x, 0, 1, 3) < SIGMA_LIMIT
    assert ks(x, lambda v: 0.5 * (1 + erf(v / math.sqrt(2)))) < KS_LIMIT
    assert abs(np.corrcoef(x[0::2], x[1::2])[0, 1]) * math.sqrt(N / 2) < SIGMA_LIMIT
    beyond = 2 * (0.5 - 0.5 * math.erf(3.5 / math.sqrt(2)))  # a tail that a sum of a few uniforms would not have
    assert abs((abs(x) > 3.5).sum() - N * beyond) < SIGMA_LIMIT * math.sqrt(N * beyond)
    y = Generator(1).normal(N, mean=-3, std=0.5, dtype=dtype)
    assert np.allclose(y, x * dtype(0.5) - 3, rtol=0, atol=4 * np.finfo(dtype).eps)  # one rounding of |y| < 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_is_exponential(dtype):
    x = Generator(1).exponential(N, scale=2.0, dtype=dtype)
    assert x.dtype == dtype
    assert x.min() >= 0
    assert sigmas(x, 2, 4, 9 * 16) < SIGMA_LIMIT
    assert ks(x, lambda v: 1 - np.exp(-v / 2)) < KS_LIMIT


def test_extreme_words_give_finite_values():
    top, bottom = np.full(4, 2**32 - 1, np.uint32), np.zeros(4, np.uint32)
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        for words in (top, bottom):
            assert np.isfinite(random._box_muller(words, dtype, np)).all()
            u = random._positive(words, dtype, np)
            assert ((u > 0) & (u <= 1)).all()
    assert random._unit32(top, np).max() == 1 - 2**-24
    assert random._unit64(top, np).max() == 1 - 2**-53
    assert random._unit32(bottom, np).max() == random._unit64(bottom, np).max() == 0
    # Box-Muller's largest radius, as the docstring says
    assert abs(random._box_muller(bottom, np.dtype("float32"), np)).max() == pytest.approx(6.76, abs=0.01)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.sampled_from([np.float32, np.float64]))
def test_uniform_stays_below_high(low, width, dtype):
    low, high = float(dtype(low)), float(dtype(low + width))
    x = Generator(3).uniform(500, low, high, dtype=dtype)
    assert (x >= low).all()
    assert (x < high).all() or (low == high and (x == low).all())


def test_uniform_next_to_one_value():
    high = float(np.nextafter(np.float32(1), np.float32(2)))
    assert (Generator(3).uniform(100, 1.0, high) == 1).all()  # half of these round to `high` before they are held back


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_multiply_shift_is_exact(seed, span):
    """Against Python's integers: floor(r * span / 2**64), or / 2**128 for wide ranges, of the very words drawn."""
    words = [int(w) for w in random._blocks(seed, 0, 0, 1, np)]
    low = max(-(2**63), 2**63 - span) if span > 2**63 else 0
    drawn = Generator(seed).integers(low, low + span, 1, dtype=np.int64 if low + span <= 2**63 else np.uint64)
    bits = 64 if span <= 2**32 else 128
    r = sum(w << 32 * i for i, w in enumerate(words[: bits // 32]))
    assert int(drawn[0]) == low + (r * span >> bits)


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 7, np.int64), (-3, 4, np.int8), (5, 12, np.uint8), (2**62, 2**62 + 7, np.int64)]
)
def test_integers_are_even(low, high, dtype):
    x = Generator(1).integers(low, high, 70_000, dtype=dtype)
    assert x.dtype == dtype
    counts = np.bincount((x.astype(np.int64) - low).ravel(), minlength=7)
    assert counts.size == 7
    chi2 = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi2 < 38  # chi-square with 6 degrees of freedom passes 38.3 with probability 1e-6


def test_integers_arguments():
    g = Generator(1)
    assert g.integers(5).shape == ()
    assert g.integers(1, 2, (2, 3)).tolist() == [[1] * 3] * 2
    for args, kw, message in [
        ((0,), {}, "empty"),
        ((3, 3), {}, "empty"),
        ((0, 257), {"dtype": np.uint8}, "fit"),
        ((-1, 2), {"dtype": np.uint8}, "fit"),
        ((-(2**63), 2**63), {}, "2\\*\\*64"),
    ]:
        with pytest.raises(ValueError, match=message):
            g.integers(*args, **kw)
    with pytest.raises(TypeError, match="integer type"):
        g.integers(0, 3, dtype=np.float32)
    assert g.get_state()[2] == 4  # the refused draws consumed nothing


def test_permutation():
    g = Generator(1)
    p = g.permutation(1000)
    assert p.dtype == np.int64
    assert sorted(p.tolist()) == list(range(1000))
    assert p.tolist() != list(range(1000))
    rows = np.arange(12).reshape(6, 2)
    shuffled = g.permutation(rows)
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, rows))
    assert np.array_equal(rows, np.arange(12).reshape(6, 2))
    assert g.permutation(0).shape == (0,)
    with pytest.raises(ValueError):
        g.permutation(-1)
    # all 24 orders of four things: chi-square with 23 degrees of freedom passes 71.5 with probability 1e-6
    orders = [tuple(Generator(s).permutation(4).tolist()) for s in range(2400)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert counts.size == 24
    assert ((counts - 100) ** 2 / 100).sum() < 71


def test_bernoulli():
    g = Generator(1)
    x = g.bernoulli(0.3, N)
    assert x.dtype == bool
    assert abs(x.mean() - 0.3) < SIGMA_LIMIT * math.sqrt(0.21 / N)
    assert g.bernoulli(1.0, 1000).all()
    assert not g.bernoulli(0, 1000).any()
    p = np.array([0.0, 0.5, 1.0])
    y = g.bernoulli(p, (2000, 3))
    assert not y[:, 0].any()
    assert y[:, 2].all()
    assert abs(y[:, 1].mean() - 0.5) < SIGMA_LIMIT * math.sqrt(0.25 / 2000)
    assert g.bernoulli(p).shape == (3,)
    assert g.bernoulli(0.5).shape == ()
    for bad in (-0.1, 1.1, math.nan, np.array([0.5, math.nan])):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            g.bernoulli(bad, 3 if np.ndim(bad) == 0 else None)


@given(st.floats(0, 1), st.integers(0, 2**32))
def test_bernoulli_of_a_number_and_of_an_array_agree(p, seed):
    assert np.array_equal(Generator(seed).bernoulli(p, 50), Generator(seed).bernoulli(np.full(50, p)))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda g: g.uniform(-1), ValueError),
        (lambda g: g.uniform(2.5), TypeError),
        (lambda g: g.uniform(3, dtype=np.float16), TypeError),
        (lambda g: g.uniform(3, 2.0, 1.0), ValueError),
        (lambda g: g.uniform(3, 0.0, math.inf), ValueError),
        (lambda g: g.normal(3, std=-1), ValueError),
        (lambda g: g.normal(3, mean=math.nan), ValueError),
        (lambda g: g.exponential(3, scale=0), ValueError),
    ],
)
def test_bad_arguments_raise_and_consume_nothing(call, error):
    g = Generator(1)
    with pytest.raises(error):
        call(g)
    assert g.get_state().tolist() == [1, 0, 0, 0]


def test_arrays_of_another_module():
    """Draws use only the array module given: here NumPy under another name, which always takes the path of arrays."""

    class Other:
        def __getattr__(self, name):
            return getattr(np, name)

    xp = Other()
    for draw in (
        lambda g, xp: g.uniform(33, xp=xp),
        lambda g, xp: g.uniform(33, -2, 5, dtype=np.float64, xp=xp),
        lambda g, xp: g.normal(33, xp=xp),
        lambda g, xp: g.exponential(33, xp=xp),
        lambda g, xp: g.integers(0, 10, 33, xp=xp),
        lambda g, xp: g.integers(0, 2**40, 33, xp=xp),
        lambda g, xp: g.bernoulli(0.4, 33, xp=xp),
        lambda g, xp: g.permutation(33, xp=xp),
    ):
        assert np.array_equal(draw(Generator(5), xp), draw(Generator(5), np))
