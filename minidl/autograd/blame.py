"""Who made this tensor? What an error says beyond the op: where in the model, on what, and where that came from.

All of it runs when an error or a warning is on its way to the user, none on the good path. A recorded tensor knows its
node, the node knows which module ran (its `scope`) and where its inputs came from: that leads back from the layer that
failed to the layer that made the bad tensor. Under no_grad there are no nodes; inside a Sequential the order tells
then. Modules come from above this floor and are known here by what they have: ``named_modules`` and ``_modules``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from minidl.autograd.modes import state
from minidl.autograd.source import is_engine
from minidl.tensors import Tensor

_STEPS = 6  # as many layers back; by then one with parameters is mostly reached
_PLAIN = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


class NotATensor(TypeError, AttributeError):
    """An input that is no Tensor: TypeError as in torch's ops, AttributeError as in its Python code."""


def no_tensor(value: Any) -> bool:
    """Whether a value can be no operand at all; numbers can."""
    return value is None or isinstance(value, (list, tuple, dict, str)) or hasattr(value, "named_modules")


def given(value: Any, depth: int = 2) -> str:
    """A value in few words: ``(5, 16) float32``, ``a tuple of 2: ...``, ``None``."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = "" if isinstance(value, Tensor) else f"{type(value).__name__} "
        return f"{kind}{tuple(value.shape)} {getattr(value, 'array', value).dtype}"
    if isinstance(value, (tuple, list, set, dict)):
        inside = list(value.values()) if isinstance(value, dict) else list(value)
        shown = f": {', '.join(given(v, depth - 1) for v in inside[:3])}" if depth and inside else ""
        return f"a {type(value).__name__} of {len(inside)}{shown}{', ...' if shown and len(inside) > 3 else ''}"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (str, bytes)):
        return f"the text {value[:20]!r}"
    return f"a {type(value).__name__}"


def not_a_tensor(name: str, value: Any, what: str = "input") -> str:
    """What to say of an input that is no Tensor, with the likely slip."""
    said = f"{name}: the {what} must be a Tensor, not {given(value)}"
    if value is None:
        return f"{said}; did a forward() before it forget its return?"
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return f"{said}; a layer that returns several things (an LSTM: outputs and state) was passed on whole: take [0]"
    if isinstance(value, (list, tuple, int, float)):
        return f"{said}; make it one: minidl.tensor(...)"
    if isinstance(value, dict):
        return f"{said}; take the entry that is meant"
    if isinstance(value, str):
        return f"{said}; text needs numbers first, such as class indices or a tokenizer's"
    if hasattr(value, "named_modules"):
        return f"{said}; call that layer on a tensor first: layer(x)"
    return said


# -- the way back -----------------------------------------------------------------------------------------------------


def made_by(t: Any) -> str:
    """The op that made a tensor, and its module: ``linear in Net.head``; "" for one that no recorded op made."""
    node = t.node if isinstance(t, Tensor) else None
    return "" if node is None else f"{node.name()} in {node.scope}" if node.scope else node.name()


def came_from(t: Any) -> str:
    """`made_by` as the end of a sentence about t: `` (made by linear in Net.head)``, or ""."""
    maker = made_by(t)
    return f" (made by {maker})" if maker else ""


def scope() -> str:
    """`` in module Net.head`` while it runs, else ""."""
    return f" in module {state.scope}" if state.scope else ""


def _way_back(t: Any, tree: Mapping[str, Any], ends: set[int], here: str) -> Iterator[str]:
    """What a recorded tensor went through, latest first, as far as a layer with parameters or one of `ends`."""
    node = t.node if isinstance(t, Tensor) else None
    for _ in range(_STEPS):
        if node is None or id(node) in ends:
            return
        scope, names = node.scope, []
        module: Any = tree.get(scope)
        whole = module is not None and scope != here and not _children(module)  # a layer, whatever it is made of
        while node is not None and node.scope == scope and id(node) not in ends:
            names.append(node.name())
            before = [p for p in node.parents if p is not None and not isinstance(p, Tensor)]
            if len(before) != 1 and not whole:  # several branches meet, or the end
                node = None
            else:
                node = before[0] if before else None
        if whole:
            yield _shown(scope, module)
            if any(p is not None for p in module._parameters.values()):
                return
        else:
            yield ", ".join(reversed(names[:4])) + (f" in the forward of {scope}" if module is not None else _in(scope))


def _in(scope: str) -> str:
    return f" in {scope}" if scope else " outside of any module"


def _children(module: Any) -> list:
    return [m for m in module._modules.values() if m is not None]


def _shown(path: str, module: Any) -> str:
    """``Net.head: Linear(in_features=8, out_features=4, bias=True)``, on one line."""
    text = type(module).__name__ if _children(module) else repr(module)
    text = text if "\n" not in text and len(text) < 120 else type(module).__name__
    return path if path == text else f"{path} ({text})"


def _row_before(path: str, tree: Mapping[str, Any]) -> Iterator[str]:
    """The layers before one in its Sequential, and in the Sequentials around that; latest first."""
    for _ in range(_STEPS):
        parent, _, name = path.rpartition(".")
        if not parent or not getattr(tree.get(parent), "in_order", False):
            return
        names = list(tree[parent]._modules)
        at = names.index(name)
        if at == 0:
            path = parent
            continue
        path = f"{parent}.{names[at - 1]}"
        module = tree[path]
        yield _shown(path, module)
        if any(p is not None for m in module.modules() for p in m._parameters.values()):
            return


# -- what is added to an error ----------------------------------------------------------------------------------------


def passed(error: Exception, module: Any, path: str, args: tuple, kwargs: dict, outermost: bool) -> None:
    """An error leaves a module's call: the innermost says who and on what, the outermost knows the tree's names."""
    if not isinstance(error, _PLAIN):
        return
    fields = error.__dict__
    if "_blame" not in fields:
        fields["_blame"] = (module, path, (*args, *kwargs.values()))
    if not outermost or fields["_blame"] is None:  # None: it was told of before, and raised again
        return
    culprit, path, inputs = fields["_blame"]
    taken, fields["_blame"] = fields.pop("_inputs", None), None
    try:
        words = _told(module, (*args, *kwargs.values()), culprit, path, inputs, taken)
    except Exception:  # a user's repr or property: it must not hide the error itself
        words = f"in {path}"
    error.add_note(words)


def _told(root: Any, outside: tuple, culprit: Any, path: str, inputs: tuple, taken: tuple | None) -> str:
    """The module that failed, its inputs or those of the op that failed in it, and where each came from."""
    name = type(root).__name__
    tree = {f"{name}.{below}" if below else name: m for below, m in root.named_modules(remove_duplicate=False)}
    lines = [f"in {_shown(path, culprit)}"]
    params = {id(p) for p in culprit._parameters.values()}
    tensors = {id(a): a for a in (inputs if taken is None else taken) if _holds_tensor(a) and id(a) not in params}
    from_outside = {id(a) for a in outside}
    ends = {id(a.node) for a in outside if isinstance(a, Tensor) and a.node is not None}
    first: Any = inputs[0] if inputs else None
    shown = list(tensors.values())[:3]
    if not isinstance(first, Tensor) and not (taken is not None and shown):
        shown.insert(0, first)
    for t in shown:
        if id(t) in from_outside:
            lines.append(f"  input {given(t)}, given to {name} as it is{came_from(t)}")
            continue
        part = t
        while isinstance(part, (tuple, list)) and part:
            part = part[0]
        way = list(_way_back(part, tree, ends, path))
        if not way and t is first:
            way = list(_row_before(path, tree))
        lines.append(f"  input {given(t)}" + (f", made by {way[0]}" if way else ""))
        lines += [f"    from {step}" for step in way[1:]]
    return "\n".join(lines)


def _holds_tensor(a: Any) -> bool:
    return isinstance(a, Tensor) or (isinstance(a, (tuple, list)) and any(isinstance(item, Tensor) for item in a))


def noted(error: Exception, inputs: Any, scope: str) -> None:
    """An op failed: keep its inputs for `passed`; outside of any module say at once who made them."""
    if scope:
        error.__dict__["_inputs"] = tuple(inputs)
        return
    for a in inputs:
        maker = made_by(a)
        if maker:
            error.add_note(f"  input {given(a)}, made by {maker}")


def warn(message: str) -> None:
    """A UserWarning at the user's line, however deep in the engine it was found."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_engine(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level + 1)
