"""Does the benchmark see through cheats? Each of these is timed like a kernel and must be caught; honest ones pass.

Run with ``minidl bench --self-test``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.bench.kernels import OURS, Bench, Job
from minidl.bench.rows import ROWS, Args, Row
from minidl.bench.shapes import Shape

__all__ = ["CHEATS", "self_test"]

NUMBERS = {"m": 48, "k": 64, "n": 80, "batch": 0, "transpose": ""}
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def remembers() -> Product:
    """Keeps the result of the arrays it has seen, and hands out copies."""
    kept: dict[tuple[int, int], np.ndarray] = {}

    def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        key = id(a), id(b)
        if key not in kept:
            kept[key] = a @ b
        return kept[key].copy()

    return matmul


def hands_out_one_array() -> Product:
    """Writes every result into the same memory, so that an earlier one changes under its owner."""
    room: dict[tuple[int, ...], np.ndarray] = {}

    def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = room.setdefault((a.shape[0], b.shape[1]), np.empty((a.shape[0], b.shape[1]), a.dtype))
        return np.matmul(a, b, out=out)

    return matmul


def stops_working() -> Product:
    """Computes ten times, then returns memory as it finds it, which often still holds the last result."""
    calls = 0

    def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return a @ b if calls <= 10 else np.empty((a.shape[0], b.shape[1]), a.dtype)

    return matmul


def works_on_new_values_only() -> Product:
    """Leaves the work undone while its arguments look as they did in the call before."""
    last = None

    def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal last
        now = a[0, 0], b[0, 0]
        if now == last:
            return np.empty((a.shape[0], b.shape[1]), a.dtype)
        last = now
        return a @ b

    return matmul


def forgets_the_last_row() -> Product:
    """Leaves one row as the memory was."""

    def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = np.empty((a.shape[0], b.shape[1]), a.dtype)
        np.matmul(a[:-1], b, out=out[:-1])
        return out

    return matmul


def drops_terms() -> Product:
    """Sums all products but the last."""
    return lambda a, b: np.ascontiguousarray(a[:, :-1]) @ b[:-1]


def rounds_to_half() -> Product:
    """Computes with 11 bits instead of 24."""
    return lambda a, b: a.astype(np.float16).astype(np.float32) @ b.astype(np.float16).astype(np.float32)


def spoils_its_input() -> Product:
    """Zeroes an element of a after use: later products become easier."""

    def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = a @ b
        a[0, 0] = 0
        return out

    return matmul


def returns_its_input() -> Product:
    """A view of an argument is no fresh array (the argument here is the identity's other side, so the values fit)."""
    return lambda a, b: b[: a.shape[0]]


def loses_nan() -> Product:
    """Returns NaN, which a careless comparison lets pass."""
    return lambda a, b: np.full((a.shape[0], b.shape[1]), np.nan, a.dtype)


CHEATS: dict[str, tuple[Callable[[], Product], str]] = {
    "keeps results": (remembers, "stale"),
    "returns the same memory": (hands_out_one_array, "shares"),
    "stops working after ten calls": (stops_working, "wrong"),
    "works on new values only": (works_on_new_values_only, "wrong"),
    "leaves a row undone": (forgets_the_last_row, "wrong"),
    "drops the last term of each sum": (drops_terms, "wrong"),
    "computes in half precision": (rounds_to_half, "wrong"),
    "writes into its argument": (spoils_its_input, "mutates"),
    "returns memory of its argument": (returns_its_input, "shares"),
    "returns NaN": (loses_nan, "wrong"),
}


@dataclasses.dataclass(frozen=True)
class Planted(Row):
    """The matmul row with another function in the kernel's place."""

    product: Product = np.matmul

    def call(self, args: Args) -> Callable[[], Any]:
        return lambda: self.product(*args)


def _planted(product: Product, operations: Callable[[Any], float] | None = None) -> Job:
    honest = ROWS["matmul"]
    fields = {f.name: getattr(honest, f.name) for f in dataclasses.fields(Row)}
    if operations is not None:
        fields["operations"] = operations
    return Job(Planted(**fields, product=product), Shape("matmul", "self-test", "", NUMBERS))


def self_test(bench: Bench, say: Callable[[str], None] = print) -> bool:
    """Plant every cheat; whether all were caught, each for what it does, and the honest ones were not."""
    good = True

    def told(what: str, wanted: str | None, record: dict[str, Any]) -> None:
        nonlocal good
        kinds = [f["kind"] for f in record["faults"] if f["who"] == OURS]
        right = (kinds == [] and OURS in record["contestants"]) if wanted is None else kinds == [wanted]
        good = good and right
        seen = "passes" if not kinds else f"caught: {record['faults'][0]['what']}"
        say(f"  {'ok  ' if right else 'FAIL'}  {what:<36} {seen}")

    say("honest")
    told("NumPy's matmul", None, bench.time(_planted(np.matmul), 1))
    told("minidl's matmul", None, bench.time(_planted(kernels.matmul), 1))
    say("planted")
    for what, (make, wanted) in CHEATS.items():
        told(what, wanted, bench.time(_planted(make()), 1))
    # The same kernel, said to have done 100,000 times the work: no machine is as fast.
    many = lambda g: 1e5 * ROWS["matmul"].operations(g)
    told("claims more work than was done", "impossible", bench.time(_planted(np.matmul, many), 1))
    return good
