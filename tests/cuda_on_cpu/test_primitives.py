"""The emulator's primitives against NumPy, torch or a published table, in both builds and three orders of threads."""

import numpy as np
import pytest
import torch
from emulator import HERE, KernelError, Module
from translate import entries, translate

ORDERS = ("forward", "reverse", "random")
i32, u32, f32 = np.int32, np.uint32, np.float32


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "checked"])
def module(request):
    return Module((HERE / "primitives.cu").read_text(), checked=request.param)


@pytest.fixture(params=ORDERS)
def order(request):
    return request.param


def test_indices(module, order):
    out = np.zeros(2 * 3 * 2 * 24, i32)
    module.launch("indices", (2, 3, 2), (4, 3, 2), (out,), order=order)
    assert out.tolist() == [block * 1000 + thread for block in range(12) for thread in range(24)]


@pytest.mark.parametrize("n", [1, 33, 256])
def test_shared_memory_and_barriers(module, order, n):
    x = np.arange(n, dtype=f32)
    module.launch("reverse", (1,), (n,), (x,), shared=4 * n, order=order, seed=n)
    assert x.tolist() == [2.0 * (n - 1 - i) for i in range(n)]


def test_barriers_that_vote(module, order):
    out = np.zeros(70, i32)
    module.launch("barrier_votes", (1,), (70,), (out, i32(40)), order=order)
    assert set(out) == {10000 + 40}
    module.launch("barrier_votes", (1,), (70,), (out, i32(70)), order=order)
    assert set(out) == {1000 + 70}


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("operand", [0, 1, 5, 31])
def test_shuffles_are_those_of_the_pseudocode(module, order, width, operand):
    """PTX ISA, "shfl.sync": bounds and sources by its pseudocode, with c and segmask made from the width."""
    out = np.zeros(128, i32)
    module.launch("shuffles", (1,), (32,), (out, i32(operand), i32(width)), order=order)
    segment, clamp = 32 - width, {"idx": 31, "up": 0, "down": 31, "bfly": 31}
    for row, mode in zip(out.reshape(4, 32), ("idx", "up", "down", "bfly")):
        for lane in range(32):
            b, c = operand & 31, clamp[mode]
            most = (lane & segment) | (c & ~segment & 31)
            least = lane & segment
            j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": least | (b & ~segment & 31)}[mode]
            inside = j >= most if mode == "up" else j <= most
            assert row[lane] == 100 + (j if inside else lane), (mode, lane)


def test_lanes_that_have_left_take_no_part(module, order):
    x = np.arange(32, dtype=np.float64)
    module.launch("half_a_warp", (1,), (32,), (x,), order=order)
    assert x.tolist() == [120.0] * 16 + list(range(16, 32))


def test_votes(module, order):
    out = np.zeros((32, 3), u32)
    module.launch("votes", (1,), (32,), (out,), order=order)
    third = sum(1 << lane for lane in range(0, 32, 3))
    assert (out == [third, 1, 1]).all()


def test_atomics(module, order):
    x, total = np.zeros(4, i32), np.zeros(1, f32)
    module.launch("atomics", (3,), (40,), (x, total), order=order)
    assert x.tolist() == [sum(range(120)), 119, -119, 255]
    assert total[0] == 60
    lock, winner = np.zeros(1, i32), np.zeros(1, i32)
    module.launch("once", (1,), (64,), (lock, winner), order=order)
    assert lock[0] == 1
    assert 1 <= winner[0] <= 64


def test_dot_products_of_bytes(module):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, (64, 4)).astype(np.int8) for _ in "ab")
    c = rng.integers(-1000, 1000, 64).astype(i32)
    want = c + (a.astype(i32) * b).sum(1)
    module.launch("dot_products", (1,), (64,), (a.view(i32).ravel(), b.view(i32).ravel(), c))
    assert (c == want).all()


def test_integers(module):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 1 << 32, 64).astype(u32) for _ in "ab")
    a[:3], c = (0, 1, 0xFFFFFFFF), np.zeros(64, u32)
    module.launch("high_products", (1,), (64,), (a, b, c))
    assert c.tolist() == [int(x) * int(y) >> 32 for x, y in zip(a, b)]
    out = np.zeros((64, 3), i32)
    module.launch("bits", (1,), (64,), (a, out))
    for x, (ones, zeros, first) in zip(a.tolist(), out):
        assert (ones, zeros) == (x.bit_count(), 32 - x.bit_length())
        assert first == (x & -x).bit_length()


def test_floats_become_integers_as_ptx_says(module):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, np.nan, np.inf, -np.inf, 16777217.0, -0.0], f32)
    out = np.zeros(len(x), i32)
    module.launch("to_integers", (1,), (len(x),), (x, out))
    most, least = 2**31 - 1, -(2**31)
    assert out.tolist() == [0, 2, 2, 0, -2, most, least, 0, most, least, 16777216, 0]


def test_products_are_fused_only_where_they_may(module):
    rng = np.random.default_rng(2)
    a, b, c = (rng.standard_normal(256).astype(f32) for _ in "abc")
    out = np.zeros((256, 2), f32)
    module.launch("unfused", (1,), (256,), (a, b, c, out))
    assert (out[:, 0] == a * b + c).all()  # NumPy rounds twice
    assert (out[:, 1] == (a.astype(np.float64) * b + c).astype(f32)).all()  # exact product; float64 holds these sums
    assert (out[:, 0] != out[:, 1]).any()


AWKWARD = np.array([0, -0.0, 1, 65504, 65520, 1e-7, 6e-8, 1e-40, 1 / 3, -2.5, np.inf, -np.inf, np.nan, 3.3895e38], f32)


def test_half_precision_rounds_as_torch(module):
    x = np.concatenate([AWKWARD, np.random.default_rng(3).standard_normal(114).astype(f32)])
    h, b = np.zeros(128, np.float16), np.zeros(128, np.uint16)
    module.launch("to_half", (1,), (128,), (x, h, b))
    t = torch.tensor(x)
    nan = np.isnan(x)
    assert (np.isnan(h) == nan).all()
    assert (h.view(np.uint16) == t.half().numpy().view(np.uint16))[~nan].all()
    assert (b == t.bfloat16().view(torch.uint16).numpy())[~nan].all()
    out = np.zeros((128, 2), f32)
    module.launch("from_half", (1,), (128,), (h, b, out))
    np.testing.assert_array_equal(out[:, 0], t.half().float().numpy())
    np.testing.assert_array_equal(out[:, 1], t.bfloat16().float().numpy())


def test_conversions_for_tensor_cores(module):
    x = np.random.default_rng(4).standard_normal((32, 2)).astype(f32)
    x[0] = np.frombuffer(np.array([0x3F801000, 0x3F803000], u32).tobytes(), f32)  # ties: away from zero
    tf32, f16, bf16 = (np.zeros(32, u32) for _ in range(3))
    module.launch("conversions", (1,), (32,), (x, tf32, f16, bf16))
    bits = x[:, 0].copy().view(u32)
    assert (tf32 == (bits + 0x1000 & ~u32(0x1FFF))).all()
    t = torch.tensor(x)
    assert (f16 == t.half().numpy().view(u32).ravel()).all()
    assert (bf16 == t.bfloat16().view(torch.uint16).numpy().view(u32).ravel()).all()


# Where a lane's values belong, as CuTe publishes it (NVIDIA/cutlass:include/cute/atom/mma_traits_sm80.hpp): shape and
# stride of (thread, value) -> place in a column-major tile, A of 16 rows, B of 8 and D of 16.
CUTE = {
    "tensor_f16": (((4, 8), (2, 2, 2)), ((32, 1), (16, 8, 128)), ((4, 8), (2, 2)), ((16, 1), (8, 64))),
    "tensor_bf16": (((4, 8), (2, 2, 2)), ((32, 1), (16, 8, 128)), ((4, 8), (2, 2)), ((16, 1), (8, 64))),
    "tensor_tf32": (((4, 8), (2, 2)), ((16, 1), (8, 64)), ((4, 8), (2,)), ((8, 1), (32,))),
    "tensor_s8": (((4, 8), (4, 2, 2)), ((64, 1), (16, 8, 256)), ((4, 8), (4, 2)), ((32, 1), (8, 128))),
}
CUTE_D = ((4, 8), (2, 2)), ((32, 1), (16, 8))


def places(shape, stride):
    """The place of each value of each lane.    (32, values)"""

    def walk(sizes, steps):
        at = [0]
        for size, step in zip(sizes, steps):  # the first index runs fastest
            at = [a + i * step for i in range(size) for a in at]
        return np.array(at)

    threads, values = (walk(sizes, steps) for sizes, steps in zip(shape, stride))
    return threads[:, None] + values


@pytest.mark.parametrize("kind", CUTE)
def test_tensor_cores_take_and_give_what_cutes_layouts_say(module, order, kind):
    shape_a, stride_a, shape_b, stride_b = CUTE[kind]
    at_a, at_b, at_d = places(shape_a, stride_a), places(shape_b, stride_b), places(*CUTE_D)
    k = at_a.size // 16
    rng = np.random.default_rng(5)
    small = rng.integers(-8, 9, 24 * k) if kind != "tensor_s8" else rng.integers(-128, 128, 24 * k)
    a, b = small[: 16 * k].astype(f32), small[16 * k :].astype(f32)  # in column-major tiles
    for at, size in ((at_a, 16 * k), (at_b, 8 * k), (at_d, 128)):
        assert sorted(at.ravel().tolist()) == list(range(size))  # each place once

    def words(values, at):
        picked = values[at]
        if kind == "tensor_f16":
            return picked.astype(np.float16).view(u32)
        if kind == "tensor_bf16":
            return torch.tensor(picked).bfloat16().view(torch.uint16).numpy().view(u32)
        return picked.astype(np.int8).view(u32) if kind == "tensor_s8" else picked.view(u32)

    acc = i32 if kind == "tensor_s8" else f32
    c = rng.integers(-50, 50, 128).astype(acc)
    out = np.zeros((32, 4), acc)
    module.launch(kind, (1,), (32,), (words(a, at_a), words(b, at_b), c[at_d], out), order=order)
    want = a.reshape(k, 16).T @ b.reshape(k, 8).T.T + c.reshape(8, 16).T  # M, N; small integers, so exact
    got = np.zeros(128, acc)
    got[at_d] = out
    np.testing.assert_array_equal(got.reshape(8, 16).T, want)


def test_tf32_ignores_the_low_bits(module):
    a, b, c, out = np.zeros((32, 4), u32), np.zeros((32, 2), u32), np.zeros((32, 4), f32), np.zeros((32, 4), f32)
    a[:], b[:] = 0x3F800000 | 0x1FFF, 0x3F800000
    module.launch("tensor_tf32", (1,), (32,), (a, b, c, out))
    assert (out == 8).all()


@pytest.mark.parametrize("n", [0, 1, 4, 126, 128])
def test_asynchronous_copies(module, order, n):
    x, y = np.arange(1, 129, dtype=f32), np.zeros(128, f32)
    module.launch("copies", (1,), (32,), (x, y, i32(n)), order=order)
    want = np.where(np.arange(128) < n, x, 0)[::-1]
    assert (y == want).all()


def test_constants(module):
    out = np.zeros(6, i32)
    module.launch("constants", (1,), (6,), (out,))
    assert out.tolist() == [2, 3, 5, 7, 2, 3]


def test_every_kernel_has_a_test():
    names = entries((HERE / "primitives.cu").read_text())
    text = (HERE / "test_primitives.py").read_text()
    assert len(names) > 15
    assert [n for n in names if f'"{n}"' not in text] == []


def test_translation_keeps_lines_and_order():
    ends = ' : "=r"(f(a, "%1")), "+r"(b[1])\n  : "l"(c));\nint z;'
    source = 'int a;\nasm volatile(\n  "op.x {%1,%0},"\n  " [%2], 16, %3;"\n' + ends
    with pytest.raises(IndexError):
        translate(source)  # there is no fourth operand
    out = translate(source.replace(", %3", ""))
    assert out.split("\n")[1] == 'emu_ptx_op_x(b[1], f(a, "%1"), c, 16)'
    assert out.count("\n") == source.count("\n")
    assert out.endswith("int z;")
    with pytest.raises(ValueError, match="one instruction"):
        translate('asm("mov %0, 1; mov %1, 2;" : "=r"(a), "=r"(b));')
    assert translate("extern __shared__ __align__(32) unsigned char s[];") == (
        "unsigned char* s = (unsigned char*)emu_dynamic_shared(32);"
    )


def test_a_source_that_is_no_cuda_says_where():
    with pytest.raises(KernelError, match=r"kernel.cpp:2:.*"):
        Module('extern "C" __global__ void k(float* x) {\n  x[0] = nothing; }')
