"""Pruning: choose weights to be zero, and keep them zero.

A mask maker is a pure function: weights in, a bool array out, True where a weight stays. `prune_` ands such masks into
``Parameter.mask`` and zeroes the weights in place. The module tree, the names, the `Parameter` objects and the
optimizer's state for them stay; optimizers apply the mask after each update, so pruned weights stay zero in retraining.

Which rule to take: `magnitude_mask` hits a sparsity exactly. `rms_mask` and `fan_in_mask` cut at a threshold, so their
sparsity depends on the weights' distribution and lambda has to be swept; `fan_in_mask` also depends on the layer's
shape, since lambda ||w|| / fan_in = lambda rms(w) sqrt(outputs / inputs): the same lambda cuts a wide layer less than a
narrow one. `random_mask` is the baseline that a rule has to beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from minidl import random
from minidl.devices import array_module
from minidl.storage import Packed

__all__ = [
    "fan_in_mask",
    "magnitude_mask",
    "magnitude_masks",
    "masks",
    "prune_",
    "random_mask",
    "remove_masks_",
    "rms_mask",
    "sparsity",
]

Array = Any

# -- mask makers ------------------------------------------------------------------------------------------------------


def magnitude_mask(w: Array, sparsity: float, mask: Array | None = None) -> Array:
    """Drop the smallest weights of one array: exactly round(sparsity * size) of them.

    What an earlier `mask` has dropped goes first; of equal weights the one that comes first. Returns bool of w's shape.
    Raises ValueError for a sparsity outside [0, 1) and for NaN weights. LeCun et al. 1989 discuss why magnitude is only
    a stand-in for the loss's change; Han et al. 2015, arXiv:1506.02626, that it works with retraining.

    >>> magnitude_mask(np.float32([[1, -4], [3, -2]]), 0.5).tolist()
    [[False, True], [True, False]]
    """
    return magnitude_masks([w], sparsity, [mask])[0]


def magnitude_masks(ws: Sequence[Array], sparsity: float, masks: Sequence[Array | None] | None = None) -> list[Array]:
    """Drop the smallest weights of several arrays together, so that each gets the sparsity that its sizes ask for.

    >>> [m.tolist() for m in magnitude_masks([np.float32([1, 5]), np.float32([6, 7])], 0.5)]
    [[False, False], [True, True]]
    """
    for w in ws:
        _no_nan(w)
    return _keep_largest([array_module(w).abs(w) for w in ws], sparsity, masks)


def random_mask(
    shape: tuple[int, ...] | int,
    sparsity: float,
    generator: random.Generator | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Drop exactly round(sparsity * size) weights by chance, those of an earlier `mask` first.

    >>> int(random_mask((4, 5), 0.8).sum())
    4
    """
    generator = random.default_generator if generator is None else generator
    return _keep_largest([generator.uniform(shape)], sparsity, [mask])[0]


def fan_in_mask(w: Array, lam: float) -> Array:
    """Keep |w| >= lambda * ||w||_2 / fan_in, where fan_in counts the inputs of one output: w (N, ...), w[0].size.

    Raises ValueError for negative or NaN lambda, NaN weights, and arrays that have no inputs (fewer than two axes).

    >>> fan_in_mask(np.float32([[3, 4, 0, 0]]), 3.0).tolist()  # threshold 3 * 5 / 4
    [[False, True, False, False]]
    """
    if w.ndim < 2:
        raise ValueError(f"fan_in_mask needs a weight (outputs, inputs, ...), got shape {tuple(w.shape)}")
    return _at_least(w, lam, _norm(w) / max(1, math.prod(w.shape[1:])))


def rms_mask(w: Array, lam: float) -> Array:
    """Keep |w| >= lambda * rms(w): a threshold in units of the weights' own size, whatever the layer's shape.

    >>> rms_mask(np.float32([1, 1, 1, -3]), 1.0).tolist()
    [False, False, False, True]
    """
    return _at_least(w, lam, _norm(w) / math.sqrt(max(1, w.size)))


def _norm(w: Array) -> float:
    _no_nan(w)
    return math.sqrt(float(array_module(w).square(w, dtype=np.float64).sum()))


def _at_least(w: Array, lam: float, unit: float) -> Array:
    if not lam >= 0:
        raise ValueError(f"lambda must be 0 or more, got {lam}")
    return array_module(w).abs(w) >= lam * unit


def _keep_largest(scores: Sequence[Array], sparsity: float, masks: Sequence[Array | None] | None) -> list[Array]:
    """Masks over all `scores` together that drop the smallest; scores are 0 or more."""
    _check_sparsity(sparsity)
    if not scores:
        return []
    xp = array_module(scores[0])
    flat = xp.concatenate([s.reshape(-1) for s in scores])
    if masks is not None:
        old = [xp.ones(s.size, bool) if m is None else xp.asarray(m).reshape(-1) for s, m in zip(scores, masks)]
        flat = xp.where(xp.concatenate(old), flat, -1)
    keep = xp.ones(flat.size, bool)
    keep[xp.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = False
    parts = xp.split(keep, np.cumsum([s.size for s in scores])[:-1].tolist())
    return [part.reshape(s.shape) for part, s in zip(parts, scores)]


def _check_sparsity(sparsity: Any) -> None:
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float, np.number)) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be a number in [0, 1), the share of weights to drop, got {sparsity!r}")


def _no_nan(w: Array) -> None:
    bad = array_module(w).isnan(w)
    if bad.any():
        at = [int(i) for i in np.unravel_index(int(bad.argmax()), w.shape)]
        raise ValueError(f"a weight of shape {tuple(w.shape)} holds NaN, the first at {at}: its importance is unknown")


# -- models -----------------------------------------------------------------------------------------------------------


def prune_(
    model: Any,
    sparsity: float | None = None,
    *,
    scope: str = "global",
    rule: str | Callable[[Array], Array] = "magnitude",
    skip: str | Iterable[str] = (),
    generator: random.Generator | None = None,
) -> Any:
    """Prune a model's weights in place, and return the model.

    New masks are anded into those that are there: a pruned weight never comes back, and pruning in steps (0.5, 0.7,
    0.8) counts what went before. Biases and normalization (parameters with fewer than two axes) are left alone.

    Args:
        sparsity: the share of weights to be zero afterwards, in [0, 1); 0.8 unless `rule` is a function.
        scope: "global" compares the weights of all layers, "layer" gives each the same sparsity.
        rule: "magnitude", "random", or a function from a weight array to its mask (True = keep), such as
            ``lambda w: fan_in_mask(w, 0.5)``.
        skip: names of parameters or modules to leave alone; ``*`` stands for anything.
        generator: for "random".

    Raises ValueError for a sparsity outside [0, 1), NaN weights, a name in `skip` that matches nothing, or a model
    without weights; TypeError for weights that are packed already.
    """
    if scope not in ("global", "layer"):
        raise ValueError(f"scope must be 'global' or 'layer', got {scope!r}")
    found = prunable(model, skip)
    if not found:
        raise ValueError("prune_: the model has no weights to prune (parameters with two or more axes)")
    for name, p in found:
        if isinstance(p.array, Packed):
            raise TypeError(
                f"prune_: {name} is packed as {p.array.kind}; prune first and quantize afterwards, or call "
                "minidl.compress.dequantize_(model)"
            )
    groups = [found] if scope == "global" and not callable(rule) else [[one] for one in found]
    made: list[tuple[Any, Array]] = []
    for group in groups:
        try:
            made += zip((p for _, p in group), _new_masks([p for _, p in group], sparsity, rule, generator))
        except ValueError as error:
            error.add_note(f"while pruning {', '.join(name for name, _ in group)}")
            raise
    for p, mask in made:  # nothing is changed before every mask is known
        p.mask = mask if p.mask is None else mask & p.mask
        array_module(p.array).copyto(p.array, 0, where=~p.mask)  # 0.0, where a product with the mask may give -0.0
        p.bump()
    return model


def _new_masks(ps: Sequence[Any], sparsity: float | None, rule: Any, generator: Any) -> list[Array]:
    if callable(rule):
        if sparsity is not None:
            raise ValueError("prune_: a rule that is a function decides how much goes; leave sparsity out")
        out = []
        for p in ps:
            mask = array_module(p.array).asarray(rule(p.array))
            if mask.dtype != bool or mask.shape != p.array.shape:
                raise ValueError(
                    f"prune_: the rule must give a bool mask of shape {tuple(p.array.shape)}, got {mask.dtype} of "
                    f"shape {tuple(mask.shape)}"
                )
            out.append(mask)
        return out
    sparsity = 0.8 if sparsity is None else sparsity
    old = [p.mask for p in ps]
    if rule == "magnitude":
        return magnitude_masks([p.array for p in ps], sparsity, old)
    if rule == "random":
        for p in ps:
            _no_nan(p.array)
        generator = random.default_generator if generator is None else generator
        scores = [generator.uniform(tuple(p.array.shape), xp=array_module(p.array)) for p in ps]
        return _keep_largest(scores, sparsity, old)
    raise ValueError(f"rule must be 'magnitude', 'random' or a function, got {rule!r}")


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
    weights = [p.array.q if isinstance(p.array, Packed) else p.array for _, p in prunable(model)]
    total = sum(w.size for w in weights)
    return 1 - sum(int(array_module(w).count_nonzero(w)) for w in weights) / total if total else 0.0


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
