"""A stand-in for the cupy module: NumPy's memory, CuPy's manners, RawModule on the emulator. For tests only.

Strict where CuPy is: no implicit way to NumPy, no mixing with NumPy arrays, 0-d arrays from reductions, garbage from
`empty`, no name and no argument that the installed CuPy has not (it imports without a GPU). Stricter where a GPU would
be silent: an index out of range and a place written twice raise. Every copy to the host is counted in `syncs`.
"""

import contextlib
import functools
import inspect
import re
import sys
import time
import types
import weakref

import cupy as _real
import numpy as np
from emulator import STATIC_SHARED, Module

__version__ = _real.__version__

syncs = 0  # copies from the device to the host
mode = types.SimpleNamespace(checked=True, order="random", seed=0)  # how kernels run
gpus = types.SimpleNamespace(count=1, current=0)  # how many there are, and which is the current one
memory = types.SimpleNamespace(failures=0, freed=0)  # allocations that will fail; how often the pool was freed
launches = []  # names of the kernels that ran


@contextlib.contextmanager
def installed():
    """In this block `import cupy` gives the stand-in."""
    me = sys.modules[__name__]
    real = sys.modules["cupy"]
    sys.modules["cupy"] = me
    try:
        yield me
    finally:
        sys.modules["cupy"] = real


def _silence():
    """A GPU does not warn of 0 / 0 and overflow."""
    return np.errstate(all="ignore")


def _synchronise():
    global syncs
    syncs += 1


# --- arrays ---


_asked = weakref.WeakValueDictionary()  # address -> the array whose address somebody asked for


class _Memory:
    """What stands behind `ndarray.data`."""

    def __init__(self, array):
        self.ptr = array._a.ctypes.data
        _asked[self.ptr] = array


def _reached(args):
    """The arrays whose addresses stand in tables of addresses among a kernel's arguments."""
    tables = [a._a.ravel().tolist() for a in args if isinstance(a, ndarray) and a.dtype == np.uint64]
    return [_asked[v]._a for v in {v for table in tables for v in table} if v in _asked]


class _Device:
    """A GPU by its number."""

    def __init__(self, id=None):
        self.id = gpus.current if id is None else int(id)
        self._before = []
        if not 0 <= self.id < gpus.count:
            raise cuda.runtime.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"

    def __enter__(self):
        self._before.append(gpus.current)
        gpus.current = self.id
        return self

    def __exit__(self, *exc):
        gpus.current = self._before.pop()

    def synchronize(self):
        _synchronise()


class _Flags:
    """The flags that CuPy has."""

    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata
        self.fnc, self.forc = flags.fnc, flags.forc

    def __getitem__(self, name):
        return {"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous, "OWNDATA": self.owndata}[name]


class ndarray:
    """An array on a pretended GPU."""

    __hash__ = None
    __slots__ = ("__weakref__", "_a", "_base", "_gpu")

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        self._a, self._gpu, self._base = _garbage(np.empty(shape, dtype, order)), gpus.current, None

    # what it is
    shape = property(lambda self: self._a.shape, lambda self, v: setattr(self._a, "shape", v))
    dtype = property(lambda self: self._a.dtype)
    strides = property(lambda self: self._a.strides)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    flags = property(lambda self: _Flags(self._a.flags))
    T = property(lambda self: _view(self._a.T, self))
    mT = property(lambda self: _view(self._a.mT, self))
    base = property(lambda self: self._base)
    device = property(lambda self: cuda.Device(self._gpu))
    data = property(lambda self: _Memory(self))
    __cuda_array_interface__ = property(
        lambda self: {"shape": self._a.shape, "typestr": self._a.dtype.str, "version": 3}
    )

    # ways to the host: all counted
    def get(self, stream=None, order="C", out=None, blocking=True):
        _synchronise()
        return np.array(self._a, order=order)

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one explicitly."
        )

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __index__(self):
        return self.get().__index__()

    def __bool__(self):
        return bool(self.get())

    def __repr__(self):
        return repr(self.get())

    __str__ = __repr__

    def __format__(self, how):
        return format(self.get(), how)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # NumPy's protocols, as in cupy/_core/core.pyx
    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or ufunc.signature is not None:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        if not hasattr(_real, ufunc.__name__):
            return NotImplemented
        if any(isinstance(x, np.ndarray) and x.ndim for x in inputs):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        return _module_function(ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        module = _real
        for part in func.__module__.split(".")[1:]:
            module = getattr(module, part, None)
        if getattr(module, func.__name__, None) is None or not all(t in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        return _checked(func, getattr(module, func.__name__))(*args, **kwargs)

    def __dlpack__(self, **options):
        raise BufferError("the stand-in has no DLPack")

    # parts
    def __getitem__(self, index):
        y = self._a[_index(index, self._a)]
        if np.may_share_memory(y, self._a):
            return _view(y, self)
        _unwrap(self)
        return _wrap(y)

    def __setitem__(self, index, value):
        index = _index(index, self._a)
        if any(
            isinstance(i, np.ndarray) and i.dtype.kind in "iu" for i in (index if type(index) is tuple else (index,))
        ):
            times = np.zeros(self.shape, np.int32)
            np.add.at(times, index, 1)
            if (times > 1).any() and np.ndim(getattr(value, "_a", value)):
                raise ValueError("a place is written twice: which value stays is undefined on a GPU")
        if isinstance(value, np.ndarray) and value.ndim:
            value = asarray(value)  # CuPy copies it to the device
        self._a[index] = _unwrap(value)

    def view(self, dtype=None, type=None):
        return _view(self._a.view(dtype), self)

    def copy(self, order="C"):
        return _wrap(self._a.copy(order))  # on the current GPU, from whichever

    def set(self, arr, stream=None):
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError("array shape or dtype mismatch")
        self._a[...] = arr

    def __getattr__(self, name):
        if name.startswith("__") or not hasattr(_real.ndarray, name):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        return _method(name)(self)


ndarray.__module__ = "cupy"

_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift eq ne lt le gt ge"
_NAMES = [f"__{n}__" for n in _BINARY.split()]
_NAMES += [f"__{p}{n}__" for p in "ri" for n in _BINARY.split()[:12]] + ["__neg__", "__abs__", "__invert__", "__pos__"]


def _operator(name):
    def method(self, *others):
        for other in others:
            if isinstance(other, np.ndarray) and other.ndim:
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
            if not isinstance(other, (ndarray, np.ndarray, np.generic, int, float, complex, bool)):
                return NotImplemented
        with _silence():
            y = getattr(_unwrap(self), name)(*[_unwrap(o) for o in others])
        return y if y is NotImplemented else self if name in _IN_PLACE else _wrap(y)

    return method


_IN_PLACE = {n for n in _NAMES if n.startswith("__i") and n != "__invert__"}
for _name in _NAMES:
    setattr(ndarray, _name, _operator(_name))


def _garbage(a):
    """Memory that nobody wrote: NaN in floats, -1 in integers."""
    if a.size:
        a.reshape(-1).view(np.uint8)[:] = 0xFF if a.dtype.kind != "b" else 1
    return a


def _view(a, of):
    """A view of an array, on its GPU; its base is that which owns the memory, as CuPy's."""
    y = object.__new__(ndarray)
    y._a, y._gpu, y._base = np.asarray(a), of._gpu, of if of._base is None else of._base
    return y


def _wrap(a):
    """NumPy's results as new memory of the current GPU; scalars as 0-d arrays."""
    if isinstance(a, (np.ndarray, np.generic)):
        y = object.__new__(ndarray)
        y._a, y._gpu, y._base = np.asarray(a), gpus.current, None
        _allocator(y._a.nbytes)
        return y
    return (
        type(a)(*map(_wrap, a)) if hasattr(a, "_fields") else type(a)(map(_wrap, a)) if type(a) in (list, tuple) else a
    )


def _unwrap(x):
    if isinstance(x, ndarray):
        if x._gpu != gpus.current:  # CuPy warns, or raises, depending on how the GPUs are connected
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {x._gpu} while current = {gpus.current}"
            )
        return x._a
    if isinstance(x, np.ndarray) and x.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(x)(map(_unwrap, x)) if type(x) in (list, tuple) else x


def _index(index, a):
    """An index for NumPy. Out of range raises, where a GPU would wrap around; boolean masks are a synchronisation."""

    def one(i):
        if isinstance(i, ndarray):
            i = i._a
            if i.dtype == bool:
                _synchronise()
            elif not i.ndim:
                _synchronise()
                return int(i)
        return i

    return tuple(map(one, index)) if type(index) is tuple else one(index)


# --- functions: NumPy's, under the names and with the arguments that CuPy has ---

_UFUNC_ARGUMENTS = {"out", "dtype", "casting"}
_ASKS = {
    "nonzero",
    "flatnonzero",
    "argwhere",
    "unique",
    "extract",
    "compress",
    "array_equiv",
    "bincount",
    "histogram",
}  # sizes known only after a copy


def _bound(real, name, args, kwargs):
    """TypeError for what CuPy's function does not take."""
    if isinstance(real, _real.ufunc):
        wrong = set(kwargs) - _UFUNC_ARGUMENTS
        if wrong:
            raise TypeError(f"Wrong arguments {wrong} for cupy.{name}")
        return
    with contextlib.suppress(ValueError):
        _signature(real).bind(*args, **kwargs)


@functools.cache
def _signature(real):
    if isinstance(real, types.FunctionType):
        return inspect.signature(real)
    words = re.match(r"_?\w*\.?\w+\((.*?)\)( ->|\n|$)", real.__doc__ or "")  # Cython writes it into the docstring
    if not words:
        raise ValueError(f"no signature of {real}")
    names = [re.sub(r"^\s*\w+ (?=\w)", "", part).strip() for part in words[1].replace("\\", "").split(",")]
    return inspect.signature(eval("lambda " + ", ".join(names) + ": None"))


def _checked(function, real):
    """NumPy's `function` with the manners of CuPy's."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        _bound(real, function.__name__, args, kwargs)
        if function.__name__ in _ASKS:
            _synchronise()
        out = kwargs.get("out")
        with _silence():
            y = function(*map(_unwrap, args), **{k: _unwrap(v) for k, v in kwargs.items()})
        if function is np.diagonal:
            y.flags.writeable = True  # CuPy has no arrays that are read-only
        if out is not None:
            return out
        if isinstance(y, np.ndarray) and args and isinstance(args[0], ndarray) and np.may_share_memory(y, args[0]._a):
            return _view(y, args[0])
        return _wrap(y)

    if isinstance(function, np.ufunc) and hasattr(real, "at"):
        call.at = lambda a, index, b: function.at(a._a, _index(index, a._a), _unwrap(b))
    return call


@functools.cache
def _module_function(name):
    return _checked(getattr(np, name), getattr(_real, name))


@functools.cache
def _method(name):
    real = getattr(_real.ndarray, name)

    def bind(self):
        value = getattr(self._a, name)
        if not callable(value):
            return _view(value, self) if isinstance(value, np.ndarray) else value

        def call(*args, **kwargs):
            _bound(real, name, (self, *args), kwargs)
            out = kwargs.get("out")
            with _silence():
                y = value(*map(_unwrap, args), **{k: _unwrap(v) for k, v in kwargs.items()})
            if out is not None:
                return out
            if isinstance(y, np.ndarray) and y.base is not None and np.may_share_memory(y, self._a):
                return _view(y, self)
            _unwrap(self)
            return _wrap(y)

        return call

    return bind


def empty(shape, dtype=float, order="C"):
    return _wrap(_garbage(np.empty(shape, dtype, order)))


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return _wrap(_garbage(np.empty_like(prototype._a, dtype, order, shape=shape)))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray) and a._gpu != gpus.current:
        a = a.copy()
    if isinstance(a, ndarray):
        return (
            a
            if (dtype is None or a.dtype == dtype) and order is None and not copy
            else _wrap(np.array(a._a, dtype, order=order))
        )
    return _wrap(np.array(_unwrap(a) if type(a) in (list, tuple) else a, dtype, order=order or "K"))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    return asarray(obj, dtype, order, copy=copy)


def ascontiguousarray(a, dtype=None):
    if isinstance(a, ndarray) and a.flags.c_contiguous and dtype in (None, a.dtype):
        return a
    return _wrap(np.ascontiguousarray(asarray(a)._a, dtype).reshape(a.shape))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args):
    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


def __getattr__(name):
    if name.startswith("__") or not hasattr(_real, name) or not hasattr(np, name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    value = getattr(np, name)
    return value if isinstance(value, type) or not callable(value) else _module_function(name)


def _as_strided(x, shape=None, strides=None):
    return _view(np.lib.stride_tricks.as_strided(x._a, shape, strides), x)


assert [*inspect.signature(_real.lib.stride_tricks.as_strided).parameters] == ["x", "shape", "strides"]
lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided))


# --- kernels ---


class RawModule:
    """cupy.RawModule, compiled by g++."""

    def __init__(self, *, code, options=(), backend="nvrtc", name_expressions=None):
        self.module = Module(code, options, mode.checked)

    def get_function(self, name):
        return _Function(self.module, name)


class _Function:
    def __init__(self, module, name):
        self.module, self.name, self.max_dynamic_shared_size_bytes = module, name, STATIC_SHARED

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        launches.append(self.name)
        mode.seed += 1
        self.module.launch(
            self.name,
            grid,
            block,
            [_unwrap(a) for a in args],
            shared_mem,
            mode.order,
            mode.seed,
            self.max_dynamic_shared_size_bytes,
            _reached(args),
        )


# --- memory ---


class _Pool:
    """The memory pool: it counts nothing but what tests plant."""

    def malloc(self, size):
        if memory.failures and size:
            memory.failures -= 1
            raise _real.cuda.memory.OutOfMemoryError(size, 3 << 30)

    def free_all_blocks(self, stream=None):
        memory.freed += 1

    def used_bytes(self):
        return 2 << 30

    def total_bytes(self):
        return 3 << 30


_pool = _Pool()
_allocator = _pool.malloc


def get_default_memory_pool():
    return _pool


def _set_allocator(allocator=None):
    global _allocator
    _allocator = allocator or _pool.malloc


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime's."""


def _set_device(i):
    gpus.current = _Device(i).id


class _Event:
    """A moment in the stream: here of the host, which runs the kernels."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.when, self.reached = None, False

    def record(self, stream=None):
        self.when, self.reached = time.perf_counter(), False

    def synchronize(self):
        _synchronise()
        self.reached = True


def _elapsed(start, end):
    if not end.reached:
        raise CUDARuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end.when - start.when)


cuda = types.SimpleNamespace(
    Event=_Event,
    get_elapsed_time=_elapsed,
    Device=_Device,
    get_allocator=lambda: _allocator,
    set_allocator=_set_allocator,
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: gpus.count,
        getDevice=lambda: gpus.current,
        setDevice=_set_device,
        deviceGetAttribute=lambda attribute, device: {16: 2, 38: 1 << 20}[attribute],
        memGetInfo=lambda: (1 << 28, 4 << 30),
        driverGetVersion=lambda: 13020,
        runtimeGetVersion=lambda: 13020,
        deviceSynchronize=_synchronise,
        getDeviceProperties=lambda i: {"name": b"a CPU that stands in for a GPU"},
    ),
)
cuda.Device.__module__ = "cupy.cuda.device"
