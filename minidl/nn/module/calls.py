"""Calling a module: its forward runs under its path in the tree, which errors name."""

from __future__ import annotations

import threading
from typing import Any

from minidl import devices
from minidl.autograd import blame, state
from minidl.nn.module.hooks import Hooks
from minidl.nn.module.registration import Structure
from minidl.nn.module.tree import Tree


class _Call(threading.local):
    """The outermost module call of this thread: the paths of all modules below it."""

    paths: dict[int, str] = {}


_call = _Call()


class Calls(Hooks, Tree):
    """The call: the part of :class:`Module` that runs ``forward``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation; every subclass defines it. Call the module itself rather than this: hooks then run."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if devices.several and (gpu := devices.first(args)) is not None:
            with gpu:  # what a forward makes beside its ops is there, too
                return self(*args, **kwargs)
        before = state.scope
        if before:
            path = _call.paths.get(id(self))
            state.scope = path if path is not None else f"{before}.<{type(self).__name__}>"
        else:
            _call.paths = self._paths()
            state.scope = type(self).__name__
        try:
            if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            blame.passed(error, self, state.scope, args, kwargs, outermost=not before)
            raise
        finally:
            state.scope = before

    def _paths(self) -> dict[int, str]:
        """For each module below, by id, its path from here: ``Net.layers.0``. Made once per change of a tree."""
        cached = self.__dict__.get("_path_cache")
        if cached is None or cached[0] != Structure.version:
            root = type(self).__name__
            paths = {id(m): f"{root}.{name}" if name else root for name, m in self.named_modules()}
            cached = self.__dict__["_path_cache"] = (Structure.version, paths)
        return cached[1]
