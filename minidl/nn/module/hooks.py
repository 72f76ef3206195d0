"""Hooks: functions called before and after a module's forward, and when gradients pass its door on their way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.autograd import Op, state
from minidl.nn.module.registration import Registration
from minidl.tensors import HookHandle, Tensor, wrap


class Hooks(Registration):
    """The hooks of a module: the part of :class:`Module` that registers them and calls ``forward`` among them."""

    def register_forward_pre_hook(
        self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False
    ) -> HookHandle:
        """Call ``hook(module, args)`` before forward; what it returns, if anything, replaces the arguments.

        With `with_kwargs`, ``hook(module, args, kwargs)``, returning None or a new (args, kwargs). Returns a handle
        with ``remove()``; `prepend` puts the hook before the others.
        """
        return add_hook(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False) -> HookHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns, if anything, replaces the output.

        With `with_kwargs`, ``hook(module, args, kwargs, output)``. Returns a handle with ``remove()``.
        """
        return add_hook(self._forward_hooks, (hook, with_kwargs), prepend)

    def register_full_backward_hook(self, hook: Callable, prepend: bool = False) -> HookHandle:
        """Call ``hook(module, grad_input, grad_output)``, tuples, once the gradients of the inputs are known.

        What it returns, if anything, replaces grad_input. There is an entry for each positional argument, None for
        those without a gradient. Returns a handle with ``remove()``.
        """
        return add_hook(self._backward_hooks, hook, prepend)

    def register_full_backward_pre_hook(self, hook: Callable, prepend: bool = False) -> HookHandle:
        """Call ``hook(module, grad_output)`` before backward goes through the module; a result replaces grad_output."""
        return add_hook(self._backward_pre_hooks, hook, prepend)

    def _call_with_hooks(self, args: tuple, kwargs: dict) -> Any:
        for hook, with_kwargs in list(self._forward_pre_hooks.values()):
            result = hook(self, args, kwargs) if with_kwargs else hook(self, args)
            if result is None:
                continue
            if with_kwargs:
                if not (isinstance(result, tuple) and len(result) == 2):
                    raise RuntimeError(
                        "a forward pre-hook registered with_kwargs must return None or (args, kwargs), "
                        f"but got {type(result).__name__}"
                    )
                args, kwargs = result
            else:
                args = result if isinstance(result, tuple) else (result,)
        watch = None
        if self._backward_hooks or self._backward_pre_hooks:
            watch = Watch(self)
            args = watch.inputs(args)
        output = self.forward(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            result = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            if result is not None:
                output = result
        return output if watch is None else watch.outputs(output)


def add_hook(hooks: dict, hook: Any, prepend: bool) -> HookHandle:
    handle = HookHandle(hooks, hook)
    if prepend:
        others = [(k, v) for k, v in hooks.items() if k != handle.id]
        for k, _ in others:
            del hooks[k]
        hooks.update(others)
    return handle


# -- gradients that pass a module's door ------------------------------------------------------------------------------


class gate(Op):
    """y = x for several x at once; ``passing(gradients)`` may look at, or replace, the gradients on their way back"""

    variadic = True

    def forward(ctx, xs: Any, passing: Any) -> Any:
        ctx.passing = passing
        return tuple(x.view() for x in xs)

    def backward(ctx, *dy: Any) -> Any:
        return ctx.passing([d if isinstance(d, Tensor) else wrap(d) for d in dy])


class Watch:
    """One call of a module with backward hooks: a gate before its inputs and one after its outputs."""

    def __init__(self, module: Hooks):
        self.module = module
        self.grad_output: tuple | None = None
        self.positions: list[int] = []
        self.count = 0

    def inputs(self, args: tuple) -> tuple:
        self.count = len(args)
        self.positions = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad and state.grad]
        return self._through(args, self.positions, self._input_gradients)

    def outputs(self, output: Any) -> Any:
        items = output if isinstance(output, tuple) else (output,)
        positions = [i for i, a in enumerate(items) if isinstance(a, Tensor) and a.requires_grad and state.grad]
        self.output_places = (positions, len(items))
        items = self._through(items, positions, self._output_gradients)
        return items if isinstance(output, tuple) else items[0]

    @staticmethod
    def _through(items: tuple, positions: list[int], passing: Callable) -> tuple:
        if not positions:
            return items
        out = list(items)
        for i, y in zip(positions, gate([items[i] for i in positions], passing), strict=True):
            y._changes = items[i].version  # the same memory, so in-place changes are seen on both sides
            out[i] = y
        return tuple(out)

    def _output_gradients(self, grads: list) -> list:
        positions, n = self.output_places
        full = _spread(grads, positions, n)
        for hook in list(self.module._backward_pre_hooks.values()):
            result = hook(self.module, full)
            if result is not None:
                full = _replaced(result, full, "grad_output")
        self.grad_output = full
        if not self.positions:  # no input wants a gradient: this is the last that is seen of the pass
            self._run((None,) * self.count)
        return [full[i] for i in positions]

    def _input_gradients(self, grads: list) -> list:
        if self.grad_output is None:  # not by way of the output: a second derivative, through what the module saved
            return grads
        full = self._run(_spread(grads, self.positions, self.count))
        return [full[i] for i in self.positions]

    def _run(self, grad_input: tuple) -> tuple:
        for hook in list(self.module._backward_hooks.values()):
            result = hook(self.module, grad_input, self.grad_output)
            if result is not None:
                grad_input = _replaced(result, grad_input, "grad_input")
        self.grad_output = None
        return grad_input


def _spread(grads: list, positions: list[int], n: int) -> tuple:
    full = [None] * n
    for i, g in zip(positions, grads, strict=True):
        full[i] = g
    return tuple(full)


def _replaced(result: Any, old: tuple, what: str) -> tuple:
    result = result if isinstance(result, tuple) else (result,)
    if len(result) != len(old):
        raise RuntimeError(f"a backward hook returned {len(result)} gradients for {what}, which has {len(old)}")
    return result
