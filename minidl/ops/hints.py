"""What is probably meant when inputs do not fit: the last half of an error's sentence. Called when it is raised only.

Each function takes shapes or dtypes and gives the advice that fits them, most specific first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def features(x: Sequence[int], w: Sequence[int]) -> str:
    """Input x (..., K) against the weight (N, K) of a linear layer, or (K,) for what a recurrent layer takes."""
    takes = w[-1]
    if len(w) > 1 and len(x) > 2 and math.prod(x[1:]) == takes:
        return (
            f"flatten it first: nn.Flatten() before the layer, or x.flatten(1), makes ({x[0]}, {takes}) of {tuple(x)}"
        )
    if len(x) > 1 and math.prod(x) == takes:
        return f"a flatten that kept no batch axis is missing: x.reshape(1, -1) makes (1, {takes}) of it"
    if len(x) == 1 and takes == 1:
        return "an axis for the single feature is missing: x.unsqueeze(1)"
    for axis in range(len(x) - 2, 0, -1):
        if x[axis] == takes:
            return f"axis {axis} has that size: x.transpose({axis}, -1) puts it last"
    if len(w) == 2 and x and x[-1] == w[0]:
        return f"are in_features and out_features swapped? Linear({w[0]}, {takes}) would take it"
    if len(w) == 1:
        return f"the last axis holds the features; make input_size {x[-1]}, or let the layer before give {takes}"
    n = f", {w[0]}" if len(w) == 2 else ""
    flat = f"; or a flatten is missing, which would give {math.prod(x[1:])} features" if len(x) > 2 else ""
    return f"make this layer Linear({x[-1] if x else 1}{n}), or let the layer before give {takes} features{flat}"


def channels(x: Sequence[int], takes: int, batched: bool = True) -> str:
    """Images x (N, C, H, W), or one (C, H, W), for a convolution that takes `takes` channels."""
    image = x[1:] if batched else x
    if x[-1] == takes and (takes <= 4 or image[0] == image[1] != takes):  # and not by accident, in mid-network
        order = (0, len(x) - 1, *range(1, len(x) - 1)) if batched else (len(x) - 1, *range(len(x) - 1))
        return (
            f"the channels stand last, as image files have them: x.permute{order} makes "
            f"{tuple(x[i] for i in order)} of it"
        )
    if not batched and takes == 1:
        return (
            f"without a batch axis that is one image of {x[0]} channels; for {x[0]} images of one channel add the "
            f"channel axis: x.unsqueeze(1) makes ({x[0]}, 1, {', '.join(map(str, x[1:]))}) of it"
        )
    return f"make this layer's in_channels {x[0] if not batched else x[1]}, or let the layer before give {takes}"


def ranks(ndim: int, wanted: Sequence[int]) -> str:
    """An input of `ndim` axes for a batch norm that takes `wanted` ones."""
    if ndim == max(wanted) - 1 and ndim != 2:
        return "a single example needs its batch axis: x.unsqueeze(0)"
    fits = {2: "BatchNorm1d, for (N, C) or (N, C, L),", 3: "BatchNorm1d, for (N, C) or (N, C, L),"}
    fits |= {4: "BatchNorm2d, for images (N, C, H, W),", 5: "BatchNorm3d, for volumes (N, C, D, H, W),"}
    return f"{fits[ndim]} takes it" if ndim in fits else "a batch axis is missing, or there is one too many"


def state(h: Sequence[int], wanted: Sequence[int], time: int, batch_first: bool) -> str:
    """A recurrent layer's initial state h against (layers, B, H), for an input of `time` steps."""
    if h[0] == wanted[1] and h[1] == wanted[0] and h[2] == wanted[2]:
        return "states are (layers * directions, B, H), with batch_first too: h.transpose(0, 1)"
    if h[0] == wanted[0] and h[2] == wanted[2]:
        if h[1] == time:
            axis = "first" if batch_first else "second"
            return (
                f"with batch_first={batch_first} the input's {axis} axis, {wanted[1]}, is the batch; is the input "
                f"{'(T, B, ...)' if batch_first else '(B, T, ...)'}, to be used with batch_first={not batch_first}?"
            )
        return (
            f"it is of a batch of {h[1]}: start each batch afresh (no state), or pass drop_last=True to the DataLoader"
        )
    return "it is (layers * directions, batch, hidden_size)"


def window(left: Sequence[int]) -> str:
    """A kernel that is larger than what the layers before have left over."""
    size = " x ".join(map(str, left))
    return (
        f"only {size} is left here: use fewer strides and poolings before, a smaller kernel, padding, or larger inputs"
    )


def dtypes(x: str, w: str) -> str:
    """An input and a weight of two dtypes."""
    if w == "float32":
        cause = "NumPy's numbers are float64 by default; " if x == "float64" else ""
        scale = " / 255" if x == "uint8" else ""
        return f"{cause}convert the input: x.float(){scale}"
    return (
        f"convert the input, x.to(minidl.{w}), or the model, model.to(minidl.{x})"
        if x.startswith("float")
        else (f"convert the input: x.to(minidl.{w})")
    )


def same_shape(x: Sequence[int], y: Sequence[int]) -> str:
    """Predictions x against targets y of another shape, elementwise."""
    if len(x) == len(y) + 1 and x[-1] == 1 and tuple(x[:-1]) == tuple(y):
        return f"use prediction.squeeze(-1), or target.unsqueeze(-1): both {tuple(y)} or both {tuple(x)}"
    if len(y) == len(x) + 1 and y[-1] == 1 and tuple(y[:-1]) == tuple(x):
        return f"use target.squeeze(-1), or prediction.unsqueeze(-1): both {tuple(x)} or both {tuple(y)}"
    if math.prod(x) == math.prod(y):
        return "target.reshape(prediction.shape) if the elements correspond"
    if len(x) and len(y) and x[0] != y[0]:
        return f"the batch sizes are {x[0]} and {y[0]}: are they from the same batch?"
    return "the last layer must give as many values as a target has"


def labels(x: Sequence[int], t: Sequence[int], want: Sequence[int]) -> str:
    """Class scores x (N, C, ...) against class indices t, which should have the shape `want`."""
    if tuple(t) == tuple(x):
        return "one-hot or multi-label targets? Pass target.argmax(1) as classes, or target.float() as probabilities"
    if len(t) == len(want) + 1 and t[-1] == 1 and tuple(t[:-1]) == tuple(want):
        return f"use target.squeeze(-1), which is {tuple(want)}"
    if len(x) == 3 and tuple(t) == tuple(x[:2]):
        return (
            f"classes stand in dimension 1, here {x[1]}: for sequences (B, T, C) use scores.transpose(1, 2), or "
            "scores.flatten(0, 1) with target.flatten()"
        )
    if len(x) == 4 and tuple(t) == tuple(x[:3]):
        return "classes stand in dimension 1: use scores.permute(0, 3, 1, 2)"
    if len(x) > 1 and len(t) == len(want) and t[0] != x[0]:
        return f"the batch sizes are {x[0]} and {t[0]}: are they from the same batch?"
    return "one class index for each row of scores"


def class_range(value: int, least: int, most: int, classes: int) -> str:
    """A class index outside 0 .. C - 1."""
    if most == classes and least >= 1:
        return f"are the labels counted from 1? target - 1 gives 0 .. {classes - 1}"
    if value < 0:
        return f"to leave such targets out pass ignore_index={value}"
    return f"the last layer must have an output for each class: here {most + 1} of them"


def table(index: int, rows: int) -> str:
    """An index outside an embedding's rows."""
    if index < 0:
        return "negative indices do not count from the end here; a padding token needs an index of its own"
    return f"num_embeddings must exceed the largest index, {index}: is the vocabulary larger than the layer's {rows}?"
