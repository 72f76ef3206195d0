"""Planted faults: the checker must find each, name it and give the line; clean twins must pass."""

import re

import numpy as np
import pytest
from emulator import HERE, KernelError, Module

ORDERS = ("forward", "reverse", "random")
SOURCE = (HERE / "planted.cu").read_text()
i32 = np.int32


@pytest.fixture(scope="module")
def checked():
    return Module(SOURCE, checked=True)


@pytest.fixture(scope="module")
def fast():
    return Module(SOURCE, checked=False)


def zeros(n=64):
    return np.zeros(n, np.float32)


# kernel, threads, further arguments, what the finding says; block counts and dynamic shared memory where they matter
FAULTS = [
    ("no_barrier", 64, (), r"(RACE on|UNINITIALISED read at) s\+"),
    ("no_second_barrier", 64, (), "RACE"),
    ("no_warp_barrier", 32, (), "RACE|UNINITIALISED"),
    ("write_beyond", 64, (i32(1),), r"OUT OF BOUNDS write of 4 bytes at argument 0\+\[256\]"),
    ("write_beyond", 64, (i32(-1),), r"OUT OF BOUNDS write of 4 bytes at argument 0\[-4\]"),
    ("read_beyond", 64, (i32(64),), "OUT OF BOUNDS read"),
    ("read_far", 1, (), "OUT OF BOUNDS read"),
    ("beyond_shared", 64, (i32(64),), "OUT OF BOUNDS|UNDEFINED: array index"),
    ("inner_index", 64, (i32(1),), "UNDEFINED: array index out of bounds"),
    ("beyond_dynamic", 64, (i32(1),), "OUT OF BOUNDS write of 4 bytes at dynamic shared"),
    ("misaligned", 1, (), "MISALIGNED|UNDEFINED: misaligned"),
    ("divergent_barrier", 64, (), "DIVERGENT __syncthreads"),
    ("deadlock", 32, (), r"DEADLOCK: 16 threads at __syncthreads .*, 16 at a warp collective"),
    ("divergent_collective", 32, (), "DIVERGENT warp collective"),
    ("absent_lane", 32, (), "shuffle reads a lane that is not there"),
    ("outside_the_mask", 32, (), "a lane that its mask leaves out"),
    ("uninitialised", 64, (), "UNINITIALISED read"),
    ("race_of_blocks", 1, (), "RACE on argument 0"),
    ("atomic_and_plain", 64, (), "RACE on argument 0"),
    ("overflow", 1, (i32(70000),), r"UNDEFINED: signed overflow in \*"),
    ("shift", 1, (i32(40),), "UNDEFINED: shift out of range"),
    ("division", 1, (i32(0),), "UNDEFINED: division"),
    ("half_a_tensor_core", 32, (), "DEADLOCK|mma.sync needs all 32 lanes"),
    ("writes_a_constant", 1, (), "OUT OF BOUNDS write to constant memory"),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "threads", "more", "finding"), FAULTS)
def test_the_checked_build_finds(checked, order, name, threads, more, finding):
    blocks = 2 if name == "race_of_blocks" else 1
    shared = 256 if name == "beyond_dynamic" else 0
    with pytest.raises(KernelError, match=finding) as error:
        checked.launch(name, (blocks,), (threads,), (zeros(), *more), shared, order=order)
    assert re.search(r"lines? \d", str(error.value))  # of the source


def line_of(kernel, text):
    after = SOURCE.index(f"void {kernel}(")
    return SOURCE.count("\n", 0, SOURCE.index(text, after)) + 1


@pytest.mark.parametrize(
    ("name", "text"), [("write_beyond", "x[T + n]"), ("uninitialised", "x[T] = s[T]"), ("overflow", "int i")]
)
def test_findings_give_the_line(checked, name, text):
    with pytest.raises(KernelError, match=f"line {line_of(name, text)}\\b"):
        checked.launch(name, (1,), (64,), (zeros(), i32(70000))[: 2 - (name == "uninitialised")])


def test_copies_must_be_waited_for_before_the_barrier(checked):
    for name in ("no_wait", "wait_after_the_barrier"):
        with pytest.raises(KernelError, match="UNFINISHED cp.async|RACE|UNINITIALISED"):
            checked.launch(name, (1,), (32,), (zeros(128), zeros(128)))


def test_shared_memory_does_not_outlive_a_block(checked, fast):
    with pytest.raises(KernelError, match="UNINITIALISED"):
        checked.launch("from_the_block_before", (2,), (64,), (zeros(128),))
    x = zeros(128)
    fast.launch("from_the_block_before", (2,), (64,), (x,))
    assert (x[:64] == 1).all()
    assert np.isnan(x[64:]).all()


@pytest.mark.parametrize("order", ORDERS)
def test_clean_kernels_pass(checked, order):
    x = np.arange(64, dtype=np.float32)
    checked.launch("clean", (1,), (64,), (x, i32(1)), order=order)
    assert x.tolist() == [64.0 - i for i in range(64)]
    y = zeros(32)
    checked.launch("warp_barrier", (1,), (32,), (y,), order=order)
    z = zeros(2)
    checked.launch("only_atomic", (1,), (1024,), (z,), order=order)
    assert z.tolist() == [1024, 1024]


@pytest.mark.parametrize("order", ORDERS)
def test_the_fast_build_shows_a_missing_barrier_in_the_numbers(fast, order):
    x = np.arange(64, dtype=np.float32)
    fast.launch("no_barrier", (1,), (64,), (x,), order=order)
    assert not np.array_equal(x, np.arange(64)[::-1])


def test_the_fast_build_finds_stray_writes(fast):
    for n in (1, -1, 60):
        with pytest.raises(KernelError, match="canary"):
            fast.launch("write_beyond", (1,), (64,), (zeros(), i32(n)))


def test_an_address_that_is_nobodys_ends_the_launch_and_not_the_process(fast):
    for _ in range(2):
        with pytest.raises(KernelError, match="MEMORY FAULT"):
            fast.launch("read_far", (1,), (1,), (zeros(),))
    x = np.arange(64, dtype=np.float32)
    fast.launch("clean", (1,), (64,), (x, i32(1)))
    assert x.tolist() == [64.0 - i for i in range(64)]


def test_a_view_keeps_its_alignment(checked, fast):
    """Vectors of 16 bytes at an array that starts 4 bytes later: legal for the array's own start, not for a view's."""
    whole = np.zeros(80, np.float32)
    start = -whole.ctypes.data % 16 // 4
    checked.launch("vector", (1,), (1,), (whole[start : start + 64],))
    with pytest.raises(KernelError, match="MISALIGNED|UNDEFINED: misaligned"):
        checked.launch("vector", (1,), (1,), (whole[start + 1 : start + 65],))


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (lambda m: m.launch("scalar", (1,), (1,), (zeros(), 2.0)), "float64 by value for a parameter of 4 bytes"),
        (lambda m: m.launch("overflow", (1,), (1,), (zeros(), 1)), "int64 by value for a parameter of 4 bytes"),
        (lambda m: m.launch("overflow", (1,), (1,), (zeros(), np.float32(1))), "float32 by value"),
        (lambda m: m.launch("overflow", (1,), (1,), (zeros(),)), "takes 2 arguments, got 1"),
        (lambda m: m.launch("overflow", (1,), (1,), (zeros(), zeros())), "an array for a parameter that is no pointer"),
        (lambda m: m.launch("overflow", (1,), (1,), (zeros(), np.uintp(0))), "uint64 by value"),
        (lambda m: m.launch("overflow", (1,), (1,), (i32(0), i32(0))), "int32 by value for a parameter of 8 bytes"),
        (lambda m: m.launch("no_barrier", (1,), (64,), (zeros((8, 8)).T,)), "not C-contiguous"),
        (lambda m: m.launch("no_barrier", (1,), (2048,), (zeros(),)), "invalid launch configuration"),
        (lambda m: m.launch("no_barrier", (0,), (64,), (zeros(),)), "invalid launch configuration"),
        (lambda m: m.launch("no_barrier", (1, 70000), (64,), (zeros(),)), "invalid launch configuration"),
        (lambda m: m.launch("beyond_dynamic", (1,), (64,), (zeros(), i32(0)), 50000), "max_dynamic_shared_size_bytes"),
        (lambda m: m.launch("nothing", (1,), (1,), ()), "no kernel 'nothing'"),
    ],
)
def test_launches_that_cuda_refuses_or_misreads(fast, launch, message):
    with pytest.raises(KernelError, match=message):
        launch(fast)


def test_every_planted_kernel_is_used():
    text = (HERE / "test_planted.py").read_text()
    names = Module(SOURCE, checked=True).names
    assert len(names) > 25
    assert [n for n in names if f'"{n}"' not in text] == []


def test_builds_are_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" __global__ void k(float* x) { x[0] = VALUE; }'
    paths = [Module(source, options=(f"-DVALUE={v}",), checked=False).path for v in (1, 2, 1)]
    assert paths[0] == paths[2] != paths[1]
    x = zeros(1)
    Module(source, options=("-DVALUE=2", "--use_fast_math"), checked=False).launch("k", (1,), (1,), (x,))
    assert x[0] == 2
