"""The walk back through the graph: every node after all of its consumers.

``backward`` of an op is written once, in ops, and works twice. In a plain backward pass it is given arrays, so its ops
only compute. With ``create_graph=True`` it is given Tensors, so its ops are recorded and can be differentiated again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from itertools import repeat
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import blame
from minidl.autograd.anomaly import check_leftover
from minidl.autograd.contract import TABLE, Op
from minidl.autograd.modes import state
from minidl.autograd.source import source_line
from minidl.tensors import Tensor, wrap

ndarray = np.ndarray
_ZEROS = repeat(0)


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of the sum of `tensors` to ``.grad`` of the leaves (or of `inputs`). See Tensor.backward."""
    outputs, grads = _roots(tensors, grad_tensors, create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        _walk(outputs, grads, create_graph, retain, None)
        return
    targets = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for t, g in zip(targets, _walk(outputs, grads, create_graph, retain, targets), strict=True):
        if g is not None:
            _add_to_leaf(t, g.array if not create_graph else g, create_graph)
            for hook in list((t._after_hooks or {}).values()):
                hook(t)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple:
    """The gradients of the sum of `outputs` with respect to `inputs`, as a tuple; ``.grad`` is left alone.

    Args:
        outputs: a Tensor or a sequence of them.
        inputs: a Tensor or a sequence of them; leaves or not.
        grad_outputs: the gradient that arrives at each output; may be left out for single elements.
        retain_graph: keep what the graph saved (default: as `create_graph`).
        create_graph: make the results differentiable themselves.
        only_inputs: True: nothing else is computed.
        allow_unused: give None for an input that the outputs do not depend on, instead of raising RuntimeError.
        is_grads_batched: each of grad_outputs is a stack of several; the results are stacked likewise.
        materialize_grads: give zeros for those.

    >>> import minidl
    >>> x = minidl.tensor(3.0, requires_grad=True)
    >>> (dx,) = grad(x**3, x, create_graph=True)
    >>> (ddx,) = grad(dx, x)
    >>> dx.item(), ddx.item()
    (27.0, 18.0)
    """
    if is_grads_batched:
        several = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
        rows = [
            grad(outputs, inputs, [g[k] for g in several], True, create_graph, only_inputs, allow_unused, False,
                 materialize_grads)
            for k in range(len(several[0]))
        ]  # fmt: skip
        return tuple(None if parts[0] is None else TABLE["stack"](list(parts)) for parts in zip(*rows, strict=True))
    roots, grads = _roots(outputs, grad_outputs, create_graph)
    targets = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for i, t in enumerate(targets):
        if not t.requires_grad:
            raise RuntimeError(f"grad: input {i} does not require gradients")
    retain = create_graph if retain_graph is None else retain_graph
    results = list(_walk(roots, grads, create_graph, retain, targets))
    for i, g in enumerate(results):
        if g is None and materialize_grads:
            results[i] = wrap(np.zeros_like(targets[i].array))
        elif g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i}, of shape {tuple(targets[i].shape)}, was not used in computing the outputs; pass "
                "allow_unused=True for None instead"
            )
    return tuple(results)


def _roots(outputs: Any, grads: Any, live: bool) -> tuple[list, list]:
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    grads = [None] * len(outputs) if grads is None else [grads] if isinstance(grads, Tensor) else list(grads)
    if len(grads) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(grads)} gradients")
    seeds: list[Any] = []
    for y, g in zip(outputs, grads, strict=True):
        if not y.requires_grad:
            cause = (
                "gradients are switched off here by no_grad(): call backward() outside"
                if not state.grad
                else "was it computed under no_grad(), detached, rounded (argmax, comparison, .long()), or made anew "
                "by tensor() or NumPy? Or are all parameters frozen?"
            )
            raise RuntimeError(
                f"the tensor {blame.given(y)} does not require gradients and has no op that made it: nothing to go "
                f"back to; {cause}"
            )
        if g is None:
            if y.array.size != 1:
                raise RuntimeError(
                    f"gradients can be created implicitly only for a single element, this tensor has shape "
                    f"{tuple(y.shape)}{blame.came_from(y)}: call .sum() or .mean() first (was the loss made with "
                    "reduction='none', or backward() called on the model's output?), or pass a gradient of that shape"
                )
            with devices.at((y,)):
                seed: Any = np.ones_like(y.array)
        else:
            seed = g.array if isinstance(g, Tensor) else np.asarray(g)
            if seed.shape != y.array.shape:
                raise RuntimeError(f"the gradient has shape {tuple(seed.shape)}, the tensor {tuple(y.shape)}")
            seed = g if live and isinstance(g, Tensor) else seed.astype(y.array.dtype, copy=False)
        seeds.append(wrap(seed) if live and not isinstance(seed, Tensor) else seed)
    return outputs, seeds


def _walk(outputs: list, seeds: list, live: bool, retain: bool, targets: list | None) -> list:
    """Visit every node after all of its consumers, hand each the gradient of its output, pass on what it returns.

    A node's gradient is complete only when all consumers have added to it: hence the topological order, here by
    counting consumers. Returns the gradients of `targets` as Tensors, or adds to the leaves when `targets` is None.
    """
    waiting = _count_consumers([y.node for y in outputs if y.node is not None])
    useful = None if targets is None else _useful(waiting, targets)
    wanted: dict[tuple[int, int], Any] = {}
    if targets is not None:
        for t in targets:
            wanted[_place(t)] = None
    pending: dict[Any, list] = {}
    hooked: dict[Tensor, Any] = {}  # gradients of leaves with hooks
    own: set[tuple[int, int]] = set()  # gradients that this walk allocated and may add to in place
    aside: dict[Any, dict[int, list]] = {}  # of a node's outputs: gradients of parts of them, with who gave them

    def deliver(parent: Any, index: int, g: Any) -> None:
        if isinstance(parent, Tensor):
            if parent._hooks or parent._after_hooks:  # they see the whole gradient, at the end
                hooked[parent] = hooked[parent] + g if parent in hooked else g
            elif targets is None:
                _add_to_leaf(parent, g, live)
            elif (id(parent), 0) in wanted:
                have = wanted[id(parent), 0]
                wanted[id(parent), 0] = g if have is None else have + g
            return
        slots = pending.get(parent)
        if slots is None:
            slots = pending[parent] = [None] * (1 if parent.outputs is None else len(parent.outputs))
        have = slots[index]
        if have is None:
            slots[index] = g
        elif live:
            slots[index] = have + g
        elif (id(parent), index) in own:
            have += g
        else:
            slots[index] = np.asarray(have + g) if type(have) is ndarray else have + g
            own.add((id(parent), index))

    def put_aside(node: Any, dy: Any) -> bool:
        """Keep the gradient of a part of the parent until those of its other parts are there, as long as all of them
        take no more memory than the parent: ten slices of x cost ten slices, not ten times x.
        """
        parent, index = node.parents[0], node.indices[0] if node.indices else 0
        if isinstance(parent, Tensor) or (useful is not None and parent not in useful) or not node.is_part():
            return False
        found = aside.setdefault(parent, {}).setdefault(index, [])
        found.append((node, dy))
        if sum(dy.size for _, dy in found) > math.prod(node.size):
            join(parent, index)
        return True

    def join(parent: Any, index: int) -> None:
        found = aside[parent].pop(index)
        with devices.at((found[0][1],)):
            deliver(parent, index, type(found[0][0]).join(found))

    before = state.grad
    state.grad = live
    try:
        for y, seed in zip(outputs, seeds, strict=True):
            deliver(y if y.node is None else y.node, y.index, seed)
        ready = [node for node in dict.fromkeys(y.node for y in outputs) if node is not None and not waiting[node]]
        while ready:
            node = ready.pop()
            if node in aside:
                for index in list(aside[node]):
                    join(node, index)
            slots = pending.pop(node, None)
            if slots is not None:
                if node._hooks:
                    for k, hooks in node._hooks.items():
                        if slots[k] is not None:
                            slots[k] = _run_hooks(hooks, slots[k], live)
                if node._retain:
                    for k, ref in node._retain.items():
                        if ref() is not None and slots[k] is not None:
                            _add_to_leaf(ref(), slots[k], live)
                if targets is not None:
                    for k, g in enumerate(slots):
                        if (id(node), k) in wanted:
                            wanted[id(node), k] = g
            if slots is not None and (useful is None or node in useful):
                if node.join is not None and not live and not state.watch and put_aside(node, slots[0]):
                    edges = []
                elif devices.several:
                    with devices.at(slots):
                        edges = _step(node, slots, live, useful, wanted)
                else:
                    edges = _step(node, slots, live, useful, wanted)
                for parent, index, g in edges:
                    if devices.several:
                        with devices.at((g,)):
                            deliver(parent, index, g)
                    else:
                        deliver(parent, index, g)
                if not retain:
                    node.release()
            for parent in node.parents:
                if isinstance(parent, Op):
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        ready.append(parent)
        for leaf, g in hooked.items():
            g = _run_hooks(leaf._hooks or {}, g, live)
            if targets is None:
                _add_to_leaf(leaf, g, live)
                for hook in list((leaf._after_hooks or {}).values()):
                    hook(leaf)
            elif (id(leaf), 0) in wanted:
                wanted[id(leaf), 0] = g
    finally:
        state.grad = before
    if targets is None:
        return []
    found = [wanted[_place(t)] for t in targets]
    return [g if g is None or isinstance(g, Tensor) else wrap(np.asarray(g) if np.isscalar(g) else g) for g in found]


def _count_consumers(roots: Iterable[Any]) -> dict[Any, int]:
    """For each node that can be reached, how many edges lead to it."""
    waiting: dict[Any, int] = {}
    stack = []
    for node in roots:
        if node not in waiting:
            waiting[node] = 0
            stack.append(node)
    while stack:
        for parent in stack.pop().parents:
            if isinstance(parent, Op):
                if parent in waiting:
                    waiting[parent] += 1
                else:
                    waiting[parent] = 1
                    stack.append(parent)
    return waiting


def _place(t: Tensor) -> tuple[int, int]:
    return (id(t), 0) if t.node is None else (id(t.node), t.index)


def _useful(nodes: Iterable[Any], targets: list) -> set:
    """The nodes from which some target can be reached."""
    places = {_place(t) for t in targets}
    consumers: dict[Any, list] = {}
    found = []
    for node in nodes:
        hit = False
        for parent, index in node.next_functions:
            if isinstance(parent, Op):
                consumers.setdefault(parent, []).append(node)
            hit = hit or (parent is not None and (id(parent), index if isinstance(parent, Op) else 0) in places)
        if hit:
            found.append(node)
    useful = set(found)
    while found:
        for consumer in consumers.get(found.pop(), ()):
            if consumer not in useful:
                useful.add(consumer)
                found.append(consumer)
    return useful


def _step(node: Any, slots: list, live: bool, useful: set | None, wanted: dict) -> list[tuple[Any, int, Any]]:
    """Run one node's backward; returns (parent, output index, gradient) for each input that wants one."""
    if node.outputs is not None:
        for k, (shape, dtype) in enumerate(node.outputs):
            if slots[k] is None and dtype.kind == "f":
                like = next(g for g in slots if g is not None)
                like = like.array if isinstance(like, Tensor) else like
                zeros = devices.array_module(like).zeros(shape, dtype)
                slots[k] = wrap(zeros) if live else zeros
    if node.released:
        _ = node.saved  # says that backward ran a second time
    try:
        if not live:
            grads = node.backward(*slots)
        elif node.definition is not None:
            grads = _differentiate_definition(node, slots)
        else:
            node.live = True
            grads = node.backward(*slots)
    except RuntimeError as error:
        if "backward" not in str(error):
            error.add_note(f"in backward of {node}, which ran at {source_line(node.where)}")
        raise
    finally:
        if live:
            node.live = False
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    for watcher in state.watch:
        watcher.stepped(node, slots, grads)
    edges = []
    for i, (parent, index, g) in enumerate(zip(node.parents, node.indices or _ZEROS, grads, strict=False)):
        if parent is None or g is None:
            continue
        if not live:
            if isinstance(g, Tensor):
                g = g.array
            elif isinstance(g, np.generic):
                g = np.asarray(g)
        elif not isinstance(g, Tensor):
            g = wrap(np.asarray(g) if np.isscalar(g) else g)
        if isinstance(parent, Tensor) and tuple(g.shape) != parent.array.shape:
            raise RuntimeError(
                f"backward of {node} gave input {i} a gradient of shape {tuple(g.shape)}, the input has shape "
                f"{tuple(parent.shape)}"
            )
        if (
            useful is not None
            and not (parent in useful if isinstance(parent, Op) else (id(parent), 0) in wanted)
            and (id(parent), index) not in wanted
        ):
            continue
        edges.append((parent, index, g))
    return edges


def _differentiate_definition(node: Any, slots: list) -> list:
    """Gradients of a fused op that can be differentiated again: those of its definition, from stand-ins of its
    inputs."""
    alias = TABLE["alias"]
    if node.call is None:
        _ = node.saved
    _ = node.saved  # raises on stale or freed inputs
    inputs, args, kwargs = node.call
    stand_ins: list[Any] = [alias(t) if isinstance(t, Tensor) else t for t in inputs]
    if type(node).variadic:
        y = type(node).definition(stand_ins, *args[1:], **kwargs)
    else:
        y = type(node).definition(*stand_ins, **kwargs)
    ys = y if isinstance(y, tuple) else (y,)
    pairs = [(a, g) for a, g in zip(ys, slots, strict=False) if a.requires_grad and g is not None]
    wants = [t for t, need in zip(stand_ins, node.needs, strict=False) if need]
    found = iter(
        grad([a for a, _ in pairs], wants, [g for _, g in pairs], create_graph=True, allow_unused=True)
        if pairs and wants
        else [None] * len(wants)
    )
    return [next(found) if need else None for need in node.needs]


def _run_hooks(hooks: dict, g: Any, live: bool) -> Any:
    for hook in list(hooks.values()):
        t = g if isinstance(g, Tensor) else wrap(g)
        result = hook(t)
        if result is not None:
            if not isinstance(result, Tensor) or result.shape != t.shape:
                got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise RuntimeError(
                    f"a hook on a tensor of shape {tuple(t.shape)} returned {got}: return None or a same-shaped Tensor"
                )
            g = result if live else result.array
    return g


def _add_to_leaf(leaf: Tensor, g: Any, live: bool) -> None:
    """``leaf.grad += g``, with memory of its own: a gradient may be shared with other leaves or be a view."""
    have = leaf._grad
    if live:
        leaf._grad = g if have is None else have + g
        return
    if have is None:
        shared = (
            not isinstance(g, ndarray) or g.base is not None or sys.getrefcount(g) > _FRESH or not g.flags.writeable
        )
        leaf._grad = wrap(g.astype(leaf.array.dtype) if shared or g.dtype != leaf.array.dtype else g)
    elif have.requires_grad:  # came from create_graph: leave that graph alone
        leaf._grad = wrap(have.array + g)
    else:
        if state.watch and state.anomaly:
            check_leftover(leaf, have)
        have.array += g
        have.bump()


def _fresh_references() -> int:
    """How many references a gradient has inside _add_to_leaf when nobody else holds it."""

    class Probe(Op):
        def forward(ctx, x: Any) -> Any:
            return x + 1

        def backward(ctx, dy: Any) -> Any:
            return dy + 1

    counts = []

    def probe(leaf: Tensor, g: Any, live: bool) -> None:
        counts.append(sys.getrefcount(g))

    global _add_to_leaf
    real, _add_to_leaf = _add_to_leaf, probe
    try:
        backward(Probe(wrap(np.zeros(1), True)))
    finally:
        _add_to_leaf = real
    return counts[0]


_FRESH = _fresh_references()
