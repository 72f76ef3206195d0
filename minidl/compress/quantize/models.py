"""Whole models: their weights become packed storage, in place, and everything else stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minidl.compress.quantize.observers import MinMax, Observer
from minidl.compress.quantize.readers import Met, Readable, meet, readable
from minidl.compress.quantize.weights import pack_int8, pack_weight
from minidl.compress.record import Recorded, hang
from minidl.nn.parameter import Parameter
from minidl.storage import Int8, Packed

__all__ = ["dequantize_", "quantize_"]


def quantize_(
    model: Any, bits: int = 8, calibration: Any = None, *, skip: str | Iterable[str] = (), weight_only: bool = False,
    symmetric: bool = True, per: str = "channel", group: int | None = None, observer: Callable[[], Observer] = MinMax,
) -> Any:  # fmt: skip
    """Put the weights of linear, convolution, embedding, attention and recurrent layers into few bits, in place.

    With 8 bits the model then runs on integer kernels; a recurrent layer's product with its state, too, step by step.
    With fewer, or `weight_only`, activations stay float, and weights become floats when they are used: 4 bits in groups
    of a multiple of 32 in registers, by a kernel of their own. Transposed convolutions are always used in that way.
    Each weight `Parameter` stays the object it was, under its name, and from now on holds packed storage
    (:mod:`minidl.storage`) and wants no gradient. `model` may also be what `record` or `fold` made, whose convolutions
    have taken in the batch norms, and `save_net` writes it whole: it gets packed weights of its own, and the model that
    was recorded keeps its floats. Biases and all other layers stay float. A mask stays, and its zeros are zeros of the
    packed weight. What is packed already stays as it is. Returns the model.

    Args:
        bits: 2 ... 8 of each weight.
        calibration: None quantizes activations dynamically, by the largest magnitude of each input as it comes. Input
            data (a Tensor, an array, or an iterable of batches such as a DataLoader, whose batches may be tuples that
            begin with the input) makes it static: the model runs on it once, and an observer of each layer's input
            says what range its codes cover.
        skip: names of parameters or modules to leave in float; ``*`` stands for anything.
        weight_only: leave activations in float with 8 bits, too.
        symmetric, per, group: of the weights' scales, see :func:`pack_weight`; integer products take symmetric scales
            per output or per tensor only.
        observer: makes an observer (:mod:`minidl.compress.quantize.observers`), for static activations.

    Raises ValueError for bits outside 2 ... 8, for scales that the integer kernels cannot take, weights or calibration
    activations that are not finite, calibration data without a batch or where nothing is to be calibrated, and a model
    without such layers; TypeError for weights that are not float32. The model is then as it was.

    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = quantize_(model, bits=4, per="group", group=32, skip="2")
    >>> model[0].weight.array
    Int4(shape=(8, 64), group 32, symmetric, 320 bytes)
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 2 <= bits <= 8:
        raise ValueError(f"quantize_: bits must be an integer in 2 ... 8, got {bits!r}")
    integers = bits == 8 and not weight_only
    if integers and (not symmetric or per == "group"):
        raise ValueError(
            "quantize_: integer products take symmetric scales per output or per tensor; pass weight_only=True for "
            "others"
        )
    if not integers and calibration is not None:
        raise ValueError(
            f"quantize_: with bits={bits}, weight_only={weight_only} activations stay float: no calibration"
        )
    weights = readable(model, skip, "quantize_")
    ready: dict[str, Packed] = {}
    for name, w in weights.items():
        p = w.p
        try:
            ready[name] = (
                pack_int8(p.array, None, p.mask, per) if integers and "transposed" not in w.kinds
                else pack_weight(p.array, int(bits), symmetric, per, group, p.mask)
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise type(error)(f"quantize_: {name}: {error}") from error
    if calibration is not None:
        for name, scale in _calibrate(model, weights, calibration, observer).items():
            if isinstance(packed := ready[name], Int8):
                packed.x_scale = scale
    for name, p in owned(model, {name: w.p for name, w in weights.items()}).items():
        hold(p, ready[name])  # nothing is changed before everything is known
    return model


def owned(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """The parameters to change in place of these: the model's own, but for a network that `record` or `fold` made.

    That one shares them with the model it was made from, and gets new ones here, in all places that have the old. The
    arrays stay shared: who changes a weight gives it another.
    """
    if not isinstance(model, Recorded):
        return weights
    new: dict[int, Any] = {}
    for p in weights.values():
        new[id(p)] = Parameter(p.array, requires_grad=p.requires_grad)
        new[id(p)].mask, new[id(p)].grad = p.mask, p.grad
    for name, p in list(model.named_parameters(remove_duplicate=False)):
        if id(p) in new:
            hang(model, name, new[id(p)])
    return {name: new[id(p)] for name, p in weights.items()}


def hold(p: Any, packed: Packed) -> None:
    """Make a parameter hold packed storage; it wants no gradient any more, and its mask stays."""
    p.requires_grad_(False)
    p.grad = None
    p.array = packed
    p.bump()


def dequantize_(model: Any) -> Any:
    """Put packed weights back into float32 arrays that want gradients, in place, and return the model. Masks stay.

    A network that `record` or `fold` made gets weights of its own; the recorded model's stay packed.
    """
    packed = {name: p for name, p in model.named_parameters() if isinstance(p.array, Packed)}
    for p in owned(model, packed).values():
        p.array = p.array.dequantize()
        p.bump()
        p.requires_grad_()
    return model


def _calibrate(
    model: Any, weights: dict[str, Readable], data: Any, observer: Callable[[], Observer]
) -> dict[str, float]:
    """Run the model on `data` and give the symmetric scale of the inputs that meet each weight."""
    seen: dict[str, Observer] = {}

    def met(m: Met) -> None:
        if m.x is not None:  # indices have no scale
            try:
                seen.setdefault(m.name, observer()).update(m.x)
            except ValueError as error:
                raise ValueError(f"quantize_: the calibration data make {error}, at the input of {m.name}") from error

    meet(model, data, weights, met)
    unseen = [name for name, w in weights.items() if w.kinds != {"table"} and name not in seen]
    if unseen:
        raise ValueError(f"quantize_: the calibration data reach no layer with {', '.join(unseen)}")
    return {name: o.parameters(symmetric=True)[0] for name, o in seen.items()}
