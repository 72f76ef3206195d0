"""Rules for ops that move elements, combine them one by one, or reduce over places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.compress.anatomy.shadows import Shadow, Weight
from minidl.ops.common import many_dims, one_dim

# The shadows take these ops as they are.
MOVING = {
    "permute", "flip", "roll", "getitem", "broadcast_to", "alias", "clone", "clone_contiguous",
}  # fmt: skip
SAME = {"cast", "transfer", "mask_scale", "draw_and_scale"}  # each element stays in its place; 0 stays 0
COMBINING = {"addcmul", "addcdiv", "lerp", "where", "clamp"}  # elementwise, of several
NORMALISING = {"standardize", "rms_standardize", "group_standardize"}


def reshape(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """Merged axes keep their elements' units.

    An axis of units that is split is kept, but where they are heads of attention, or lie along one of the new axes only
    (batch and heads in one).
    """
    (x,) = ins[:1]
    if isinstance(x, Weight):
        old = [i for i, n in enumerate(x.zero.shape) if n != 1]
        new = [i for i, n in enumerate(shape) if n != 1]
        if [x.zero.shape[i] for i in old] == [shape[i] for i in new]:
            order: list[int | None] = [None] * len(shape)
            for i, j in zip(old, new):
                order[j] = i
            return x.moved(order, x.zero.reshape(shape))
        return watch.unknown(ctx, ins, shape)
    tags = x.tags
    for group_in, group_out in _matched(x.tags.shape, shape):
        several_out = [i for i in group_out if shape[i] != 1]
        if len(several_out) < 2:
            continue
        for axis in group_in:
            units, _, _ = x.line(axis)
            if x.tags.shape[axis] > 1 and len(np.unique(units)) > 1:
                sizes = tuple(shape[i] for i in several_out)
                alone = math.prod(sizes) == len(units)  # or places beside it, as in group norm
                if alone and (
                    watch.join_heads(x, axis, sizes) or _along_one_axis(watch.units.roots(units).reshape(sizes))
                ):
                    tags = watch.units.roots(x.tags)
                    continue
                parts = " x ".join(map(str, sizes))
                watch.units.keep(units, f"its {x.tags.shape[axis]} outputs are split into {parts}{watch.at(ctx)}")
    return Shadow(tags.reshape(shape), x.zero.reshape(shape))


def _along_one_axis(units: np.ndarray) -> bool:
    """Whether they differ along one axis at most."""
    lines = (np.moveaxis(units, axis, -1).reshape(-1, n) for axis, n in enumerate(units.shape))
    return any((line == line[:1]).all() for line in lines)


def _matched(a: tuple, b: tuple) -> Any:
    """Axes of a and of b in runs of equal size."""
    i = j = 0
    while i < len(a) or j < len(b):
        group_a, group_b, size_a, size_b = [], [], 1, 1
        if i < len(a):
            group_a.append(i)
            size_a *= a[i]
            i += 1
        while size_a != size_b or (j < len(b) and b[j] == 1):
            if size_b < size_a and j < len(b):
                group_b.append(j)
                size_b *= b[j]
                j += 1
            elif size_b > size_a and i < len(a):
                group_a.append(i)
                size_a *= a[i]
                i += 1
            elif j < len(b):
                group_b.append(j)
                size_b *= b[j]
                j += 1
            else:
                break
        if not group_a and not group_b:
            break
        if not group_a:
            group_b.append(j) if j < len(b) else None
            j += 1
        yield group_a, group_b


def move(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """The op itself, on the shadows."""
    (x,) = ins[:1]
    if isinstance(x, Weight):
        if ctx.name() == "permute":
            order = list(many_dims(args[1], x.zero.ndim))
            return x.moved(list(order), x.zero.transpose(order))
        # Only a layer of attention is known to use all parts: rows that this input does not reach must stay.
        if ctx.name() == "getitem" and watch.layer() and (cut := _slices(args[1], x.zero.ndim)) is not None:
            units = [None if u is None else u[c] for u, c in zip(x.units, cut)]
            return Weight(units, x.zero[cut], x.name, x.home)
        if ctx.name() in ("alias", "clone", "clone_contiguous"):
            return x
        return watch.unknown(ctx, ins, shape)
    if ctx.name() == "getitem":
        _parts(watch, ctx, x, args[1])
    page = type(ctx)
    return Shadow(page(x.tags, *args[1:]), page(x.zero, *args[1:]))


def _parts(watch: Any, ctx: Any, x: Shadow, index: Any) -> None:
    """Equal parts along an axis of units, as `chunk` takes them, stay equal: what lies in the same place is one unit.

    If it is not an equal part that is taken, all have to stay.
    """
    index = index if isinstance(index, tuple) else (index,)
    given = [i for i in index if i is not None]
    if Ellipsis in [i for i in given if i is Ellipsis or isinstance(i, (int, slice))]:
        at = next(n for n, i in enumerate(given) if i is Ellipsis)
        given[at : at + 1] = [slice(None)] * (x.tags.ndim - len(given) + 1)
    for axis, i in enumerate(given[: x.tags.ndim]):
        n = x.tags.shape[axis]
        if isinstance(i, slice) and i.indices(n) in ((0, n, 1), (n - 1, -1, -1)):
            continue
        units, _, clear = x.line(axis)
        if not clear or len(np.unique(units)) < 2:
            continue
        first, stop, step = i.indices(n) if isinstance(i, slice) else (0, 0, 0)
        size = stop - first
        if step == 1 and size > 1 and n % size == 0 and first % size == 0:
            parts = units.reshape(-1, size)
            watch.units.join(parts, parts[:1])
        else:
            watch.units.keep(units, f"a part of them is taken{watch.at(ctx)}")


def _slices(index: Any, ndim: int) -> tuple | None:
    """An index of slices alone, one for each axis; None if it is another."""
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, slice) for i in index):
        return None
    return (*index, *(slice(None),) * (ndim - len(index)))


def pad(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """A frame of no unit; zeros, if that is what it is made of."""
    (x,) = ins[:1]
    if isinstance(x, Weight):
        return watch.unknown(ctx, ins, shape)
    page, value = type(ctx), args[2] if len(args) > 2 else 0.0
    return Shadow(page(x.tags, args[1], 0), page(x.zero.astype(np.int8), args[1], int(value == 0)).astype(bool))


def cat(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """Units side by side."""
    if any(isinstance(x, Weight) for x in ins):
        return watch.unknown(ctx, ins, shape)
    axis = one_dim(args[1] if len(args) > 1 else 0, len(shape))
    real = [x for x in ins if x.tags.shape != (0,)]
    return Shadow(np.concatenate([x.tags for x in real], axis), np.concatenate([x.zero for x in real], axis))


def elementwise(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """f(x): the units stay; zeros stay zeros if f(0) = 0."""
    (x,) = ins[:1]
    if isinstance(x, Weight):
        found = x.as_shadow()
        if found is None:
            return watch.unknown(ctx, ins, shape)
        x = found
    if ctx.name() in SAME:
        return x
    with np.errstate(all="ignore"):
        still = bool(np.all(np.asarray(type(ctx)(np.zeros(1), *args[1:])) == 0))
    return Shadow(x.tags, x.zero & still)


def combine(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """f(a, b, ...) element by element: units that meet are one."""
    given = [(watch.shadow_of_number(a) if x is None else x) for x, a in zip(ins, args)]
    tags = np.zeros(shape, np.int64)
    for x in given:
        if isinstance(x, Shadow):
            watch.units.join(tags, x.tags)
            tags = np.maximum(tags, x.tags)
    for i, x in enumerate(given):
        if isinstance(x, Weight):
            given[i] = _beside(watch, ctx, x, tags)
            tags = np.maximum(tags, given[i].tags)
    zeros = [x.zero for x in given]
    name = ctx.name()
    if name == "mul":
        zero = zeros[0] | zeros[1]
    elif name == "true_divide":
        zero = zeros[0] & ~zeros[1]
    elif name in ("add", "sub", "maximum", "minimum"):
        zero = zeros[0] & zeros[1]
    elif name == "where":
        zero = zeros[2] & (zeros[0] | zeros[1])  # a condition known to be 0 is False
    elif name == "addcmul":
        zero = zeros[0] & (zeros[1] | zeros[2])
    elif name == "lerp":
        zero = zeros[0] & zeros[1]
    elif name == "clamp":
        low, high = (args[i] if len(args) > i and args[i] is not None else 0 for i in (1, 2))
        numbers = all(isinstance(v, (int, float)) for v in (low, high))
        zero = zeros[0] & (numbers and low <= 0 <= high)
    elif len(given) == 2:  # comparisons, powers: f(0, 0), or f of 0 and the number that is given
        values = [np.zeros(1) if x is not None else a for x, a in zip(ins, args)]
        with np.errstate(all="ignore"):
            still = bool(np.all(np.asarray(type(ctx)(*values)) == 0))
        zero = np.ones(shape, bool) & still
        for x, z in zip(ins, zeros):
            zero = zero & z if x is not None else zero
    else:
        zero = np.zeros(shape, bool)
    return Shadow(np.broadcast_to(tags, shape), np.broadcast_to(zero, shape))


def _beside(watch: Any, ctx: Any, w: Weight, tags: np.ndarray) -> Shadow:
    """A parameter of several axes that meets a tensor element by element: learned positions (1, T, C), say.

    The axis along which the tensor's units lie is theirs; the others have to stay.
    """
    found = w.as_shadow()
    if found is not None:
        watch.units.join(tags, found.tags)
        return Shadow(np.broadcast_to(found.tags, tags.shape) * (tags == 0) + tags, found.zero)
    lead = tags.ndim - w.zero.ndim
    mine = None
    for axis, units in enumerate(w.units):
        if units is None or lead < 0:
            continue
        along, _, uniform = Shadow(tags, np.zeros(tags.shape, bool)).line(lead + axis)
        if uniform and len(along) == len(units) and (along > 0).all() and len(np.unique(along)) > 1:
            watch.units.join(along, units)
            mine = axis
    for axis, units in enumerate(w.units):
        if units is not None and axis != mine:
            watch.units.keep(units, f"{w.name} meets other elements along this axis{watch.at(ctx)}")
    return Shadow(tags, w.zero)


def reduce(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """Over places of one unit the unit stays. A sum over units reads them; of other reductions they must all stay."""
    (x,) = ins[:1]
    if isinstance(x, Weight):
        return watch.unknown(ctx, ins, shape)
    dims = tuple(ctx.dims)
    units = x.tags.max(dims, initial=0, keepdims=True)
    one = ((x.tags == units) | (x.zero & (x.tags == 0))).all(dims, keepdims=True)
    within = one & (units > 0)
    spent = x.tags * ~np.broadcast_to(within, x.tags.shape)
    if ctx.name() == "sum":
        watch.units.use(spent, x.zero)
    else:
        watch.owe(spent, f"{ctx.name()} takes all of them together{watch.at(ctx)}")
    return Shadow((units * within).reshape(shape), x.zero.all(dims, keepdims=True).reshape(shape))


def over_places(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """Pools and resampling of (N, C, ...): each channel for itself."""
    (x,) = ins[:1]
    axes = tuple(i for i in range(2, len(shape)))
    if isinstance(x, Weight) or x.tags.shape[:2] != shape[:2]:
        return watch.unknown(ctx, ins, shape)
    units = x.tags.max(axes, initial=0, keepdims=True)
    if not ((x.tags == units) | (x.zero & (x.tags == 0))).all():
        return watch.unknown(ctx, ins, shape)
    return Shadow(np.broadcast_to(units, shape), np.broadcast_to(x.zero.all(axes, keepdims=True), shape))


def along_one(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """softmax and its kin: what lies along the axis must all stay."""
    (x,) = ins[:1]
    if isinstance(x, Weight):
        return watch.unknown(ctx, ins, shape)
    axis = one_dim(args[1] if len(args) > 1 and args[1] is not None else -1, x.tags.ndim)
    if ctx.name() == "logsumexp":
        return watch.unknown(ctx, ins, shape)
    watch.weighs()
    return _normalised(watch, ctx, x, (axis,))


def normalise(watch: Any, ctx: Any, ins: list, args: tuple, shape: tuple) -> Any:
    """layer_norm, group_norm: the statistics need all of them."""
    x, *affine = ins[:3]
    if isinstance(x, Weight):
        return watch.unknown(ctx, ins, shape)
    if ctx.name() == "standardize":
        dims = args[3]
    elif ctx.name() == "rms_standardize":
        dims = (x.tags.ndim - 1,)
    else:
        dims = tuple(range(1, x.tags.ndim))
    for a in affine:
        if isinstance(a, Weight):
            watch.units.keep(a.all_units(), f"{ctx.name()} takes all of them together{watch.at(ctx)}")
        elif isinstance(a, Shadow):
            if a.tags.ndim == len(shape):
                watch.units.join(x.tags, a.tags)
            else:
                watch.units.keep(a.tags, f"{ctx.name()} takes all of them together{watch.at(ctx)}")
    return _normalised(watch, ctx, x, dims)


def _normalised(watch: Any, ctx: Any, x: Shadow, dims: tuple) -> Shadow:
    units = x.tags.max(dims, initial=0, keepdims=True)
    mixed = x.tags * (x.tags != units).any(dims, keepdims=True)
    if math.prod(x.tags.shape[d] for d in dims) > 1:
        watch.units.keep(mixed, f"{ctx.name()} takes all of them together{watch.at(ctx)}")
    return Shadow(x.tags, np.zeros(x.tags.shape, bool))
