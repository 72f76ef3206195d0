"""Linear layers with weights of 4 bits: the bytes, the definition, variants on every tier, what kernels promise."""

import subprocess
import sys

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
from minidl_kernels.cpu import machine, threads
from minidl_kernels.gemm_int4 import cpu, reference


def layer(seed, n, groups, size, zeros=True):
    """w_q, scale, zero"""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 16, (n, groups * size), np.uint8)
    scale = rng.standard_normal((n, groups)).astype(np.float32)
    return mk.pack_int4(q), scale, rng.integers(0, 16, (n, groups), np.uint8) if zeros else None


def bound(x, packed, b):
    """x's own error is none: the weights are the same numbers, so the sum's roundings are all there is."""
    w = np.abs(reference.weights(*packed)).astype(np.float64)
    return sum_bound(w.shape[1] + 1, np.abs(x) @ w.T + (0 if b is None else np.abs(b)), x.dtype)


@given(n=sizes(4, 9), runs=st.integers(0, 5), layout=layouts, seed=seeds)
def test_packing_there_and_back(n, runs, layout, seed):
    q = laid_out(np.random.default_rng(seed).integers(0, 16, (n, 32 * runs), np.uint8), layout)
    w_q = mk.pack_int4(q)
    assert w_q.shape == (n, 16 * runs)
    assert np.array_equal(mk.unpack_int4(w_q), q)


def test_the_definition_number_by_number():
    w_q, scale, zero = layer(0, 3, 2, 32)
    w = reference.weights(w_q, scale, zero)
    for n in range(3):
        for k in range(64):
            byte = int(w_q[n, k // 32 * 16 + k % 16])
            q = byte >> 4 if k % 32 >= 16 else byte & 15
            assert w[n, k] == np.float32(q - int(zero[n, k // 32])) * scale[n, k // 32]
    assert same_bits(reference.weights(w_q, scale, None), reference.weights(w_q, scale, np.full_like(zero, 8)))
    x, b = normal(1, 4, 64, dtype="float64"), normal(2, 3, dtype="float64")
    theirs = torch.nn.functional.linear(*(torch.from_numpy(a) for a in (x, w.astype(np.float64), b))).numpy()
    assert_close(reference.int4_linear(x, w_q, scale, zero, b), theirs, bound=bound(x, (w_q, scale, zero), b))


@pytest.mark.parametrize("variant", [v for v in mk.variants("int4_linear", "cpu") if v != "reference"])
@given(
    lead=st.lists(sizes(cpu.FEW, cpu.FEW + 4), max_size=1) | st.lists(st.integers(0, 3), min_size=2, max_size=2),
    n=sizes(4, 70), groups=st.integers(0, 4), size=st.sampled_from([32, 64, 128, 96]),
    layout=layouts, zeros=st.booleans(), bias=st.booleans(), dtype=floats, seed=seeds,
)  # fmt: skip
@example([1], 7, 2, 64, "plain", True, True, "float32", 0)
@example([cpu.FEW + 1], 70, 3, 32, "plain", True, True, "float32", 0)
def test_variants_are_the_reference(variant, lead, n, groups, size, layout, zeros, bias, dtype, seed):
    if variant == "vectors":
        dtype = "float32"
    w_q, scale, zero = layer(seed, n, groups, size, zeros)
    x = laid_out(normal(seed + 1, *lead, groups * size, dtype=dtype), layout)
    b = normal(seed + 2, n, dtype=dtype) if bias else None
    packed = laid_out(w_q, layout), laid_out(scale, "sliced"), zero if zero is None else laid_out(zero, "transposed")
    with mk.use(int4_linear=variant), unmodified(x, *packed):
        y = mk.int4_linear(x, *packed, b)
    assert_close(y, reference.int4_linear(x, *packed, b), bound=bound(x, packed, b))


@pytest.mark.parametrize("tier", machine.tiers())
def test_every_tier(tier):
    for zeros in (False, True):
        packed, b = layer(0, 45, 3, 64, zeros), normal(1, 45)
        with machine.use_tier(tier):
            for m in (1, 2, 7, cpu.FEW, cpu.FEW + 1):
                x = normal(m, m, 192)
                assert_close(
                    cpu.int4_linear(x, *packed, b), reference.int4_linear(x, *packed, b), bound=bound(x, packed, b)
                )


def test_blocks_of_weights(monkeypatch):
    packed, x, b = layer(0, 200, 2, 32), normal(1, cpu.FEW + 20, 64), normal(2, 200)
    monkeypatch.setattr(cpu, "BLOCK", 1)  # 64 rows at a time
    assert_close(cpu.int4_linear(x, *packed, b), reference.int4_linear(x, *packed, b), bound=bound(x, packed, b))


def test_odd_numbers_stay_in_their_rows():
    w_q, scale, zero = layer(0, 9, 2, 32)
    for m in (1, 3, cpu.FEW + 1):
        x = normal(1, m, 64)
        x[-1, 5] = np.nan
        y = mk.int4_linear(x, w_q, scale, zero)
        assert np.isnan(y[-1]).all()
        assert np.isfinite(y[:-1]).all()
        spoiled = scale.copy()
        spoiled[4, 1] = np.inf
        y = mk.int4_linear(normal(1, m, 64), w_q, spoiled, zero)
        assert not np.isfinite(y[:, 4]).any()
        assert np.isfinite(np.delete(y, 4, axis=1)).all()


def test_same_bits_for_any_number_of_threads():
    packed, found = layer(0, 300, 4, 64), []
    for count in (1, 2, 5):
        with threads.threads(count):
            found.append(tuple(cpu.int4_linear(normal(m, m, 256), *packed, None) for m in (1, 13, 60)))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


def test_nothing_is_written_outside(monkeypatch):
    for m, n, groups in ((1, 1, 1), (1, 7, 2), (5, 9, 3), (cpu.FEW, 33, 1), (cpu.FEW + 1, 65, 2)):
        packed, x = layer(m, n, groups, 32), normal(1, m, 32 * groups)
        with guarded(monkeypatch, cpu):
            y = cpu.int4_linear(x, *packed, None)
        assert np.isfinite(y).all()


def test_nothing_is_read_outside():
    code = GUARD_PAGE + (
        "import minidl_kernels as mk\n"
        "import minidl_kernels.cpu.machine\n"
        "for tier in mk.cpu.machine.tiers():\n"
        "    with mk.cpu.machine.use_tier(tier):\n"
        "        for m, n, groups in ((1, 1, 1), (1, 7, 2), (3, 5, 2), (16, 3, 1), (44, 65, 2)):\n"
        "            k = 32 * groups\n"
        "            x, b = at_end_of_page(np.ones((m, k), 'f')), at_end_of_page(np.ones(n, 'f'))\n"
        "            w_q = at_end_of_page(mk.pack_int4(np.full((n, k), 9, np.uint8)))\n"
        "            scale = at_end_of_page(np.ones((n, groups), 'f'))\n"
        "            zero = at_end_of_page(np.full((n, groups), 7, np.uint8))\n"
        "            assert (mk.int4_linear(x, w_q, scale, zero, b) == 2 * k + 1).all()\n"
        "            assert (mk.int4_linear(x, w_q, scale) == k).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_wrong_arguments_are_refused():
    x, (w_q, scale, zero) = np.ones((2, 128), np.float32), layer(0, 3, 2, 64)
    with pytest.raises(ValueError, match="must be the 128 columns"):
        mk.int4_linear(x[:, :64], w_q, scale)
    with pytest.raises(ValueError, match="groups of equal size, a multiple of 32"):
        mk.int4_linear(x, w_q, np.ones((3, 8), np.float32))
    with pytest.raises(ValueError, match="zero must have scale's shape"):
        mk.int4_linear(x, w_q, scale, zero[:, :1])
    with pytest.raises(TypeError, match="w_q must be uint8"):
        mk.int4_linear(x, w_q.view(np.int8), scale)
    with pytest.raises(TypeError, match="scale must be float32"):
        mk.int4_linear(x, w_q, scale.astype(np.float64))
    with pytest.raises(ValueError, match="b must have shape"):
        mk.int4_linear(x, w_q, scale, zero, np.ones(2, np.float32))
    with pytest.raises(ValueError, match="multiple of 32"):
        mk.pack_int4(np.zeros((1, 40), np.uint8))
    with pytest.raises(ValueError, match="0 .. 15"):
        mk.pack_int4(np.full((1, 32), 16, np.uint8))
    with pytest.raises(ValueError, match="multiple of 16"):
        mk.unpack_int4(np.zeros((1, 17), np.uint8))
