"""Pruning of models: masks on their parameters, for all weights or for some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from minidl import random
from minidl.compress.prune.choice import keep_largest, keep_largest_in_rows, no_nan
from minidl.devices import array_module
from minidl.storage import Packed

Array = Any


def prune_(
    model: Any,
    sparsity: float | None = None,
    *,
    scope: str = "global",
    rule: str | Mapping[str, Array] | Callable[[Array], Array] = "magnitude",
    skip: str | Iterable[str] = (),
    generator: random.Generator | None = None,
) -> Any:
    """Prune a model's weights in place, and return the model.

    New masks are anded into those that are there: a pruned weight never comes back, and pruning in steps (0.5, 0.7,
    0.8) counts what went before. Biases and normalization (parameters with fewer than two axes) are left alone.

    Args:
        sparsity: the share of weights to be zero afterwards, in [0, 1); 0.8 unless `rule` is a function.
        scope: "global" compares the weights of all layers, "layer" gives each the same sparsity, "row" each output.
        rule: "magnitude", "random", scores by parameter name of which the smallest go (`snip`, `taylor`, `Movement`,
            `wanda`), or a function from a weight array to its mask (True = keep), such as
            ``lambda w: fan_in_mask(w, 0.5)``.
        skip: names of parameters or modules to leave alone; ``*`` stands for anything.
        generator: for "random".

    Raises ValueError for a sparsity outside [0, 1), NaN weights, a name in `skip` that matches nothing, scores that are
    missing or of another shape, or a model without weights; TypeError for weights that are packed already. The model is
    then as it was.
    """
    if scope not in ("global", "layer", "row"):
        raise ValueError(f"scope must be 'global', 'layer' or 'row', got {scope!r}")
    found = prunable(model, skip)
    if not found:
        raise ValueError("prune_: the model has no weights to prune (parameters with two or more axes)")
    for name, p in found:
        if isinstance(p.array, Packed):
            raise TypeError(
                f"prune_: {name} is packed as {p.array.kind}; prune first and quantize or pack afterwards, or call "
                "minidl.compress.dequantize_(model)"
            )
    function = callable(rule) and not isinstance(rule, Mapping)
    if function and sparsity is not None:
        raise ValueError("prune_: a rule that is a function decides how much goes; leave sparsity out")
    share = 0.8 if sparsity is None else sparsity
    groups = [found] if scope == "global" and not function else [[one] for one in found]
    made: list[tuple[Any, Array]] = []
    for group in groups:
        try:
            if function:
                new = [_from_function(rule, p.array) for _, p in group]
            else:
                scores = [_scores(name, p.array, rule, generator) for name, p in group]
                old = [p.mask for _, p in group]
                if scope == "row":
                    new = [_in_rows(s, share, m) for s, m in zip(scores, old)]
                else:
                    new = keep_largest(scores, share, old)
        except ValueError as error:
            error.add_note(f"while pruning {', '.join(name for name, _ in group)}")
            raise
        made += zip((p for _, p in group), new)
    for p, mask in made:  # nothing is changed before every mask is known
        set_mask_(p, mask)
    return model


def set_mask_(p: Any, mask: Array) -> None:
    """And a mask into a parameter's, and zero what it drops: 0.0, where a product with the mask may give -0.0."""
    p.mask = mask if p.mask is None else mask & p.mask
    array_module(p.array).copyto(p.array, 0, where=~p.mask)
    p.bump()


def _from_function(rule: Any, w: Array) -> Array:
    mask = array_module(w).asarray(rule(w))
    if mask.dtype != bool or mask.shape != w.shape:
        raise ValueError(
            f"prune_: the rule must give a bool mask of shape {tuple(w.shape)}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    return mask


def _scores(name: str, w: Array, rule: Any, generator: random.Generator | None) -> Array:
    """What is to be compared. Weights that are NaN have no order, whatever the rule."""
    no_nan(w)
    if isinstance(rule, Mapping):
        if name not in rule:
            raise ValueError(f"prune_: the rule has no scores for {name}; pass skip={name!r} to leave it alone")
        scores: Any = rule[name]
        scores = getattr(scores, "array", scores)
        if tuple(scores.shape) != tuple(w.shape):
            raise ValueError(f"prune_: the scores of {name} have shape {tuple(scores.shape)}, not {tuple(w.shape)}")
        return scores
    if rule == "magnitude":
        return array_module(w).abs(w)
    if rule == "random":
        generator = random.default_generator if generator is None else generator
        return generator.uniform(tuple(w.shape), xp=array_module(w))
    raise ValueError(f"rule must be 'magnitude', 'random', scores by name or a function, got {rule!r}")


def _in_rows(scores: Array, share: float, mask: Array | None) -> Array:
    flat = scores.reshape(len(scores), -1) if scores.size else scores.reshape(len(scores), 0)
    return keep_largest_in_rows(flat, share, None if mask is None else mask.reshape(flat.shape)).reshape(scores.shape)


def prunable(model: Any, skip: str | Iterable[str] = ()) -> list[tuple[str, Any]]:
    """The parameters that are pruned unless told otherwise: (name, parameter) of every weight with two or more axes."""
    patterns = [skip] if isinstance(skip, str) else list(skip)
    unused = set(patterns)
    names: dict[int, list[str]] = {}  # a shared parameter has several, and any of them skips it
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    out = []
    for first, p in model.named_parameters():
        hits = {s for s in patterns for name in names[id(p)] if fnmatchcase(name, s) or fnmatchcase(name, s + ".*")}
        unused -= hits
        if not hits and p.array.ndim >= 2 and np.dtype(p.array.dtype).kind == "f":
            out.append((first, p))
    if unused:
        known = ", ".join(name for name, _ in model.named_parameters())
        raise ValueError(f"skip: nothing is called {', '.join(map(repr, sorted(unused)))}; the parameters are {known}")
    return out


def sparsity(model: Any) -> float:
    """The share of zeros among the model's weights (parameters with two or more axes), packed ones included."""
    weights = [p.array for _, p in prunable(model)]
    total = sum(w.size for w in weights)
    nonzeros = (w.nonzeros() if isinstance(w, Packed) else int(array_module(w).count_nonzero(w)) for w in weights)
    return 1 - sum(nonzeros) / total if total else 0.0


def masks(model: Any) -> dict[str, Array]:
    """The masks of a pruned model by parameter name, True where a weight is kept."""
    return {name: p.mask for name, p in model.named_parameters() if p.mask is not None}


def remove_masks_(model: Any) -> Any:
    """Forget all masks, in place, and return the model: the zeros stay until training moves them."""
    for p in model.parameters():
        p.mask = None
        if isinstance(p.array, Packed):
            p.array.mask = None
    return model
