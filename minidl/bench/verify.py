"""Proof that what is timed is the work: results examined before, during and after the timing.

    before    the first result equals the reference, the inputs are as they were, the result is memory of its own
    during    at moments that the contestant cannot know, the last result is overwritten with rubbish and freed, and the
              next one must be right: a call that leaves its work undone returns the rubbish
    after     the inputs get new values in place, and the result must be that of the new values: a call that keeps
              results returns the old one
    always    no input has been written, no more CPU time was used than the threads allow, and no call was faster than
              the machine's ceilings (`impossible`)

What is found wrong raises `Fault`; nothing is said of the speed of such a contestant. `minidl bench --self-test` plants
these cheats and sees each caught (selftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minidl_kernels as kernels

__all__ = ["Fault", "Witness", "arrays", "error_of", "impossible", "too_many_cores"]

RUBBISH = 0x5A  # as float32 1.5e16, as int32 1515870810


class Fault(Exception):
    """Contestant `who` does not do the work. `kind` is wrong, mutates, shares, stale, threads or impossible."""

    def __init__(self, kind: str, who: str, what: str) -> None:
        super().__init__(f"{who} {what}")
        self.kind, self.who, self.what = kind, who, what


def arrays(out: Any) -> list[np.ndarray]:
    """A result as arrays, without a copy: NumPy's, torch's, or a sequence of them."""
    if isinstance(out, (tuple, list)):
        return [a for part in out for a in arrays(part)]
    return [np.asarray(out)]


def error_of(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error, relative to the largest finite magnitude that is wanted; infinite for another shape or kind,
    or where one has NaN or Inf and the other has not. Integers are right (0) or wrong (infinite).

    >>> error_of(np.array([1.0, 2.5]), np.array([1.0, 2.0])), error_of(np.array([np.nan]), np.array([1.0]))
    (0.25, inf)
    """
    if got.shape != want.shape or got.dtype.kind != want.dtype.kind:
        return float("inf")
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(got, want) else float("inf")
    finite = np.isfinite(want)
    if not finite.all():
        if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
            return float("inf")
        got, want = got[finite], want[finite]
    if not want.size:
        return 0.0
    largest = float(np.max(np.abs(want)))
    error = float(np.max(np.abs(got - want)))
    return (error / largest if largest else error) if error == error else float("inf")


class Witness:
    """Knows the right result of a job and examines contestants.

    Args:
        args: the arguments, arrays among them; `renew` writes into these. One that nobody can write, as the weights of
            a deployed layer, stays as it is.
        expect: expect(args) -> the right result, in float64 where it is float.
        tolerance: the largest error that rounding explains, relative to the largest element.
        other: a second set of arguments, of the same shapes, for `renew`.
    """

    def __init__(self, args: Sequence[Any], expect: Callable[..., Any], tolerance: float, other: Sequence[Any]) -> None:
        other = [a if kernels.frozen(a) else b for a, b in zip(args, other)]
        self.args, self.tolerance = args, tolerance
        self._sets = [[_copied(a) for a in given] for given in (args, other)]
        self._wants = [arrays(expect(*given)) for given in self._sets]
        self._now = 0

    def renew(self, number: int) -> None:
        """Put set 0 or 1 of the values into the arguments, in place."""
        self._now = number
        for array, value in zip(self.args, self._sets[number]):
            if isinstance(array, np.ndarray) and not kernels.frozen(array):
                array[...] = value

    def inputs_are_whole(self, who: str) -> None:
        """Raises Fault where an argument is not what was put there, bit for bit; repairs it."""
        faults = []
        for number, (array, value) in enumerate(zip(self.args, self._sets[self._now])):
            if isinstance(array, np.ndarray) and not _same_bits(array, value):
                faults.append(number)
        if faults:
            self.renew(self._now)
            raise Fault("mutates", who, f"wrote into its argument {faults[0]}")

    def examine(self, who: str, out: Any, tolerance: float | None = None, partial: bool = False) -> float:
        """The error of a result. Raises Fault where it is too large, or the result is memory of an argument.

        `partial`: of several arrays the last may be missing; a peer keeps some to itself.
        """
        got, want = arrays(out), self._wants[self._now]
        limit = self.tolerance if tolerance is None else tolerance
        self.inputs_are_whole(who)
        for a in got:
            if any(np.may_share_memory(a, b) for b in self.args if isinstance(b, np.ndarray)):
                raise Fault("shares", who, "returns memory of its argument")
        errors = [error_of(a, b) for a, b in zip(got, want)]
        worst = max(errors) if len(got) == len(want) or (partial and got) else float("inf")
        if not worst <= limit:
            before = self._wants[1 - self._now]
            stale = self._now == 1 and all(error_of(a, b) <= limit for a, b in zip(got, before))
            if stale:
                raise Fault("stale", who, "returns the result of earlier values")
            size = "a wrong result" if worst == float("inf") else f"a result off by {worst:.1e} of its largest element"
            raise Fault("wrong", who, f"returns {size}; rounding explains {limit:.1e}")
        return worst

    def audit(
        self, who: str, call: Callable[[], Any], last: Any, tolerance: float | None = None, partial: bool = False
    ) -> None:
        """Spoil the last result, if there is one, and examine the next."""
        if last is not None:
            for a in arrays(last):
                spoil(a)
        del last
        self.examine(who, call(), tolerance, partial)

    def fresh(self, who: str, call: Callable[[], Any]) -> None:
        """Raises Fault where two results are the same memory."""
        one, two = arrays(call()), arrays(call())
        if any(np.may_share_memory(a, b) for a in one for b in two if a.size and b.size):
            raise Fault("shares", who, "returns the same memory twice")


def spoil(a: np.ndarray) -> None:
    """Overwrite with rubbish what can be written."""
    if a.flags.writeable and a.flags.c_contiguous:
        a.reshape(-1).view(np.uint8)[...] = RUBBISH


def impossible(seconds: float, floors: tuple[float, float], slack: float = 1.1) -> str | None:
    """Why a call cannot have taken so little time, or None. `floors` is what arithmetic and memory need at least."""
    for need, what in zip(floors, ("arithmetic", "memory")):
        if seconds * slack < need:
            return f"{need / seconds:.2f} times faster than this machine's {what} allows"
    return None


def too_many_cores(cores: float, nthreads: int) -> str | None:
    """Why more CPU time was used than this many threads have, or None."""
    if cores > nthreads + 0.5:
        return f"used {cores:.1f} CPUs, {nthreads} {'was' if nthreads == 1 else 'were'} allowed"
    return None


def _copied(a: Any) -> Any:
    return a.copy() if isinstance(a, np.ndarray) else a


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, NaN and -0 included."""
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    whole = {2: np.uint16, 4: np.uint32, 8: np.uint64}[a.itemsize]
    return np.array_equal(a.view(whole), b.view(whole)) if a.flags.c_contiguous else np.array_equal(a, b, True)
