"""Quantization: weights as int8 with a scale per output channel, run on the integer kernels.

    q = clip(rint(w / s) + z, lo, hi),        w ~ (q - z) s,        |error| <= s / 2 inside the range

Weights take the symmetric form (z = 0, s = max|w| / 127), so that a product of two quantized numbers is a product of
integers: y = (q_x q_w) (s_x s_w). Jacob et al. 2017, arXiv:1712.05877, equations 1 to 4; the integer product and the
rescaling are two stages, as in gemmlowp.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.prune import prunable
from minidl.devices import array_module, is_cuda_array
from minidl.storage import Int8, Packed

__all__ = ["absmax_scale", "dequantize_", "dequantize_array", "quantize_", "quantize_array"]

Array = Any

# -- arrays -----------------------------------------------------------------------------------------------------------


def absmax_scale(w: Array, bits: int = 8, axis: int | None = 0) -> Array:
    """The symmetric scale s = max|w| / (2**(bits - 1) - 1), float32, one for each index of `axis` (None: one for all).

    A channel of zeros gets scale 1: scale 0 would turn its zeros into NaN, and pruning makes such channels. Raises
    ValueError for bits outside 2 ... 8 and for weights that are not finite.

    >>> absmax_scale(np.float32([[127, 1], [0, 0]])).tolist()
    [1.0, 1.0]
    """
    _check_bits(bits)
    xp = array_module(w)
    if not xp.isfinite(w).all():
        raise ValueError(f"cannot quantize an array of shape {tuple(w.shape)} that holds NaN or infinity")
    axes = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    top = xp.abs(w).max(axis=axes, initial=0)
    scale = (top / np.float32(2 ** (bits - 1) - 1)).astype(np.float32)
    # A scale below float32's normal numbers has too few bits left to divide by; such a channel is zero in all but name.
    return xp.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)


def quantize_array(w: Array, scale: Array, zero_point: int = 0, bits: int = 8, axis: int | None = 0) -> Array:
    """int8 codes: clip(rint(w / scale) + zero_point, lo, hi), rounding half to even.

    With zero_point 0 the range is symmetric, -(2**(bits-1) - 1) ... 2**(bits-1) - 1, else it has one code more below.
    `scale` is one number, or one for each index of `axis`. Raises ValueError for bits outside 2 ... 8, scales that are
    not positive, and zero points outside the range.

    >>> quantize_array(np.float32([[0.5, 1.5, -300.0]]), 1.0).tolist()
    [[0, 2, -127]]
    """
    _check_bits(bits)
    high = 2 ** (bits - 1) - 1
    low = -high if zero_point == 0 else -high - 1
    if not low <= zero_point <= high:
        raise ValueError(f"zero_point must lie in {low} ... {high} for {bits} bits, got {zero_point}")
    s = _along(scale, w, axis)
    if not ((s > 0) & array_module(s).isfinite(s)).all():
        raise ValueError("scales must be positive and finite")
    xp = array_module(w)
    return xp.clip(xp.rint(w / s) + zero_point, low, high).astype(np.int8)


def dequantize_array(q: Array, scale: Array, zero_point: int = 0, axis: int | None = 0) -> Array:
    """(q - zero_point) * scale, float32.

    >>> dequantize_array(np.int8([[2, -127]]), 0.5).tolist()
    [[1.0, -63.5]]
    """
    return (q.astype(np.float32) - np.float32(zero_point)) * _along(scale, q, axis)


def _along(scale: Array, w: Array, axis: int | None) -> Array:
    """The scale with size-1 axes, so that it meets index `axis` of w."""
    s = array_module(w).asarray(scale, dtype=np.float32)
    if s.ndim == 0 or axis is None:
        return s.reshape((1,) * w.ndim)
    shape = [1] * w.ndim
    shape[axis] = w.shape[axis]
    return s.reshape(shape)


def _check_bits(bits: Any) -> None:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer in 2 ... 8, got {bits!r}")


# -- models -----------------------------------------------------------------------------------------------------------


def quantize_(model: Any, bits: int = 8, calibration: Any = None, *, skip: str | Iterable[str] = ()) -> Any:
    """Put the weights of Linear and Conv2d into int8, in place, and return the model; it then runs on integer kernels.

    Each weight `Parameter` stays the object it was, under its name, and from now on holds `minidl.storage.Int8` and
    wants no gradient. Biases and all other layers stay float. A mask stays, and its zeros are zeros of the int8 weight.

    Args:
        bits: 8, the width that the integer kernels multiply.
        calibration: None quantizes activations dynamically, by the largest magnitude of each input as it comes. Input
            data (a Tensor, an array, or an iterable of batches such as a DataLoader, whose batches may be tuples that
            begin with the input) makes it static: the model runs on it once and each layer keeps the largest magnitude.
        skip: names of parameters or modules to leave in float; ``*`` stands for anything.

    Raises ValueError for other bits, weights or calibration activations that are not finite, calibration data without
    a batch, or a model without such layers; TypeError for weights that are not float32.
    """
    if bits != 8:
        raise ValueError(f"quantize_: the integer kernels multiply 8-bit weights, got bits={bits!r}")
    layers = _layers(model, skip)
    ready: dict[str, tuple[Array, Array]] = {}
    for name, (p, _) in layers.items():
        w = p.array
        try:
            scale = absmax_scale(w)
            ready[name] = quantize_array(w, scale), scale
        except ValueError as error:
            raise ValueError(f"quantize_: {name}.weight: {error}") from error
    x_scales = {} if calibration is None else _calibrate(model, layers, calibration)
    for name, (p, _) in layers.items():  # nothing is changed before everything is known
        p.requires_grad_(False)
        p.grad = None
        p.array = Int8(*ready[name], x_scales.get(name), p.mask)
        p.bump()
    return model


def dequantize_(model: Any) -> Any:
    """Put packed weights back into float32 arrays that want gradients, in place, and return the model. Masks stay."""
    for p in model.parameters():
        if isinstance(p.array, Packed):
            p.array = p.array.dequantize()
            p.bump()
            p.requires_grad_()
    return model


def _layers(model: Any, skip: str | Iterable[str]) -> dict[str, tuple[Any, list[Any]]]:
    """What to quantize: by the first layer's name, its weight and all layers that use this weight."""
    from minidl import nn

    chosen = {id(p): p for _, p in prunable(model, skip)}
    users: dict[int, list[tuple[str, Any]]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            users.setdefault(id(p), []).append((name or type(module).__name__, module))
    layers = {}
    for key, p in chosen.items():
        able = [(n, m) for n, m in users[key] if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight is p]
        if not able or isinstance(p.array, Packed):
            continue
        where = able[0][0]
        others = [n for n, m in users[key] if not any(m is layer for _, layer in able)]
        if others:
            raise ValueError(
                f"quantize_: {where}.weight is shared with {', '.join(others)}, which cannot read int8; pass "
                f"skip={where!r}"
            )
        if p.array.dtype != np.float32:
            raise TypeError(f"quantize_: {where}.weight is {p.array.dtype}, not float32; call model.float() first")
        layers[where] = p, [layer for _, layer in able]
    if not layers:
        raise ValueError("quantize_: the model has no Linear or Conv2d layer with a float weight left to quantize")
    return layers


def _calibrate(model: Any, layers: dict[str, tuple[Any, list[Any]]], data: Any) -> dict[str, float]:
    """Run the model on `data` and give the max|x| / 127 of the inputs that meet each weight."""
    from minidl.autograd import no_grad

    top = dict.fromkeys(layers, 0.0)

    def watch(name: str) -> Any:
        def hook(module: Any, args: tuple) -> None:
            x = args[0].array
            xp = array_module(x)
            if not xp.isfinite(x).all():
                raise ValueError(f"quantize_: the calibration data make NaN or infinity at the input of {name}")
            top[name] = max(top[name], float(xp.abs(x).max(initial=0)))

        return hook

    training = [(m, m.training) for m in model.modules()]
    handles = [u.register_forward_pre_hook(watch(name)) for name, (_, users) in layers.items() for u in users]
    model.eval()
    try:
        with no_grad():
            n = 0
            for x in batches(data):
                n += len(x)
                model(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training:
            module.training = mode
    if n == 0:
        raise ValueError("quantize_: the calibration data are empty")
    return {name: float(absmax_scale(np.array([t], np.float32))[0]) for name, t in top.items()}


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
