"""Lottery tickets: the pruned network, trained again from its own early weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.tensors import Tensor


def rewind_(model: Any, early: Mapping[str, Any]) -> Any:
    """Give the weights that are left their early values, keep the masks, in place; returns the model.

    Frankle & Carbin 2019, arXiv:1803.03635, rewind to the initial values; in larger networks those after a few hundred
    steps are needed (Frankle et al. 2020, arXiv:1912.05671). A random mask of the same sparsity, or other initial
    values, are what a ticket has to beat.

    Args:
        early: a copy of the model's `state_dict`, ``copy.deepcopy(model.state_dict())``; its masks, if any, are not
            taken.

    Raises RuntimeError if it is of another model; nothing has changed then. ValueError without a mask in the model.

    >>> import copy
    >>> from minidl import nn
    >>> from minidl.compress import prune_
    >>> model = nn.Linear(4, 2)
    >>> early = copy.deepcopy(model.state_dict())
    >>> model.weight.array += 1  # the training
    >>> kept = prune_(model, 0.5).weight.mask
    >>> bool((rewind_(model, early).weight.array == early["weight"].array * kept).all())
    True
    """
    if all(p.mask is None for p in model.parameters()):
        raise ValueError("rewind_: the model has no masks: prune it first")
    plain = {name: np.copy(t.array) if isinstance(t, Tensor) else t for name, t in early.items()}
    model.load_state_dict(plain)
    return model
