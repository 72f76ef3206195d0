"""evaluate and predict: a model in evaluation mode, without gradients, over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minidl.autograd import no_grad
from minidl.data import DataLoader, Dataset
from minidl.devices import array_module
from minidl.metrics import Running, named
from minidl.tensors import Tensor, wrap
from minidl.train.batches import as_loader, check_model, describe, modes_kept, moved, split

__all__ = ["Scores", "evaluate", "predict"]


class Scores(tuple):
    """Values with names, in order: read as `scores.loss`, `scores["loss"]`, or unpacked as a tuple.

    >>> scores = Scores({"loss": 0.25, "accuracy": 0.9})
    >>> scores
    Scores(loss=0.25, accuracy=0.9)
    >>> loss, accuracy = scores
    >>> scores.accuracy == scores["accuracy"] == accuracy
    True
    """

    names: tuple[str, ...]

    def __new__(cls, values: Mapping[str, Any]) -> Scores:
        self = super().__new__(cls, values.values())
        self.names = tuple(values)
        return self

    def __getnewargs__(self) -> tuple[dict[str, Any]]:
        return (self.asdict(),)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self.names:
            raise KeyError(f"no score {key!r}; there are {', '.join(self.names)}")
        return super().__getitem__(self.names.index(key))

    def __getattr__(self, name: str) -> Any:
        if name != "names" and name in self.names:
            return self[name]
        raise AttributeError(f"no score {name!r}; there are {', '.join(self.__dict__.get('names', ()))}")

    def asdict(self) -> dict[str, Any]:
        """The values by name."""
        return dict(zip(self.names, self))

    def __repr__(self) -> str:
        return f"Scores({', '.join(f'{name}={value!r}' for name, value in self.asdict().items())})"


class Mean:
    """The mean loss over samples from the loss of each batch, itself a mean over the batch or a sum."""

    def __init__(self, loss: Any) -> None:
        self.of_sums = getattr(loss, "reduction", "mean") == "sum"
        self.total, self.samples = 0.0, 0

    def update(self, value: float, size: int) -> None:
        """Take in the loss of a batch."""
        self.total += value if self.of_sums else value * size
        self.samples += size

    def value(self) -> float:
        """The mean so far."""
        return self.total / self.samples if self.samples else float("nan")


def evaluate(
    model: Any,
    data: Any,
    loss: Callable[..., Any] | None = None,
    metrics: Any = (),
    batch_size: int = 256,
) -> Scores:
    """Mean loss and metrics of a model over a data set, in evaluation mode and without gradients.

    Args:
        model: a Module; its modes are as before afterwards, also after an exception.
        data: (x, y) arrays or Tensors, a Dataset, or a DataLoader or other iterable of batches (x, y) or
            (x1, x2, ..., y).
        loss: `loss(output, target)` -> a Tensor of one element; without it only metrics are computed.
        metrics: functions of (output, target) from `minidl.metrics` or your own, or their names ("accuracy"), or a dict
            of them under names of your own.
        batch_size: for (x, y) and Datasets.

    Returns a `Scores` of floats (arrays for metrics with a value per class): the loss, then the metrics. A batch counts
    by its number of samples, so a smaller last batch distorts nothing; the metrics of `minidl.metrics` are exact.

    Raises ValueError for an empty data set, and what model, loss and metrics raise, with a note on the batch.

    >>> import minidl
    >>> from minidl import nn
    >>> model = nn.Linear(2, 2)
    >>> x, y = minidl.ones(5, 2), minidl.tensor([0, 1, 1, 0, 1])
    >>> scores = evaluate(model, (x, y), nn.functional.cross_entropy, metrics=["accuracy"])
    >>> scores.names
    ('loss', 'accuracy')
    """
    check_model(model, "evaluate")
    functions = named(metrics)
    if loss is None and not functions:
        raise ValueError("evaluate: give it a loss, metrics, or both")
    return scores(model, as_loader(data, model, batch_size, False, "evaluate"), loss, functions)


def scores(
    model: Any,
    loader: Any,
    loss: Callable[..., Any] | None,
    metrics: Mapping[str, Callable[..., Any]],
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """`evaluate` with everything made ready; `between` is called after each batch."""
    mean = Mean(loss)
    running = {name: Running(metric) for name, metric in metrics.items()}
    device = device_of(model)
    with modes_kept(model), no_grad():
        model.eval()
        for i, raw in enumerate(loader):
            try:
                batch = split(raw, device)
                output = model(*batch.inputs)
                if loss is not None:
                    mean.update(one_number(loss(output, batch.target)).item(), batch.size)
                for metric in running.values():
                    metric.update(output, batch.target)
            except Exception as error:
                error.add_note(f"evaluate: in batch {i + 1}, {describe(raw)}")
                raise
            between()
    if loss is not None and not mean.samples:
        raise ValueError("evaluate: the data gave no batch")
    first = {} if loss is None else {"loss": mean.value()}
    return Scores(first | {name: metric.value() for name, metric in running.items()})


def predict(model: Any, x: Any, batch_size: int = 256) -> Any:
    """The model's outputs for `x`, computed batch by batch in evaluation mode and without gradients.

    Args:
        model: a Module; its modes are as before afterwards, also after an exception.
        x: an array or Tensor (N, ...); a tuple of them for a model of several inputs; or a Dataset, DataLoader or other
            iterable of batches, of which a Tensor is the input and the last entry of a pair, the target, is left out.
        batch_size: for arrays and Datasets.

    Returns a Tensor (N, ...), or what the model returns, with such Tensors, if that is a tuple, list or dict.

    >>> import minidl
    >>> predict(minidl.nn.Linear(3, 2), minidl.ones(1000, 3)).shape
    minidl.Size([1000, 2])
    """
    check_model(model, "predict")
    device = device_of(model)
    outputs = []
    with modes_kept(model), no_grad():
        model.eval()
        for i, raw in enumerate(_inputs(model, x, batch_size)):
            try:
                outputs.append(model(*(moved(part, device) for part in raw)))
            except Exception as error:
                error.add_note(f"predict: in batch {i + 1}, {describe(raw)}")
                raise
    if not outputs:
        raise ValueError("predict: the data gave no batch")
    return _joined(outputs)


def _inputs(model: Any, x: Any, batch_size: int) -> Iterator[tuple[Any, ...]]:
    """The arguments of each call."""
    if isinstance(x, tuple) or hasattr(x, "shape"):
        # with a target that is left out again, an input alone is read like any other data
        parts = x if isinstance(x, tuple) else (x,)
        loader = as_loader((*parts, parts[0]), model, batch_size, False, "predict")
    elif isinstance(x, Dataset):
        loader = DataLoader(x, batch_size=batch_size)
    else:
        loader = as_loader(x, model, batch_size, False, "predict")
    for batch in loader:
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        yield parts[:-1] or parts


def _joined(outputs: list[Any]) -> Any:
    """Outputs of all batches as one, along the first axis."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return wrap(array_module(first.array).concatenate([y.array for y in outputs]))
    if isinstance(first, Mapping):
        return {key: _joined([y[key] for y in outputs]) for key in first}
    if isinstance(first, (tuple, list)):
        parts = [_joined(list(part)) for part in zip(*outputs)]
        if hasattr(first, "_fields"):
            return type(first)(*parts)
        return type(first)(parts)
    raise TypeError(f"predict: the model returned {type(first).__name__}, not Tensors")


def device_of(model: Any) -> Any:
    """Where the model's parameters are, None if it has none."""
    return next((p.device for p in model.parameters()), None)


def one_number(value: Any) -> Tensor:
    """The loss, checked to be a Tensor with one element."""
    if not isinstance(value, Tensor):
        raise TypeError(f"the loss must return a Tensor, not {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(
            f"the loss must return one number, not shape {tuple(value.shape)}: use its mean (reduction='mean')"
        )
    return value
