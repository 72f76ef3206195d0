"""Layers quantized one after another, by the inputs that each meets on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minidl.compress.prune import prunable
from minidl.compress.quantize.models import batches, evaluating, hold
from minidl.devices import move
from minidl.storage import Packed

__all__ = ["one_by_one"]


def one_by_one(
    model: Any,
    calibration: Any,
    skip: str | Iterable[str],
    method: str,
    pack: Callable[..., Packed],
) -> Any:
    """Replace the weight of every Linear by ``pack(w (N, K), x (samples, K), mask)``, in the order in which they run.

    x are the inputs that the layer meets when those before it are quantized already. Nothing is changed before all are
    done: the weights come back if one of them raises. Raises ValueError for calibration data that are empty, not finite
    or do not reach a layer, weights that are not finite, and a model without a float Linear; TypeError for weights that
    are not float32.
    """
    from minidl import nn

    chosen = {id(p): name for name, p in prunable(model, skip)}
    layers = [
        (name or type(m).__name__, m)
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and id(m.weight) in chosen and not m.weight.packed
    ]
    shared: dict[int, int] = {}
    for m in model.modules():
        for p in m.parameters(recurse=False):
            shared[id(p)] = shared.get(id(p), 0) + 1
    layers = [(name, m) for name, m in layers if shared[id(m.weight)] == 1]
    if not layers:
        raise ValueError(f"{method}: the model has no Linear with a float weight of its own left to quantize")
    for name, m in layers:
        if m.weight.array.dtype != np.float32:
            raise TypeError(f"{method}: {name}.weight is {m.weight.array.dtype}, not float32; call model.float() first")
        if not np.isfinite(move(m.weight.array, "cpu")).all():
            raise ValueError(f"{method}: {name}.weight holds NaN or infinity")
    data = list(batches(calibration))
    order: list[tuple[str, Any]] = []

    def note(name: str) -> Any:
        def hook(module: Any, args: tuple) -> None:
            if (name, module) not in order:
                order.append((name, module))

        return hook

    _watched(model, data, [(m, note(name)) for name, m in layers], method)
    unseen = [name for name, m in layers if (name, m) not in order]
    if unseen:
        raise ValueError(f"{method}: the calibration data reach no layer {', '.join(unseen)}")
    before = [(m.weight, m.weight.array, m.weight.requires_grad, m.weight.grad) for _, m in order]
    try:
        for name, m in order:
            rows: list[np.ndarray] = []
            _watched(model, data, [(m, _keep(rows, method, name))], method)
            packed = pack(move(m.weight.array, "cpu"), np.concatenate(rows), m.weight.mask)
            packed.mask = m.weight.mask
            hold(m.weight, packed)
    except BaseException:
        for p, array, wants, grad in before:
            p.array = array
            p.requires_grad_(wants)
            p.grad = grad
        raise
    return model


def _keep(rows: list[np.ndarray], method: str, name: str) -> Any:
    def hook(module: Any, args: tuple) -> None:
        x = move(args[0].array, "cpu").astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise ValueError(f"{method}: the calibration data make NaN or infinity at the input of {name}")
        rows.append(x.reshape(-1, x.shape[-1]).copy())

    return hook


def _watched(model: Any, data: list[Any], hooks: list[tuple[Any, Any]], method: str) -> None:
    handles = [m.register_forward_pre_hook(hook) for m, hook in hooks]
    try:
        evaluating(model, data)
    except ValueError as error:
        if "are empty" in str(error):
            raise ValueError(f"{method}: {error}") from error
        raise
    finally:
        for handle in handles:
            handle.remove()
