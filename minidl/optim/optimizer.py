"""What optimizers share: groups of parameters, their state, torch's layout of both, and the walk of a step.

A step writes into the parameters' arrays; nothing of it is recorded. An update is elementwise, so a large parameter is
taken in blocks that stay in the CPU's cache from the first operation of the formula to the last.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import blame, enable_grad
from minidl.autograd import state as modes
from minidl.autograd.anomaly import mark_used
from minidl.nn import mistakes
from minidl.nn.parameter import Parameter, clear_grad
from minidl.storage import Packed
from minidl.tensors import HookHandle, Tensor, wrap

_SCALARS = (
    "step",
    "mu_product",
    "eta",
    "mu",
)  # state that is one float32 number, not an array of the parameter's shape
BLOCK = 32768  # elements at a time: a handful of float32 arrays of this size fit a 1 MiB second-level cache
_COMPILED = (np.dtype(np.float32), np.dtype(np.float64))


class Optimizer:
    """Base of the optimizers. A subclass defines ``update(p, g, state, group)``, on arrays; where a kernel takes many
    parameters at once, also ``update_all(ready, group)``.

    Args:
        params: Tensors, or (name, Tensor) pairs, or dicts ``{"params": ..., "lr": ...}``: groups with own options.
        defaults: options of groups that do not set them.

    Four options say how torch is to compute, not what. ``foreach`` and ``fused`` are taken and change nothing: a step
    is fused already, see ``blocks``. ``capturable`` (CUDA graphs) and ``differentiable`` (gradients of a step) are not
    offered: True raises NotImplementedError.

    Raises TypeError for what is no such iterable or a packed (quantized) parameter; ValueError for an empty list, a
    parameter in two groups, names for some parameters only, or a tensor that is not a leaf. A parameter listed twice in
    one group is updated twice a step, with a warning, as in torch.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]):
        if isinstance(params, (Tensor, dict, str)) or not isinstance(params, Iterable):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                f"{type(params).__name__}{mistakes.instead(params)}"
            )
        owner = mistakes.owner(params)  # while the generator can still tell
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self.steps_taken = 0  # in this process; a scheduler warns when it is stepped first
        self._pre_hooks: dict = {}
        self._post_hooks: dict = {}
        self._scratch: dict[tuple, Any] = {}
        groups = list(params)
        if not groups:
            raise ValueError(f"optimizer got an empty parameter list{mistakes.why_empty(owner)}")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own, such as newly unfrozen layers."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = dict(param_group)
        given = group["params"]
        if isinstance(given, set):
            raise TypeError(
                "optimizer parameters need to be in ordered collections, but sets have no order; use a list"
            )
        params = [given] if isinstance(given, Tensor) else list(given)
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) != len(params):
                raise ValueError(
                    "all optimizer params should be with/without names. Some param names are missing: "
                    f"{len(names)} of {len(params)} are (name, parameter) pairs"
                )
            group["param_names"] = names
            params = [p for _, p in params]
        known = {id(p) for g in self.param_groups for p in g["params"]}
        own: set[int] = set()
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(
                    f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}"
                    f"{mistakes.instead(p)}"
                )
            if isinstance(p.array, Packed):
                raise TypeError(
                    f"parameter {i} of the group, of shape {tuple(p.shape)}, is packed as {p.array.kind} and cannot be "
                    "trained: optimize the float model and quantize it afterwards, unpack it with "
                    "minidl.compress.dequantize_(model), or pass only those that are not p.packed"
                )
            if not (p.is_leaf or p.retains_grad):
                raise ValueError(
                    f"can't optimize a non-leaf Tensor: parameter {i} of the group, {blame.given(p)}, was computed"
                    f"{blame.came_from(p)}. Give the optimizer the leaf it was computed from, or make a leaf of it: "
                    "x.detach().requires_grad_()"
                )
            if id(p) in known:
                raise ValueError(
                    "some parameters appear in more than one parameter group: "
                    f"{blame.given(p)} does. model.parameters() gives shared ones once; to give some a learning "
                    "rate of their own, leave them out of the other group"
                )
            if id(p) in own:
                warnings.warn(
                    f"optimizer contains a parameter group with duplicate parameters: {blame.given(p)} is there twice "
                    "and would be updated twice a step; model.parameters() gives shared ones once",
                    stacklevel=3,
                )
            own.add(id(p))
        group["params"] = params
        if any(("param_names" in group) != ("param_names" in g) for g in self.param_groups):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with names' if names else 'without names'} to the optimizer"
            )
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        self.check_how(group)
        self.check(group)
        self.param_groups.append(group)

    def check_how(self, group: dict[str, Any]) -> None:
        """Raise for options on how to compute that contradict each other or are not offered, and for a lr of many."""
        if group.get("fused") and group.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if group.get("fused") and group.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        for name, why in (
            ("capturable", "there are no CUDA graphs to capture a step in"),
            ("differentiable", "a step writes into the parameters and is not recorded"),
        ):
            if group.get(name):
                raise NotImplementedError(f"{type(self).__name__}: {name}=True is not offered: {why}")
        if isinstance(group.get("lr"), Tensor) and group["lr"].numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(group['lr'].shape)}")
        if isinstance(group.get("lr"), Tensor) and group.get("foreach"):
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for options of a group that make no sense."""
        label = {"lr": "learning rate", "eps": "epsilon value", "momentum": "momentum value"}
        for name in ("lr", "weight_decay", "momentum", "eps", "lr_decay"):
            if name not in group:
                continue
            value = group[name]
            try:
                fits = value >= 0
            except TypeError:
                raise TypeError(
                    f"{type(self).__name__}: {name} must be a number, such as 1e-3, not {value!r}"
                ) from None
            if not fits:
                hint = "; a step goes down the gradient already (maximize=True goes up)" if name == "lr" else ""
                raise ValueError(f"Invalid {label.get(name, name + ' value')}: {value}{hint}")
        if not isinstance(group.get("betas", ()), (tuple, list)):
            raise TypeError(
                f"{type(self).__name__}: betas must be a pair of numbers in [0, 1), such as (0.9, 0.999), not "
                f"{group['betas']!r}"
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. `closure`, if given, computes the loss anew; it is returned."""
        for hook in list(self._pre_hooks.values()):
            hook(self, (closure,), {})
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            ready = list(self._ready(group))
            for some in self._by_device(ready) if devices.several else (ready,):
                with devices.at([p for p, _ in some]):
                    self.update_all(some, plain(group))
        self.steps_taken += 1
        if modes.anomaly:
            self._look_for_slips()
        for hook in list(self._post_hooks.values()):
            hook(self, (closure,), {})
        return loss

    def _look_for_slips(self) -> None:
        """In anomaly mode: warn when nothing was there to be done, mark the gradients that were used."""
        grads = [p._grad for group in self.param_groups for p in group["params"] if p._grad is not None]
        if not grads:
            n = sum(len(group["params"]) for group in self.param_groups)
            blame.warn(
                f"{type(self).__name__}.step(): none of its {n} parameters has a gradient, so nothing changed. Was "
                "loss.backward() called, after zero_grad() and before step()? Are these the parameters of the model "
                "that gave the loss, or of one that it replaced?"
            )
        for g in grads:
            mark_used(g)

    @staticmethod
    def _ready(group: dict[str, Any]) -> Iterator[tuple[Tensor, Any]]:
        """The parameters that have a gradient, with its array."""
        for p in group["params"]:
            if p._grad is None:
                continue
            if isinstance(p.array, Packed):
                raise TypeError(f"a parameter of shape {tuple(p.shape)} was packed as {p.array.kind}: stop training it")
            g = p._grad.array
            if g.shape != p.array.shape or g.dtype != p.array.dtype:
                raise RuntimeError(
                    f"the gradient is {g.dtype} {tuple(g.shape)}, its parameter {p.array.dtype} {tuple(p.shape)}"
                )
            yield p, g

    @staticmethod
    def _by_device(ready: list[tuple[Tensor, Any]]) -> list[list[tuple[Tensor, Any]]]:
        """The same, those of each device together."""
        found: dict[Any, list[tuple[Tensor, Any]]] = {}
        for p, g in ready:
            found.setdefault(devices.device_of(p.array), []).append((p, g))
        return list(found.values())

    def update_all(self, ready: list[tuple[Tensor, Any]], group: dict[str, Any]) -> None:
        """`update` for each of the parameters, of one group, and what follows it."""
        for p, g in ready:
            self.update(p, g, self.state[p], group)
            self.updated(p)

    @staticmethod
    def updated(p: Tensor) -> None:
        """To be called when ``p.array`` has changed."""
        if isinstance(p, Parameter) and p.mask is not None:
            p.apply_mask_()  # after the update: momentum and decay cannot bring a pruned weight back
        else:
            p.bump()

    @staticmethod
    def masks(some: list[tuple[Tensor, Any]]) -> list[Any] | None:
        """The masks of parameters for a kernel; None where there is none."""
        found = [getattr(p, "mask", None) for p, _ in some]
        return None if all(m is None for m in found) else found

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change ``p.array`` in place, given its gradient, an array; `state` is kept from step to step."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                clear_grad(p, set_to_none)

    # -- all parameters in one call -----------------------------------------------------------------------------------

    def by_kernel(
        self, ready: list[tuple[Tensor, Any]], names: tuple[str, ...], least: int,
        run: Callable[[list[tuple[Tensor, Any]]], None],
    ) -> list[tuple[Tensor, Any]]:  # fmt: skip
        """Give those parameters to `run`, which updates them all at once and applies their masks, that a kernel takes;
        the others come back.

        They are arrays of one dtype, float32 or float64, in C order, as is their state of those `names`, on the CPU at
        least `least` elements in all, and no parameter is there twice. A compiled pass does for all in one call what
        NumPy does for one in a dozen.
        """

        def fits(a: Any, dtype: Any) -> bool:
            if type(a) is np.ndarray:
                return a.dtype == dtype and a.flags.carray
            return devices.is_cuda_array(a) and a.dtype == dtype and a.flags.c_contiguous

        taken: dict[Any, list[tuple[Tensor, Any]]] = {}
        left, seen = [], set()
        for p, g in ready:
            a, state = p.array, self.state[p]
            states = [s.array for s in map(state.get, names) if s is not None]
            if a.dtype in _COMPILED and type(g) is type(a) and all(fits(s, g.dtype) for s in (a, *states)):
                taken.setdefault((a.dtype, devices.device_of(a)), []).append((p, g))
                seen.add(id(a))
            else:
                left.append((p, g))
        if len(seen) + len(left) < len(ready):
            return ready  # one is listed twice: its second update follows the first and its mask
        for (_, device), some in taken.items():
            if device == devices.CPU and sum([g.size for _, g in some]) < least:
                left += some
            else:
                run(some)
                for p, _ in some:
                    p.bump()
        return left

    # -- for the formulas ---------------------------------------------------------------------------------------------

    def blocks(self, *arrays: Any) -> Iterator[tuple]:
        """The arrays, of one shape, piece by piece: flat blocks, then two scratch arrays of the block's size.

        An array given as None comes back as None.
        """
        first = arrays[0]
        whole = first.size <= BLOCK or not isinstance(first, np.ndarray)
        if whole or not all(a is None or a.flags.c_contiguous for a in arrays):
            yield (*arrays, *self._scratch_like(first))
            return
        flat = [None if a is None else a.reshape(-1) for a in arrays]
        scratch = self._scratch_like(flat[0][:BLOCK])  # type: ignore[index]
        for i in range(0, first.size, BLOCK):
            n = min(BLOCK, first.size - i)
            yield (*[None if a is None else a[i : i + n] for a in flat], *[s[:n] for s in scratch])

    def _scratch_like(self, a: Any) -> tuple[Any, Any]:
        key = (a.shape, a.dtype, type(a))
        found = self._scratch.get(key)
        if found is None:
            xp = devices.array_module(a)
            if len(self._scratch) > 64:  # many odd shapes: start afresh rather than keep them all
                self._scratch.clear()
            found = self._scratch[key] = (xp.empty(a.shape, a.dtype), xp.empty(a.shape, a.dtype))
        return found

    @staticmethod
    def count(state: dict[str, Any]) -> int:
        """One more step of this parameter: the number of it, from 1. Kept as torch keeps it, a float32 scalar."""
        if "step" not in state:
            state["step"] = wrap(np.zeros((), np.float32))
        state["step"].array += 1
        return int(state["step"].array)

    @staticmethod
    def moment(state: dict[str, Any], name: str, p: Tensor) -> Any:
        """The array of that name in the state; zeros at first."""
        if state.get(name) is None:
            state[name] = wrap(devices.array_module(p.array).zeros_like(p.array, order="C"))
        return state[name].array

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a step depends on, in torch's layout: parameters are numbered in order through all groups.

        ``{"state": {0: {"momentum_buffer": ...}, ...}, "param_groups": [{"lr": ..., "params": [0, 1]}, ...]}``; the
        tensors share memory with the optimizer.
        """
        number: dict[int, int] = {}
        groups: list[dict[str, Any]] = []
        total = 0
        for group in self.param_groups:
            for p in group["params"]:
                number[id(p)] = total
                total += 1
            packed = {k: v for k, v in group.items() if k != "params"}
            groups.append({**packed, "params": [number[id(p)] for p in group["params"]]})
        state = {number[id(p)]: dict(s) for p, s in self.state.items() if s and id(p) in number}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict(), copied; one of torch's with its tensors as arrays, too.

        Float state takes the parameter's dtype and device. Raises ValueError when the groups are of other sizes, or a
        state is of another shape than its parameter; nothing has changed then.
        """
        groups, saved = self.param_groups, state_dict["param_groups"]
        if len(groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(groups, saved, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        params = {
            n: p for g, s in zip(groups, saved, strict=True) for n, p in zip(s["params"], g["params"], strict=True)
        }
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        for n, entries in state_dict["state"].items():
            n = int(n)
            if n not in params:
                raise ValueError(f"loaded state dict has a state for parameter {n}, which is in no group")
            state[params[n]] = {k: self.own(k, v, params[n]) for k, v in entries.items()}
        new_groups = []
        for group, s in zip(groups, saved, strict=True):
            options = {k: tuple(v) if isinstance(v, list) and k != "param_names" else v for k, v in s.items()}
            new_groups.append({**group, **options, "params": group["params"]})
        self.state, self.param_groups = state, new_groups

    def own(self, name: str, value: Any, p: Tensor) -> Any:
        """A copy of a piece of state, as the optimizer of `p` holds it. ValueError for another shape."""
        array = value.array if isinstance(value, Tensor) else value
        if not hasattr(array, "dtype"):
            return wrap(np.asarray(array, np.float32)) if name in _SCALARS and not isinstance(array, bool) else value
        if name in _SCALARS:
            return wrap(np.array(array, np.float32).reshape(()))
        if tuple(array.shape) != self.state_shape(name, p):
            raise ValueError(f"state '{name}' has shape {tuple(array.shape)}, its parameter {tuple(p.shape)}")
        dtype = p.array.dtype if array.dtype.kind == "f" else array.dtype
        return wrap(devices.move(array.astype(dtype, order="C", copy=True), p.device))

    def state_shape(self, name: str, p: Tensor) -> tuple[int, ...]:
        """The shape of a piece of state: that of the parameter."""
        return tuple(p.shape)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_scratch": {}}

    # -- hooks and looks ----------------------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable) -> HookHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step. Returns a handle with ``remove()``."""
        return HookHandle(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable) -> HookHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step. Returns a handle with ``remove()``."""
        return HookHandle(self._post_hooks, hook)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines += [""] * (i > 0) + [f"Parameter Group {i}"]
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
        return "\n".join([*lines, ")"])


def plain(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a group with numbers in place of Tensors of one element, such as a learning rate."""
    if not any(isinstance(v, Tensor) for v in (group.get("lr"), *(group.get("betas") or ()))):
        return group
    number = lambda v: v.item() if isinstance(v, Tensor) else v
    out = {**group, "lr": number(group["lr"])}
    if "betas" in group:
        out["betas"] = tuple(number(b) for b in group["betas"])
    return out
