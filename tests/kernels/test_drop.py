"""Dropout: the generator against its published vectors, vectors against the reference, what kernels promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import floats, guarded, laid_out, layouts, normal, same_bits, seeds, sizes, unmodified

import minidl_kernels as mk
from minidl_kernels.cpu import machine, threads
from minidl_kernels.drop import cpu, reference

words = st.integers(0, 2**64 - 1)


def test_reference_words_are_random123s():
    """Of the known-answer file of Random123 (kat_vectors, philox4x32 10)."""
    assert [hex(w) for w in reference.words(0, 0, 0, 4)] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    ones = 2**64 - 1
    assert [hex(w) for w in reference.words(ones, ones, ones, 4)] == [
        "0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd",
    ]  # fmt: skip


@given(
    st.lists(sizes(32, 70), max_size=2), seeds, floats, layouts, words, words, words,
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1 - 2**-24]),
)  # fmt: skip
def test_vectors_are_the_reference_bit_for_bit(shape, seed, dtype, layout, key, stream, block, p):
    x = laid_out(np.asarray(normal(seed, *shape, dtype=dtype)), layout)
    found = []
    for variant in ("vectors", "reference"):
        with mk.use(dropout=variant, mask_scale=variant), unmodified(x):
            y, mask = mk.dropout(x, key, stream, block, p)
            found.append((y, mask, mk.mask_scale(x, laid_out(mask, layout if layout != "broadcast" else "plain"), 1.7)))
    assert same_bits(*found)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_as_many_are_dropped_as_were_asked_for(p):
    n = 1 << 20
    _, mask = mk.dropout(np.ones(n, np.float32), 1, 2, 3, p)
    # Five standard deviations of a binomial count: one seed in two million fails.
    assert abs(n - mask.sum() - n * p) < 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("variant", ["vectors", "reference"])
def test_nan_stays_where_it_is_kept(variant):
    x = np.full(64, np.nan, np.float32)
    with mk.use(dropout=variant):
        y, mask = mk.dropout(x, 0, 0, 0, 0.5)
    assert np.array_equal(np.isnan(y), mask)
    assert not y[~mask].any()


def test_results_do_not_depend_on_the_number_of_threads():
    x = normal(0, 100, 1001)
    found = []
    for n in (1, 2, 5):
        with threads.threads(n):
            found.append(mk.dropout(x, 5, 6, 7, 0.3))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 33, 70])
def test_nothing_is_written_outside(n, tier, monkeypatch):
    x = normal(0, n)
    with machine.use_tier(tier), guarded(monkeypatch, cpu):
        y, mask = cpu.dropout(x, 1, 2, 3, 0.5)
    assert same_bits((y, mask), reference.dropout(x, 1, 2, 3, 0.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mk.dropout(np.ones(2), 0, 0, 0, 1.0), ValueError, r"\[0, 1\)"),
        (lambda: mk.dropout(np.ones(2), -1, 0, 0, 0.5), ValueError, "seed must be at least 0"),
        (lambda: mk.dropout(np.ones(2), 0, 0, 2**64, 0.5), ValueError, "block must be below"),
        (lambda: mk.dropout(np.ones(2, int), 0, 0, 0, 0.5), TypeError, "float32 or float64"),
        (lambda: mk.mask_scale(np.ones(2), np.ones(3, bool), 1.0), ValueError, "x's shape"),
        (lambda: mk.mask_scale(np.ones(2), np.ones(2), 1.0), TypeError, "mask must be bool"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_planted_fault_is_caught(monkeypatch):
    """The comparison rejects a generator of another key schedule."""
    x = normal(0, 100)
    monkeypatch.setattr(reference, "WEYL", (0x9E3779B9, 0xBB67AE86))
    assert not same_bits(cpu.dropout(x, 1, 2, 3, 0.5), reference.dropout(x, 1, 2, 3, 0.5))
