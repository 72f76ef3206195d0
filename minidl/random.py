"""Random numbers: one counter-based generator, Philox4x32-10.

A counter-based generator is a pure function: word `i` of stream `s` under seed `k` is `philox(counter=(i, s), key=k)`.
Nothing is carried from one word to the next, so numbers can be made in any order, in bulk, and on any device, and the
whole state is four integers. Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2,
3", SC11 (doi 10.1145/2063384.2063405).

**What a draw consumes.** One block of the counter gives four 32-bit words. A draw of `n` values that need `w` words
each takes `ceil(n * w / 4)` blocks and drops the words left over in the last block, so a draw never depends on the size
of the one before:

| draw                                            | words a value |
|-------------------------------------------------|---------------|
| `uniform`, `normal`, `exponential`, float32     | 1             |
| `uniform`, `normal`, `exponential`, float64     | 2             |
| `bernoulli`                                     | 1             |
| `integers`, `high - low` up to 2**32            | 2             |
| `integers`, wider                               | 4             |
| `permutation`                                   | 2             |

(`normal` makes values in pairs: an odd `n` counts as `n + 1`.) An empty draw consumes nothing.

**What is the same where.** The words, and with them `uniform`, `integers`, `bernoulli` and `permutation`, are the same
bit for bit on every machine and on every array module. `normal` and `exponential` go through the float64 logarithm,
sine and cosine of the array module at hand, whose last bit may differ between machines.

>>> g = Generator(seed=0)
>>> g.integers(0, 10, 5).tolist()
[8, 6, 3, 0, 3]
>>> state = g.get_state()
>>> a = g.normal(3)
>>> g.set_state(state)
>>> bool((g.normal(3) == a).all())
True
"""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "Generator",
    "bernoulli",
    "default_generator",
    "exponential",
    "get_state",
    "initial_seed",
    "integers",
    "manual_seed",
    "normal",
    "permutation",
    "philox4x32",
    "seed",
    "set_state",
    "uniform",
    "using",
]

Size = int | tuple[int, ...] | list[int]

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers of the two halves
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # key schedule: golden ratio, sqrt(3) - 1
_U32, _U64 = 2**32, 2**64
_CHUNK = 8192  # blocks at a time: the working set of a chunk (half a megabyte) stays in the second-level cache
_FEW = 8  # up to so many blocks, plain integers beat array calls
_DRAWS_END = 2**63  # the upper half of the counter is kept for numbering substreams, so it never meets a draw


# -- the generator as a pure function ------------------------------------------------------------------------


def _block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One block in plain integers: the textbook form, and quicker than arrays for a handful of numbers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 % _U32, p0 >> 32 ^ c3 ^ k1, p0 % _U32
        k0, k1 = (k0 + _W0) % _U32, (k1 + _W1) % _U32
    return c0, c1, c2, c3


def _rounds(s: Any, key: tuple[int, int], xp: ModuleType) -> Any:
    """The same for n counters at once, in place; s uint64 (2, n) holds (c0 << 32 | c1, c2 << 32 | c3).

    With two words packed to an integer, the 64-bit product *is* the new pair of words, and all that is left is to xor
    the old low word and the key into its upper half.
    """
    keys = xp.asarray([[[(k + i * w) % _U32] for k, w in zip(key, (_W0, _W1))] for i in range(10)], dtype=xp.uint64)
    mul = xp.asarray([[_M1], [_M0]], dtype=xp.uint64)
    half = xp.uint64(32)
    prod = xp.empty_like(s)
    swapped = s[::-1]
    for k in keys:
        xp.right_shift(swapped, half, out=prod)
        xp.multiply(prod, mul, out=prod)
        xp.bitwise_xor(s, k, out=s)
        xp.left_shift(s, half, out=s)
        xp.bitwise_xor(s, prod, out=s)
    return s


def philox4x32(counter: Any, key: Any, xp: ModuleType = np) -> Any:
    """Philox4x32-10 of each counter under one key: uint32 (..., 4) and two 32-bit integers -> uint32 (..., 4).

    >>> [hex(w) for w in philox4x32([0, 0, 0, 0], (0, 0)).tolist()]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c = xp.asarray(counter, dtype=xp.uint32)
    if c.ndim == 0 or c.shape[-1] != 4:
        raise ValueError(f"philox4x32: the last axis of counter must hold 4 words, got shape {c.shape}")
    k0, k1 = (operator.index(k) for k in key)
    if not (0 <= k0 < _U32 and 0 <= k1 < _U32):
        raise ValueError(f"philox4x32: key must be two integers in [0, 2**32), got {key}")
    w = c.reshape(-1, 4).astype(xp.uint64)
    half, low = xp.uint64(32), xp.uint64(_U32 - 1)
    s = xp.stack([w[:, 0] << half | w[:, 1], w[:, 2] << half | w[:, 3]])
    s = _rounds(s, (k0, k1), xp)
    words = xp.stack([s[0] >> half, s[0] & low, s[1] >> half, s[1] & low], axis=-1)
    return words.astype(xp.uint32).reshape(c.shape)


def _blocks(seed: int, stream: int, first: int, n: int, xp: ModuleType) -> Any:
    """Words of blocks first ... first + n - 1 of a stream, uint32 (4 n,). Counter words: block (low, high), stream
    (low, high).
    """
    key = (seed % _U32, seed >> 32)
    if n <= _FEW and xp is np:
        rows = [_block((b % _U32, b >> 32, stream % _U32, stream >> 32), key) for b in range(first, first + n)]
        return np.array(rows, dtype=np.uint32).reshape(-1)
    u64 = xp.uint64
    half = u64(32)
    block = xp.arange(n, dtype=u64)
    block += u64(first)
    s = xp.empty((2, n), dtype=u64)
    xp.left_shift(block, half, out=s[0])
    s[0] |= block >> half
    s[1] = (stream % _U32) << 32 | stream >> 32
    _rounds(s, key, xp)
    out = xp.empty((n, 2), dtype=u64)
    xp.bitwise_or(s << half, s >> half, out=out.T)  # low word first, as uint32 lie in a little-endian uint64
    return out.reshape(-1).view(xp.uint32)


def _high64(a: Any, n: int, xp: ModuleType) -> Any:
    """Upper 64 bits of the 128-bit product of a uint64 array and an integer below 2**64."""
    u64 = xp.uint64
    half, low = u64(32), u64(_U32 - 1)
    n1, n0 = u64(n >> 32), u64(n % _U32)
    a1, a0 = a >> half, a & low
    mid = a1 * n0 + (a0 * n0 >> half)
    return a1 * n1 + (mid >> half) + ((mid & low) + a0 * n1 >> half)


# -- words to values -----------------------------------------------------------------------------------------


def _unit32(words: Any, xp: ModuleType) -> Any:
    """Upper 24 bits of each word as a float32 in [0, 1): every value is a multiple of 2**-24."""
    return (words >> xp.uint32(8)).view(xp.int32).astype(xp.float32) * xp.float32(2.0**-24)


def _unit64(words: Any, xp: ModuleType) -> Any:
    """Upper 53 bits of each pair of words as a float64 in [0, 1): every value is a multiple of 2**-53."""
    return (words.view(xp.uint64) >> xp.uint64(11)).view(xp.int64).astype(xp.float64) * 2.0**-53


def _positive(words: Any, dtype: np.dtype, xp: ModuleType) -> Any:
    """Float64 in (0, 1], for a logarithm: a whole word when float32 is wanted (smallest value 2**-33), else 53 bits of
    two.
    """
    if dtype == np.float32:
        return words.astype(xp.float64) * 2.0**-32 + 2.0**-33
    return 1.0 - _unit64(words, xp)


def _box_muller(words: Any, dtype: np.dtype, xp: ModuleType) -> Any:
    """Pairs of uniforms u, v -> sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v). Box and Muller 1958 (doi
    10.1214/aoms/1177706645).
    """
    u = _positive(words, dtype, xp).reshape(-1, 2)
    r = xp.sqrt(-2.0 * xp.log(u[:, 0]))
    angle = (2.0 * math.pi) * u[:, 1]
    z = xp.empty_like(u)
    xp.multiply(r, xp.cos(angle), out=z[:, 0])
    xp.multiply(r, xp.sin(angle), out=z[:, 1])
    return z.reshape(-1)


# -- checks of arguments -------------------------------------------------------------------------------------


def _seed(seed: Any) -> int:
    try:
        value = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an integer, got {type(seed).__name__}") from None
    if not -(2**63) <= value < _U64:
        raise ValueError(f"seed must lie in [-2**63, 2**64), got {value}")
    return value % _U64  # torch's rule: a negative seed stands for 2**64 + seed


def _shape(size: Size) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(n) for n in size) if isinstance(size, (tuple, list)) else (operator.index(size),)
    except TypeError:
        raise TypeError(f"size must be an integer or a tuple of integers, got {size!r}") from None
    if any(n < 0 for n in shape):
        raise ValueError(f"size must not be negative, got {shape}")
    return shape


def _float_dtype(dtype: Any) -> np.dtype:
    dt = np.dtype(dtype)
    if dt not in (np.float32, np.float64):
        raise TypeError(f"random numbers come as float32 or float64, not {dt}; convert them afterwards")
    return dt


def _finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


class Generator:
    """A stream of random numbers: a seed (the key), a stream number, and the block of the counter to use next.

    Draws return fresh NumPy arrays; with `xp=cupy` the same numbers are made on the GPU by the same code. Drawing is
    safe from several threads (each draw takes its own blocks), though which thread gets which numbers is then up to the
    threads.

    >>> g = Generator(7)
    >>> g.uniform(2).dtype, g.uniform((2, 3)).shape
    (dtype('float32'), (2, 3))
    """

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._seed, self._stream, self._block, self._spawned = _seed(seed), 0, 0, 0

    # -- state -----------------------------------------------------------------------------------------------

    def manual_seed(self, seed: int) -> Generator:
        """Start again under `seed`, any integer in [-2**63, 2**64); returns the generator, as torch's does."""
        value = _seed(seed)
        with self._lock:
            self._seed, self._stream, self._block, self._spawned = value, 0, 0, 0
        return self

    def seed(self) -> int:
        """Start again under a seed from the operating system; returns it."""
        value = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(value)
        return value

    def initial_seed(self) -> int:
        """The seed in use, in [0, 2**64)."""
        return self._seed

    def get_state(self) -> np.ndarray:
        """Everything the next draw depends on: uint64 (4,), holding seed, stream, block, substreams spawned."""
        with self._lock:
            return np.array([self._seed, self._stream, self._block, self._spawned], dtype=np.uint64)

    def set_state(self, state: Any) -> None:
        """Go on from a `get_state()`: the draws that follow are the same bit for bit. ValueError if it is not such a
        state.
        """
        array = np.asarray(state)
        if array.dtype != np.uint64 or array.shape != (4,):
            raise ValueError(f"a generator's state is uint64 of shape (4,), got {array.dtype} of shape {array.shape}")
        values = [int(v) for v in array]
        if values[2] > _DRAWS_END or values[3] > _DRAWS_END:
            raise ValueError(f"not a generator's state: counters {values[2:]} beyond 2**63")
        with self._lock:
            self._seed, self._stream, self._block, self._spawned = values

    def clone(self) -> Generator:
        """A generator in the same state: both go on to draw the same numbers."""
        twin = Generator()
        twin.set_state(self.get_state())
        return twin

    def spawn(self, n: int) -> list[Generator]:
        """`n` generators with streams of their own; this one's draws stay as they were, and later calls give other
        streams.

        The stream number of the k-th child is the first 64 bits of this stream's block 2**63 + k, in a half of the
        counter that no draw reads. Two streams under one seed never share a counter.
        """
        n = operator.index(n)
        if n < 0:
            raise ValueError(f"cannot spawn {n} generators")
        with self._lock:
            first = self._spawned
            self._spawned += n
        words = _blocks(self._seed, self._stream, _DRAWS_END + first, n, np).reshape(n, 4)
        children = []
        for low, high in words[:, :2].tolist():
            child = Generator(self._seed)
            child._stream = high << 32 | low
            children.append(child)
        return children

    def fork(self) -> Generator:
        """One spawned generator.

        >>> g = Generator(1)
        >>> bool((g.fork().uniform(4) == g.fork().uniform(4)).any())
        False
        """
        return self.spawn(1)[0]

    def at(self, block: int) -> Generator:
        """A generator of the same stream that goes on at `block`, and at that number with its substreams."""
        g = Generator.__new__(Generator)
        g._lock = threading.Lock()
        g._seed, g._stream, g._block, g._spawned = self._seed, self._stream, block, block
        return g

    def __repr__(self) -> str:
        stream = f", stream={self._stream:#x}" if self._stream else ""
        return f"Generator(seed={self._seed}{stream}, block={self._block})"

    def __reduce__(self) -> tuple[Callable[[np.ndarray], Generator], tuple[np.ndarray]]:
        return _from_state, (self.get_state(),)

    # -- words -----------------------------------------------------------------------------------------------

    def take(self, blocks: int) -> tuple[int, int, int]:
        """Claim the next `blocks` blocks, for a kernel that makes their words itself: (seed, stream, first block)."""
        with self._lock:
            first = self._block
            if first + blocks > _DRAWS_END:
                raise OverflowError("this stream of random numbers is used up (2**63 blocks); spawn another")
            self._block = first + blocks
            return self._seed, self._stream, first

    def _chunks(self, n: int, words: int, xp: ModuleType) -> Iterator[tuple[slice, Any]]:
        """Claim the blocks for n values of so many words, then yield (which values, their words) by pieces that fit the
        cache.
        """
        total = -(-n * words // 4)
        seed, stream, first = self.take(total)
        step = _CHUNK if xp is np else max(total, 1)
        for start in range(0, total, step):
            count = min(step, total - start)
            lo = start * 4 // words
            hi = min(n, (start + count) * 4 // words)
            yield slice(lo, hi), _blocks(seed, stream, first + start, count, xp)[: (hi - lo) * words]

    def _draw(self, shape: tuple[int, ...], dtype: Any, words: int, make: Callable[[Any], Any], xp: ModuleType) -> Any:
        out = xp.empty(math.prod(shape), dtype=dtype)
        for where, w in self._chunks(out.size, words, xp):
            out[where] = make(w)
        return out.reshape(shape)

    # -- draws -----------------------------------------------------------------------------------------------

    def uniform(
        self, size: Size, low: float = 0.0, high: float = 1.0, dtype: Any = np.float32, xp: ModuleType = np
    ) -> Any:
        """Uniform on [low, high): multiples of 2**-24 (float32) or 2**-53 (float64), scaled. ValueError unless low <=
        high, finite.

        A scaled value that rounds up to `high` is replaced by the number below it (all are `low` if low == high).
        """
        shape, dt = _shape(size), _float_dtype(dtype)
        _finite(low=low, high=high)
        if low > high:
            raise ValueError(f"uniform: low {low} is above high {high}")
        unit = _unit32 if dt == np.float32 else _unit64
        span, base = dt.type(high - low), dt.type(low)
        last = max(np.nextafter(dt.type(high), base), base)

        def make(w: Any) -> Any:
            u = unit(w, xp)
            if (low, high) != (0.0, 1.0):
                u *= span
                u += base
                xp.minimum(u, last, out=u)
            return u

        return self._draw(shape, dt, dt.itemsize // 4, make, xp)

    def normal(
        self, size: Size, mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32, xp: ModuleType = np
    ) -> Any:
        """Normal with the given mean and standard deviation, by Box and Muller's formula in float64. ValueError if std
        < 0.

        In float32 the tails reach 6.76 standard deviations (uniforms of 32 bits), in float64 8.57 (53 bits).
        """
        shape, dt = _shape(size), _float_dtype(dtype)
        _finite(mean=mean, std=std)
        if std < 0:
            raise ValueError(f"normal: std must not be negative, got {std}")
        n = math.prod(shape)

        def make(w: Any) -> Any:
            z = _box_muller(w, dt, xp)
            if (mean, std) != (0.0, 1.0):
                z *= std
                z += mean
            return z

        return self._draw((n + n % 2,), dt, dt.itemsize // 4, make, xp)[:n].reshape(shape)

    def exponential(self, size: Size, scale: float = 1.0, dtype: Any = np.float32, xp: ModuleType = np) -> Any:
        """Exponential with mean `scale` (> 0): -scale ln u, computed in float64."""
        shape, dt = _shape(size), _float_dtype(dtype)
        _finite(scale=scale)
        if scale <= 0:
            raise ValueError(f"exponential: scale must be positive, got {scale}")
        return self._draw(shape, dt, dt.itemsize // 4, lambda w: -scale * xp.log(_positive(w, dt, xp)), xp)

    def integers(
        self, low: int, high: int | None = None, size: Size = (), dtype: Any = np.int64, xp: ModuleType = np
    ) -> Any:
        """Integers in [low, high), or [0, low) without `high`. ValueError if the range is empty or does not fit the
        dtype.

        A value is `low + floor(r * (high - low) / 2**b)`, one multiplication and a shift, r a random integer of b = 64
        bits (128 bits if high - low > 2**32). Any two values differ in probability by at most 2**-b; relative to the
        probability itself that is at most 2**-32 (2**-64 for the wide ones), far below what any experiment could
        notice.
        """
        shape, dt = _shape(size), np.dtype(dtype)
        low, high = (0, operator.index(low)) if high is None else (operator.index(low), operator.index(high))
        if dt.kind not in "iu":
            raise TypeError(f"integers: dtype must be an integer type, got {dt}")
        info, span = np.iinfo(dt), high - low
        if span <= 0:
            raise ValueError(f"integers: empty range [{low}, {high})")
        if low < info.min or high - 1 > info.max:
            raise ValueError(f"integers: [{low}, {high}) does not fit {dt}")
        if span >= _U64:
            raise ValueError(f"integers: the range [{low}, {high}) has 2**64 values or more")
        u64 = xp.uint64
        offset = u64(low % _U64)

        def narrow(w: Any) -> Any:
            n, half = u64(span), u64(32)
            w = w.astype(u64)
            return ((w[1::2] * n + (w[0::2] * n >> half)) >> half) + offset

        def wide(w: Any) -> Any:
            r = w.view(u64)
            lo, hi = r[0::2], r[1::2]
            product = hi * u64(span)  # lower half of hi * span; a carry if adding the upper half of lo * span wraps
            carry = product + _high64(lo, span, xp) < product
            return _high64(hi, span, xp) + carry.astype(u64) + offset

        make, words = (narrow, 2) if span <= _U32 else (wide, 4)
        return self._draw(shape, dt, words, lambda w: make(w).view(xp.int64).astype(dt), xp)

    def permutation(self, x: Any, xp: ModuleType = np) -> Any:
        """A random order of 0 ... x - 1 (int64), or a copy of the array `x` with its first axis in a random order.

        Made by sorting random 64-bit keys, so every order is equally likely up to a tie of keys (probability below n**2
        / 2**65).
        """
        if getattr(x, "ndim", 0) or isinstance(x, (list, tuple)):
            array = xp.asarray(x)
            return array[self.permutation(len(array), xp)]
        n = operator.index(x)
        if n < 0:
            raise ValueError(f"permutation: n must not be negative, got {n}")
        keys = self._draw((n,), xp.uint64, 2, lambda w: w.view(xp.uint64), xp)
        return xp.argsort(keys, kind="stable").astype(xp.int64)

    def bernoulli(self, p: Any, size: Size | None = None, xp: ModuleType = np) -> Any:
        """True with probability `p`, exact to 2**-32; bool of shape `size`, by default p's. ValueError unless 0 <= p <=
        1.

        `p` may be an array that broadcasts to `size`.
        """
        if isinstance(p, (int, float)):
            if not 0 <= p <= 1:
                raise ValueError(f"bernoulli: p must lie in [0, 1], got {p}")
            threshold = math.ceil(p * _U32)
            last = xp.uint32(max(threshold - 1, 0))
            compare = (lambda w: w <= last) if threshold else (lambda w: xp.zeros(w.shape, dtype=bool))
            return self._draw(() if size is None else _shape(size), bool, 1, compare, xp)
        probs = xp.asarray(p, dtype=xp.float64)
        if not bool(((probs >= 0) & (probs <= 1)).all()):
            raise ValueError("bernoulli: every p must lie in [0, 1]")
        shape = probs.shape if size is None else _shape(size)
        probs = xp.broadcast_to(probs, shape)
        words = self._draw(shape, xp.uint32, 1, lambda w: w, xp)
        return words.astype(xp.float64) < probs * float(_U32)


def _from_state(state: np.ndarray) -> Generator:
    g = Generator()
    g.set_state(state)
    return g


# -- the generator that everything uses unless told otherwise ------------------------------------------------


class _Scope(threading.local):
    """What stands in for the default generator in this thread, if anything does."""

    generator: Generator | None = None


_scope = _Scope()


class _Default(Generator):
    """The generator of the process. Inside `using(g)` all that it is asked for is asked of g."""

    def manual_seed(self, seed: int) -> Generator:
        return Generator.manual_seed(_scope.generator or self, seed)

    def initial_seed(self) -> int:
        return Generator.initial_seed(_scope.generator or self)

    def get_state(self) -> np.ndarray:
        return Generator.get_state(_scope.generator or self)

    def set_state(self, state: Any) -> None:
        Generator.set_state(_scope.generator or self, state)

    def spawn(self, n: int) -> list[Generator]:
        return Generator.spawn(_scope.generator or self, n)

    def take(self, blocks: int) -> tuple[int, int, int]:
        return Generator.take(_scope.generator or self, blocks)


default_generator = _Default(0)


class using:
    """`with using(generator):` in this thread, it stands in for the default one: for draws, seeds and states.

    >>> with using(Generator(3)):
    ...     inside = uniform(2)
    >>> bool((inside == Generator(3).uniform(2)).all())
    True
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def __enter__(self) -> Generator:
        self.before, _scope.generator = _scope.generator, self.generator
        return self.generator

    def __exit__(self, *_: object) -> None:
        _scope.generator = self.before


def manual_seed(seed: int) -> Generator:
    """Seed the default generator; returns it.

    >>> _ = manual_seed(3)
    >>> first = uniform(2)
    >>> _ = manual_seed(3)
    >>> bool((uniform(2) == first).all())
    True
    """
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the operating system; returns the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_state() -> np.ndarray:
    """State of the default generator, uint64 (4,)."""
    return default_generator.get_state()


def set_state(state: Any) -> None:
    """Put the default generator into a state from `get_state`."""
    default_generator.set_state(state)


uniform = default_generator.uniform
normal = default_generator.normal
exponential = default_generator.exponential
integers = default_generator.integers
permutation = default_generator.permutation
bernoulli = default_generator.bernoulli
