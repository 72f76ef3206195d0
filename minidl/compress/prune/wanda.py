"""Wanda: a weight counts by its magnitude times that of what it multiplies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.prune.models import prunable
from minidl.devices import array_module
from minidl.tensors import Tensor, wrap

Array = Any


def wanda(model: Any, inputs: Any, skip: str | Iterable[str] = ()) -> dict[str, Array]:
    """|w| ||x||_2 of every weight of Linear and Conv2d, x being the input that it meets over all `inputs`.

    Sun et al. 2023, arXiv:2306.11695: no gradients, no retraining. They compare within the row of an output, which is
    ``prune_(model, 0.5, rule=wanda(model, inputs), scope="row")``. For a convolution the norm is that of an input
    channel. Weights of other layers get |w|. `inputs` is a batch, or an iterable of batches or (batch, ...) tuples; the
    model runs in evaluation mode and keeps its mode. Returns scores by parameter name. Raises ValueError without a
    batch.
    """
    from minidl import nn
    from minidl.autograd import no_grad

    squares: dict[int, Array] = {}

    def look(layer: Any, args: tuple) -> None:
        x = args[0].array
        xp = array_module(x)
        kept = x.ndim - 1 if isinstance(layer, nn.Linear) else x.ndim - 3
        found = xp.square(x, dtype=np.float64).sum(tuple(i for i in range(x.ndim) if i != kept))
        key = id(layer.weight)
        squares[key] = squares[key] + found if key in squares else found

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    modes = [(m, m.training) for m in model.modules()]
    handles = [m.register_forward_pre_hook(look) for m in layers]
    n = 0
    model.eval()
    try:
        with no_grad():
            for batch in [inputs] if hasattr(inputs, "shape") else inputs:
                x = batch[0] if isinstance(batch, (tuple, list)) else batch
                model(x if isinstance(x, Tensor) else wrap(x))
                n += 1
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    if n == 0:
        raise ValueError("wanda needs at least one batch of inputs, got none")
    groups = {id(m.weight): getattr(m, "groups", 1) for m in layers}
    scores = {}
    for name, p in prunable(model, skip):
        w = p.array
        scores[name] = array_module(w).abs(w)
        if id(p) in squares:
            norms = array_module(w).sqrt(squares[id(p)]).astype(w.dtype)  # C
            g = groups[id(p)]
            each = norms.reshape(g, 1, -1)  # G, 1, C / G: an output sees the channels of its group only
            scaled = scores[name].reshape(g, len(w) // g, w.shape[1], -1) * each[..., None]
            scores[name] = scaled.reshape(w.shape)
    return scores
