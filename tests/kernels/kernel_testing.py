"""What the kernel tests share: one comparison, derived bounds, awkward arrays, guarded memory."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from minidl_kernels.cpu import workspace

Array = NDArray[Any]


# --- comparing ---


def assert_close(
    actual: Any, expected: Any, *, bound: Any = None, rtol: float = 0.0, atol: float = 0.0, what: str = ""
) -> None:
    """`actual` has the type, dtype and shape of `expected` and is within `bound` (else rtol * |expected| + atol) of it.

    NaN must stand exactly where it is expected, and so must infinities with their sign.
    """
    assert isinstance(actual, np.ndarray), f"{what}: {type(actual).__name__} is no array"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    wide_a, wide_e = actual.astype(np.longdouble), expected.astype(np.longdouble)
    finite = np.isfinite(wide_e)
    odd = np.array_equal(wide_a[~finite], wide_e[~finite], equal_nan=True)
    assert odd, f"{what}: NaN or Inf differ: {actual[~finite]} against {expected[~finite]}"
    with np.errstate(invalid="ignore"):
        limit = np.broadcast_to(rtol * np.abs(wide_e) + atol if bound is None else bound, actual.shape)
        error = np.abs(wide_a - wide_e)
    good = ~finite | (error <= limit)  # a NaN in `actual` compares false
    if not good.all():
        at = tuple(map(int, np.argwhere(~good)[0]))
        raise AssertionError(
            f"{what}: {np.count_nonzero(~good)} of {good.size} off; first at {at}: {actual[at]!r},"
            f" expected {expected[at]!r}, error {error[at]:.3g} where {limit[at]:.3g} is allowed"
        )


def sum_bound(depth: int, magnitude: Array, dtype: Any) -> Array:
    """How far a sum of `depth` products may be from the exact one in any order: gamma(depth + 1) * sum |a| |b|.

    Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, equation 3.5; gamma(n) = n u / (1 - n u).
    `magnitude` is sum |a| |b|; one more rounding is allowed for a bias. Products that underflow add the smallest
    normal.
    """
    info = np.finfo(dtype)
    n = (depth + 2) * float(info.eps) / 2
    return n / (1 - n) * magnitude + (depth + 1) * float(info.smallest_normal)


def assert_as_good(actual: Array, plain: Array, exact: Array, what: str = "") -> None:
    """`actual` is at most twice as far from `exact` (float64 or wider) as `plain`, the same formula in NumPy, is.

    The rule of Dao-AILab/flash-attention:tests/test_flash_attn.py. Where NumPy happens to be exact, 16 roundings of the
    largest result are allowed.
    """
    assert actual.dtype == plain.dtype, f"{what}: dtype {actual.dtype}, expected {plain.dtype}"
    finite = np.isfinite(exact)
    scale = np.abs(exact[finite]).max(initial=0)
    error = np.abs(plain[finite] - exact[finite]).max(initial=0)
    limit = 2 * error + 16 * float(np.finfo(actual.dtype).eps) * scale
    assert_close(actual.astype(exact.dtype), exact, atol=float(limit), what=what)


# --- awkward arrays ---

LAYOUTS = ("plain", "transposed", "sliced", "reversed", "broadcast", "unaligned", "readonly")


def laid_out(a: Array, layout: str) -> Array:
    """An array with the shape and dtype of `a`, laid out awkwardly in memory; its values, but for "broadcast"."""
    if layout == "plain" or a.ndim == 0:
        return a
    if layout == "transposed":
        return np.ascontiguousarray(a.T).T
    if layout == "sliced":
        wide = np.full([2 * n + 1 for n in a.shape], np.nan if a.dtype.kind == "f" else 1, a.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in a.shape)]
        view[...] = a
        return view
    if layout == "reversed":
        back = tuple(slice(None, None, -1) for _ in a.shape)
        return np.ascontiguousarray(a[back])[back]
    if layout == "broadcast":
        return np.broadcast_to(a[:1] if a.shape[0] else a, a.shape)
    if layout == "unaligned":
        raw = np.zeros(a.nbytes + 1, np.uint8)
        view = raw[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view
    if layout == "readonly":
        copy = a.copy()
        copy.flags.writeable = False
        return copy
    raise ValueError(layout)


layouts = st.sampled_from(LAYOUTS)
floats = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


def sizes(tile: int, most: int, least: int = 0) -> st.SearchStrategy[int]:
    """Sizes around a tile (0, 1, tile - 1, tile, tile + 1), and any up to `most`."""
    edges = sorted({n for n in (0, 1, tile - 1, tile, tile + 1) if least <= n <= most})
    return st.sampled_from(edges) | st.integers(least, most)


def normal(seed: int, *shape: int, dtype: Any = "float32") -> Array:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- guarded memory ---

CANARY = 0xA5


class _GuardedNumpy(types.ModuleType):
    """numpy, but `empty` gives an array of garbage in the middle of canaries."""

    def __init__(self, blocks: list[Array], guard: int = 4096) -> None:
        super().__init__("numpy")
        self._blocks, self._guard = blocks, guard

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> Array:
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        block = np.full(nbytes + 2 * self._guard, CANARY, np.uint8)
        self._blocks.append(block)
        inside = block[self._guard : self._guard + nbytes]
        inside[:] = 0xFF  # NaN in every float: what is not written shows
        return inside.view(dtype).reshape(shape)


@contextlib.contextmanager
def guarded(monkeypatch: Any, *modules: Any) -> Iterator[None]:
    """Outputs that `modules` allocate, and scratch memory, start as NaN between canaries, checked at the end."""
    blocks: list[Array] = []
    fake = _GuardedNumpy(blocks)

    class Borrow:
        def __init__(self, nbytes: int) -> None:
            self.nbytes = nbytes

        def __enter__(self) -> int:
            block = np.full(self.nbytes + 2 * 4096 + 64, CANARY, np.uint8)
            start = block.__array_interface__["data"][0]
            skip = 4096 + -start % 64
            block[skip : skip + self.nbytes] = 0xFF
            self.block, self.skip = block, skip
            return start + skip

        def __exit__(self, *exc: object) -> None:
            assert (self.block[: self.skip] == CANARY).all(), "written before the scratch memory"
            assert (self.block[self.skip + self.nbytes :] == CANARY).all(), "written behind the scratch memory"

    with monkeypatch.context() as patch:
        for module in modules:
            patch.setattr(module, "np", fake)
        patch.setattr(workspace, "borrow", Borrow)
        patch.setattr(workspace, "empty", fake.empty)
        yield
    for block in blocks:
        assert (block[:4096] == CANARY).all(), "written before an output"
        assert (block[-4096:] == CANARY).all(), "written behind an output"


@contextlib.contextmanager
def unmodified(*arrays: Array | None) -> Iterator[None]:
    """The arrays hold the same bytes afterwards."""
    before = [None if a is None else a.tobytes() for a in arrays]
    yield
    for a, old in zip(arrays, before):
        assert a is None or a.tobytes() == old, "an input was changed"


def same_bits(a: Any, b: Any) -> bool:
    """Equal to the last bit; a tuple of arrays member by member."""
    if isinstance(a, tuple):
        return all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


GUARD_PAGE = '''
import ctypes, mmap
import numpy as np

def at_end_of_page(a):
    """A copy of `a` that ends where the process may not read."""
    size = mmap.PAGESIZE
    pages = -(-max(a.nbytes, 1) // size)
    block = mmap.mmap(-1, (pages + 1) * size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + pages * size), size, 0) != 0:
        raise OSError("mprotect failed")
    view = np.frombuffer(block, a.dtype, a.size, pages * size - a.nbytes).reshape(a.shape)
    view[...] = a
    keep.append(block)
    return view

keep = []
'''

Function = Callable[..., Any]
