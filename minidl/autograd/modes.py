"""Switches of the current thread: is anything recorded, who looks on, which module runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class _State(threading.local):
    """What holds for the current thread."""

    def __init__(self) -> None:
        self.grad = True  # are ops recorded?
        self.scope = ""  # path of the module that is running, set by Module.__call__
        self.watch: tuple = ()  # the watchers (minidl.autograd.watch) that look at every op
        self.heads: Any = None  # minidl.ops.heads.Heads, while a module runs that slim took some from

    @property
    def anomaly(self) -> tuple[bool, bool] | None:
        """Whether NaN, and whether Inf, is looked for after every op; None outside of anomaly mode."""
        return next((w.looks_for for w in self.watch if w.looks_for is not None), None)

    @anomaly.setter
    def anomaly(self, value: tuple[bool, bool] | None) -> None:
        from minidl.autograd.anomaly import Anomaly

        others = tuple(w for w in self.watch if w.looks_for is None)
        self.watch = (*others, Anomaly(*value)) if value is not None else others


state = _State()


class _Switch:
    """A context manager, and a decorator, that sets one value of the thread's state."""

    name: str
    value: Any

    def __enter__(self) -> Any:
        self._stack().append(getattr(state, self.name))
        setattr(state, self.name, self.value)
        return self

    def __exit__(self, *_: Any) -> None:
        setattr(state, self.name, self._stack().pop())

    def _stack(self) -> list:
        if not hasattr(self, "_before"):
            self._before: list = []
        return self._before

    def __call__(self, function: Callable) -> Callable:
        from functools import wraps
        from inspect import isgeneratorfunction

        if isgeneratorfunction(function):  # switched while it runs, not while its user does

            @wraps(function)
            def steps(*args: Any, **kwargs: Any) -> Any:
                generator = function(*args, **kwargs)
                resume, value = generator.send, None
                try:
                    while True:
                        with self._again():
                            try:
                                item = resume(value)
                            except StopIteration as stop:
                                return stop.value
                        try:
                            resume, value = generator.send, (yield item)
                        except Exception as error:
                            resume, value = generator.throw, error  # type: ignore[assignment]
                finally:
                    generator.close()

            return steps

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return wrapped

    def _again(self) -> _Switch:
        other = object.__new__(type(self))
        other.value = self.value
        return other


class _Set(_Switch):
    """A switch that works when it is made; as a context manager, or as a decorator, it also switches back."""

    _set = False  # made, and not yet entered

    def __init__(self, mode: Any):
        self.value = mode
        super().__enter__()
        self._set = True

    def __enter__(self) -> Any:
        if not self._set:
            return super().__enter__()
        self._set = False
        return self

    def __call__(self, function: Callable) -> Callable:
        self.__exit__()
        return super().__call__(function)


class no_grad(_Switch):
    """``with no_grad():`` nothing is recorded. Also a decorator."""

    name, value = "grad", False

    def __new__(cls, function: Callable | None = None) -> Any:
        self = object.__new__(cls)
        return self if function is None else self(function)


class enable_grad(no_grad):
    """``with enable_grad():`` record again inside no_grad. Also a decorator."""

    value = True


class set_grad_enabled(_Set):
    """Switch recording on or off: at once, for a block as a context manager, or for a function as a decorator."""

    name = "grad"

    def __init__(self, mode: bool):
        super().__init__(bool(mode))


inference_mode = no_grad


def is_grad_enabled() -> bool:
    """Whether ops are recorded in this thread."""
    return state.grad


class detect_anomaly(_Switch):
    """``with detect_anomaly():`` the first op, forward or backward, that makes a NaN raises and says where.

    With `check_inf` so does the first Inf; what was given to an op, as a number or in a tensor, is none of its doing.
    The error names the op, the module path, the source line, the first bad element and the values that led to it. Slips
    that raise nothing are warned of: a backward that adds to gradients a step has used (forgotten zero_grad), a step of
    an optimizer none of whose parameters has a gradient, dropout and batch norm in training mode under no_grad
    (forgotten eval).
    """

    name = "anomaly"

    def __init__(self, check_nan: bool = True, check_inf: bool = False):
        self.value = bool(check_nan), bool(check_inf)


class set_detect_anomaly(_Set):
    """Switch anomaly mode on or off, at once or for a block."""

    name = "anomaly"

    def __init__(self, mode: bool, check_nan: bool = True, check_inf: bool = False):
        super().__init__((bool(check_nan), bool(check_inf)) if mode else None)
