"""Metrics against their definitions: hand-worked cases, loops that count one sample at a time, torch for perplexity."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import metrics
from minidl.metrics import Running, accuracy, confusion_matrix, f1, named, perplexity, precision, recall, top_k

# A case small enough to count on fingers. True:      0  0  0  1  1  2
HAND = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2])


def test_by_hand():
    p, t = HAND
    assert accuracy(p, t) == 4 / 6
    assert confusion_matrix(p, t).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert recall(p, t).tolist() == [2 / 3, 1 / 2, 1]
    assert precision(p, t).tolist() == [1, 1 / 2, 1 / 2]
    assert f1(p, t).tolist() == [4 / 5, 1 / 2, 2 / 3]
    assert recall(p, t, average="macro") == pytest.approx((2 / 3 + 1 / 2 + 1) / 3, rel=1e-15)
    assert f1(p, t, average="macro") == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3, rel=1e-15)


def test_undefined_values_are_nan_and_left_out_of_the_mean():
    p, t = np.array([0, 0, 1]), np.array([0, 0, 3])
    np.testing.assert_array_equal(recall(p, t, num_classes=4), [1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(precision(p, t, num_classes=4), [1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(f1(p, t, num_classes=4), [1, 0, np.nan, 0])
    assert recall(p, t, average="macro", num_classes=4) == 0.5
    assert precision(p, t, average="macro", num_classes=4) == 0.5
    assert f1(p, t, average="macro", num_classes=4) == pytest.approx(1 / 3, rel=1e-15)
    nothing = np.empty(0, np.int64)
    assert math.isnan(accuracy(nothing, nothing))
    assert math.isnan(recall(nothing, nothing, average="macro"))
    assert confusion_matrix(nothing, nothing).shape == (0, 0)


@st.composite
def scored(draw):
    """Scores (N, C) or (N, C, L) with many ties, and labels."""
    n, c, length = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.sampled_from([None, 1, 3]))
    g = minidl.Generator(draw(st.integers(0, 2**32)))
    tail = () if length is None else (length,)
    return g.integers(-2, 3, (n, c, *tail)).astype(np.float32), g.integers(0, c, (n, *tail))


@given(scored(), st.data())
def test_against_counting_one_by_one(case, data):
    scores, target = case
    c = scores.shape[1]
    k = data.draw(st.integers(1, c))
    rows = np.moveaxis(scores, 1, -1).reshape(-1, c).tolist()
    labels = target.reshape(-1).tolist()
    counted = [[0] * c for _ in range(c)]
    among = 0
    for row, label in zip(rows, labels):
        ranking = sorted(range(c), key=lambda j: (-row[j], j))
        counted[label][ranking[0]] += 1
        among += label in ranking[:k]
    matrix = confusion_matrix(scores, target)
    assert matrix.tolist() == counted
    assert matrix.dtype == np.int64
    assert accuracy(scores, target) == sum(counted[i][i] for i in range(c)) / len(labels)
    assert top_k(scores, target, k) == among / len(labels)
    assert top_k(scores, target, 1) == accuracy(scores, target)
    assert top_k(scores, target, c) == 1
    for i in range(c):
        tp, true, said = counted[i][i], sum(counted[i]), sum(row[i] for row in counted)
        expected = [tp / true if true else math.nan, tp / said if said else math.nan]
        np.testing.assert_array_equal([recall(scores, target)[i], precision(scores, target)[i]], expected)
        r, p = expected
        harmonic = 2 * p * r / (p + r) if tp else 0.0 if true or said else math.nan
        np.testing.assert_allclose(f1(scores, target)[i], harmonic, rtol=4e-16)  # a few roundings


@given(scored())
def test_perplexity_is_torchs_cross_entropy_exponentiated(case):
    scores, target = case
    x = scores * 3.7
    expected = torch.nn.functional.cross_entropy(torch.tensor(x, dtype=torch.float64), torch.tensor(target)).exp()
    # float64 throughout; C terms in the sum and a mean over fewer than 40: well below 1e-13
    assert perplexity(x, target) == pytest.approx(expected.item(), rel=1e-13)


def test_perplexity_of_extreme_logits():
    x = np.array([[1e4, 0.0]])
    assert perplexity(x, np.array([0])) == 1.0
    assert perplexity(x, np.array([1])) == math.inf


def test_forms_of_output_and_target_agree():
    g = minidl.Generator(5)
    scores, target = g.normal((20, 4)), g.integers(0, 4, 20)
    one_hot = np.eye(4, dtype=np.float32)[target]
    expected = accuracy(scores, target)
    assert 0 < expected < 1
    assert accuracy(scores.argmax(1), target) == expected
    assert accuracy(scores, one_hot) == expected
    assert accuracy(minidl.tensor(scores, requires_grad=True), minidl.tensor(target)) == expected
    assert accuracy(scores.tolist(), target.tolist()) == expected
    assert accuracy(scores[:, 0] > 0, target > 1) == np.mean((scores[:, 0] > 0) == (target > 1))


def test_ignored_targets_are_left_out():
    scores = np.eye(3)[[0, 1, 2, 2]]
    target = np.array([0, -100, 2, 1])
    assert accuracy(scores, target) == 2 / 3
    assert confusion_matrix(scores, target).sum() == 3
    assert perplexity(scores, target) == perplexity(scores[[0, 2, 3]], target[[0, 2, 3]])
    assert accuracy(scores, np.array([0, 1, 2, 1]), ignore_index=1) == 1.0


BAD = {
    "label too large": (
        IndexError,
        "target 3 .element 1. is out of range: the classes are 0 ... 2",
        np.eye(3),
        [0, 3, 1],
    ),
    "label negative": (IndexError, "target -1", np.eye(3), [0, -1, 1]),
    "lengths differ": (ValueError, r"wants targets of shape \(3,\), got \(2,\)", np.eye(3), [0, 1]),
    "column of labels": (ValueError, r"wants targets of shape \(3,\), got \(3, 1\)", np.eye(3), [[0], [1], [2]]),
    "label shapes differ": (ValueError, r"have shape \(2,\), targets \(3,\)", [0, 1], [0, 1, 2]),
    "float labels": (TypeError, "must be class indices", np.eye(3), [0.0, 1.0, 2.0]),
    "float scores of labels' shape": (TypeError, "output > 0", np.ones(3), [0, 1, 1]),
    "text": (TypeError, "expected scores or class indices", np.array(["a"]), np.array([0])),
    "NaN": (ValueError, "1 of 3 outputs hold NaN", np.where(np.eye(3, k=2), np.nan, np.eye(3)), [0, 1, 2]),
    "no class": (ValueError, "no class", np.empty((3, 0)), [0, 0, 0]),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("metric", [accuracy, confusion_matrix, recall, precision, f1])
def test_bad_input_is_named(metric, case):
    error, message, output, target = BAD[case]
    with pytest.raises(error, match=message):
        metric(np.asarray(output), np.asarray(target))


def test_bad_options_are_named():
    scores, target = np.eye(3), np.arange(3)
    for k in (0, 4):
        with pytest.raises(ValueError, match="1 ... 3"):
            top_k(scores, target, k)
    for metric in (top_k, perplexity):
        with pytest.raises(ValueError, match="must be scores"):
            metric(target, target)
    with pytest.raises(ValueError, match="macro"):
        recall(scores, target, average="mean")
    with pytest.raises(ValueError, match="scores of 3 classes, num_classes is 4"):
        recall(scores, target, num_classes=4)
    with pytest.raises(IndexError, match="predicted class 2"):
        confusion_matrix(np.array([0, 2]), np.array([0, 1]), num_classes=2)


# -- over many batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric",
    [
        accuracy,
        functools.partial(top_k, k=2),
        confusion_matrix,
        precision,
        recall,
        functools.partial(f1, average="macro"),
        functools.partial(recall, average="macro", ignore_index=1),
    ],
)
@pytest.mark.parametrize("labels", [False, True])
def test_running_equals_all_at_once(metric, labels):
    g = minidl.Generator(8)
    scores, target = g.normal((30, 5)), np.sort(g.integers(0, 5, 30))  # sorted: the first batches lack classes
    if labels and "top_k" not in str(metric):
        scores = np.minimum(scores.argmax(1), target)
    running = Running(metric)
    for part in (slice(0, 7), slice(7, 8), slice(8, 30)):
        running.update(scores[part], target[part])
    np.testing.assert_array_equal(running.value(), metric(scores, target))


def test_running_perplexity_is_that_of_all_not_a_mean_of_perplexities():
    g = minidl.Generator(8)
    scores, target = 4 * g.normal((30, 5)), g.integers(0, 5, 30)
    running = Running(perplexity)
    running.update(scores[:7], target[:7])
    running.update(scores[7:], target[7:])
    assert running.value() == pytest.approx(perplexity(scores, target), rel=1e-13)  # sums of 30 terms in float64
    mean = (perplexity(scores[:7], target[:7]) * 7 + perplexity(scores[7:], target[7:]) * 23) / 30
    assert abs(mean - running.value()) > 1


def test_running_weighs_a_function_of_the_users_by_samples():
    running = Running(lambda output, target: minidl.tensor(output).mean())
    assert math.isnan(running.value())
    running.update(np.array([1.0, 1.0, 1.0]), np.zeros(3))
    running.update(np.array([5.0]), np.zeros(1))
    assert running.value() == 2.0
    per_column = Running(lambda output, target: output.mean(0))
    per_column.update(np.array([[1.0, 2.0]]), np.zeros(1))
    per_column.update(np.array([[3.0, 6.0]]), np.zeros(1))
    assert per_column.value().tolist() == [2.0, 4.0]
    with pytest.raises(TypeError, match="returned <U3, not numbers"):
        Running(lambda output, target: "yes").update(np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("metric", [confusion_matrix, lambda output, target: (output == target).mean()])
def test_running_goes_on_from_its_state(metric):
    g = minidl.Generator(2)
    p, t = g.integers(0, 4, 20), g.integers(0, 4, 20)
    straight, first = Running(metric), Running(metric)
    for r in (straight, first):
        r.update(p[:9], t[:9])
    second = Running(metric)
    second.load_state_dict(first.state_dict())
    for r in (straight, second):
        r.update(p[9:], t[9:])
    np.testing.assert_array_equal(second.value(), straight.value())


def test_named():
    assert named("accuracy") == {"accuracy": accuracy}
    assert named(recall) == {"recall": recall}
    assert named({"per class": recall, "acc": "accuracy"}) == {"per class": recall, "acc": accuracy}
    assert list(named(())) == []
    with pytest.raises(ValueError, match="no metric 'accurate'; known are accuracy, top_k"):
        named(["accurate"])
    with pytest.raises(ValueError, match="two metrics are called 'recall'"):
        named([recall, recall])
    with pytest.raises(TypeError, match="not 3"):
        named([3])
    with pytest.raises(TypeError, match="recall has no option 'averaged'"):
        Running(functools.partial(recall, averaged="macro"))


def test_everything_public_is_tested_here():
    assert set(metrics.__all__) <= globals().keys()
