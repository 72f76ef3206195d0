"""Whole channels, neurons and hidden units of a model, with all that is theirs, so that `slim` can remove them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from minidl.compress.anatomy import structure
from minidl.compress.prune.choice import check_sparsity, keep_largest, no_nan
from minidl.compress.prune.models import set_mask_
from minidl.devices import move

Array = Any


def prune_channels_(
    model: Any,
    sparsity: float,
    *inputs: Any,
    rule: str | Mapping[str, Array] = "l2",
    scope: str = "layer",
    skip: str | Iterable[str] = (),
) -> Any:
    """Mask whole channels and neurons, in place, and return the model: weights, bias, batch norm, all that is theirs.

    Channels that a residual sum or a depthwise convolution ties together go together, heads of attention as a whole:
    those of `nn.MultiheadAttention`, and those that code of your own splits queries, keys and values into. Inputs and
    outputs of the model stay, and what an op that needs all of them (layer norm) reads. The masked model computes
    with zeros; `slim` then removes them.

    Args:
        sparsity: the share of channels to go, in [0, 1), of those that can.
        inputs: example inputs; a forward pass on them shows what belongs together (`structure`).
        rule: "l2" or "l1", the norm of the weights that make a channel, per weight; "gamma", |gamma| of the batch norm
            behind it; or scores by parameter name, such as `taylor` gives, added up over a channel.
        scope: "layer" takes the same share of every layer, "global" compares all.
        skip: names of parameters or modules whose channels are left alone; ``*`` stands for anything.

    Raises ValueError for a sparsity outside [0, 1), an unknown rule or scope, a name in `skip` that matches nothing,
    NaN weights, "gamma" without a batch norm, and a model none of whose channels can go, with the reasons; TypeError
    for packed parameters. The model is then as it was.
    """
    check_sparsity(sparsity)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    if not isinstance(rule, Mapping) and rule not in ("l1", "l2", "gamma"):
        raise ValueError(f"rule must be 'l1', 'l2', 'gamma' or scores by name, got {rule!r}")
    found = structure(model, *inputs)
    params = dict(model.named_parameters())
    left_alone = _named(params, skip)
    slots = found.slots()
    made = {
        unit: [s for s in places if s[0] in params and (s[0], s[1]) not in found.read] for unit, places in slots.items()
    }
    layers = []
    for _, units in found.layers():
        able = [
            u
            for u in units
            if u not in found.fixed
            and any(params[name].ndim > 1 for name, _, _ in made[u])
            and not any(name in left_alone for name, _, _ in made[u])
        ]
        if len(able) > 1:  # one of each layer stays
            layers.append(able)
    if not layers:
        raise ValueError(f"prune_channels_: no channel of this model can go.\n{found}")
    for name in {name for able in layers for u in able for name, _, _ in made[u]}:
        try:
            no_nan(params[name].array)
        except ValueError as error:
            error.add_note(f"while pruning {name}")
            raise
    scores = [np.array([_score(params, made[u], rule, model) for u in able]) for able in layers]
    gone_already = [
        np.array([any(params[n].mask is None or params[n].mask.take(i, a).any() for n, a, i in made[u]) for u in able])
        for able in layers
    ]
    if scope == "layer":
        kept = [keep_largest([s], sparsity, [m])[0] for s, m in zip(scores, gone_already)]
    else:
        kept = keep_largest(scores, sparsity, gone_already)
    masks: dict[str, np.ndarray] = {}
    for able, keep, s in zip(layers, kept, scores):
        if not keep.any():
            keep[s.argmax()] = True
        for unit in (u for u, stays in zip(able, keep) if not stays):
            for name, axis, places in made[unit]:
                mask = masks.setdefault(name, np.ones(params[name].shape, bool))
                mask[(slice(None),) * axis + (places,)] = False
    for name, mask in masks.items():
        set_mask_(params[name], move(mask, params[name].device))
    return model


def _named(params: dict[str, Any], skip: str | Iterable[str]) -> set[str]:
    patterns = [skip] if isinstance(skip, str) else list(skip)
    hits = {s: {n for n in params if fnmatchcase(n, s) or fnmatchcase(n, s + ".*")} for s in patterns}
    unused = [s for s, names in hits.items() if not names]
    if unused:
        raise ValueError(
            f"skip: nothing is called {', '.join(map(repr, unused))}; the parameters are {', '.join(params)}"
        )
    return set().union(*hits.values())


def _score(params: dict[str, Any], places: list, rule: Any, model: Any) -> float:
    """The importance of one unit."""
    total = 0.0
    if isinstance(rule, Mapping):
        for name, axis, at in places:
            if name in rule:
                total += float(move(getattr(rule[name], "array", rule[name]), "cpu").take(at, axis).sum())
        return total
    if rule == "gamma":
        gammas = [(n, at) for n, _, at in places if _is_gamma(model, n)]
        if not gammas:
            raise ValueError(
                f"prune_channels_: rule='gamma' needs a batch norm behind {places[0][0]}; take 'l2', or skip the layer"
            )
        return sum(float(abs(move(params[n].array, "cpu")[at]).sum()) for n, at in gammas)
    for name, axis, at in places:
        w = move(params[name].array, "cpu")
        if w.ndim > 1:
            some = w.take(at, axis).astype(np.float64)
            # per weight, so that layers of different size can be compared
            total += float(abs(some).mean() if rule == "l1" else np.square(some).mean())
    return total


def _is_gamma(model: Any, name: str) -> bool:
    from minidl.nn.norm import _BatchNorm

    module, _, key = name.rpartition(".")
    return key == "weight" and isinstance(model.get_submodule(module), _BatchNorm)
