"""The threads of the CPU kernels: `parallel_for`, called from inside a kernel.

    @jit(inner=True)
    def rows(task, slot, x, y, n):          # one task; slot < nthreads names the thread, for scratch memory
        ...

    @jit
    def kernel(x, y, n, nthreads):
        parallel_for(rows, ntasks, nthreads, (x, y, n))

Tasks must write disjoint memory, and what a task computes must depend on its number only, never on its slot: then
results are bit-equal for any number of threads. A task must not raise. The tuple may hold numbers, tuples and arrays.

How it works. Workers are plain operating-system threads, started on first use, that know nothing of Python: they never
hold the GIL. A job is a function pointer, an argument pointer and a *ticket*: a generation, how many tasks were taken
from the front, and how many from the back. Whoever wants a task adds one to the ticket by compare-and-swap; success
proves that the generation, and so the job, was still the one that was read. The caller takes from the front, workers
from the back: in the next call of the same kernel a core finds in its own cache what it had in this one (a matrix of
768 x 768 times a vector: three times as fast). The caller works too, so a job is finished even if no worker ever wakes,
and the caller waits only for tasks that a worker really took. So there is nothing to hang on:

  - two callers at once: the second finds the pool busy and runs its tasks itself; so does a call inside a task;
  - fork: workers end before it, and each side starts its own at its next job. If another thread was in a kernel, the
    child forgets that job and its workers, which do not exist there.

An idle worker looks for work for about a millisecond, so that the next kernel of a training step finds it awake, and
then sleeps in a lock. (With a tenth of that, which an op in Python can outlast, a training step of a small GPT took 1.3
times as long beside torch's, an encoder's and a CNN's 1.2.) The locks and threads are those of CPython's portable C
layer (PyThread_*), which works without the GIL everywhere.

Measured on 2 cores of a Zen 4 virtual machine, an empty job of two tasks: 0.35 us from within a kernel while the worker
is awake, 15-20 us when it sleeps, 0.01 us for one thread.

Numba's own layers do not serve: workqueue aborts on concurrent calls, GNU OpenMP hangs after fork, TBB is not always
there, and `parallel=True` costs seconds of compilation per kernel.
"""

from __future__ import annotations

import atexit
import ctypes
import os
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, compiler, sigutils
from numba.core.ccallback import CFunc
from numba.core.compiler import Flags
from numba.extending import intrinsic

from .jit import OPTIONS, DiskCache, jit
from .threads import MAX_THREADS

I64 = ir.IntType(64)
VOID = ir.VoidType()

# --- the control block: 64-bit words, what different threads write in different cache lines -------------------------

TICKET = 0  # generation << 2 * COUNT | tasks taken from the back << COUNT | tasks taken from the front
BODY, ARGS, TASKS, SLOTS = 16, 17, 18, 19  # the job; written only while the ticket is closed
DONE = 32  # tasks that have been finished
WAITING, CALLER = 48, 49  # 1 while the caller sleeps; the lock it sleeps in
BUSY, STARTED, ALIVE, STOP = 64, 65, 66, 67
STATE, LOCK, STRIDE = 80, 81, 16  # of worker k: STATE + k * STRIDE
AWAKE, ASLEEP = 0, 1
WORKERS = MAX_THREADS - 1

COUNT = 22  # bits
CLOSED = (1 << COUNT) - 1  # taken from the front: no shared job has as many tasks
SPINS = 2000  # pauses of 20-50 ns before a caller that waits for a worker goes to sleep
IDLE = 30000  # and before a worker without work does

_block = (ctypes.c_int64 * (STATE + STRIDE * WORKERS + 16))()
_aligned = ctypes.addressof(_block) + -ctypes.addressof(_block) % 128
llvm.add_symbol("minidl_pool", _aligned)

_python = ctypes.pythonapi
_python.PyThread_allocate_lock.restype = ctypes.c_void_p
_python.PyThread_acquire_lock.argtypes = (ctypes.c_void_p, ctypes.c_int)

acquire_lock = types.ExternalFunction("PyThread_acquire_lock", types.int32(types.intp, types.int32))
release_lock = types.ExternalFunction("PyThread_release_lock", types.void(types.intp))
start_thread = types.ExternalFunction("PyThread_start_new_thread", types.long_(types.intp, types.intp))


# --- atomic words, as instructions ----------------------------------------------------------------------------------


def _pointer(builder: ir.IRBuilder, index: ir.Value) -> ir.Value:
    block = builder.module.globals.get("minidl_pool") or ir.GlobalVariable(builder.module, I64, "minidl_pool")
    return builder.gep(block, [index])


@intrinsic
def load(typing: Any, index: Any) -> Any:
    """The word."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.load_atomic(_pointer(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), emit


@intrinsic
def store(typing: Any, index: Any, value: Any) -> Any:
    """word = value."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def add(typing: Any, index: Any, value: Any) -> Any:
    """word += value; gives the word as it was."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def swap(typing: Any, index: Any, value: Any) -> Any:
    """word = value; gives the word as it was."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.atomic_rmw("xchg", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def replace(typing: Any, index: Any, old: Any, new: Any) -> Any:
    """If word == old: word = new, and true."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        pair = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), emit


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the core that this is a waiting loop."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        arch = llvm.get_process_triple().partition("-")[0]
        i32 = ir.IntType(32)
        if arch in ("x86_64", "i686"):
            builder.call(
                cgutils.get_or_insert_function(builder.module, ir.FunctionType(VOID, []), "llvm.x86.sse2.pause"), []
            )
        elif arch in ("aarch64", "arm64"):
            barrier = cgutils.get_or_insert_function(builder.module, ir.FunctionType(VOID, [i32]), "llvm.aarch64.isb")
            builder.call(barrier, [i32(15)])
        return context.get_dummy_value()

    return types.void(), emit


_BODY = ir.FunctionType(VOID, [I64, I64, I64])  # (task, slot, address of the arguments)


@intrinsic
def call_body(typing: Any, body: Any, task: Any, slot: Any, args: Any) -> Any:
    """body(task, slot, args), `body` being an address."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        builder.call(builder.inttoptr(args[0], _BODY.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), emit


# --- the pool -------------------------------------------------------------------------------------------------------


@jit(inner=True)
def work(slot: int) -> int:
    """Take tasks of the present job until none is left; how many were run."""
    ran = 0
    tasks = 0
    while True:
        ticket = load(TICKET)
        front, back = ticket & CLOSED, (ticket >> COUNT) & CLOSED
        body, args, tasks = load(BODY), load(ARGS), load(TASKS)
        if front + back >= tasks or slot >= load(SLOTS):
            break
        task, taken = (tasks - 1 - back, 1 << COUNT) if slot else (front, 1)
        if replace(TICKET, ticket, ticket + taken):
            call_body(body, task, slot, args)
            ran += 1
    # The job cannot end before the tasks run here are counted, so `tasks` is still its number.
    if ran and add(DONE, ran) + ran == tasks and swap(WAITING, 0):
        release_lock(load(CALLER))
    return ran


def _worker(k: int) -> None:
    spins = 0
    state = STATE + k * STRIDE
    while not load(STOP):
        if work(k + 1):
            spins = 0
        elif spins < IDLE:
            spins += 1
            pause()
        else:
            # Say so first, look once more, then sleep: a caller that opens a job in between sees ASLEEP and releases
            # the lock.
            store(state, ASLEEP)
            if (work(k + 1) or load(STOP)) and swap(state, AWAKE) == ASLEEP:
                spins = 0
                continue
            acquire_lock(load(state + LOCK - STATE), 1)
            spins = 0
    add(ALIVE, -1)


def _compiled(function: Any, signature: str) -> CFunc:
    """A function with a C address, cached like a kernel."""
    made = CFunc(function, sigutils.normalize_signature(signature), locals={}, options=dict(OPTIONS))
    made._cache = DiskCache(function)  # type: ignore[attr-defined]
    made.compile()
    return made


_worker_code = _compiled(_worker, "void(int64)")
llvm.add_symbol("minidl_worker", _worker_code.address)


@intrinsic
def worker_address(typing: Any) -> Any:
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        worker = cgutils.get_or_insert_function(builder.module, ir.FunctionType(VOID, [I64]), "minidl_worker")
        return builder.ptrtoint(worker, I64)

    return types.int64(), emit


def _run(body: int, tasks: int, nthreads: int, args: int) -> None:
    slots = min(nthreads, tasks, MAX_THREADS)
    if slots <= 1 or tasks >= CLOSED or load(STOP) or not replace(BUSY, 0, 1):
        for task in range(tasks):
            call_body(body, task, 0, args)
        return
    while load(STARTED) < slots - 1:
        add(ALIVE, 1)
        if start_thread(worker_address(), load(STARTED)) == -1:
            add(ALIVE, -1)
            break  # the system gives no more threads: fewer share the work
        add(STARTED, 1)
    # Close the ticket with a new generation, so that no late worker takes the new fields for the old job; open it
    # when they stand.
    generation = ((load(TICKET) >> 2 * COUNT) + 1) << 2 * COUNT
    store(TICKET, generation | CLOSED)
    store(BODY, body)
    store(ARGS, args)
    store(TASKS, tasks)
    store(SLOTS, slots)
    store(DONE, 0)
    store(TICKET, generation)
    for k in range(min(slots - 1, load(STARTED))):
        state = STATE + k * STRIDE
        if load(state) == ASLEEP and swap(state, AWAKE) == ASLEEP:
            release_lock(load(state + LOCK - STATE))
    work(0)
    spins = 0
    while load(DONE) != tasks:
        if spins < SPINS:
            spins += 1
            pause()
            continue
        store(WAITING, 1)
        if load(DONE) == tasks and swap(WAITING, 0):
            break  # nobody saw that we wait
        acquire_lock(load(CALLER), 1)  # somebody did, or will
    store(BUSY, 0)


_run_code = _compiled(_run, "void(int64, int64, int64, int64)")
llvm.add_symbol("minidl_parallel_for", _run_code.address)


@intrinsic
def parallel_for(typing: Any, body: Any, tasks: Any, nthreads: Any, args: Any) -> Any:
    """body(task, slot, *args) for every task in range(tasks), on at most `nthreads` threads (the caller's is one).

    `body` is an @jit(inner=True) function, `args` a tuple. Every slot is below `nthreads`; the caller's is 0.

    The arguments go into a struct on the caller's stack; a small function that unpacks it and calls `body` is made in
    the kernel's own module, so the body is compiled into the kernel and a task costs one indirect call and one
    compare-and-swap.
    """
    if not isinstance(body, types.Dispatcher) or not isinstance(args, types.BaseTuple):
        return None
    fields = [types.unliteral(t) for t in args.types]

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        _, tasks, nthreads, packed = values
        inner = types.void(types.int64, types.int64, *fields)
        compiled = _compile_body(context, body.dispatcher.py_func, inner)
        # The unpacking function: void (task, slot, address).
        struct = context.get_value_type(args)
        function = ir.Function(builder.module, _BODY, builder.module.get_unique_name("minidl_body"))
        function.linkage = "internal"
        b = ir.IRBuilder(function.append_basic_block("entry"))
        task, slot, address = function.args
        held = b.load(b.inttoptr(address, struct.as_pointer()))
        unpacked = [
            context.cast(b, b.extract_value(held, i), given, wanted)
            for i, (given, wanted) in enumerate(zip(args.types, fields))
        ]
        context.call_internal_no_propagate(b, compiled.fndesc, inner, [task, slot, *unpacked])
        b.ret_void()
        # The call.
        memory = cgutils.alloca_once_value(builder, packed)
        shape = ir.FunctionType(VOID, [I64, I64, I64, I64])
        run = cgutils.get_or_insert_function(builder.module, shape, "minidl_parallel_for")
        builder.call(run, [builder.ptrtoint(function, I64), tasks, nthreads, builder.ptrtoint(memory, I64)])
        return context.get_dummy_value()

    return types.void(body, types.int64, types.int64, args), emit


def _compile_body(context: Any, function: Any, signature: Any) -> Any:
    """A body as a library of the kernel under compilation.

    As Numba's `compile_subroutine`, but not optimised on its own: a body is optimised once, inside its kernel, and its
    machine code is made once. For kernels of thousands of vector instructions that is most of the compilation.
    """
    library = context.codegen().create_library(function.__qualname__)
    library._optimize_final_module = lambda: None
    flags = Flags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model = OPTIONS["error_model"]
    made = compiler.compile_internal(
        context.typing_context, context, library, function, signature.args, signature.return_type, flags, locals={}
    )
    context.active_code_library.add_linking_library(library)
    return made


# --- life and death -------------------------------------------------------------------------------------------------


def _stop(forever: int) -> None:
    """Let the workers end, if no job is running, and wait for that; `forever`: every later job runs on its caller's
    thread alone.
    """
    if not replace(BUSY, 0, 1):
        return
    store(STOP, 1)
    for k in range(load(STARTED)):
        state = STATE + k * STRIDE
        if swap(state, AWAKE) == ASLEEP:
            release_lock(load(state + LOCK - STATE))
    while load(ALIVE):
        pause()
    store(STARTED, 0)
    store(STOP, forever)
    store(BUSY, 0)


_stop_code = _compiled(_stop, "void(int64)")
_stop_workers = ctypes.CFUNCTYPE(None, ctypes.c_int64)(_stop_code.address or 0)


def _word(index: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(_aligned + 8 * index)


def _reset() -> None:
    """An empty pool: no workers, no job, and every lock taken, since a thread sleeps in one by taking it once more."""
    generation = (_word(TICKET).value >> 2 * COUNT) + 1
    ctypes.memset(_aligned, 0, 8 * (STATE + STRIDE * WORKERS))
    _word(TICKET).value = generation << 2 * COUNT | CLOSED
    for index in (CALLER, *(LOCK + k * STRIDE for k in range(WORKERS))):
        lock = _python.PyThread_allocate_lock()
        _python.PyThread_acquire_lock(lock, 1)
        _word(index).value = lock


def workers() -> int:
    """How many worker threads exist now."""
    return _word(STARTED).value


_reset()
# No worker may still look for work while the interpreter takes compiled code down, nor be cut off in the middle by a
# fork.
atexit.register(_stop_workers, 1)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _stop_workers(0), after_in_child=_reset)
