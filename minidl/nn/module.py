"""Module: a tree of layers that knows its parameters. torch's names and behaviour.

Assigning a Parameter, a Buffer or a Module to an attribute registers it. Names are paths in the tree, such as
``layers.0.weight``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, state
from minidl.nn.parameter import Buffer, Parameter
from minidl.storage import Packed
from minidl.tensors import HookHandle, Shape, Tensor, wrap


class _Structure:
    """Counts the changes to any module tree, so that a root knows when its table of paths is out of date."""

    version = 0


class _Call(threading.local):
    """The outermost module call of this thread: the paths of all modules below it."""

    paths: dict[int, str] = {}


_call = _Call()


class IncompatibleKeys(NamedTuple):
    """What load_state_dict(strict=False) left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """Base of all layers and models. A subclass calls ``super().__init__()``, assigns its layers, defines ``forward``.

    >>> from minidl import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.fc(x).relu()
    >>> net = Net()
    >>> [(name, tuple(p.shape)) for name, p in net.named_parameters()]
    [('fc.weight', (2, 4)), ('fc.bias', (2,))]
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent: set[str]
    _forward_hooks: dict[int, Any]
    _forward_pre_hooks: dict[int, Any]
    _backward_hooks: dict[int, Any]
    _backward_pre_hooks: dict[int, Any]

    def __init__(self) -> None:
        fields = self.__dict__
        fields["training"] = True
        fields["_parameters"] = {}
        fields["_buffers"] = {}
        fields["_modules"] = {}
        fields["_non_persistent"] = set()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            fields[kind] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation; every subclass defines it. Call the module itself rather than this: hooks then run."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # -- running ------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
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
        finally:
            state.scope = before

    def _paths(self) -> dict[int, str]:
        """For each module below, by id, its path from here: ``Net.layers.0``. Made once per change of a tree."""
        cached = self.__dict__.get("_path_cache")
        if cached is None or cached[0] != _Structure.version:
            root = type(self).__name__
            paths = {id(m): f"{root}.{name}" if name else root for name, m in self.named_modules()}
            cached = self.__dict__["_path_cache"] = (_Structure.version, paths)
        return cached[1]

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
            watch = _Watch(self)
            args = watch.inputs(args)
        output = self.forward(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            result = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            if result is not None:
                output = result
        return output if watch is None else watch.outputs(output)

    def register_forward_pre_hook(
        self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False
    ) -> HookHandle:
        """Call ``hook(module, args)`` before forward; what it returns, if anything, replaces the arguments.

        With `with_kwargs`, ``hook(module, args, kwargs)``, returning None or a new (args, kwargs). Returns a handle
        with ``remove()``; `prepend` puts the hook before the others.
        """
        return _add_hook(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False) -> HookHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns, if anything, replaces the output.

        With `with_kwargs`, ``hook(module, args, kwargs, output)``. Returns a handle with ``remove()``.
        """
        return _add_hook(self._forward_hooks, (hook, with_kwargs), prepend)

    def register_full_backward_hook(self, hook: Callable, prepend: bool = False) -> HookHandle:
        """Call ``hook(module, grad_input, grad_output)``, tuples, once the gradients of the inputs are known.

        What it returns, if anything, replaces grad_input. There is an entry for each positional argument, None for
        those without a gradient. Returns a handle with ``remove()``.
        """
        return _add_hook(self._backward_hooks, hook, prepend)

    def register_full_backward_pre_hook(self, hook: Callable, prepend: bool = False) -> HookHandle:
        """Call ``hook(module, grad_output)`` before backward goes through the module; a result replaces grad_output."""
        return _add_hook(self._backward_pre_hooks, hook, prepend)

    # -- registering --------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__
        if isinstance(value, Parameter):
            self._ready("parameters")
            self._forget(name, "_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._ready("module")
            self._forget(name, "_modules")
            _check_name(name, "module")
            fields["_modules"][name] = value
            _Structure.version += 1
        elif "_parameters" in fields and name in fields["_parameters"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_typename(value)}' as parameter '{name}' (minidl.nn.Parameter or None expected)"
                )
            fields["_parameters"][name] = None
        elif "_modules" in fields and name in fields["_modules"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_typename(value)}' as child module '{name}' (minidl.nn.Module or None expected)"
                )
            fields["_modules"][name] = None
            _Structure.version += 1
        elif isinstance(value, Buffer):
            self._ready("buffer")
            self._forget(name, "_buffers")
            self.register_buffer(name, value, value.persistent)
        elif "_buffers" in fields and name in fields["_buffers"]:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{_typename(value)}' as buffer '{name}' "
                    "(minidl.nn.Buffer, minidl.Tensor or None expected)"
                )
            fields["_buffers"][name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            registered = fields.get(kind)
            if registered is not None and name in registered:
                return registered[name]
        forgot = "_modules" not in fields
        raise AttributeError(
            f"'{type(self).__name__}' object has no attribute '{name}'"
            + ("; the first line of its __init__ should be super().__init__()" if forgot else "")
        )

    def __delattr__(self, name: str) -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(kind, ()):
                del self.__dict__[kind][name]
                self._non_persistent.discard(name)
                _Structure.version += kind == "_modules"
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _ready(self, what: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(
                f"cannot assign {what} before Module.__init__() call: "
                f"the first line of {type(self).__name__}.__init__ should be super().__init__()"
            )

    def _forget(self, name: str, but: str) -> None:
        """Take away what else had this name, so that the new assignment replaces it."""
        self.__dict__.pop(name, None)
        for kind in ("_parameters", "_buffers", "_modules"):
            if kind != but and name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                _Structure.version += kind == "_modules"
        if but != "_buffers":
            self._non_persistent.discard(name)

    def _check_new(self, name: Any, kind: str, registered: Mapping) -> None:
        _check_name(name, kind)
        if name not in registered and (name in self.__dict__ or hasattr(self, name)):
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None reserves the name. Raises KeyError for a name that is taken or holds a dot."""
        self._ready("parameter")
        self._check_new(name, "parameter", self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{_typename(param)}' object to parameter '{name}' "
                "(minidl.nn.Parameter or None required)"
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained; `persistent`: also part of the state_dict."""
        self._ready("buffer")
        self._check_new(name, "buffer", self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{_typename(tensor)}' object to buffer '{name}' (minidl.Tensor or None required)"
            )
        self._buffers[name] = tensor
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under a name that need not be an attribute name. Raises TypeError if it is not a Module."""
        self._ready("module")
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{_typename(module)} is not a Module subclass")
        self._check_new(name, "module", self._modules)
        self._modules[name] = module
        _Structure.version += 1

    register_module = add_module

    # -- the tree -----------------------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and all below, in order; a shared one once, if ``remove_duplicate``."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct children, a shared one once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct children."""
        return (module for _, module in self.named_children())

    def _named_members(self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[Any]:
        seen = set()
        modules = self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, member in module.__dict__[kind].items():
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield (f"{path}.{name}" if path else name), member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter), in order, a shared one once."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, what an optimizer takes."""
        return (p for _, p in self.named_parameters("", recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(path, buffer), in order, a shared one once."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers."""
        return (b for _, b in self.named_buffers("", recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as ``layers.0``; ``""`` is this one. AttributeError names what is missing."""
        module: Any = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path such as ``layers.0.weight``. Raises AttributeError if there is none."""
        return self._get_member(target, "_parameters", "nn.Parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path. Raises AttributeError if there is none."""
        return self._get_member(target, "_buffers", "buffer")

    def _get_member(self, target: str, kind: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        member = module.__dict__[kind].get(name)
        if member is None:
            missing = f"`{name}` is not an {what}" if hasattr(module, name) else f"has no attribute `{name}`"
            raise AttributeError(f"{type(module).__name__} {missing}")
        return member

    def apply(self, fn: Callable[[Module], Any]) -> Any:
        """Call ``fn(module)`` on all modules below, then on this one; returns this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # -- modes --------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Any:
        """Training mode for this module and all below (matters to dropout and batch norm); returns the module."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Any:
        """Evaluation mode; returns the module."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Switch gradients of all parameters on or off; packed ones have none and stay so. Returns the module."""
        for p in self.parameters():
            if not (requires_grad and p.packed):
                p.requires_grad_(requires_grad)
        return self

    def freeze(self) -> Any:
        """``requires_grad_(False)``: leave these parameters as they are in training."""
        return self.requires_grad_(False)

    def unfreeze(self) -> Any:
        """``requires_grad_(True)``."""
        return self.requires_grad_(True)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        for p in self.parameters():
            clear_grad(p, set_to_none)

    # -- types and devices --------------------------------------------------------------------------------------------

    def to(self, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Any:
        """Move parameters and buffers: to(device), to(dtype), to(device, dtype) or to(tensor). Returns the module.

        It happens in place: the Parameter objects stay the same. A dtype must be floating point (TypeError otherwise)
        and applies to floating point tensors only.
        """
        for a in args:
            if isinstance(a, Tensor):
                dtype, device = a.dtype, a.device
            elif isinstance(a, devices.Device) or (isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda")):
                device = a
            elif not (a is None or isinstance(a, bool)):
                dtype = a
        kind = None
        if dtype is not None:
            kind = dtypes.as_numpy(dtype)
            if kind.kind != "f":
                raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype}")
        if device is not None:
            devices.Device(device)

        def change(array: Any) -> Any:
            if isinstance(array, Packed):
                return array if device is None else devices.move(array, device)
            if kind is not None and array.dtype.kind == "f" and array.dtype != kind:
                array = array.astype(kind)
            return array if device is None else devices.move(array, device)

        for t in [*self.parameters(), *self.buffers()]:
            t.array = change(t.array)
            if t._grad is not None:
                t._grad = wrap(change(t._grad.array))
            if device is not None and isinstance(t, Parameter) and t.mask is not None:
                t.mask = devices.move(t.mask, device)
        return self

    def float(self) -> Any:
        """Floating point parameters and buffers as float32."""
        return self.to(dtype=dtypes.float32)

    def double(self) -> Any:
        """Floating point parameters and buffers as float64."""
        return self.to(dtype=dtypes.float64)

    def half(self) -> Any:
        """Floating point parameters and buffers as float16, which is for storage: few ops compute in it."""
        return self.to(dtype=dtypes.float16)

    def cpu(self) -> Any:
        """Parameters and buffers on the CPU."""
        return self.to(device="cpu")

    def cuda(self, device: Any = None) -> Any:
        """Parameters and buffers on a GPU."""
        return self.to(device="cuda" if device is None else device if not isinstance(device, int) else f"cuda:{device}")

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> OrderedDict[str, Any]:
        """Path -> tensor, for every parameter and persistent buffer; the tensors share the model's memory.

        A packed parameter is there as its packed storage (:class:`minidl.storage.Packed`); the tensor of a pruned one
        carries its mask as ``.mask``, and so does packed storage. With `keep_vars` the Parameters themselves.
        """
        out: OrderedDict[str, Any] = OrderedDict() if destination is None else destination
        for path, module in self.named_modules(remove_duplicate=False):
            for kind in ("_parameters", "_buffers"):
                for name, t in module.__dict__[kind].items():
                    if t is None or (kind == "_buffers" and name in module._non_persistent):
                        continue
                    value = t if keep_vars else t.array if isinstance(t.array, Packed) else t.detach()
                    if isinstance(value, Tensor) and not keep_vars and getattr(t, "mask", None) is not None:
                        value.__dict__["mask"] = t.mask
                    out[prefix + (f"{path}.{name}" if path else name)] = value
        return out

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values into parameters and buffers; on an error nothing has changed.

        A value is a Tensor, an array or packed storage. A packed value makes the parameter packed, a float one for a
        packed parameter makes it float again, and trainable. A value's ``mask`` becomes the parameter's; a pruned
        parameter keeps its own mask otherwise, and its pruned weights stay 0.

        Args:
            strict: raise when keys are missing or unexpected. Otherwise they are returned.
            assign: hold the given arrays themselves, their dtype included, instead of copying.

        Raises TypeError for what is not a mapping; RuntimeError naming every missing and unexpected key and every pair
        of shapes that differ.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        own = self.state_dict(keep_vars=True)
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        errors, changes = [], []
        if strict and missing:
            errors.append("Missing key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in missing)))
        if strict and unexpected:
            errors.append("Unexpected key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in unexpected)))
        for key, t in own.items():
            if key not in state_dict:
                continue
            value = state_dict[key]
            array = value.array if isinstance(value, Tensor) else value
            known = isinstance(array, (np.ndarray, np.generic)) and array.dtype.kind in "fiub"
            if not (known or isinstance(array, Packed) or devices.is_cuda_array(array)):
                errors.append(
                    f'While copying the parameter named "{key}", expected a Tensor, an array or packed storage from '
                    f"checkpoint but received {type(value)}"
                )
                continue
            array = np.asarray(array) if isinstance(array, np.generic) else array
            if t.ndim == 0 and tuple(array.shape) == (1,):
                array = array.reshape(())
            if tuple(array.shape) != tuple(t.shape):
                errors.append(
                    f"size mismatch for {key}: copying a param with shape {Shape(array.shape)} from checkpoint, "
                    f"the shape in current model is {t.shape}."
                )
            elif isinstance(array, Packed) and not isinstance(t, Parameter):
                errors.append(f"{key} is a buffer and cannot hold packed storage ({array.kind}).")
            else:
                changes.append((t, array, getattr(value, "mask", None)))
        if errors:
            raise RuntimeError(
                "Error(s) in loading state_dict for {}:\n\t{}".format(type(self).__name__, "\n\t".join(errors))
            )
        for t, array, mask in changes:
            _store(t, array, mask, assign)
        return IncompatibleKeys(missing, unexpected)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_path_cache"}

    # -- how it is shown ----------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses of a layer's line."""
        return ""

    def _storage_notes(self) -> list[str]:
        """How parameters are stored, where that is not plain: ``weight=int8``, ``weight 80.0% pruned``."""
        notes = []
        for name, p in self._parameters.items():
            if p is None:
                continue
            if p.packed:
                notes.append(f"{name}={p.array.kind}")
            if p.mask is not None:
                notes.append(f"{name} {100 * (1 - float(p.mask.mean())) if p.mask.size else 0.0:.1f}% pruned")
        return notes

    def __repr__(self) -> str:
        extra = ", ".join(s for s in (self.extra_repr(), *self._storage_notes()) if s)
        lines = [f"({name}): {_indent(repr(module))}" for name, module in self._modules.items()]
        return _show(type(self).__name__, extra, lines)

    def summary(self, input_size: Any = None) -> Any:
        """Table of layers with output shapes, parameters, bytes and multiply-adds: see :func:`minidl.nn.summary`."""
        from minidl.nn.summaries import summary

        return summary(self, input_size)


def clear_grad(t: Tensor, set_to_none: bool) -> None:
    """Forget a gradient, or fill it with zeros."""
    if set_to_none or t._grad is None:
        t._grad = None
    else:
        t._grad = t._grad.detach()
        t._grad.array[...] = 0
        t._grad.bump()


def _store(t: Tensor, array: Any, mask: Any, assign: bool) -> None:
    """Give parameter or buffer `t` the values of `array`, in the same memory where that is possible."""
    was_packed = isinstance(t.array, Packed)
    if isinstance(array, Packed):
        t.array, t._requires_grad, t._grad = (array if assign else array.copy()), False, None
    elif assign:
        t.array = array
    elif was_packed:
        t.array = np.array(array)
    else:
        t.array[...] = devices.move(array, devices.device_of(t.array))
    if was_packed and not isinstance(array, Packed):
        t.requires_grad_()
    t.bump()
    if isinstance(t, Parameter):
        if mask is not None or isinstance(array, Packed):
            t.mask = None if mask is None else mask.copy()
        t.apply_mask_()


def _check_name(name: Any, kind: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{kind} name should be a string. Got {_typename(name)}")
    if "." in name:
        raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
    if not name:
        raise KeyError(f'{kind} name can\'t be empty string ""')


def _typename(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _add_hook(hooks: dict, hook: Any, prepend: bool) -> HookHandle:
    handle = HookHandle(hooks, hook)
    if prepend:
        others = [(k, v) for k, v in hooks.items() if k != handle.id]
        for k, _ in others:
            del hooks[k]
        hooks.update(others)
    return handle


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _show(name: str, extra: str, lines: list[str]) -> str:
    """``Name(extra)`` on one line, or the children on lines of their own."""
    if not lines:
        return f"{name}({_indent(extra)})" if "\n" not in extra else f"{name}(\n  {_indent(extra)}\n)"
    body = ([_indent(extra)] if extra else []) + lines
    return f"{name}(\n  " + "\n  ".join(body) + "\n)"


# -- gradients that pass a module's door ------------------------------------------------------------------------------


class gate(Op):
    """y = x for several x at once; ``passing(gradients)`` may look at, or replace, the gradients on their way back"""

    variadic = True

    def forward(ctx, xs: Any, passing: Any) -> Any:
        ctx.passing = passing
        return tuple(x.view() for x in xs)

    def backward(ctx, *dy: Any) -> Any:
        return ctx.passing([d if isinstance(d, Tensor) else wrap(d) for d in dy])


class _Watch:
    """One call of a module with backward hooks: a gate before its inputs and one after its outputs."""

    def __init__(self, module: Module):
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
            y._version = items[i].version  # the same memory, so in-place changes are seen on both sides
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
