"""Functions in, functions out: derivatives of functions of Tensors and of trees of Tensors, as in torch.func.

A tree is a Tensor, or a tuple, list or dict of trees; derivatives have the tree of what they are taken by. Everything
is reverse mode: a Jacobian costs one walk back for each element of the output (`jacrev`) or input (`jacfwd`), and
`jvp` is the derivative of a vjp by its cotangent, which is linear in it ("double backward"): about two walks, through
ops whose backward can be differentiated, as that of all the engine's own can.

The transforms nest, and they meet the recording outside: a result is itself recorded if one of the arguments, or a
tensor that the function holds (a model's parameter, say), requires gradients and recording is on. Under ``no_grad`` it
never is, which is faster. What the output does not depend on has a derivative of zeros.

>>> import minidl
>>> cube = lambda x: x**3
>>> grad(cube)(minidl.tensor(2.0)).item(), grad(grad(cube))(minidl.tensor(2.0)).item()
(12.0, 12.0)
>>> loss = lambda p, x: ((p["w"] * x + p["b"]) ** 2).sum()
>>> grad(loss)({"w": minidl.tensor(2.0), "b": minidl.tensor(1.0)}, minidl.tensor([0.0, 1.0]))
{'w': tensor(6.), 'b': tensor(8.)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from minidl import autograd, devices
from minidl.autograd import Op, enable_grad, is_grad_enabled
from minidl.ops.copies import clone
from minidl.ops.joining import stack
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor, wrap

__all__ = [
    "functional_call", "grad", "grad_and_value", "hessian", "hvp", "jacfwd", "jacobian", "jacrev", "jvp",
    "stack_module_state", "value_and_grad", "vjp", "vmap",
]  # fmt: skip


# -- trees ------------------------------------------------------------------------------------------------------------


def leaves_of(tree: Any) -> list:
    """What is no tuple, list or dict, in order; a dict in the order of its keys' insertion."""
    if isinstance(tree, (tuple, list)):
        return [leaf for branch in tree for leaf in leaves_of(branch)]
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves_of(branch)]
    return [tree]


def tree_like(tree: Any, leaves: Iterable[Any]) -> Any:
    """The same tree with other leaves."""
    rest = iter(leaves)

    def build(x: Any) -> Any:
        if isinstance(x, dict):
            branches = {key: build(branch) for key, branch in x.items()}
            return branches if type(x) is dict else type(x)(branches)
        if isinstance(x, (tuple, list)):
            parts = [build(branch) for branch in x]
            return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
        return next(rest)

    return build(tree)


def _shape_of_tree(tree: Any) -> Any:
    """Something equal for trees that differ in their leaves alone."""
    if isinstance(tree, dict):
        return "dict", [(key, _shape_of_tree(branch)) for key, branch in tree.items()]
    if isinstance(tree, (tuple, list)):
        return type(tree).__name__, [_shape_of_tree(branch) for branch in tree]
    return None


def _matching(name: str, what: str, tree: Any, like: Any) -> list[Tensor]:
    """The leaves of a tree that must fit another one's, shape by shape. Raises RuntimeError if they do not."""
    if _shape_of_tree(tree) != _shape_of_tree(like):
        raise RuntimeError(f"{name}: {what} must have the structure of what they belong to")
    found = []
    for leaf, other in zip(leaves_of(tree), leaves_of(like), strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{name}: {what} must be Tensors, got {type(leaf).__name__}")
        if leaf.shape != other.shape:
            raise RuntimeError(f"{name}: {what} of shape {tuple(leaf.shape)} for a tensor of {tuple(other.shape)}")
        found.append(leaf)
    return found


# -- one run of a function --------------------------------------------------------------------------------------------


class _Run:
    """A function applied to stand-ins of its arguments, so that only this derivative is taken by them.

    A stand-in of a Tensor that already requires gradients hangs below it in the graph; others are new leaves. `live`
    says whether anything else that requires gradients took part, so that the derivative must be recorded as well.
    """

    def __init__(self, name: str, function: Callable, args: Sequence[Any], chosen: Sequence[int], has_aux: bool):
        outside = is_grad_enabled()
        self.name, self.given = name, [args[i] for i in chosen]
        self.inputs: list[Tensor] = []
        args = list(args)
        with enable_grad():
            for i in chosen:
                stand_ins = [self._stand_in(leaf, outside) for leaf in leaves_of(args[i])]
                args[i] = tree_like(args[i], stand_ins)
                self.inputs += stand_ins
            output = function(*args)
        self.aux: Any = None
        if has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise RuntimeError(
                    f"{name}: with has_aux the function must return a tuple (output, aux), got {type(output).__name__}"
                )
            output, self.aux = output
        self.output = output
        self.outputs: list[Tensor] = leaves_of(output)
        for y in self.outputs:
            if not isinstance(y, Tensor):
                raise TypeError(f"{name}: the function must return Tensors, got {type(y).__name__}")
        self.live = outside and self._others()

    def _stand_in(self, x: Any, outside: bool) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"{self.name}: can differentiate by Tensors, got {type(x).__name__}")
        if not x.is_floating_point():
            raise RuntimeError(f"{self.name}: can differentiate by floating point tensors, this one is {x.dtype}")
        return clone(x) if outside and x.requires_grad else wrap(x.array, True)

    def _others(self) -> bool:
        """Whether the graph reaches a leaf that is no stand-in."""
        own = {id(x) for x in self.inputs}
        stack_ = [y.node for y in self.outputs if y.node is not None]
        if any(y.requires_grad and y.node is None and id(y) not in own for y in self.outputs):
            return True
        seen = set(stack_)
        while stack_:
            for parent in stack_.pop().parents:
                if isinstance(parent, Tensor):
                    if id(parent) not in own:
                        return True
                elif isinstance(parent, Op) and parent not in seen:
                    seen.add(parent)
                    stack_.append(parent)
        return False

    def back(self, cotangents: Sequence[Any], live: bool) -> list[Tensor]:
        """The gradient of sum <cotangent, output> by each stand-in."""
        pairs = [(y, g) for y, g in zip(self.outputs, cotangents, strict=True) if y.requires_grad]
        return _grads([y for y, _ in pairs], self.inputs, [g for _, g in pairs], live)

    def shown(self, tree: Any) -> Any:
        """What the user gets of the run: without history unless somebody outside differentiates."""
        if self.live:
            return tree
        return tree_like(tree, [t.detach() if isinstance(t, Tensor) else t for t in leaves_of(tree)])

    def with_aux(self, has_aux: bool, *parts: Any) -> Any:
        parts = (*parts, self.shown(self.aux)) if has_aux else parts
        return parts if len(parts) > 1 else parts[0]


def _grads(outputs: list[Tensor], inputs: list[Tensor], cotangents: list, live: bool) -> list[Tensor]:
    """autograd.grad, keeping the graph; zeros for what is not reached."""
    if not outputs:
        return [_zeros(x) for x in inputs]
    found = autograd.grad(outputs, inputs, cotangents, retain_graph=True, create_graph=live, allow_unused=True)
    return [_zeros(x) if g is None else g if live else g.detach() for g, x in zip(found, inputs, strict=True)]


def _zeros(x: Tensor) -> Tensor:
    return wrap(devices.array_module(x.array).zeros_like(x.array))


def _chosen(name: str, argnums: int | tuple[int, ...], n: int) -> list[int]:
    """Positions of the arguments, from 0. Raises RuntimeError for those that are not there, or twice."""
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    if not numbers or any(isinstance(i, bool) or not isinstance(i, int) for i in numbers):
        raise RuntimeError(f"{name}: argnums must be an int or a non-empty tuple of ints, got {argnums!r}")
    for i in numbers:
        if not -n <= i < n:
            raise RuntimeError(f"{name}: argnums {argnums} for a function called with {n} positional arguments")
    places = [i % n for i in numbers]
    if len(set(places)) < len(places):
        raise RuntimeError(f"{name}: argnums {argnums} names an argument twice")
    return places


def _by_argument(argnums: int | tuple[int, ...], given: list, leaves: list) -> Any:
    """Leaves as the tree of the one argument, or as a tuple of those of several."""
    return tree_like(given[0] if isinstance(argnums, int) else tuple(given), leaves)


# -- the transforms ---------------------------------------------------------------------------------------------------


def value_and_grad(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """A function that gives (value, gradient) of `func`, which returns a single element.

    Args:
        argnums: by which positional argument; of several, given as a tuple, the gradient is a tuple.
        has_aux: `func` returns (output, aux); the value is then that pair.

    The function returned raises RuntimeError for an output of more than one element, TypeError for what is no Tensor.

    >>> import minidl
    >>> value_and_grad(lambda x: (x * x).sum())(minidl.tensor([1.0, 2.0]))
    (tensor(5.), tensor([2., 4.]))
    """

    @wraps(func)
    def both(*args: Any, **kwargs: Any) -> tuple:
        chosen = _chosen("grad", argnums, len(args))
        run = _Run("grad", lambda *a: func(*a, **kwargs), args, chosen, has_aux)
        y = run.output
        if not isinstance(y, Tensor) or y.ndim:
            what = f"of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise RuntimeError(f"grad: the function must return a scalar Tensor, it returned one {what}")
        g = _by_argument(argnums, run.given, run.back([wrap(np.ones_like(y.array))], run.live))
        value = run.shown(y)
        return ((value, run.shown(run.aux)) if has_aux else value), g

    return both


def grad(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """A function that gives the gradient of `func`; with `has_aux`, (gradient, aux). See `value_and_grad`."""
    both = value_and_grad(func, argnums, has_aux)

    @wraps(func)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return gradient


def grad_and_value(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """torch.func's order: a function that gives (gradient, value). See `value_and_grad`."""
    both = value_and_grad(func, argnums, has_aux)

    @wraps(func)
    def turned(*args: Any, **kwargs: Any) -> tuple:
        value, g = both(*args, **kwargs)
        return g, value

    return turned


def vjp(func: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """(output, pull): ``pull(cotangents)`` gives cotangents^T J, a tuple with one tree for each of the primals.

    `cotangents` has the tree and shapes of the output; `pull` may be called again. With `has_aux`, (output, pull, aux).
    Raises RuntimeError for cotangents that do not fit.

    >>> import minidl
    >>> y, pull = vjp(lambda a, b: a * b, minidl.tensor(2.0), minidl.tensor(3.0))
    >>> pull(minidl.tensor(1.0))
    (tensor(3.), tensor(2.))
    """
    run = _Run("vjp", func, primals, range(len(primals)), has_aux)

    def pull(cotangents: Any) -> tuple:
        g = _matching("vjp", "cotangents", cotangents, run.output)
        live = is_grad_enabled() and (run.live or any(t.requires_grad for t in g))
        return tree_like(primals, run.back(g, live))

    return run.with_aux(has_aux, run.shown(run.output), pull)


def _push(run: _Run) -> Callable[[Sequence[Tensor], bool], list[Tensor]]:
    """The map of tangents to J tangents: v -> v^T J is linear, so its own vjp is J."""
    with enable_grad():
        dummies = [wrap(np.zeros_like(y.array), True) for y in run.outputs]
        pulled = run.back(dummies, True)

    def push(tangents: Sequence[Tensor], live: bool) -> list[Tensor]:
        pairs = [(g, t) for g, t in zip(pulled, tangents, strict=True) if g.requires_grad]
        return _grads([g for g, _ in pairs], dummies, [t for _, t in pairs], live)

    return push


def jvp(func: Callable, primals: tuple, tangents: tuple, *, has_aux: bool = False) -> tuple:
    """(output, J tangents): how the output changes when the primals move along the tangents; (..., aux) with `has_aux`.

    Raises RuntimeError for tangents that do not fit the primals.

    >>> import minidl
    >>> jvp(lambda x: x * x, (minidl.tensor([1.0, 3.0]),), (minidl.tensor([1.0, 10.0]),))
    (tensor([1., 9.]), tensor([ 2., 60.]))
    """
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise RuntimeError("jvp: primals and tangents must be tuples, one entry for each argument")
    run = _Run("jvp", func, primals, range(len(primals)), has_aux)
    directions = _matching("jvp", "tangents", tangents, primals)
    live = is_grad_enabled() and (run.live or any(t.requires_grad for t in directions))
    moved = tree_like(run.output, _push(run)(directions, live))
    return run.with_aux(has_aux, run.shown(run.output), moved)


def jacrev(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """A function that gives the Jacobian of `func`, one walk back for each element of the output.

    For an output of shape S and an argument of shape T it has shape S + T; of trees it is the tree of the output with
    the tree of the argument at each leaf. With `has_aux`, (Jacobian, aux).

    >>> import minidl
    >>> jacrev(lambda x: x.cumsum(0))(minidl.tensor([1.0, 2.0, 3.0])).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """

    @wraps(func)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        chosen = _chosen("jacrev", argnums, len(args))
        run = _Run("jacrev", lambda *a: func(*a, **kwargs), args, chosen, has_aux)
        blocks = []
        for y in run.outputs:
            live_y = y.requires_grad
            rows = [_grads([y] if live_y else [], run.inputs, [e], run.live) for e in _basis(y)]
            by_input = [_stacked([row[k] for row in rows], y, x) for k, x in enumerate(run.inputs)]
            blocks.append(_by_argument(argnums, run.given, by_input))
        return run.with_aux(has_aux, tree_like(run.output, blocks))

    return jacobian_of


jacobian = jacrev


def jacfwd(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """The same Jacobian as `jacrev`'s, by one jvp for each element of the input: for few inputs and many outputs."""

    @wraps(func)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        chosen = _chosen("jacfwd", argnums, len(args))
        run = _Run("jacfwd", lambda *a: func(*a, **kwargs), args, chosen, has_aux)
        push = _push(run)
        columns: list[list[Tensor]] = [[] for _ in run.outputs]  # [output][input]: T + S
        for k, x in enumerate(run.inputs):
            still = [_zeros(other) for other in run.inputs]
            moved = [push([*still[:k], e, *still[k + 1 :]], run.live) for e in _basis(x)]
            for j, y in enumerate(run.outputs):
                column = _stacked([m[j] for m in moved], x, y)
                turned = [*range(x.ndim, x.ndim + y.ndim), *range(x.ndim)]
                columns[j].append(column.permute(*turned) if turned else column)
        blocks = [_by_argument(argnums, run.given, parts) for parts in columns]
        return run.with_aux(has_aux, tree_like(run.output, blocks))

    return jacobian_of


def _basis(y: Tensor) -> Iterable[Tensor]:
    """Tensors of y's shape with one element 1, the others 0, in row-major order."""
    xp = devices.array_module(y.array)
    for i in range(y.array.size):
        e = xp.zeros(y.array.size, y.array.dtype)
        e[i] = 1
        yield wrap(e.reshape(y.array.shape))


def _stacked(rows: list[Tensor], outer: Tensor, inner: Tensor) -> Tensor:
    """Tensors of inner's shape, one for each element of `outer`, as one of shape outer + inner."""
    shape = (*outer.shape, *inner.shape)
    return reshape(stack(rows), shape) if rows else wrap(np.zeros(shape, inner.array.dtype))


def hessian(func: Callable, argnums: int | tuple[int, ...] = 0) -> Callable:
    """A function that gives the second derivatives of `func`: the Jacobian of its Jacobian, of shape S + T + T.

    One walk back for each element of the output and each of the first derivative. See `jacrev` for trees, `hvp` for
    products with a vector at the cost of two walks.

    >>> import minidl
    >>> hessian(lambda x: (x**3).sum())(minidl.tensor([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacrev(jacrev(func, argnums), argnums)


def hvp(func: Callable, inputs: Any, v: Any) -> tuple:
    """(value, H v) of a function that returns a single element: the Hessian times a vector, without the Hessian.

    H v = grad <grad f, v>, Pearlmutter 1994 (doi.org/10.1162/neco.1994.6.1.147). As in torch.autograd.functional,
    `inputs` is one Tensor or a tuple of arguments (each may be a tree), and `v` and H v are as `inputs`. Raises
    RuntimeError for vectors that do not fit, or an output of several elements.

    >>> import minidl
    >>> hvp(lambda x: (x**3).sum(), minidl.tensor([1.0, 2.0]), minidl.tensor([1.0, 1.0]))
    (tensor(9.), tensor([ 6., 12.]))
    """
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    vector = v if isinstance(inputs, tuple) else (v,)
    directions = _matching("hvp", "vectors", vector, args)
    kept = []

    def slope(*a: Any) -> Tensor:
        value, g = value_and_grad(func, tuple(range(len(args))))(*a)
        kept.append(value)
        parts = [(d * t).sum() for d, t in zip(leaves_of(g), directions, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    run = _Run("hvp", slope, args, range(len(args)), False)
    product = tree_like(args, run.back([wrap(np.ones_like(run.outputs[0].array))], run.live))
    return run.shown(kept[0]), product if isinstance(inputs, tuple) else product[0]


# -- batches ----------------------------------------------------------------------------------------------------------


def vmap(
    func: Callable, in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *, chunk_size: int | None = None
) -> Callable:
    """A function that applies `func` to each slice of its arguments and stacks the results.

    A loop, without torch's speed: what is batched by hand is faster. Random numbers differ from slice to slice.

    Args:
        in_dims: the dimension to slice, of all arguments or one for each, None for those that are used whole; for an
            argument that is a tree, one for the whole of it or a tree like it.
        out_dims: where the new dimension stands, in all outputs or one for each of a tuple.
        randomness, chunk_size: of no effect.

    The function returned raises ValueError where nothing is sliced or sizes differ.

    >>> import minidl
    >>> vmap(lambda a, b: a @ b)(minidl.tensor([[1.0, 2.0], [3.0, 4.0]]), minidl.tensor([[1.0, 1.0], [2.0, 0.0]]))
    tensor([3., 6.])
    """

    @wraps(func)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        dims = in_dims if isinstance(in_dims, (tuple, list)) else [in_dims] * len(args)
        if len(dims) != len(args):
            raise ValueError(f"vmap: in_dims has {len(dims)} entries for {len(args)} arguments")
        spread = [_dims_like(d, a) for d, a in zip(dims, args, strict=True)]
        leaves, at = leaves_of(list(args)), [d for tree in spread for d in tree]
        pairs = [(x, 0) for x in leaves_of(list(kwargs.values())) if isinstance(x, Tensor)]
        pairs += [(x, d) for x, d in zip(leaves, at, strict=True) if d is not None]
        for x, d in pairs:
            if not isinstance(x, Tensor) or not -x.ndim <= d < x.ndim:
                what = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(
                    f"vmap: cannot slice dimension {d} of an argument {what}; in_dims=None leaves it whole"
                )
        sizes = {x.shape[d] for x, d in pairs}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(
                f"vmap: the arguments must be sliced into one number of slices above 0, got {sorted(sizes)}"
            )
        results = []
        for i in range(sizes.pop()):
            given = [x if d is None else x.select(d, i) for x, d in zip(leaves, at, strict=True)]
            named = [x.select(0, i) if isinstance(x, Tensor) else x for x in leaves_of(kwargs)]
            results.append(func(*tree_like(list(args), given), **tree_like(kwargs, named)))
        columns = zip(*[leaves_of(r) for r in results], strict=True)
        first = results[0]
        ends = (
            out_dims if isinstance(out_dims, tuple) else (out_dims,) * (len(first) if isinstance(first, tuple) else 1)
        )
        branches = list(first) if isinstance(first, tuple) else [first]
        if len(ends) != len(branches):
            raise ValueError(f"vmap: out_dims has {len(ends)} entries for {len(branches)} outputs")
        places = [end for end, branch in zip(ends, branches, strict=True) for _ in leaves_of(branch)]
        return tree_like(first, [stack(list(c), end) for c, end in zip(columns, places, strict=True)])

    return mapped


def _dims_like(dims: Any, tree: Any) -> list:
    """One dimension for each leaf of a tree."""
    if isinstance(dims, (tuple, list, dict)):
        if _shape_of_tree(dims) != _shape_of_tree(tree):
            raise ValueError("vmap: in_dims must have the structure of the argument, or be one number for all of it")
        return leaves_of(dims)
    return [dims] * len(leaves_of(tree))


# -- modules as functions of their parameters -------------------------------------------------------------------------


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: dict[str, Tensor] | Sequence[dict[str, Tensor]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """``module(*args, **kwargs)`` with other tensors for its parameters and buffers, by their ``state_dict`` names.

    The module is as it was afterwards. With `tie_weights` a tensor that the module holds under several names is
    replaced under all of them. Raises ValueError for a name twice, KeyError for one that the module has not, and with
    `strict` RuntimeError for one that it has and the dictionaries have not.

    >>> import minidl
    >>> layer = minidl.nn.Linear(2, 1)
    >>> weights = {"weight": minidl.tensor([[1.0, 2.0]]), "bias": minidl.tensor([3.0])}
    >>> functional_call(layer, weights, minidl.tensor([1.0, 1.0]))
    tensor([6.])
    >>> loss = lambda p: functional_call(layer, p, minidl.tensor([1.0, 1.0])).sum()
    >>> grad(loss)(weights)["weight"]
    tensor([[1., 1.]])
    """
    given: dict[str, Tensor] = {}
    dicts = [parameter_and_buffer_dicts] if isinstance(parameter_and_buffer_dicts, dict) else parameter_and_buffer_dicts
    for named in dicts:
        if given.keys() & named.keys():
            raise ValueError(f"functional_call: {sorted(given.keys() & named.keys())} appear in several dictionaries")
        given.update(named)
    places: dict[str, tuple[dict, str]] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        for held in (owner._parameters, owner._buffers):
            for name in held:
                places[f"{path}.{name}" if path else name] = (held, name)
    unknown = sorted(given.keys() - places.keys())
    if unknown:
        raise KeyError(f"functional_call: the module has no {', '.join(unknown)}")
    new = {}
    for full, value in given.items():
        held, name = places[full]
        new[full] = value
        if tie_weights and held[name] is not None:
            new.update({k: value for k, (h, n) in places.items() if h[n] is held[name] and k not in given})
    missing = sorted(places.keys() - new.keys())
    if strict and missing:
        raise RuntimeError(f"functional_call: missing key(s): {', '.join(missing)}")
    before = {full: places[full][0][places[full][1]] for full in new}
    try:
        for full, value in new.items():
            held, name = places[full]
            held[name] = value
        return module(*(args if isinstance(args, tuple) else () if args is None else (args,)), **(kwargs or {}))
    finally:
        for full, value in before.items():
            held, name = places[full]
            held[name] = value


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of several models of one make, each stacked along a new first dimension, for `vmap`.

    Raises RuntimeError for no model, or models of different classes or modes.
    """
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if len({type(m) for m in models}) > 1 or len({m.training for m in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to be of the same class and training/eval mode.")
    parameters, buffers = (
        {
            name: stack([dict(getattr(m, held)())[name] for m in models]).detach()
            for name, _ in getattr(models[0], held)()
        }
        for held in ("named_parameters", "named_buffers")
    )
    return {name: p.requires_grad_() for name, p in parameters.items()}, buffers
