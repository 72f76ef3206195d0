"""Whole models: their weights become packed storage, in place, and everything else stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minidl.compress.prune import prunable
from minidl.compress.quantize.observers import MinMax, Observer
from minidl.compress.quantize.weights import pack_int8, pack_weight
from minidl.devices import is_cuda_array
from minidl.storage import Packed

__all__ = ["batches", "dequantize_", "evaluating", "quantize_"]


def quantize_(
    model: Any, bits: int = 8, calibration: Any = None, *, skip: str | Iterable[str] = (), weight_only: bool = False,
    symmetric: bool = True, per: str = "channel", group: int | None = None, observer: Callable[[], Observer] = MinMax,
) -> Any:  # fmt: skip
    """Put the weights of Linear, Conv2d, Embedding and attention's projections into few bits, in place.

    With 8 bits the model then runs on integer kernels. With fewer, or `weight_only`, activations stay float, and
    weights become floats when they are used: 4 bits in groups of a multiple of 32 in registers, by a kernel of their
    own. Each weight `Parameter` stays the object it was, under its name, and from now on holds packed storage
    (:mod:`minidl.storage`) and wants no gradient. Biases and all other layers stay float. A mask stays, and its zeros
    are zeros of the packed weight. What is packed already stays as it is. Returns the model.

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
    weights = _weights(model, skip)
    ready: dict[str, Packed] = {}
    for name, (p, _) in weights.items():
        try:
            ready[name] = (
                pack_int8(p.array, None, p.mask, per) if integers
                else pack_weight(p.array, int(bits), symmetric, per, group, p.mask)
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise type(error)(f"quantize_: {name}: {error}") from error
    if calibration is not None:
        for name, scale in _calibrate(model, weights, calibration, observer).items():
            ready[name].x_scale = scale  # type: ignore[attr-defined]
    for name, (p, _) in weights.items():  # nothing is changed before everything is known
        hold(p, ready[name])
    return model


def hold(p: Any, packed: Packed) -> None:
    """Make a parameter hold packed storage; it wants no gradient any more, and its mask stays."""
    p.requires_grad_(False)
    p.grad = None
    p.array = packed
    p.bump()


def dequantize_(model: Any) -> Any:
    """Put packed weights back into float32 arrays that want gradients, in place, and return the model. Masks stay."""
    for p in model.parameters():
        if isinstance(p.array, Packed):
            p.array = p.array.dequantize()
            p.bump()
            p.requires_grad_()
    return model


def _readers() -> tuple[tuple[Any, tuple[str, ...]], ...]:
    """The layers whose forward takes packed weights, and the names of these."""
    from minidl import nn

    return (
        (nn.Linear, ("weight",)),
        (nn.Conv2d, ("weight",)),
        (nn.Embedding, ("weight",)),
        (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
        (nn.CausalSelfAttention, ("in_proj_weight",)),
    )


def _reads(module: Any, p: Any) -> bool:
    """Whether this module can use its parameter when it is packed."""
    if getattr(module, "max_norm", None) is not None:  # an embedding that changes its rows
        return False
    return any(
        isinstance(module, kind) and any(getattr(module, name, None) is p for name in names)
        for kind, names in _readers()
    )


def _weights(model: Any, skip: str | Iterable[str]) -> dict[str, tuple[Any, list[Any]]]:
    """What to quantize: by the parameter's name, itself and all modules that use it."""
    users: dict[int, list[tuple[str, Any]]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            users.setdefault(id(p), []).append((name or type(module).__name__, module))
    weights = {}
    for name, p in prunable(model, skip):
        able = [module for _, module in users[id(p)] if _reads(module, p)]
        if not able or isinstance(p.array, Packed):
            continue
        others = [n for n, module in users[id(p)] if not any(module is m for m in able)]
        if others:
            raise ValueError(
                f"quantize_: {name} is shared with {', '.join(others)}, which cannot read packed weights; pass "
                f"skip={name!r}"
            )
        weights[name] = p, able
    if not weights:
        raise ValueError(
            "quantize_: the model has no Linear, Conv2d, Embedding or attention layer with a float weight left to "
            "quantize"
        )
    return weights


def _calibrate(
    model: Any, weights: dict[str, tuple[Any, list[Any]]], data: Any, observer: Callable[[], Observer]
) -> dict[str, float]:
    """Run the model on `data` and give the symmetric scale of the inputs that meet each weight."""
    from minidl import nn
    from minidl.tensors import Tensor

    seen: dict[str, Observer] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, args: tuple) -> None:
            for x in args:
                if isinstance(x, Tensor) and x.array.dtype.kind == "f" and x.ndim > 1:
                    try:
                        seen[name].update(x.array)
                    except ValueError as error:
                        raise ValueError(
                            f"quantize_: the calibration data make {error}, at the input of {name}"
                        ) from error

        return hook

    handles = []
    for name, (_, users) in weights.items():
        able = [u for u in users if not isinstance(u, nn.Embedding)]  # indices have no scale
        if able:
            seen[name] = observer()
        handles += [u.register_forward_pre_hook(watch(name)) for u in able]
    try:
        evaluating(model, data)
    finally:
        for handle in handles:
            handle.remove()
    unseen = [name for name, o in seen.items() if not o.seen]
    if unseen:
        raise ValueError(f"quantize_: the calibration data reach no layer with {', '.join(unseen)}")
    return {name: o.parameters(symmetric=True)[0] for name, o in seen.items()}


def evaluating(model: Any, data: Any) -> None:
    """Run a model on data in evaluation and without gradients; its modes are as before, then. ValueError if empty."""
    from minidl.autograd import no_grad

    training = [(m, m.training) for m in model.modules()]
    model.eval()
    n = 0
    try:
        with no_grad():
            for x in batches(data):
                if len(x):
                    n += len(x)
                    model(x)
    finally:
        for module, mode in training:
            module.training = mode
    if n == 0:
        raise ValueError("the calibration data are empty")


def batches(data: Any) -> Iterable[Any]:
    """Inputs as Tensors, batch by batch, from a Tensor, an array, or an iterable of batches or (batch, ...) tuples."""
    from minidl.tensors import Tensor, wrap

    if isinstance(data, (Tensor, np.ndarray)) or is_cuda_array(data):
        array = data.array if isinstance(data, Tensor) else data
        return (wrap(array[i : i + 256]) for i in range(0, len(array), 256))

    def first(batch: Any) -> Any:
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        return x if isinstance(x, Tensor) else wrap(x)

    return map(first, data)
