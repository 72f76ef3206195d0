"""The thread pool: every task once, any number of callers, fork, sleep; and the thread count of BLAS."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import minidl_kernels as mk
from minidl_kernels.cpu import pool, threads
from minidl_kernels.cpu.jit import jit
from minidl_kernels.cpu.pool import parallel_for


@jit(inner=True)
def _mark(task, slot, counts, slots, work):
    total = 0.0
    for i in range(work):
        total += i * 0.5
    counts[task] += 1 + 0 * total
    slots[task] = slot


@jit
def _marks(counts, slots, work, nthreads):
    parallel_for(_mark, counts.shape[0], nthreads, (counts, slots, work))


@jit(inner=True)
def _inner(task, slot, counts, row):
    counts[row, task] += 1


@jit(inner=True)
def _outer(task, slot, counts, nthreads):
    parallel_for(_inner, counts.shape[1], nthreads, (counts, task))


@jit
def _nested(counts, nthreads):
    parallel_for(_outer, counts.shape[0], nthreads, (counts, nthreads))


def run(ntasks, nthreads, work=0):
    """How often each task ran, and on which slot."""
    counts, slots = np.zeros(ntasks, np.int64), np.full(ntasks, -1, np.int64)
    _marks(counts, slots, work, nthreads)
    return counts, slots


@pytest.mark.parametrize("nthreads", [1, 2, 3, 8, 300])
def test_every_task_runs_once(nthreads):
    for ntasks in (0, 1, 2, 3, 7, 1000):
        for _ in range(50):
            counts, slots = run(ntasks, nthreads)
            assert (counts == 1).all()
            assert (slots >= 0).all()
            assert (slots < min(nthreads, max(ntasks, 1))).all()
    assert pool.workers() < threads.MAX_THREADS


def test_more_threads_do_share_the_work():
    """Tasks long enough that a sleeping worker wakes: some run on another slot than the caller's."""
    assert any((run(64, 2, work=200_000)[1] == 1).any() for _ in range(20))
    assert (run(64, 1, work=1000)[1] == 0).all()


def test_a_nested_call_runs_on_its_callers_thread():
    for _ in range(100):
        counts = np.zeros((7, 9), np.int64)
        _nested(counts, 3)
        assert (counts == 1).all()


def test_many_python_threads_call_at_once():
    wrong, finished = [], []

    def call(seed):
        rng = np.random.default_rng(seed)
        for _ in range(500):
            counts, _ = run(int(rng.integers(1, 40)), int(rng.integers(1, 5)), int(rng.integers(0, 2000)))
            if not (counts == 1).all():
                wrong.append(seed)
        finished.append(seed)

    team = [threading.Thread(target=call, args=(seed,), daemon=True) for seed in range(8)]
    for t in team:
        t.start()
    for t in team:
        t.join(timeout=60)
    assert sorted(finished) == list(range(8)), "a thread hangs"
    assert not wrong


def quiet(stderr):
    """Nothing was said but that kernels are compiled, in an empty cache."""
    return all(line.startswith("minidl: compiling") for line in stderr.splitlines())


FORK = """
import os, sys, threading, warnings
sys.path.insert(0, {folder!r})
import numpy as np
import test_threads as t
from minidl_kernels.cpu import pool
import minidl_kernels as mk

a = np.ones((300, 300), 'f')
right = lambda: (t.run(50, 3, 1000)[0] == 1).all() and (mk.matmul(a, a) == 300).all()
assert right() and pool.workers() == 2
busy = threading.Event()
if {busy}:  # another Python thread is inside kernels all the time
    def call():
        while not busy.is_set():
            right()
    other = threading.Thread(target=call)
    other.start()
    warnings.simplefilter("ignore", DeprecationWarning)  # Python says that forking such a process is dangerous
else:
    warnings.simplefilter("error")
for _ in range(10):
    child = os.fork()
    if child == 0:
        ok = pool.workers() == 0 and right() and pool.workers() > 0 and os.fork() >= 0 and right()
        os._exit(0 if ok else 1)
    assert right()
    assert os.waitpid(child, 0)[1] == 0
busy.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("busy", [False, True])
def test_after_fork_both_sides_work(busy):
    code = FORK.format(folder=os.path.dirname(__file__), busy=busy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert quiet(done.stderr)


def test_idle_workers_sleep():
    run(64, 3, work=1000)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05, "process time goes on while nothing runs"


def test_a_process_ends_while_workers_are_awake():
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\nimport test_threads as t\nt.run(100, 4, 1000)"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert quiet(done.stderr)


def test_the_number_of_threads():
    before = mk.get_num_threads()
    try:
        mk.set_num_threads(3)
        assert mk.get_num_threads() == 3
        with threads.threads(1):
            assert mk.get_num_threads() == 1
            seen = []
            other = threading.Thread(target=lambda: seen.append(mk.get_num_threads()))
            other.start()
            other.join()
            assert seen == [3], "the block is this thread's"
        assert mk.get_num_threads() == 3
        for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)):
            with pytest.raises(error, match="number of threads"):
                mk.set_num_threads(bad)
        assert mk.get_num_threads() == 3
    finally:
        mk.set_num_threads(before)


def test_blas_gets_one_thread_and_the_user_keeps_their_number():
    functions = threads._blas()
    assert functions is not None, "this NumPy has a BLAS whose threads can be set"
    get, put = functions
    before = get()
    try:
        put(2)
        with threads.one_blas_thread:
            assert get() == 1
            with threads.one_blas_thread:
                assert get() == 1
            assert get() == 1
        assert get() == 2
        seen = []

        def call():
            for _ in range(200):
                with threads.one_blas_thread:
                    seen.append(get())

        team = [threading.Thread(target=call) for _ in range(4)]
        for t in team:
            t.start()
        for t in team:
            t.join()
        assert set(seen) == {1}
        assert get() == 2
        a = np.ones((200, 200), np.float32)
        with mk.use(matmul="blas"):
            mk.matmul(a, a)
        assert get() == 2
    finally:
        put(before)
