"""Metrics: how good predictions are, as functions of model outputs and targets.

Every function takes `output` and `target`, Tensors or arrays, in one of these forms:

- scores (N, C, ...) and class indices (N, ...): the predicted class is the largest score, the first one of a tie;
- scores (N, C, ...) and one-hot or soft targets (N, C, ...), of float dtype: the target's class is its largest entry;
- predicted and true class indices, both integers (or bools) of one shape.

Targets equal to `ignore_index` are left out, as in `cross_entropy`. A share of nothing is undefined and comes as NaN:
the recall of a class that no target has, the precision of a class that was never predicted, the accuracy of no sample.
`average="macro"` is the mean over the classes for which the value is defined.

All of them raise TypeError for dtypes that mean neither scores nor classes, ValueError for shapes that do not fit and
for NaN scores, IndexError for a label out of range.

>>> output = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 4.0, 0.0], [1.0, 0.0, 2.0]])
>>> target = np.array([0, 1, 1, 2])
>>> accuracy(output, target)
0.75
>>> recall(output, target).tolist()
[1.0, 0.5, 1.0]
>>> confusion_matrix(output, target).tolist()
[[1, 0, 0], [1, 1, 0], [0, 0, 1]]

What a metric needs of a batch is a small array of counts, and the counts of two batches add up; `Running` uses that to
compute the exact value over a data set batch by batch.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from minidl.tensors import Tensor

__all__ = [
    "Running",
    "accuracy",
    "confusion_matrix",
    "f1",
    "named",
    "perplexity",
    "precision",
    "recall",
    "top_k",
]

IGNORE = -100  # cross_entropy's default

# -- the metrics ---------------------------------------------------------------------------------------------


def accuracy(output: Any, target: Any, ignore_index: int = IGNORE) -> float:
    """The share of targets whose class was predicted."""
    return _share(_hits(output, target, ignore_index))


def top_k(output: Any, target: Any, k: int = 5, ignore_index: int = IGNORE) -> float:
    """The share of targets whose class is among the k largest scores; ties go to the lower class.

    Raises ValueError unless output holds scores (N, C, ...) and 1 <= k <= C.

    >>> top_k(np.array([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]]), np.array([2, 2]), k=2)
    0.5
    """
    return _share(_hits_of_k(output, target, k, ignore_index))


def confusion_matrix(
    output: Any, target: Any, num_classes: int | None = None, ignore_index: int = IGNORE
) -> np.ndarray:
    """How often class i was taken for class j: int64 (C, C), rows are true classes, columns predicted ones.

    `num_classes` is C; by default the number of scores, or for class indices one more than the largest.
    """
    p, t, classes = _classes(output, target, ignore_index, num_classes)
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def precision(
    output: Any,
    target: Any,
    average: str | None = None,
    num_classes: int | None = None,
    ignore_index: int = IGNORE,
) -> Any:
    """Of the predictions of a class, the share that was right: float64 (C,), or their mean with `average="macro"`."""
    return _precision(confusion_matrix(output, target, num_classes, ignore_index), average)


def recall(
    output: Any,
    target: Any,
    average: str | None = None,
    num_classes: int | None = None,
    ignore_index: int = IGNORE,
) -> Any:
    """Of the targets of a class, the share that was found: float64 (C,), or their mean with `average="macro"`.

    >>> recall(np.array([0, 0, 2]), np.array([0, 2, 2]), num_classes=3).tolist()
    [1.0, nan, 0.5]
    >>> recall(np.array([0, 0, 2]), np.array([0, 2, 2]), average="macro", num_classes=3)
    0.75
    """
    return _recall(confusion_matrix(output, target, num_classes, ignore_index), average)


def f1(
    output: Any,
    target: Any,
    average: str | None = None,
    num_classes: int | None = None,
    ignore_index: int = IGNORE,
) -> Any:
    """The harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN): float64 (C,), or their mean ("macro").

    Undefined (NaN) only for a class that neither occurs nor was predicted.
    """
    return _f1(confusion_matrix(output, target, num_classes, ignore_index), average)


def perplexity(output: Any, target: Any, ignore_index: int = IGNORE) -> float:
    """e to the mean of -log softmax(output)[target], in float64; logits (N, C, ...), class indices (N, ...).

    A model that knows nothing has perplexity C.

    >>> round(perplexity(np.zeros((3, 50)), np.array([4, 7, 7])), 6)
    50.0
    """
    return _exp_mean(_log_likelihood(output, target, ignore_index))


# -- counts of a batch ---------------------------------------------------------------------------------------


def _hits(output: Any, target: Any, ignore_index: int = IGNORE) -> np.ndarray:
    """[right, all]"""
    p, t, _ = _classes(output, target, ignore_index)
    return np.array([np.count_nonzero(p == t), len(t)], dtype=np.int64)


def _hits_of_k(output: Any, target: Any, k: int = 5, ignore_index: int = IGNORE) -> np.ndarray:
    """[among the first k, all]"""
    scores, t = _scores(output, target, ignore_index, "top_k")
    classes = scores.shape[1]
    if not 1 <= operator.index(k) <= classes:
        raise ValueError(f"top_k: k must lie in 1 ... {classes}, the number of classes, got {k}")
    own = np.take_along_axis(scores, t[:, None], axis=1)  # (N, 1)
    ahead = (scores > own) | ((scores == own) & (np.arange(classes) < t[:, None]))  # (N, C)
    return np.array([np.count_nonzero(ahead.sum(1) < k), len(t)], dtype=np.int64)


def _log_likelihood(output: Any, target: Any, ignore_index: int = IGNORE) -> np.ndarray:
    """[sum of -log p, number of targets]"""
    scores, t = _scores(output, target, ignore_index, "perplexity")
    x = scores.astype(np.float64)
    x -= x.max(axis=1, keepdims=True, initial=-np.inf)
    nll = np.log(np.exp(x).sum(axis=1)) - np.take_along_axis(x, t[:, None], axis=1)[:, 0]
    return np.array([nll.sum(), len(t)])


# -- counts to values ----------------------------------------------------------------------------------------


def _share(counts: np.ndarray) -> float:
    right, n = counts.tolist()
    return right / n if n else float("nan")


def _exp_mean(counts: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(_share(counts)))


def _precision(m: np.ndarray, average: str | None = None) -> Any:
    return _averaged(np.diag(m), m.sum(0), average)


def _recall(m: np.ndarray, average: str | None = None) -> Any:
    return _averaged(np.diag(m), m.sum(1), average)


def _f1(m: np.ndarray, average: str | None = None) -> Any:
    return _averaged(2 * np.diag(m), m.sum(0) + m.sum(1), average)


def _averaged(part: np.ndarray, whole: np.ndarray, average: str | None) -> Any:
    if average not in (None, "macro"):
        raise ValueError(f'average must be None (a value per class) or "macro" (their mean), got {average!r}')
    values = np.full(len(part), np.nan)
    np.divide(part, whole, out=values, where=whole > 0)
    if average is None:
        return values
    defined = values[whole > 0]
    return float(defined.mean()) if len(defined) else float("nan")


# How a metric is computed over many batches: (counts of a batch, counts -> value). Options of the metric go to
# whichever  # of the two has a parameter of that name.
_PARTS: dict[Any, tuple[Callable[..., np.ndarray], Callable[..., Any]]] = {
    accuracy: (_hits, _share),
    top_k: (_hits_of_k, _share),
    perplexity: (_log_likelihood, _exp_mean),
    confusion_matrix: (confusion_matrix, lambda m: m),
    precision: (confusion_matrix, _precision),
    recall: (confusion_matrix, _recall),
    f1: (confusion_matrix, _f1),
}


class Running:
    """A metric over all batches seen so far.

    `metric` is a function of this module, or a `functools.partial` of one with its options: then the value is exactly
    that of all batches put together. Any other function of (output, target) is called batch by batch, and the value is
    the mean of what it returns, weighted with the number of samples.

    >>> acc = Running(accuracy)
    >>> acc.update(np.array([0, 1, 1]), np.array([0, 1, 0]))
    >>> acc.update(np.array([1]), np.array([1]))
    >>> acc.value()
    0.75
    """

    def __init__(self, metric: Callable[..., Any]) -> None:
        self.metric = metric
        function, options = metric, {}
        if isinstance(metric, functools.partial) and not metric.args:
            function, options = metric.func, metric.keywords
        self._counts: Callable[..., np.ndarray] | None = None
        if function in _PARTS:
            counts, finish = _PARTS[function]
            known = {name: _parameters(part) & options.keys() for name, part in (("c", counts), ("f", finish))}
            if unknown := options.keys() - known["c"] - known["f"]:
                raise TypeError(f"{name_of(function)} has no option {', '.join(map(repr, sorted(unknown)))}")
            self._counts = functools.partial(counts, **{k: options[k] for k in known["c"]})
            self._finish = functools.partial(finish, **{k: options[k] for k in known["f"]})
        self._total: np.ndarray | None = None

    def update(self, output: Any, target: Any) -> None:
        """Take in one batch."""
        if self._counts is not None:
            new = self._counts(output, target)
        else:
            value, n = self.metric(output, target), len(target)
            value = value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)
            if value.dtype.kind not in "biuf":
                raise TypeError(f"metric {name_of(self.metric)} returned {value.dtype}, not numbers")
            new = np.append(value.astype(np.float64).reshape(-1) * n, n)
            self._shape = value.shape
        self._total = new if self._total is None else _add(self._total, new)

    def value(self) -> Any:
        """The metric so far: a float, or an array if it has a value per class. NaN before the first batch."""
        if self._total is None:
            return float("nan")
        if self._counts is not None:
            return self._finish(self._total)
        mean = self._total[:-1] / self._total[-1] if self._total[-1] else np.full(len(self._total) - 1, np.nan)
        return mean.item() if mean.size == 1 else mean

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        return {"total": None if self._total is None else self._total.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        total = state["total"]
        self._total = None if total is None else np.array(total)


def named(metrics: Any) -> dict[str, Callable[..., Any]]:
    """Metrics under their names, from one or several functions or names ("accuracy"), or a dict of your own names.

    A partial is called after its function and options. Raises ValueError for an unknown or doubled name, TypeError for
    what cannot be called.

    >>> list(named(["accuracy", functools.partial(top_k, k=3), functools.partial(recall, average="macro")]))
    ['accuracy', 'top_k_3', 'recall_macro']
    """
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        items: Iterable[Any] = (metrics,) if isinstance(metrics, str) or callable(metrics) else metrics
        pairs = [(name_of(m), m) for m in items]
    found: dict[str, Callable[..., Any]] = {}
    for name, metric in pairs:
        if isinstance(metric, str):
            try:
                metric = next(f for f in _PARTS if f.__name__ == metric)
            except StopIteration:
                known = ", ".join(f.__name__ for f in _PARTS)
                raise ValueError(f"there is no metric {metric!r}; known are {known}") from None
        if not callable(metric):
            raise TypeError(f"a metric is a function of (output, target) or its name, not {metric!r}")
        if name in found or name == "loss":
            raise ValueError(f"two metrics are called {name!r}; give them names: metrics={{'name': function, ...}}")
        found[name] = metric
    return found


def name_of(metric: Any) -> str:
    """What a metric is called in a history."""
    if isinstance(metric, str):
        return metric
    if isinstance(metric, functools.partial):
        return "_".join([name_of(metric.func), *(str(v) for v in metric.keywords.values())])
    return getattr(metric, "__name__", type(metric).__name__)


# -- reading outputs and targets -----------------------------------------------------------------------------


def _array(x: Any) -> np.ndarray:
    return x.numpy(force=True) if isinstance(x, Tensor) else np.asarray(x)


def _scores(output: Any, target: Any, ignore_index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores as rows and the classes of the targets: (M, C) float, (M,) int64, ignored targets left out."""
    y, t = _array(output), _array(target)
    if y.dtype.kind != "f" or y.ndim < 2:
        raise ValueError(f"{name}: output must be scores, float (N, C, ...), got {y.dtype} {y.shape}")
    if y.shape[1] == 0:
        raise ValueError(f"{name}: output has no class: {y.shape}")
    if t.dtype.kind == "f" and t.shape == y.shape:
        t = t.argmax(axis=1)
    if t.dtype.kind not in "biu":
        raise TypeError(f"{name}: target must be class indices (integers), got {t.dtype} {t.shape}")
    want = (y.shape[0], *y.shape[2:])
    if t.shape != want:
        raise ValueError(f"{name}: output {y.shape} wants targets of shape {want}, got {t.shape}")
    rows, t = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1]), t.reshape(-1).astype(np.int64)
    keep = t != ignore_index
    if not keep.all():
        rows, t = rows[keep], t[keep]
    _in_range(t, rows.shape[1], name)
    if np.isnan(rows).any():
        raise ValueError(f"{name}: {np.isnan(rows).any(axis=1).sum()} of {len(rows)} outputs hold NaN")
    return rows, t


def _classes(
    output: Any, target: Any, ignore_index: int, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Predicted and true classes, int64 (M,), and the number of classes."""
    y, t = _array(output), _array(target)
    if y.dtype.kind == "f":
        if y.shape == t.shape and (y.ndim < 2 or t.dtype.kind != "f"):
            raise TypeError(
                f"metric: float outputs of the target's shape {y.shape} are neither scores (N, C, ...) nor classes; "
                "for a yes or no, pass e.g. `output > 0` (logits) or `output > 0.5` (probabilities)"
            )
        rows, t = _scores(y, t, ignore_index, "metric")
        if num_classes not in (None, rows.shape[1]):
            raise ValueError(f"metric: output has scores of {rows.shape[1]} classes, num_classes is {num_classes}")
        return rows.argmax(axis=1), t, rows.shape[1]
    if y.dtype.kind not in "biu" or t.dtype.kind not in "biu":
        raise TypeError(f"metric: expected scores or class indices, got output {y.dtype} and target {t.dtype}")
    if y.shape != t.shape:
        raise ValueError(f"metric: predicted classes have shape {y.shape}, targets {t.shape}")
    y, t = y.reshape(-1).astype(np.int64), t.reshape(-1).astype(np.int64)
    keep = t != ignore_index
    y, t = y[keep], t[keep]
    classes = int(max(y.max(initial=-1), t.max(initial=-1))) + 1 if num_classes is None else operator.index(num_classes)
    _in_range(t, classes, "metric")
    _in_range(y, classes, "metric", "predicted class")
    return y, t, classes


def _in_range(t: np.ndarray, classes: int, name: str, what: str = "target") -> None:
    bad = (t < 0) | (t >= classes)
    if bad.any():
        at = int(bad.argmax())
        raise IndexError(f"{name}: {what} {t[at]} (element {at}) is out of range: the classes are 0 ... {classes - 1}")


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of two arrays of counts; a matrix that has fewer classes is padded with zeros."""
    if a.shape == b.shape:
        return a + b
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError("a metric returned values of different shapes for two batches")
    total = np.zeros(np.maximum(a.shape, b.shape), a.dtype)
    total[: len(a), : len(a)] = a
    total[: len(b), : len(b)] += b
    return total


def _parameters(function: Any) -> set[str]:
    code = function.__code__
    return set(code.co_varnames[: code.co_argcount])
