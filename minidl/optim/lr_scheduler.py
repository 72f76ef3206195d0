"""Learning rates that change with time, under torch.optim.lr_scheduler's names.

A schedule sets the ``lr`` of each parameter group: once when it is made, then at every ``step()``, which comes after
``optimizer.step()``, once an epoch or once a batch as suits the schedule. Below, t counts its steps from 0 and lr_0 is
the group's rate at the start. Most compute a rate from the current one, so that two schedules together multiply.
"""

from __future__ import annotations

import math
import types
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from minidl.optim.optimizer import Optimizer

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR",
]  # fmt: skip


class LRScheduler:
    """Base of the schedules. A subclass defines ``get_lr()``: the rates, one per group, at ``self.last_epoch``.

    Args:
        optimizer: whose rates are set.
        last_epoch: t of the last step taken, to resume without a state_dict; -1 starts afresh.

    Raises TypeError for what is no optimizer, KeyError when resuming with groups that have no ``initial_lr``.
    """

    _is_initial = False
    _last_lr: list[float]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with "
                    "last_epoch >= 0: load the optimizer's state first"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.start()

    def start(self) -> None:
        """Set the rates of the first step."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates at t = ``self.last_epoch``, given those before in the groups."""
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        """The rates at t = ``self.last_epoch`` from those at the start alone."""
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """The rates set last, one per group."""
        return self._last_lr

    def step(self) -> None:
        """Go on to the next t and set the rates. Warns when the optimizer has not stepped at all by the second call."""
        if self._step_count == 1 and not self.optimizer.steps_taken:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first rate of the schedule was "
                "never used. Call optimizer.step() first, then lr_scheduler.step().",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def jump(self, epoch: int) -> None:
        """Go to t = `epoch` at once."""
        self.last_epoch = epoch
        self._set(self.closed_form())

    def _set(self, rates: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = self.current

    @property
    def current(self) -> list[float]:
        """The groups' rates as they are."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, in torch's layout."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict(). Load the optimizer's own, too: the current rates are there."""
        self.__dict__.update(state_dict)


class StepLR(LRScheduler):
    """lr_0 gamma^floor(t / step_size)"""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size != 0:
            return self.current
        return [lr * self.gamma for lr in self.current]

    def closed_form(self) -> list[float]:
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    """lr_0 gamma^(how many of the milestones are <= t)"""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch not in self.milestones:
            return self.current
        return [lr * self.gamma ** self.milestones[self.last_epoch] for lr in self.current]

    def closed_form(self) -> list[float]:
        passed = sum(n for at, n in self.milestones.items() if at <= self.last_epoch)
        return [lr * self.gamma**passed for lr in self.base_lrs]


class ExponentialLR(LRScheduler):
    """lr_0 gamma^t"""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return self.current if self._is_initial else [lr * self.gamma for lr in self.current]

    def closed_form(self) -> list[float]:
        return [lr * self.gamma**self.last_epoch for lr in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """eta_min + (lr_0 - eta_min) (1 + cos(pi t / T_max)) / 2; Loshchilov & Hutter 2017 (arXiv:1608.03983)

    After T_max it rises again, with period 2 T_max.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t, period, low = self.last_epoch, self.T_max, self.eta_min
        if self._is_initial:
            return self.current
        if (t - 1 - period) % (2 * period) == 0:  # just left the minimum, where the ratio below would be 0 / 0
            rise = (1 - math.cos(math.pi / period)) / 2
            return [lr + (base - low) * rise for lr, base in zip(self.current, self.base_lrs, strict=True)]
        ratio = (1 + math.cos(math.pi * t / period)) / (1 + math.cos(math.pi * (t - 1) / period))
        return [ratio * (lr - low) + low for lr in self.current]

    def closed_form(self) -> list[float]:
        wave = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (lr - self.eta_min) * wave for lr in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """eta_min + (lr_0 - eta_min) (1 + cos(pi T_cur / T_i)) / 2: SGDR, Loshchilov & Hutter 2017 (arXiv:1608.03983)

    T_cur counts the steps since the last restart, of T_i; the first period is T_0, each further one T_mult times as
    long. ``step(epoch)`` goes to a given t, which may be a fraction of an epoch. Raises ValueError for periods that are
    not positive integers and negative epochs.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ):  # fmt: skip
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        self.T_0, self.T_i, self.T_mult, self.eta_min = T_0, T_0, T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        wave = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (lr - self.eta_min) * wave for lr in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go on to the next t, or to t = `epoch`, and set the rates."""
        self._step_count += 1
        self.jump(self.last_epoch + 1 if epoch is None else epoch)

    def jump(self, epoch: float) -> None:
        if epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        self.last_epoch = math.floor(epoch)
        self.T_cur, self.T_i = epoch, self.T_0
        if self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        while self.T_cur >= self.T_i:
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult
        self._set(self.get_lr())


class ConstantLR(LRScheduler):
    """lr_0 factor until t = total_iters, then lr_0. Raises ValueError for a factor outside [0, 1]."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if factor > 1.0 or factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [lr * self.factor for lr in self.current]
        if self.last_epoch != self.total_iters:
            return self.current
        if not self.factor:  # from a rate of 0 no factor leads back
            return self.closed_form()
        return [lr * (1.0 / self.factor) for lr in self.current]

    def closed_form(self) -> list[float]:
        return [lr * (1.0 if self.last_epoch >= self.total_iters else self.factor) for lr in self.base_lrs]


class PolynomialLR(LRScheduler):
    """lr_0 (1 - min(t, total_iters) / total_iters)^power"""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t, n = self.last_epoch, self.total_iters
        if self._is_initial or t > n:
            return self.current
        ratio = ((1.0 - t / n) / (1.0 - (t - 1) / n)) ** self.power
        return [lr * ratio for lr in self.current]

    def closed_form(self) -> list[float]:
        rest = 1.0 - min(self.total_iters, self.last_epoch) / self.total_iters
        return [lr * rest**self.power for lr in self.base_lrs]


class LinearLR(LRScheduler):
    """lr_0 times a factor on the line from start_factor at t = 0 to end_factor at t = total_iters and after: a warm-up.

    Raises ValueError for factors outside (0, 1] and [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1,
    ):  # fmt: skip
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or equal to 1, got "
                f"{start_factor}"
            )
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError(f"Ending multiplicative factor expected to be between 0 and 1, got {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [lr * self.start_factor for lr in self.current]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self.current
        slope = self.end_factor - self.start_factor
        ratio = 1 + slope / (self.total_iters * self.start_factor + (self.last_epoch - 1) * slope)
        return [lr * ratio for lr in self.current]

    def closed_form(self) -> list[float]:
        done = min(self.total_iters, self.last_epoch) / self.total_iters
        return [lr * (self.start_factor + (self.end_factor - self.start_factor) * done) for lr in self.base_lrs]


class LambdaLR(LRScheduler):
    """lr_0 f(t), for a function f or a list of one per group. Raises ValueError for a list of another length.

    Functions are not part of the state_dict; an object with ``__call__`` is, by its attributes.
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ):  # fmt: skip
        self.lr_lambdas = _per_group("lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        plain = (types.FunctionType, types.BuiltinFunctionType)
        state["lr_lambdas"] = [None if isinstance(f, plain) else dict(f.__dict__) for f in self.lr_lambdas]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for f, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                f.__dict__.update(attributes)


class MultiplicativeLR(LambdaLR):
    """lr_0 f(1) f(2) ... f(t), for a function f or a list of one per group. Errors and state as LambdaLR's."""

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return self.current
        return [lr * f(self.last_epoch) for lr, f in zip(self.current, self.lr_lambdas, strict=True)]

    def closed_form(self) -> list[float]:
        steps = range(1, self.last_epoch + 1)
        return [lr * math.prod(f(t) for t in steps) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]


def _per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each group, from one or from a list. Raises ValueError for a list of another length."""
    n = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, "
            f"param_groups has {n}."
        )
    return list(value)


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to that / (div_factor final_div_factor), in total_steps in all.

    The momentum (or Adam's beta1) goes the other way, from max_momentum down to base_momentum and back. Made for one
    step a batch; Smith & Topin 2017 (arXiv:1708.07120).

    Args:
        total_steps: or `epochs` and `steps_per_epoch`, of which it is the product.
        pct_start: the part of the steps that goes up.
        anneal_strategy: "cos" or "linear".
        three_phase: down as fast as up, then a third phase for the last descent.

    Raises ValueError for arguments out of range, an optimizer without momentum (unless ``cycle_momentum=False``), and a
    step beyond the last.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | list[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, last_epoch: int = -1,
    ):  # fmt: skip
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        counts = {"total_steps": total_steps}
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
            counts = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        self.total_steps = 1
        for name, n in counts.items():
            if not isinstance(n, int) or n <= 0:
                raise ValueError(f"Expected positive integer {name}, but got {n}")
            self.total_steps *= n
        if not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type = anneal_strategy
        ends = [("initial_lr", "max_lr", pct_start * self.total_steps - 1)]
        if three_phase:
            ends.append(("max_lr", "initial_lr", 2 * pct_start * self.total_steps - 2))
        ends.append((ends[-1][1], "min_lr", self.total_steps - 1))
        momentum = {"max_lr": "base_momentum"}  # the least momentum goes with the greatest rate
        self._schedule_phases: list[dict[str, Any]] = [
            {
                "end_step": end,
                "start_lr": start,
                "end_lr": stop,
                "start_momentum": momentum.get(start, "max_momentum"),
                "end_momentum": momentum.get(stop, "max_momentum"),
            }
            for start, stop, end in ends
        ]
        highest = _per_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, top in zip(optimizer.param_groups, highest, strict=True):
                group["initial_lr"], group["max_lr"] = top / div_factor, top
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
                raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
            self.use_beta1 = "betas" in optimizer.defaults
            most = _per_group("max_momentum", optimizer, max_momentum)
            least = _per_group("base_momentum", optimizer, base_momentum)
            if last_epoch == -1:
                for group, high, low in zip(optimizer.param_groups, most, least, strict=True):
                    group["max_momentum"], group["base_momentum"] = high, low
                    _set_momentum(group, high, self.use_beta1)
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, part: float) -> float:
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2 * (math.cos(math.pi * part) + 1)
        return (end - start) * part + start

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"Tried to step {t} times. The specified number of total steps is {self.total_steps}")
        first, phase = 0.0, self._schedule_phases[0]
        for phase in self._schedule_phases:
            if t <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            first = phase["end_step"]
        length = phase["end_step"] - first
        part = (t - first) / length if length else 1.0  # a phase of a single step is at its end
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._anneal(group[phase["start_lr"]], group[phase["end_lr"]], part))
            if self.cycle_momentum:
                ends = group[phase["start_momentum"]], group[phase["end_momentum"]]
                _set_momentum(group, self._anneal(*ends, part), self.use_beta1)
        return rates


def _set_momentum(group: dict[str, Any], value: float, use_beta1: bool) -> None:
    if use_beta1:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


class CyclicLR(LRScheduler):
    """Up and down on straight lines between base_lr and max_lr; Smith 2017 (arXiv:1506.01186). For one step a batch.

    The momentum (or Adam's beta1) goes the other way, from max_momentum down to base_momentum and back.

    Args:
        step_size_up, step_size_down: steps of the way up and down (default: as many down as up).
        mode: "triangular"; "triangular2": half the height each cycle; "exp_range": height times gamma^t.
        scale_fn: the height's factor, a function of the cycle (1, 2, ...) or, with scale_mode "iterations", of t;
            `mode` is then ignored. Not part of the state_dict unless it is an object with ``__call__``.

    Raises ValueError for an unknown mode or an optimizer without momentum (unless ``cycle_momentum=False``).
    """

    def __init__(
        self, optimizer: Optimizer, base_lr: float | list[float], max_lr: float | list[float],
        step_size_up: int = 2000, step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle", cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8, max_momentum: float | list[float] = 0.9, last_epoch: int = -1,
    ):  # fmt: skip
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        base_lrs = _per_group("base_lr", optimizer, base_lr)
        self.max_lrs = _per_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        self.mode, self.gamma, self._scale_fn_custom = mode, gamma, scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
                raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
            self.use_beta1 = "betas" in optimizer.defaults
            self.base_momentums = _per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = _per_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for i, group in enumerate(optimizer.param_groups):
                group["lr"] = base_lrs[i]
                if cycle_momentum:
                    _set_momentum(group, self.max_momentums[i], self.use_beta1)
                    group["max_momentum"], group["base_momentum"] = self.max_momentums[i], self.base_momentums[i]
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """The factor of the height, at a cycle or at a step as `scale_mode` says."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / 2.0 ** (x - 1)
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                _set_momentum(group, high - (high - low) * height * scale, self.use_beta1)
        return [low + (high - low) * height * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        scale = self._scale_fn_custom
        plain = scale is None or isinstance(scale, (types.FunctionType, types.BuiltinFunctionType))
        state["_scale_fn_custom"] = None if plain else dict(scale.__dict__)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_scale_fn_custom"})
        if state_dict["_scale_fn_custom"] is not None and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(state_dict["_scale_fn_custom"])


class ChainedScheduler(LRScheduler):
    """Several schedules at once, stepped together: for those that compute a rate from the current one, the product.

    Raises ValueError for an empty list, ReduceLROnPlateau (its step takes a metric), and schedules of several
    optimizers.
    """

    def __init__(self, schedulers: list[LRScheduler], optimizer: Optimizer | None = None):
        if not schedulers:
            raise ValueError("ChainedScheduler expects at least one scheduler to be chained, but got no scheduler.")
        self.optimizer = optimizer or schedulers[0].optimizer
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"ChainedScheduler cannot hold ReduceLROnPlateau (index {i}): its step takes a metric")
            if scheduler.optimizer is not self.optimizer:
                raise ValueError(
                    "ChainedScheduler expects all schedulers to belong to the same optimizer, but the one at index "
                    f"{i}, {type(scheduler).__name__}, has another"
                )
        self._schedulers = list(schedulers)
        self._last_lr = self.current

    def step(self) -> None:
        """Step every schedule, in order."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self.current

    def state_dict(self) -> dict[str, Any]:
        return {"_last_lr": self._last_lr, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_lr = state_dict["_last_lr"]
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(LRScheduler):
    """schedulers[0] until t = milestones[0], then schedulers[1] from its own start, and so on.

    Raises ValueError unless there is one milestone fewer than schedulers, and all belong to this optimizer.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int]):
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler to be chained, but got no scheduler.")
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"SequentialLR cannot hold ReduceLROnPlateau (index {i}): its step takes a metric")
            if isinstance(scheduler, ChainedScheduler):
                raise ValueError(
                    f"SequentialLR cannot hold ChainedScheduler (index {i}): it has no start to go back to"
                )
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"SequentialLR expects all schedulers to belong to the same optimizer, but the one at index {i}, "
                    f"{type(scheduler).__name__}, has another"
                )
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.optimizer = optimizer
        # each scheduler set its first rate when it was made: take those back, and let the first one start alone
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _rewind(self)
        self.start()

    def start(self) -> None:
        self.last_epoch = 0
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first.start()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:
        """Go on to the next t and let the scheduler of that time set the rates."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler.jump(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def jump(self, epoch: int) -> None:
        """Go back to the start, the only place that a sequence can jump to."""
        if epoch != 0:
            raise ValueError(f"a sequence of schedules can only start again, not jump to {epoch}")
        self.last_epoch = 0
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first.jump(0)
        self._last_lr = first.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        return {**state, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


def _rewind(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, SequentialLR):
        for inner in scheduler._schedulers:
            _rewind(inner)
    else:
        scheduler.last_epoch -= 1


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by `factor` when a metric has not improved for more than `patience` steps.

    ``step(metric)`` takes the metric, such as the validation loss.

    Args:
        mode: "min": lower is better; "max": higher is.
        threshold: what counts as better: by this part of the best ("rel") or by this amount ("abs", `threshold_mode`).
        cooldown: steps after a reduction during which nothing is counted.
        min_lr: the rate stops there; one, or a list of one per group.
        eps: a change smaller than this is not made.

    Raises ValueError for a factor of 1 or more, or an unknown mode.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ):  # fmt: skip
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.optimizer = optimizer
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.min_lrs = _per_group("min_lr", optimizer, min_lr)
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = 0
        self._last_lr = self.current

    def is_better(self, metric: float) -> bool:
        """Whether a metric improves on the best so far."""
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "rel":
            wanted = self.best * (1 + sign * self.threshold)
        else:
            wanted = self.best + sign * self.threshold
        return metric < wanted if self.mode == "min" else metric > wanted

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Note one metric, a number or a Tensor of one element, and reduce the rate if it is time."""
        metric = float(metrics)
        self.last_epoch += 1
        if self.is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lr = max(group["lr"] * self.factor, least)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self.current
