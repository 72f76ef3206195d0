"""Transfer learning: what another task has taught stays as it is, or changes little; a new head learns the rest.

    theta <- theta - lr dL/dtheta        for the parts that are to learn, each with a rate of its own

A model that is to keep its knowledge is frozen (`freeze_`), gets a new head (`new_head_`), and is thawed from the top,
with smaller steps the deeper a layer lies (`groups_by_depth`). Assigning a layer of one model to another shares it:
training the second changes the first. Take `copy.deepcopy(model)` first, or freeze what is shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from minidl import nn

__all__ = ["freeze_", "groups_by_depth", "new_head_", "swap_", "unfreeze_"]


def freeze_(model: Any, names: str | Iterable[str] = "*") -> Any:
    """Keep parts of a model as they are, to the last bit, in place; returns the model.

    Their parameters want no gradient any more, so no optimizer moves them, and batch norms and dropouts among them run
    in evaluation mode even while the rest trains, so that running statistics stay, too.

    Args:
        names: of modules or parameters; ``*`` stands for anything. Several as a list.

    Raises ValueError for a name that matches nothing.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [name for name, p in freeze_(model, "0").named_parameters() if p.requires_grad]
    ['2.weight', '2.bias']
    """
    params, modules = _named(model, names)
    for p in params:
        p.requires_grad_(False)
        p.grad = None
    for m in modules:
        if not any(hook is _in_eval for hook, _ in m._forward_pre_hooks.values()):
            m.register_forward_pre_hook(_in_eval)
    return model


def unfreeze_(model: Any, names: str | Iterable[str] = "*") -> Any:
    """Let parts of a model learn again, in place; returns the model. Packed parameters have no gradient and stay so."""
    params, modules = _named(model, names)
    for p in params:
        if not p.packed:
            p.requires_grad_()
    for m in modules:
        for key, (hook, _) in list(m._forward_pre_hooks.items()):
            if hook is _in_eval:
                del m._forward_pre_hooks[key]
    return model


def _in_eval(module: Any, args: tuple) -> None:
    module.training = False


def _named(model: Any, names: str | Iterable[str]) -> tuple[list[Any], list[Any]]:
    """The parameters, and the modules all of whose parameters are among them."""
    patterns = [names] if isinstance(names, str) else list(names)
    fits = lambda name: any(fnmatchcase(name, s) or fnmatchcase(name, s + ".*") for s in patterns)
    every = dict(model.named_modules())
    known = [*dict(model.named_parameters()), *(n for n in every if n)]
    for s in patterns:
        if not any(fnmatchcase(n, s) for n in known):
            raise ValueError(f"nothing is called {s!r}; the modules are {', '.join(n for n in every if n)}")
    params = [p for name, p in model.named_parameters(remove_duplicate=False) if fits(name)]
    return params, [m for name, m in every.items() if name and fits(name)]


def swap_(model: Any, path: str, module: Any) -> Any:
    """Put a module in the place of the one at `path`; returns the one that was there.

    Raises AttributeError for a path that does not exist.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> swap_(model, "1", nn.Linear(8, 5)), model[1].out_features
    (Linear(in_features=8, out_features=2, bias=True), 5)
    """
    old = model.get_submodule(path)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return old


def new_head_(model: Any, classes: int) -> Any:
    """Give a model a fresh last dense layer with `classes` outputs, in place; returns the new layer.

    The last `Linear` in the order of the module tree is taken for the head; `swap_` replaces any other. Raises
    ValueError for fewer classes than one, and a model without a Linear.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000))
    >>> new_head_(model, 3)
    Linear(in_features=8, out_features=3, bias=True)
    """
    if classes < 1:
        raise ValueError(f"new_head_: at least one class, got {classes}")
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not found:
        raise ValueError(f"new_head_: {type(model).__name__} holds no Linear; use swap_ with the path of its head")
    path, old = found[-1]
    head = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    like = old.bias if old.weight.packed else old.weight
    if like is not None:
        head.to(device=like.device, dtype=like.dtype)
    swap_(model, path, head)
    return head


def groups_by_depth(model: Any, lr: float, decay: float = 1 / 2.6) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: the last layer learns with `lr`, each one before it with `decay` times that.

    Discriminative fine-tuning, Howard & Ruder 2018, arXiv:1801.06146, whose factor is the default. A layer is a module
    that has parameters of its own, in the order of the tree. Frozen parameters are left out. Raises ValueError for
    rates that are not positive, and a model with nothing to train.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> [(g["name"], g["lr"]) for g in groups_by_depth(model, 0.1, decay=0.5)]
    [('0', 0.025), ('1', 0.05), ('2', 0.1)]
    """
    if not lr > 0 or not decay > 0:
        raise ValueError(f"groups_by_depth: lr and decay must be positive, got {lr} and {decay}")
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in seen]
        seen.update(map(id, own))
        if own:
            groups.append({"name": name or type(module).__name__, "params": own})
    if not groups:
        raise ValueError("groups_by_depth: every parameter is frozen; unfreeze_ some")
    for depth, group in enumerate(reversed(groups)):
        group["lr"] = lr * decay**depth
    return groups
