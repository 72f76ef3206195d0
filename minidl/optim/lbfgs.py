"""L-BFGS: Newton's direction from the last few changes of the gradient; the loss is evaluated several times a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl import devices
from minidl.autograd import enable_grad
from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor, wrap


class LBFGS(Optimizer):
    """Liu & Nocedal 1989 (doi 10.1007/BF01589116); for full batches and smooth losses. One `step(closure)` makes up to
    `max_iter` iterations

        s = w - w_before,  y = g - g_before,    kept, the last history_size of them, where y . s > 1e-10
        d = -H g    by the two loops of Nocedal & Wright (Numerical Optimization, 2006, algorithm 7.4), H_0 = s.y / y.y
        w += t d    with t = lr (the first time lr min(1, 1 / |g|_1)), or from a line search

    and ends early when the greatest gradient is at most tolerance_grad, when w or the loss change by at most
    tolerance_change, or after max_eval (by default 1.25 max_iter) evaluations.

    Args:
        line_search_fn: None, or "strong_wolfe": t such that the loss falls and its slope flattens (Nocedal & Wright,
            algorithms 3.5 and 3.6, with cubic interpolation).

    All parameters are one vector: there can be only one group (ValueError), and they must share dtype and device.

    >>> import minidl
    >>> w = minidl.tensor([3.0, -2.0], requires_grad=True)
    >>> optimizer = LBFGS([w], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((w - 1) ** 4).sum()
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(3):
    ...     loss = optimizer.step(closure)
    >>> bool(closure() < 1e-6)
    True
    """

    def __init__(
        self, params: Any, lr: float = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ):  # fmt: skip
        max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        defaults = dict(lr=lr, max_iter=max_iter, max_eval=max_eval, tolerance_grad=tolerance_grad,
                        tolerance_change=tolerance_change, history_size=history_size,
                        line_search_fn=line_search_fn)  # fmt: skip
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    # -- all parameters as one vector ---------------------------------------------------------------------------------

    def _gradient(self) -> Any:
        """The gradients of all parameters, one after another; zeros where there is none and for pruned weights."""
        parts = []
        for p in self.param_groups[0]["params"]:
            xp = devices.array_module(p.array)
            g = xp.zeros(p.array.size, p.array.dtype) if p._grad is None else p._grad.array.reshape(-1)
            mask = getattr(p, "mask", None)
            parts.append(g if mask is None else g * mask.reshape(-1))
        return devices.array_module(parts[0]).concatenate(parts)

    def _without_pruned(self, d: Any) -> Any:
        """d with zeros for pruned weights: steps taken before they were pruned have left theirs in the history."""
        start = 0
        for p in self.param_groups[0]["params"]:
            mask = getattr(p, "mask", None)
            if mask is not None:
                d[start : start + mask.size] *= mask.reshape(-1)
            start += p.array.size
        return d

    def _move(self, t: float, d: Any) -> None:
        """w += t d"""
        start = 0
        for p in self.param_groups[0]["params"]:
            p.array += (t * d[start : start + p.array.size]).reshape(p.array.shape)
            p.bump()
            start += p.array.size

    def _place(self, arrays: list) -> None:
        """w = arrays"""
        for p, a in zip(self.param_groups[0]["params"], arrays, strict=True):
            p.array[...] = a
            p.bump()

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Iterate. `closure` clears the gradients, computes the loss, calls backward and returns the loss; what it
        returned at first is returned. Raises TypeError without one.
        """
        if closure is None:
            raise TypeError("LBFGS.step() needs a closure that computes the loss anew")
        for hook in list(self._pre_hooks.values()):
            hook(self, (closure,), {})

        def evaluate() -> Any:
            with enable_grad():
                return closure()

        first = evaluate()
        self._iterate(evaluate, float(first))
        self.steps_taken += 1
        for hook in list(self._post_hooks.values()):
            hook(self, (closure,), {})
        return first

    def _iterate(self, evaluate: Callable[[], Any], loss: float) -> None:
        group = self.param_groups[0]
        lr, max_iter, max_eval = float(group["lr"]), group["max_iter"], group["max_eval"]
        search, flat_enough, unchanged = group["line_search_fn"], group["tolerance_grad"], group["tolerance_change"]
        state = self.state[group["params"][0]]
        state["func_evals"], evaluations = state.get("func_evals", 0) + 1, 1
        state.setdefault("n_iter", 0)
        g = self._gradient()
        if _greatest(g) <= flat_enough:
            return
        for iteration in range(1, max_iter + 1):
            state["n_iter"] += 1
            start = state["n_iter"] == 1
            d = -g if start else self._without_pruned(self._direction(g, state, group["history_size"]))
            if start:
                state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            state["prev_flat_grad"], state["prev_loss"] = wrap(g.copy()), loss
            t = min(1.0, 1.0 / float(abs(g).sum())) * lr if start else lr
            state["d"], state["t"] = wrap(d), t
            slope = float(g.dot(d))
            if slope > -unchanged:
                break
            new = 0
            if search is not None:
                if search != "strong_wolfe":
                    raise RuntimeError("only 'strong_wolfe' is supported")
                before = [p.array.copy() for p in group["params"]]

                def at(t: float, d: Any = d, before: list = before) -> _Point:
                    self._move(t, d)
                    loss, g = float(evaluate()), self._gradient()
                    self._place(before)
                    return _Point(t, loss, g, float(g.dot(d)))

                point, new = _strong_wolfe(at, _Point(0.0, loss, g, slope), t, _greatest(d), max_eval - evaluations)
                t, loss, g = point.t, point.loss, point.g
                self._move(t, d)
            else:
                self._move(t, d)
                if iteration != max_iter:  # the value after the last iteration is of no use to anyone
                    loss, new = float(evaluate()), 1
                    g = self._gradient()
            state["t"] = t
            evaluations += new
            state["func_evals"] += new
            if iteration == max_iter or evaluations >= max_eval or _greatest(g) <= flat_enough:
                break
            if _greatest(t * d) <= unchanged or abs(loss - state["prev_loss"]) < unchanged:
                break

    @staticmethod
    def _direction(g: Any, state: dict[str, Any], history_size: int) -> Any:
        """-H g, once the latest change is in the history."""
        ys, ss, ro = state["old_dirs"], state["old_stps"], state["ro"]
        y, s = g - state["prev_flat_grad"].array, state["d"].array * state["t"]
        curvature = float(y.dot(s))
        if curvature > 1e-10:
            if len(ys) == history_size:
                del ys[0], ss[0], ro[0]
            ys.append(wrap(y)), ss.append(wrap(s)), ro.append(1.0 / curvature)
            state["H_diag"] = curvature / float(y.dot(y))
        q, al = -g, [0.0] * len(ys)
        for i in reversed(range(len(ys))):
            al[i] = float(ss[i].array.dot(q)) * ro[i]
            q -= al[i] * ys[i].array
        q *= state["H_diag"]
        for i in range(len(ys)):
            q += (al[i] - float(ys[i].array.dot(q)) * ro[i]) * ss[i].array
        return q

    def own(self, name: str, value: Any, p: Tensor) -> Any:
        if isinstance(value, (list, tuple)):
            return [self.own(name, v, p) for v in value]
        array = value.array if isinstance(value, Tensor) else value
        if not hasattr(array, "dtype"):
            return value
        if not array.ndim:
            return array.item()
        return wrap(devices.move(np.array(array, p.array.dtype), p.device))


def _greatest(a: Any) -> float:
    return float(abs(a).max()) if a.size else 0.0


# -- the line search --------------------------------------------------------------------------------------------------


class _Point(NamedTuple):
    """A point w + t d on the line: the loss there, its gradient, and its slope along d."""

    t: float
    loss: float
    g: Any
    slope: float


def _strong_wolfe(
    at: Callable[[float], _Point], start: _Point, t: float, size: float, evaluations: int, c1: float = 1e-4,
    c2: float = 0.9, unchanged: float = 1e-9,
) -> tuple[_Point, int]:  # fmt: skip
    """A point where the loss is below start + c1 t slope and |slope| at most c2 of that at the start, if one is found
    in so many evaluations; and how many it took. `size` is the greatest element of d.
    """
    before, point, used = start, at(t), 1
    low, high, done = before, point, False
    while True:  # step out until an interval holds such points
        n = used - 1
        if n >= evaluations:
            low, high = start, point
            break
        if point.loss > start.loss + c1 * point.t * start.slope or (n > 1 and point.loss >= before.loss):
            low, high = before, point
            break
        if abs(point.slope) <= -c2 * start.slope:
            low = high = point
            done = True
            break
        if point.slope >= 0:
            low, high = before, point
            break
        bounds = point.t + 0.01 * (point.t - before.t), 10 * point.t
        before, point, used = point, at(_cubic_minimum(before, point, bounds)), used + 1
    if low.loss > high.loss:
        low, high = high, low
    slow = False
    while not done and used - 1 < evaluations:  # narrow the interval; `low` is its best end
        if abs(high.t - low.t) * size < unchanged:
            break
        left, right = min(low.t, high.t), max(low.t, high.t)
        t, margin = _cubic_minimum(low, high, (left, right)), 0.1 * (right - left)
        if min(right - t, t - left) < margin:  # near an end: a tenth of the interval away from it, if it is so again
            if slow or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                slow = False
            else:
                slow = True
        else:
            slow = False
        point, used = at(t), used + 1
        if point.loss > start.loss + c1 * t * start.slope or point.loss >= low.loss:
            high = point
            if low.loss > high.loss:
                low, high = high, low
        else:
            if abs(point.slope) <= -c2 * start.slope:
                done = True
            elif point.slope * (high.t - low.t) >= 0:
                high = low
            low = point
    return low, used


def _cubic_minimum(a: _Point, b: _Point, bounds: tuple[float, float]) -> float:
    """Where the cubic through two points and their slopes is least, within bounds; their middle if it has no minimum.

    Nocedal & Wright, eq. 3.59.
    """
    if a.t > b.t:
        a, b = b, a
    if b.t > a.t:
        d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
        square = d1 * d1 - a.slope * b.slope
        if square >= 0:
            d2 = square**0.5
            bottom = b.slope - a.slope + 2 * d2
            if bottom:
                t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / bottom)
                return min(max(t, bounds[0]), bounds[1])
    return (bounds[0] + bounds[1]) / 2
