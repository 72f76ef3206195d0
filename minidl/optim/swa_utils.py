"""Averages of a model's weights over the steps of training, under torch.optim.swa_utils's names."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import no_grad
from minidl.nn.module import Module
from minidl.nn.norm import _BatchNorm
from minidl.nn.parameter import Parameter
from minidl.optim.swa_schedule import SWALR
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap

__all__ = [
    "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn",
    "update_bn",
]  # fmt: skip

Average = Callable[[Tensor, Tensor, Tensor], Tensor]
MultiAverage = Callable[[list[Tensor], list[Tensor], Tensor], None]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """average = decay average + (1 - decay) weight: the exponential moving average, for `AveragedModel`.

    Raises ValueError for a decay outside [0, 1].
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")

    def ema_update(averaged: Tensor, current: Tensor, n_averaged: Tensor) -> Tensor:
        return decay * averaged + (1 - decay) * current

    return ema_update


def get_swa_avg_fn() -> Average:
    """average += (weight - average) / (n + 1): the plain mean; Izmailov et al. 2018 (arXiv:1803.05407)."""

    def swa_update(averaged: Tensor, current: Tensor, n_averaged: Tensor) -> Tensor:
        return averaged + (current - averaged) / (n_averaged + 1)

    return swa_update


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """:func:`get_ema_avg_fn` on lists of tensors, in place. Raises ValueError for a decay outside [0, 1]."""
    return _of_lists(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> MultiAverage:
    """:func:`get_swa_avg_fn` on lists of tensors, in place."""
    return _of_lists(get_swa_avg_fn())


def _of_lists(average: Average) -> MultiAverage:
    def update(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        with no_grad():
            for mean, now in zip(averaged, current, strict=True):
                _write(mean, average(mean, now, n_averaged))

    return update


class AveragedModel(Module):
    """A copy of a model whose weights are averages of the model's; call it as the model.

    ``update_parameters(model)`` takes the present weights in, after each step or epoch. The first call copies them.
    Pruned weights stay pruned: the average takes over the model's masks.

    Args:
        avg_fn: (average, weight, n so far) -> average; default `get_swa_avg_fn()`, see `get_ema_avg_fn`.
        multi_avg_fn: the same on lists, (averages, weights, n so far), writing into the averages.
        use_buffers: average float buffers (running statistics), too, and copy the others, whose averages torch rounds
            down; by default all buffers are copied at each update.

    Raises ValueError when updated from a model of another structure, TypeError for packed (quantized) weights,
    AssertionError for both an avg_fn and a multi_avg_fn.

    >>> from minidl import nn
    >>> model = nn.Linear(2, 1)
    >>> average = AveragedModel(model, avg_fn=get_ema_avg_fn(0.99))
    >>> average.update_parameters(model)
    >>> list(average.state_dict()), average.n_averaged.item()
    (['n_averaged', 'module.weight', 'module.bias'], 1)
    """

    n_averaged: Tensor

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None, use_buffers: bool = False,
    ):  # fmt: skip
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        self.register_buffer("n_averaged", wrap(np.zeros((), np.int64)))
        self.avg_fn = get_swa_avg_fn() if avg_fn is None else avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @no_grad()
    def update_parameters(self, model: Module) -> None:
        """Take the model's present weights into the average."""
        ours, theirs = self._tensors(self.module), self._tensors(model)
        if [t.shape for t in ours] != [t.shape for t in theirs]:
            raise ValueError("update_parameters: the model's parameters are not those of the average")
        first = self.n_averaged.item() == 0
        lists: tuple[list[Tensor], list[Tensor]] = ([], [])
        for mean, now in zip(ours, theirs, strict=True):
            if isinstance(mean.array, Packed) or isinstance(now.array, Packed):
                raise TypeError("update_parameters: packed (quantized) weights cannot be averaged; average the floats")
            current = wrap(devices.move(now.array, mean.device))
            if first or not current.is_floating_point():
                _write(mean, current)
            elif self.multi_avg_fn is not None:
                lists[0].append(mean.detach())
                lists[1].append(current)
            else:
                _write(mean, self.avg_fn(wrap(mean.array), current, self.n_averaged))
        if lists[0] and self.multi_avg_fn is not None:
            self.multi_avg_fn(*lists, self.n_averaged)
        for mean, now in zip(ours, theirs, strict=True):
            if isinstance(mean, Parameter):
                mask = getattr(now, "mask", None)
                mean.mask = None if mask is None else devices.move(mask, mean.device)
                mean.apply_mask_()
        if not self.use_buffers:
            for mean, now in zip(self.module.buffers(), model.buffers(), strict=True):
                _write(mean, wrap(devices.move(now.array, mean.device)))
        _write(self.n_averaged, self.n_averaged + 1)

    def _tensors(self, model: Module) -> list[Tensor]:
        return list(itertools.chain(model.parameters(), model.buffers() if self.use_buffers else ()))


def _write(t: Tensor, value: Tensor) -> None:
    t.array[...] = value.array
    t.bump()


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all batch normalisations anew, as plain means over one pass of the data.

    Averaged weights were never used in training, so the statistics that the model has are not theirs. A batch is a
    tensor, or a list or tuple whose first element is the model's input; `device`: where inputs are moved first.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not layers:
        return
    momenta, was_training = [m.momentum for m in layers], model.training
    try:
        model.train()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train(was_training)
