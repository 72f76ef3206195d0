"""Scores from gradients: what the loss would feel if a weight were gone, to first order.

Give them to `prune_` as its rule: ``prune_(model, 0.9, rule=snip(model, batches, loss))``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from minidl.compress.prune.models import prunable
from minidl.devices import array_module
from minidl.tensors import Tensor, wrap

Array = Any


def snip(model: Any, batches: Any, loss: Callable[[Any, Any], Any], skip: str | Iterable[str] = ()) -> dict[str, Array]:
    """|w dL/dw| of every weight, the gradient summed over the batches: connection sensitivity, before any training.

    Lee, Ajanthan & Torr 2019, arXiv:1810.02340 (their division by the sum changes no order). The model is left as it
    was, gradients included. Returns scores by parameter name. Raises ValueError without a batch.
    """
    return _first_order(model, batches, loss, skip, lambda xp, w, total, _: xp.abs(w * total))


def taylor(
    model: Any, batches: Any, loss: Callable[[Any, Any], Any], skip: str | Iterable[str] = ()
) -> dict[str, Array]:
    """(w dL/dw)^2 averaged over the batches: an estimate of the loss's squared change when a weight goes.

    Molchanov et al. 2019, arXiv:1906.10771, equation 8; sums over a channel score the channel. Returns scores by
    parameter name, see `snip`.
    """
    return _first_order(model, batches, loss, skip, lambda xp, w, _, squares: w * w * squares)


def _first_order(model: Any, batches: Any, loss: Any, skip: Any, score: Callable[..., Array]) -> dict[str, Array]:
    from minidl.autograd import enable_grad

    found = prunable(model, skip)
    before = [(p, p.grad) for p in model.parameters()]
    pair = isinstance(batches, tuple) and len(batches) == 2 and all(hasattr(a, "shape") for a in batches)
    total: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    n = 0
    try:
        for x, y in [batches] if pair else batches:
            for p, _ in before:
                p.grad = None
            with enable_grad():
                loss(model(_tensor(x)), _tensor(y)).backward()
            n += 1
            for name, p in found:
                if p.grad is None:
                    raise ValueError(
                        f"{name} has no gradient: the loss does not depend on it, or it is frozen; pass skip={name!r}"
                    )
                g = p.grad.array
                total[name] = g if n == 1 else total[name] + g
                squares[name] = g * g if n == 1 else squares[name] + g * g
    finally:
        for p, grad in before:
            p.grad = grad
    if n == 0:
        raise ValueError("scores from gradients need at least one batch (x, y), got none")
    return {name: score(array_module(p.array), p.array, total[name] / n, squares[name] / n) for name, p in found}


def _tensor(a: Any) -> Any:
    return a if isinstance(a, Tensor) else wrap(a)


class Movement(Mapping):
    """Scores of movement pruning: -w dL/dw summed over the steps of a fine-tuning, high where weights move from zero.

    Sanh, Wolf & Rush 2020, arXiv:2005.07683: after a change of task the weights that training moves away from zero
    matter, not those that were large before. It looks on through a hook that an optimizer calls before each step, in
    `fit` as in a loop of your own, and is a mapping from parameter names to scores that can be the rule of `prune_` and
    of a `Pruner`.

    >>> import minidl
    >>> from minidl import nn, optim
    >>> from minidl.compress import prune_
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.array[...] = [[0.1, 1.0]]
    >>> sgd = optim.SGD(model.parameters(), lr=0.1)
    >>> movement = Movement(model, sgd)
    >>> for _ in range(3):
    ...     loss = (model(minidl.ones(1, 2)) - minidl.tensor([[2.0]])).square().sum() + model.weight[0, 1].square()
    ...     sgd.zero_grad(); loss.backward(); sgd.step()
    >>> int(movement["weight"].argmax())  # the small weight grows, the large one shrinks
    0
    """

    def __init__(self, model: Any, optimizer: Any, skip: str | Iterable[str] = ()) -> None:
        self._found = prunable(model, skip)
        self._scores = {name: array_module(p.array).zeros_like(p.array) for name, p in self._found}
        self._handle = optimizer.register_step_pre_hook(self._look)

    def _look(self, *_: Any) -> None:
        for name, p in self._found:
            if p.grad is not None:
                self._scores[name] -= p.array * p.grad.array

    def stop(self) -> None:
        """Look no longer."""
        self._handle.remove()

    def __getitem__(self, name: str) -> Array:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)
