"""Batch norm folded into the layer before it, found in the ops that a network runs.

In evaluation batch norm is y = x a + c with numbers per channel that depend on no input. A convolution or linear layer
whose result goes there and nowhere else takes them in: conv(x, w) a + c = conv(x, a w) + c. This reads the list of ops,
so it finds them in any Module, however it is written, and whatever made a and c: any product and sum with constants per
channel is folded. Jacob et al. 2017, arXiv:1712.05877, section 3.2.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from minidl.autograd import no_grad
from minidl.compress.record import Const, Recorded, State, Step, Value, filled, ops
from minidl.nn.parameter import Buffer, Parameter
from minidl.storage import Packed
from minidl.tensors import Tensor

__all__ = ["fold"]

LAYERS = {"conv2d": 4, "linear": 2}  # the ops that fold, and the dimensions of their weights


def fold(net: Recorded) -> Recorded:
    """A network that gives the same without the products and sums that its layers can take in.

    The weights of layers keep their names, and biases are called as torch would; what only the folded ops read is gone,
    and so is everything else that depends on no input, replaced by its value. `net` is left as it is, and shares the
    parameters that did not change. Packed weights do not fold: quantize afterwards.

    >>> from minidl import nn
    >>> from minidl.compress import record
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU())
    >>> net = fold(record(model, np.ones((1, 1, 4, 4), np.float32)))
    >>> [step.op for step in net.steps], sorted(net.state_dict())
    (['conv2d', 'relu'], ['0.bias', '0.weight'])
    """
    state = dict(net.named_state())
    live, known = net.live(), ops()
    fixed: dict[int, Any] = {}  # results that depend on no input
    steps: list[Step] = []
    with no_grad():
        for step in net.steps:
            if live.isdisjoint(step.outs):
                out = known[step.op](*filled(step.args, fixed, state), **filled(step.kwargs, fixed, state))
                fixed.update(zip(step.outs, out if isinstance(out, tuple) else (out,), strict=True))
            else:
                steps.append(Step(step.op, step.args, step.kwargs, step.outs, step.scope))
    readers = Counter(ref for step in net.steps for ref in step.refs() if not isinstance(ref, Value))
    for step in steps:
        _own_weight(step, net.steps, state, readers)
    uses = Counter(ref.index for step in steps for ref in step.refs() if isinstance(ref, Value))
    uses[net.output.index] += 1
    signals = {s.outs[0] for s in steps if s.op == "reshape" and len(s.args[1]) == 4 and s.args[1][2] == 1}
    made: dict[int, Step] = {}  # by result: the layer that may still take something in
    taken: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by id of the layer's step: a, c per channel
    renamed: dict[int, int] = {}
    kept: list[Step] = []
    for step in steps:
        step.args = _renamed(step.args, renamed)
        what = _affine(step, made, fixed, state)
        if what is not None:
            layer, factor, offset, seen_as = what
            a, c = taken[id(layer)]
            taken[id(layer)] = a * factor, c * factor + offset
            renamed[step.outs[0]] = seen_as
            if uses[step.outs[0]] != 1:
                made.pop(seen_as, None)
            continue
        kept.append(step)
        if step.op == "reshape" and len(step.args[1]) == 3 and isinstance(step.args[0], Value):
            layer = made.get(step.args[0].index)  # the end of a conv1d: (N, K, 1, L) as (N, K, L)
            if layer is not None and layer.op == "conv2d" and layer.args[0].index in signals:
                del made[layer.outs[0]]
                if uses[step.outs[0]] == 1:
                    made[step.outs[0]] = layer
        if step.op in LAYERS and uses[step.outs[0]] == 1 and _foldable(step, state, readers):
            made[step.outs[0]] = step
            n = state[step.args[1].name].shape[0]
            taken[id(step)] = np.ones(n), np.zeros(n)
    for step in kept:
        if id(step) in taken and (taken[id(step)][0] != 1).any() | (taken[id(step)][1] != 0).any():
            _take_in(step, *taken[id(step)], state)
    output = Value(renamed.get(net.output.index, net.output.index))
    return _closed(kept, output, fixed, state, net.sample).train(net.training)


def _renamed(tree: Any, renamed: dict[int, int]) -> Any:
    if isinstance(tree, Value):
        return Value(renamed.get(tree.index, tree.index))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_renamed(t, renamed) for t in tree)
    return tree


def _own_weight(step: Step, steps: list[Step], state: dict[str, Any], readers: Counter) -> None:
    """A weight that a convolution alone reads in another shape, as conv1d does, becomes a parameter of that shape."""
    if step.op not in ("conv2d", "conv2d_dx") or not isinstance(step.args[1], Value):
        return
    maker = next(s for s in steps if step.args[1].index in s.outs)
    ref = maker.args[0]
    old = state.get(ref.name) if maker.op == "reshape" and isinstance(ref, State) and readers[ref] == 1 else None
    if isinstance(old, Parameter) and not old.packed:
        size = (len(old), *maker.args[1][1:])
        new = state[ref.name] = Parameter(old.array.reshape(size), requires_grad=old.requires_grad)
        new.mask = None if old.mask is None else old.mask.reshape(size)
        step.args = (step.args[0], ref, *step.args[2:])


def _foldable(step: Step, state: dict[str, Any], readers: Counter) -> bool:
    """Whether this layer's weight and bias are plain float parameters that no other op reads."""
    _, w, *rest = step.args
    refs = [w, *([rest[0]] if rest and rest[0] is not None else [])]
    if not all(isinstance(r, State) and readers[r] == 1 for r in refs):
        return False
    w = state[w.name].array
    return not isinstance(w, Packed) and w.ndim == LAYERS[step.op] and w.dtype.kind == "f"


def _affine(step: Step, made: dict[int, Step], fixed: dict[int, Any], state: dict[str, Any]) -> Any:
    """(layer, factor, offset, number of the result) if the step is a product or sum of a layer's result, as it is or as
    the end of a conv1d, and constants per channel."""
    if step.op not in ("mul", "add", "sub", "true_divide") or len(step.args) != 2:
        return None
    a, b = step.args
    if step.op in ("mul", "add") and not (isinstance(a, Value) and a.index in made):
        a, b = b, a
    if not (isinstance(a, Value) and a.index in made):
        return None
    layer = made[a.index]
    n, dims = state[layer.args[1].name].shape[0], LAYERS[layer.op]
    if a.index != layer.outs[0]:
        dims = 3
    if isinstance(b, Value):
        constant = fixed.get(b.index)
    elif isinstance(b, (State, Const)):
        constant = state[b.name]
    else:
        constant = b
    if constant is None or isinstance(constant, bool):
        return None
    array = np.asarray(constant.array if isinstance(constant, Tensor) else constant, np.float64)
    if array.size == 1:
        array = np.full(n, array.item())
    else:
        axis = -1 if dims == 2 else 1
        shape = [1] * max(array.ndim, 1)
        if array.ndim > dims or (dims > 2 and array.ndim < dims - 1) or array.size != n:
            return None
        shape[axis - dims if axis > 0 else -1] = n
        if list(array.shape) != shape:
            return None
        array = array.reshape(n)
    one, zero = np.ones(n), np.zeros(n)
    if step.op == "true_divide" and not array.all():
        return None
    return layer, *{"mul": (array, zero), "true_divide": (1 / np.where(array == 0, 1, array), zero),
                    "add": (one, array), "sub": (one, -array)}[step.op], a.index  # fmt: skip


def _take_in(step: Step, factor: np.ndarray, offset: np.ndarray, state: dict[str, Any]) -> None:
    """w <- factor w, b <- factor b + offset, in float64, as new parameters under the old names."""
    x, w, *rest = step.args
    bias = rest[0] if rest else None
    old = state[w.name]
    wide = old.array.astype(np.float64) * factor.reshape(-1, *(1,) * (old.ndim - 1))
    new = Parameter(wide.astype(old.array.dtype), requires_grad=old.requires_grad)
    new.mask = getattr(old, "mask", None)
    b = offset if bias is None else state[bias.name].array.astype(np.float64) * factor + offset
    name = bias.name if bias is not None else w.name.rpartition(".")[0] + ("." if "." in w.name else "") + "bias"
    if bias is None and name in state:
        name += "_folded"
    state[w.name], state[name] = new, Parameter(b.astype(old.array.dtype), requires_grad=old.requires_grad)
    step.args = (x, w, State(name), *rest[1:])


def _closed(
    steps: list[Step], output: Value, fixed: dict[int, Any], state: dict[str, Any], sample: tuple[int, ...]
) -> Recorded:
    """The network of these steps: results that depend on no input become constants, what nobody reads is left out."""
    constants: dict[int, Const] = {}
    held: dict[str, Tensor] = {}

    def closed(tree: Any) -> Any:
        if isinstance(tree, Value) and tree.index in fixed:
            if tree.index not in constants:
                constants[tree.index] = Const(free(held, state))
                held[constants[tree.index].name] = Buffer(fixed[tree.index].array)
            return constants[tree.index]
        if isinstance(tree, (State, Const)):
            held[tree.name] = state[tree.name]
        if isinstance(tree, (tuple, list)):
            return type(tree)(closed(t) for t in tree)
        if isinstance(tree, dict):
            return {k: closed(t) for k, t in tree.items()}
        return tree

    done = [Step(s.op, closed(s.args), closed(s.kwargs), s.outs, s.scope) for s in steps]
    return Recorded(done, output, held, sample)


def free(*states: dict[str, Any]) -> int:
    """A number that no constant of these has."""
    index = 0
    while any(Const(index).name in state for state in states):
        index += 1
    return index
