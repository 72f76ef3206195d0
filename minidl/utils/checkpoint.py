"""Gradient checkpointing: keep a part's inputs instead of all that it saves, and run it again in backward.

Memory for time: a chain of n parts keeps n inputs and what one part saves, for one more forward pass; Chen et al. 2016
(arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minidl import autograd, random
from minidl.autograd import Op, enable_grad, is_grad_enabled, state
from minidl.func import leaves_of, tree_like
from minidl.ops.copies import clone
from minidl.tensors import Tensor, wrap

__all__ = ["checkpoint", "checkpoint_sequential"]


def checkpoint(
    function: Callable, *args: Any, use_reentrant: bool | None = None, preserve_rng_state: bool = True, **kwargs: Any
) -> Any:
    """``function(*args, **kwargs)``, of which backward keeps the inputs only and computes the rest again.

    Gradients are those of the plain call, bit for bit, of first and higher order: by Tensors in the arguments (also
    within tuples, lists and dicts) and by leaves that the function holds, such as the parameters of a module. What it
    holds that was itself computed with gradients must be passed as an argument.

    Args:
        use_reentrant: torch's choice of two implementations; there is one here, which does what either promises.
        preserve_rng_state: run again with the random numbers of the first time (those of ``minidl.random``'s default
            generator), so that dropout drops the same; the generator is afterwards where it was.

    The function runs twice: what it does besides, such as updating running statistics, happens twice, as in torch.
    Raises RuntimeError when it returns other shapes the second time, or when an input was changed in place in between.

    >>> import minidl
    >>> x = minidl.tensor([1.0, 2.0], requires_grad=True)
    >>> checkpoint(lambda x: (x * x).exp(), x).sum().backward()
    >>> bool((x.grad == 2 * x * (x * x).exp()).all())
    True
    """
    tree = (args, kwargs)
    given = leaves_of(tree)
    if not is_grad_enabled():
        return function(*args, **kwargs)
    before = random.get_state() if preserve_rng_state else None
    stand_ins = [_stand_in(x) for x in given]
    inner_args, inner_kwargs = tree_like(tree, stand_ins)
    output = function(*inner_args, **inner_kwargs)
    results = leaves_of(output)
    own = {id(s): x for s, x in zip(stand_ins, given, strict=True) if isinstance(s, Tensor)}
    places = [k for k, y in enumerate(results) if isinstance(y, Tensor) and y.requires_grad and id(y) not in own]
    held = [t for t in _leaves_below([results[k] for k in places]) if id(t) not in own]
    if places:
        inputs = [*[x for x in given if isinstance(x, Tensor)], *held]
        arrays = tuple(results[k].array for k in places)
        for k, y in zip(places, rerun(inputs, arrays, function, tree, places, before), strict=True):
            results[k] = y
    return tree_like(output, [own.get(id(y), y) for y in results])


class rerun(Op):
    """The outputs of a function that was run already; backward runs it again, with recording.    arrays -> arrays"""

    variadic = True

    def forward(
        ctx, inputs: Sequence[Any], arrays: tuple, function: Callable, tree: Any, places: list[int], rng: Any
    ) -> tuple:
        ctx.save(*inputs)
        ctx.run = (function, tree, places, rng)
        ctx.made = [(a.shape, a.dtype) for a in arrays]
        return arrays

    def backward(ctx, *dy: Any) -> tuple:
        function, tree, places, rng = ctx.run
        saved, live = list(ctx.saved), ctx.live
        given = leaves_of(tree)
        n = sum(isinstance(x, Tensor) for x in given)
        tensors = iter(saved[:n])
        stand_ins = []
        scope, now = state.scope, random.get_state()
        try:
            state.scope = ctx.scope
            if rng is not None:
                random.set_state(rng)
            with enable_grad():
                for x in given:
                    if isinstance(x, Tensor):
                        source = next(tensors)
                        if x.requires_grad:
                            x = clone(source) if live else wrap(source, True)
                    stand_ins.append(x)
                args, kwargs = tree_like(tree, stand_ins)
                results = leaves_of(function(*args, **kwargs))
        finally:
            state.scope = scope
            if rng is not None:
                random.set_state(now)
        outputs = [results[k] for k in places if k < len(results)]
        made = [(y.array.shape, y.array.dtype) for y in outputs]
        if made != ctx.made:
            raise RuntimeError(
                "checkpoint: the function returned other shapes or dtypes when it ran again in backward; it must "
                f"compute the same both times. First {ctx.made}, then {made}"
            )
        inner = [x for x in stand_ins if isinstance(x, Tensor)]
        targets = [*inner, *[p if isinstance(p, Tensor) else None for p in ctx.parents[n:]]]
        wanted = [i for i, parent in enumerate(ctx.parents) if parent is not None]
        pairs = [
            (y, g if isinstance(g, Tensor) else wrap(g)) for y, g in zip(outputs, dy, strict=True) if g is not None
        ]
        found: list[Any] = [None] * len(targets)
        grads = autograd.grad(
            [y for y, _ in pairs], [targets[i] for i in wanted], [g for _, g in pairs],
            retain_graph=True, create_graph=live, allow_unused=True,
        )  # fmt: skip
        for i, g in zip(wanted, grads, strict=True):
            found[i] = g if g is None or live else g.array
        return tuple(found)


def _stand_in(x: Any) -> Any:
    """A leaf on the same memory, so that the graph of the first run ends there."""
    if not (isinstance(x, Tensor) and x.requires_grad):
        return x
    return x.detach().requires_grad_()


def _leaves_below(outputs: list[Tensor]) -> list[Tensor]:
    """The leaves that gradients of these reach, each once."""
    found = {id(y): y for y in outputs if y.node is None}
    stack = [y.node for y in outputs if y.node is not None]
    seen = set(stack)
    while stack:
        for parent in stack.pop().parents:
            if isinstance(parent, Tensor):
                found[id(parent)] = parent
            elif parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return list(found.values())


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, preserve_rng_state: bool = True
) -> Any:
    """A chain of functions (or an ``nn.Sequential``) in `segments` parts, all but the last of them checkpointed.

    Raises ValueError unless 1 <= segments <= the number of functions.
    """
    chain = list(functions)
    if not 1 <= segments <= len(chain):
        raise ValueError(f"checkpoint_sequential: {segments} segments of {len(chain)} functions")

    def part(start: int, stop: int) -> Callable:
        def run(x: Any) -> Any:
            for f in chain[start:stop]:
                x = f(x)
            return x

        return run

    size, x = len(chain) // segments, input
    for k in range(segments - 1):
        x = checkpoint(part(k * size, (k + 1) * size), x, preserve_rng_state=preserve_rng_state)
    return part((segments - 1) * size, len(chain))(x)
