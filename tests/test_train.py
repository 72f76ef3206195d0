"""fit, evaluate, predict: against a loop written by hand, and each promise and error of their documentation."""

import copy
import errno
import functools
import math
import pickle
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minidl
from minidl import io, metrics, nn, optim
from minidl.data import DataLoader, Dataset, TensorDataset
from minidl.io import CheckpointError
from minidl.nn import functional as F
from minidl.optim import lr_scheduler as sched
from minidl.train import (
    Callback,
    Checkpoint,
    Converged,
    EarlyStop,
    History,
    NonFiniteLoss,
    Scores,
    evaluate,
    fit,
    predict,
)


def problem(n=22, seed=3):
    """A small classification problem: x (n, 5) float32, y (n,) int64."""
    g = minidl.Generator(seed)
    x = g.normal((n, 5))
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)


def network(dropout=0.0):
    minidl.manual_seed(5)
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def sgd(model, lr=0.1, **options):
    return optim.SGD(model.parameters(), lr=lr, **options)


def weights(model):
    return {name: value.array.copy() for name, value in model.state_dict().items()}


def assert_weights(model, expected, **tolerance):
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.array, expected[name], **(tolerance or {"rtol": 0, "atol": 0}))


def square(output, target):
    return ((output - target) ** 2).mean()


# -- the loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrays", "tensors", "dataset", "loader", "list of batches"])
def test_is_the_loop_that_one_would_write(kind):
    x, y = problem()
    by_hand, optimizer = network(0.4), None
    optimizer = optim.AdamW(by_hand.parameters(), lr=0.02)
    minidl.manual_seed(9)
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=kind != "list of batches")
    losses, means, right = [], [], []
    for _ in range(3):
        total = hits = 0
        for inputs, target in loader:
            optimizer.zero_grad()
            output = by_hand(inputs)
            loss = F.cross_entropy(output, target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            total += loss.item() * len(target)
            hits += (output.argmax(1) == target).sum().item()
        means.append(total / len(x))
        right.append(hits / len(x))

    model = network(0.4)
    data = {
        "arrays": (x, y),
        "tensors": (minidl.tensor(x), minidl.tensor(y)),
        "dataset": TensorDataset(x, y),
        "loader": loader,
        "list of batches": [(x[:8], y[:8]), (x[8:16], y[8:16]), (x[16:], y[16:])],
    }[kind]
    history = fit(
        model,
        data,
        loss=F.cross_entropy,
        optimizer=optim.AdamW(model.parameters(), lr=0.02),
        epochs=3,
        batch_size=8,
        metrics=metrics.accuracy,
        seed=9,
    )
    assert_weights(model, weights(by_hand))
    assert history.steps["loss"] == losses
    assert history["loss"] == means
    assert history["accuracy"] == right
    assert history["lr"] == [0.02] * 3
    assert history.epochs == len(history.seconds) == 3
    assert history.stopped is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_gradients_are_those_of_one_large_batch(reduction):
    x, y = problem(22)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    large, small = network(), network()
    a = fit(large, (x, y), loss=loss, optimizer=sgd(large, 0.01), epochs=2, batch_size=22, shuffle=False)
    # 3 batches of 8, 8, 6 for one update; with 4 the group is never full, and the epoch's end makes the update
    for accumulate in (3, 4):
        small = network()
        b = fit(
            small,
            (x, y),
            loss=loss,
            optimizer=sgd(small, 0.01),
            epochs=2,
            batch_size=8,
            shuffle=False,
            accumulate=accumulate,
        )
        assert len(b.steps["loss"]) == 2
        # float32 sums of 22 terms in another order, twice: some 22 * 2**-24 relative to gradients of at most 1
        assert_weights(small, weights(large), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-6)
        np.testing.assert_allclose(b.steps["loss"], a.steps["loss"], rtol=1e-6)


def test_arrays_of_floats_take_the_models_dtype_and_tensors_keep_theirs():
    seen = []

    def loss(output, target):
        seen.append((output.dtype, target.dtype))
        return square(output, target)

    model = nn.Linear(2, 1)
    x, y = np.ones((4, 2)), np.ones((4, 1))
    fit(model, (x, y), loss=loss, optimizer=sgd(model))
    assert seen == [(minidl.float32, minidl.float32)]
    with pytest.raises(RuntimeError, match="the input is float64 and the weight is float32"):
        fit(model, (minidl.tensor(x), minidl.tensor(y)), loss=loss, optimizer=sgd(model))
    double = nn.Linear(2, 1).double()
    fit(double, (x.astype(np.float32), y), loss=loss, optimizer=sgd(double))
    assert seen[1:] == [(minidl.float64, minidl.float64)]


def test_several_inputs():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 1)

        def forward(self, a, b):
            return self.fc(a * b)

    model, g = Product(), minidl.Generator(1)
    a, b = g.normal((20, 3)), g.normal((20, 3))
    y = (a * b) @ np.float32([[1], [2], [3]])
    fit(model, (a, b, y), loss=square, optimizer=sgd(model, 0.2), epochs=60, batch_size=20)
    assert evaluate(model, (a, b, y), square).loss < 1e-3
    expected = model(minidl.tensor(a), minidl.tensor(b)).array
    # sums of 3 float32 terms of up to some 3 * 3, in either order
    np.testing.assert_allclose(predict(model, (a, b), batch_size=7).array, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_scheduler(per):
    class Halve:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self):
            self.optimizer.param_groups[0]["lr"] /= 2

    model = network()
    optimizer = sgd(model, 1.0)
    history = fit(
        model, problem(), loss=F.cross_entropy, optimizer=optimizer, epochs=3, batch_size=11,
        scheduler=Halve(optimizer), scheduler_per=per,
    )  # fmt: skip
    if per == "epoch":
        assert history["lr"] == [1.0, 0.5, 0.25]
        assert history.steps["lr"] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    else:
        assert history.steps["lr"] == [2.0**-i for i in range(6)]


@pytest.mark.parametrize("validation", [None, problem(9, 4)])
def test_scheduler_that_wants_a_value(validation):
    given = []

    class Plateau:
        def step(self, metrics, epoch=None):
            given.append(metrics)

    model = network()
    history = fit(
        model,
        problem(),
        loss=F.cross_entropy,
        optimizer=sgd(model),
        epochs=2,
        scheduler=Plateau(),
        validation=validation,
    )
    assert given == history["loss" if validation is None else "val_loss"]


def test_gradients_are_clipped():
    model = nn.Linear(5, 3)
    before = weights(model)
    x, y = problem()
    history = fit(model, (1000 * x, y), loss=F.cross_entropy, optimizer=sgd(model, 1.0), batch_size=22, clip_norm=0.5)
    (norm,) = history.steps["grad_norm"]
    assert norm > 10
    change = math.sqrt(sum(((value - before[name]) ** 2).sum() for name, value in weights(model).items()))
    assert change == pytest.approx(0.5, rel=1e-4)  # float32 weights; clip_grad_norm_ adds 1e-6 to the norm


def test_validation_is_evaluate_after_the_epoch():
    model, other = network(0.5), problem(13, 8)
    found = []
    history = fit(
        model,
        problem(),
        loss=F.cross_entropy,
        optimizer=sgd(model),
        epochs=2,
        validation=other,
        metrics={"acc": "accuracy", "each": metrics.recall},
        callbacks=lambda run: found.append(
            evaluate(run.model, other, F.cross_entropy, [metrics.accuracy, metrics.recall])
        ),
    )
    assert list(history) == ["loss", "acc", "each", "val_loss", "val_acc", "val_each", "lr"]
    assert history["val_loss"] == [s.loss for s in found]
    assert history["val_acc"] == [s.accuracy for s in found]
    np.testing.assert_array_equal(history["val_each"], [s.recall for s in found])


def test_parameters_of_the_loss_may_be_trained_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(minidl.ones(1))

        def forward(self, output, target):
            return F.cross_entropy(output * self.scale, target)

    model, loss = network(), Scaled()
    fit(model, problem(), loss=loss, optimizer=optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1))
    assert loss.scale.item() != 1


def test_modes_are_as_before_also_after_an_error():
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    modes = [m.training for m in model.modules()]
    seen = []

    def loss(output, target):
        seen.append([m.training for m in model.modules()])
        return F.cross_entropy(output, target)

    def broken(output, target):
        raise ArithmeticError("broken")

    x, y = problem()
    fit(model, (x, y), loss=loss, optimizer=sgd(model), validation=(x, y))
    assert seen == [[True] * 4, [False] * 4]
    evaluate(model, (x, y), loss)
    predict(model, x)
    assert [m.training for m in model.modules()] == modes
    for function in (
        lambda: evaluate(model, (x, y), broken),
        lambda: fit(model, (x, y), loss=broken, optimizer=sgd(model)),
    ):
        with pytest.raises(ArithmeticError):
            function()
        assert [m.training for m in model.modules()] == modes


# -- evaluate and predict ------------------------------------------------------------------------------------


def test_evaluate_weighs_a_small_last_batch():
    model, (x, y) = network(0.9), problem(23)
    whole = evaluate(model, (x, y), F.cross_entropy, ["accuracy", "confusion_matrix"], batch_size=23)
    parts = evaluate(model, (x, y), F.cross_entropy, ["accuracy", "confusion_matrix"], batch_size=7)
    model.eval()
    output = model(minidl.tensor(x))
    assert whole.loss == F.cross_entropy(output, minidl.tensor(y)).item()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)  # means of float32 over 7, 7, 7, 2 and over 23
    assert parts.accuracy == whole.accuracy == metrics.accuracy(output, y)
    np.testing.assert_array_equal(parts["confusion_matrix"], metrics.confusion_matrix(output, y))
    assert evaluate(model, (x, y), nn.CrossEntropyLoss(reduction="sum"), batch_size=7).loss == pytest.approx(
        whole.loss, rel=1e-6
    )
    assert evaluate(model, (x, y), metrics="accuracy").names == ("accuracy",)


def test_evaluate_records_nothing():
    model, (x, y) = network(), problem()
    seen = []

    def loss(output, target):
        seen.append((output.requires_grad, minidl.is_grad_enabled()))
        return F.cross_entropy(output, target)

    evaluate(model, (x, y), loss)
    assert seen == [(False, False)]
    assert minidl.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_scores():
    scores = Scores({"loss": 0.5, "top 3": 0.25})
    assert tuple(scores) == (0.5, 0.25)
    assert scores[1] == scores["top 3"] == 0.25
    assert scores.asdict() == {"loss": 0.5, "top 3": 0.25}
    for again in (pickle.loads(pickle.dumps(scores)), copy.deepcopy(scores)):
        assert again.asdict() == scores.asdict()
    with pytest.raises(KeyError, match="no score 'accuracy'; there are loss, top 3"):
        scores["accuracy"]
    with pytest.raises(AttributeError, match="no score 'accuracy'"):
        scores.accuracy


def test_predict_takes_all_kinds_of_data():
    model, (x, y) = network(0.5), problem(11)
    expected = evaluate_output(model, x)
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    for data in (
        x,
        minidl.tensor(x),
        (x,),
        TensorDataset(x, y),
        TensorDataset(x),
        loader,
        [x[:5], x[5:]],
        x.astype(float),
    ):
        output = predict(model, data, batch_size=4)
        # products of float32 rows may be summed in another order for another number of rows; 12 terms
        np.testing.assert_allclose(output.array, expected, rtol=1e-5, atol=1e-6)
        assert not output.requires_grad


def evaluate_output(model, x):
    model.eval()
    output = model(minidl.tensor(x)).detach().array
    model.train()
    return output


def test_predict_keeps_the_structure_of_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def forward(self, x):
            return {"y": self.fc(x), "both": (x, [x.sum(1)])}

    output = predict(Two(), np.ones((5, 2)), batch_size=2)
    assert output["y"].shape == (5, 1)
    assert type(output["both"]) is tuple
    assert output["both"][1][0].tolist() == [2.0] * 5


# -- stopping ------------------------------------------------------------------------------------------------


class Scripted(nn.Module):
    """A model whose loss is given in advance: `loss` returns the next value of the script."""

    def __init__(self, script):
        super().__init__()
        self.w = nn.Parameter(minidl.zeros(1))
        self.script = iter(script)

    def forward(self, x):
        return x.sum() * 0 + self.w.sum()

    def loss(self, output, target):
        return output * 0 + 1.0 * next(self.script) + (self.w - self.w.detach()).sum()  # d loss / dw = 1


def scripted(values, **options):
    """Train on these losses, one step of -1 for w in each epoch; returns (w afterwards, history)."""
    model = Scripted(values)
    x = np.ones((1, 1), dtype=np.float32)
    history = fit(model, (x, x), loss=model.loss, optimizer=sgd(model, 1.0), epochs=len(values), **options)
    return model.w.item(), history


def test_early_stop_waits_and_restores_the_best():
    rule = EarlyStop(patience=2)
    w, history = scripted([5, 4, 3, 3.5, 3.2, 1, 1], early_stop=rule)
    assert history["loss"] == pytest.approx([5, 4, 3, 3.5, 3.2])
    assert (rule.best_epoch, rule.best) == (3, 3.0)
    assert w == -3
    assert history.stopped == "loss did not improve on 3, of epoch 3, for 2 epochs"
    assert "stopped: loss did not improve" in repr(history)


def test_early_stop_options():
    assert scripted([5, 4, 3, 3.5, 3.2, 1], early_stop=EarlyStop(patience=2, restore_best=False))[0] == -5
    assert scripted([5, 4, 3, 3.5, 3.2, 1], early_stop=2)[0] == -3
    assert scripted([5, 4, 3, 3.5, 2.0, 1, 1], early_stop=2)[0] == -6  # saved in time; equal is no improvement
    assert scripted([5, 4.9, 4.8, 4.7], early_stop=EarlyStop(patience=2, min_delta=0.5))[0] == -1
    assert scripted([5, 4.9, 4.8, 4.4, 4.4], early_stop=EarlyStop(patience=3, min_delta=0.5))[0] == -4
    w, history = scripted([1, 2, 3], early_stop=EarlyStop(patience=9))
    assert (w, history.stopped, history.epochs) == (-1, None, 3)  # the best is restored though nothing stopped
    w, history = scripted([1, 2, 3, 4], early_stop=EarlyStop(mode="max", patience=1))
    assert (w, history.epochs) == (-4, 4)


def test_early_stop_knows_which_way_is_better():
    values = iter([0.1, 0.5, 0.4, 0.3])
    w, history = scripted(
        [1] * 4, metrics={"accuracy": lambda output, target: next(values)}, early_stop=EarlyStop("accuracy", patience=2)
    )
    assert (w, history.epochs) == (-2, 4)
    nans = iter([math.nan, 0.5, math.nan, math.nan])
    w, history = scripted(
        [1] * 4, metrics={"score": lambda output, target: next(nans)}, early_stop=EarlyStop("score", patience=2)
    )
    assert (w, history.epochs) == (-2, 4)
    w, history = scripted(
        [1] * 4, metrics={"score": lambda output, target: math.nan}, early_stop=EarlyStop("score", patience=2)
    )
    assert history.stopped == "score was NaN in all of 2 epochs"


def test_early_stop_takes_validation_by_default_and_can_be_used_again():
    rule = EarlyStop(patience=1)
    model = network()
    fit(
        model,
        problem(),
        loss=F.cross_entropy,
        optimizer=sgd(model),
        epochs=2,
        validation=problem(9, 4),
        early_stop=rule,
    )
    assert rule.name == "val_loss"
    scripted([3, 2, 2], early_stop=rule)
    assert (rule.name, rule.best) == ("loss", 2)


def test_converged():
    _, history = scripted([5, 4, 3.995, 3, 2.999, 2.998, 2.997], early_stop=Converged(0.01, patience=2))
    assert history.epochs == 6
    assert history.stopped == "converged: loss changed by less than 0.01 for 2 epochs"


def test_gradient_descent_until_it_converges():
    """S0-4: "repeat until convergence" on f(w) = w**2, whose steps shrink w by 0.8."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(minidl.tensor([1.0], dtype=minidl.float64))

        def forward(self, x):
            return self.w**2

    model, one = Square(), np.ones((1, 1))
    history = fit(
        model, (one, one), loss=lambda y, _: y.sum(), optimizer=sgd(model, 0.1), epochs=1000, early_stop=Converged(1e-8)
    )
    # the loss 0.64**n changes by 0.36 * 0.64**(n - 1) < 1e-8
    expected = next(n for n in range(1, 1000) if 0.36 * 0.64 ** (n - 1) < 1e-8)
    assert history.epochs == expected + 1
    assert abs(model.w.item()) == pytest.approx(0.8**history.epochs, rel=1e-12)


def test_several_rules_and_callbacks_stop():
    assert scripted([5, 4, 4, 4], early_stop=[EarlyStop(patience=3), Converged(1e-3)])[1].epochs == 3
    _, history = scripted([5] * 9, callbacks=lambda run: run.stop("enough") if run.epoch == 4 else None)
    assert (history.epochs, history.stopped) == (4, "enough")


# -- callbacks -----------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_order():
    events = []

    class Log(Callback):
        def on_start(self, run):
            events.append("start")

        def on_epoch_start(self, run):
            events.append(f"epoch {run.epoch} of {run.epochs}")

        def on_step(self, run):
            events.append(f"step {run.step}")

        def on_epoch(self, run):
            events.append(f"done {run.epoch}: {len(run.history['loss'])}")

        def on_end(self, run):
            events.append("end")

    model = network()
    fit(model, problem(), loss=F.cross_entropy, optimizer=sgd(model), epochs=2, batch_size=11, callbacks=[Log()])
    assert events == [
        "start",
        "epoch 0 of 2", "step 1", "step 2", "done 1: 1",
        "epoch 1 of 2", "step 3", "step 4", "done 2: 2",
        "end",
    ]  # fmt: skip


# -- bad input -----------------------------------------------------------------------------------------------


def fitted(model=None, data=None, **options):
    model = network() if model is None else model
    options = {"loss": F.cross_entropy, "optimizer": None, **options}
    if options["optimizer"] is None:
        options["optimizer"] = sgd(model)
    return fit(model, problem() if data is None else data, **options)


class Empty(Dataset):
    def __len__(self):
        return 0


X, Y = problem()
BAD = {
    "no model": (
        TypeError,
        "must be a minidl.nn.Module, not function",
        dict(model=lambda x: x, optimizer=sgd(network())),
    ),
    "no parameters": (ValueError, "ReLU has no parameters", dict(model=nn.ReLU(), optimizer=sgd(network()))),
    "no optimizer": (TypeError, "not str", dict(optimizer="adam")),
    "optimizer of another model": (
        ValueError,
        "none of the parameters of this Sequential",
        dict(optimizer=sgd(network())),
    ),
    "empty arrays": (ValueError, "data set is empty", dict(data=(X[:0], Y[:0]))),
    "empty dataset": (ValueError, "data set is empty", dict(data=Empty())),
    "empty loader": (ValueError, "data set is empty", dict(data=DataLoader(Empty()))),
    "no batches": (ValueError, "no batch", dict(data=[])),
    "only batch dropped": (
        ValueError,
        "drop_last leaves out its only batch, of 22 samples",
        dict(data=DataLoader(TensorDataset(X, Y), batch_size=30, drop_last=True)),
    ),
    "empty validation": (ValueError, "validation: the data set is empty", dict(validation=(X[:0], Y[:0]))),
    "no target": (TypeError, "where is the target", dict(data=X)),
    "tuple of one": (TypeError, r"expected \(x, y\)", dict(data=(X,))),
    "an iterator": (TypeError, "one epoch only", dict(data=iter([(X, Y)]))),
    "a number": (TypeError, "got 3", dict(data=3)),
    "lengths": (ValueError, r"different lengths \[22, 21\]", dict(data=(X, Y[1:]))),
    "batch without target": (
        TypeError,
        r"must be \(inputs, target\), got \[float32",
        dict(data=DataLoader(TensorDataset(X))),
    ),
    "empty batch": (ValueError, "batch is empty", dict(data=[(X[:0], Y[:0])])),
    "epochs": (ValueError, "epochs must be a whole number", dict(epochs=-1)),
    "accumulate": (ValueError, "accumulate must be a whole number, at least 1", dict(accumulate=0)),
    "clip_norm": (ValueError, "clip_norm must be positive", dict(clip_norm=0)),
    "scheduler_per": (ValueError, "'epoch' or 'step'", dict(scheduler_per="batch")),
    "resume": (ValueError, "'auto'", dict(resume="yes")),
    "resume without checkpoint": (ValueError, "resume needs a checkpoint", dict(resume=True)),
    "monitor": (ValueError, "no 'val_loss' to monitor; there are loss, lr", dict(early_stop=EarlyStop("val_loss"))),
    "early stop": (TypeError, "not 'soon'", dict(early_stop="soon")),
    "patience": (ValueError, "at least 1", dict(early_stop=0)),
    "metric": (ValueError, "no metric 'precise'", dict(metrics=["precise"])),
    "suffix": (ValueError, "must end in .safetensors or .npz", dict(checkpoint="run.pt")),
    "loss of all samples": (
        ValueError,
        r"one number, not shape \(22,\)",
        dict(loss=nn.CrossEntropyLoss(reduction="none")),
    ),
    "loss is no Tensor": (TypeError, "must return a Tensor, not float", dict(loss=lambda y, t: 1.0)),
    "labels out of range": (IndexError, "target 9 is out of bounds", dict(data=(X, Y + 9 * (np.arange(22) == 3)))),
    "shape of x": (RuntimeError, "4", dict(data=(X[:, :4], Y))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    error, message, options = BAD[case]
    with pytest.raises(error, match=message):
        fitted(**{"batch_size": 22, **options})


def test_optimizer_with_foreign_parameters():
    """S1-20: one optimizer over two networks."""
    a, b = network(), network()
    with pytest.raises(ValueError, match=r"holds 4 parameters that are not of this Sequential .*shape \(12, 5\)"):
        fitted(a, optimizer=optim.SGD([*a.parameters(), *b.parameters()], lr=0.1))


def test_frozen_parameters():
    model = network()
    optimizer = sgd(model)
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="depends on no parameter that requires gradients"):
        fitted(model, optimizer=optimizer)
    model[3].weight.requires_grad_()
    before = weights(model)
    fitted(model, optimizer=optim.SGD([model[3].weight], lr=0.1))
    changed = [name for name, value in weights(model).items() if (value != before[name]).any()]
    assert changed == ["3.weight"]


@pytest.mark.parametrize("what", ["fit", "evaluate", "predict"])
def test_errors_say_in_which_batch(what):
    model, (x, y) = network(), problem()
    data = [(x[:8], y[:8]), (x[8:, :3], y[8:])]
    with pytest.raises(RuntimeError) as caught:
        if what == "fit":
            fitted(model, data)
        elif what == "evaluate":
            evaluate(model, data, F.cross_entropy)
        else:
            predict(model, data)
    (note,) = [n for n in caught.value.__notes__ if n.startswith(what)]
    assert "batch 2" in note
    assert "float32 (14, 3)" in note


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match="a loss, metrics, or both"):
        evaluate(network(), problem())
    with pytest.raises(TypeError, match="Module"):
        predict(None, X)


def test_options_of_rules_and_checkpoints():
    for make in (
        lambda: EarlyStop(patience=0),
        lambda: EarlyStop(mode="larger"),
        lambda: EarlyStop(min_delta=-1),
        lambda: Converged(0),
        lambda: Converged(patience=1.5),
        lambda: Checkpoint("x.npz", every=0),
        lambda: Checkpoint("x.npz", every="day"),
    ):
        with pytest.raises(ValueError, match="must"):
            make()
    with pytest.raises(ValueError, match="a value per class"):
        fitted(metrics=["recall"], early_stop=EarlyStop("recall"))


# -- a loss that is NaN --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_gives_the_good_weights_back(bad):
    model = network()
    after_epochs = []

    def loss(output, target):
        value = F.cross_entropy(output, target)
        return value * bad if len(after_epochs) == 2 else value

    with pytest.raises(NonFiniteLoss, match=r"the loss is (nan|inf) at step 5 \(epoch 3, batch 1\)") as caught:
        fit(
            model, problem(), loss=loss, optimizer=sgd(model, 0.25), epochs=9, batch_size=11,
            callbacks=lambda run: after_epochs.append(weights(run.model)),
        )  # fmt: skip
    assert "lower learning rate than 0.25" in str(caught.value)
    assert "detect_anomaly" in str(caught.value)
    assert "had before epoch 3" in str(caught.value)
    assert_weights(model, after_epochs[1])


def test_a_training_that_diverges_ends_with_finite_weights():
    model = nn.Linear(5, 1)
    good = [weights(model)]
    x, y = problem()
    data = 100 * x, y[:, None].astype(np.float32)
    keep = lambda run: good.append(weights(run.model))
    with pytest.raises(NonFiniteLoss):
        fit(model, data, loss=square, optimizer=sgd(model, 0.01), epochs=30, batch_size=22, callbacks=keep)
    assert len(good) > 2
    assert_weights(model, good[-1])
    assert all(np.isfinite(value).all() for value in weights(model).values())


def test_gradients_that_are_not_finite_are_seen_when_clipping():
    model = nn.Linear(5, 3)
    before = weights(model)

    def loss(output, target):
        value = F.cross_entropy(output, target)
        value.register_hook(lambda g: g * math.nan)
        return value

    with pytest.raises(NonFiniteLoss, match="norm of the gradients is nan at step 1"):
        fitted(model, loss=loss, clip_norm=1.0)
    assert_weights(model, before)


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_an_unwritable_folder_is_found_out_before_training(tmp_path):
    calls = []
    for path in (tmp_path / "missing" / "run.npz", tmp_path / "file" / "run.npz"):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=str(path)):
            fitted(checkpoint=path, loss=lambda y, t: calls.append(1))
    assert calls == []


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("minidl.io.atomic.os.open", refuse)  # root, as which tests may run, could write anywhere
    with pytest.raises(PermissionError, match="run.npz: the folder .* is not writable"):
        fitted(checkpoint=tmp_path / "run.npz", loss=None)


def test_a_checkpoint_is_not_overwritten_by_a_new_training(tmp_path):
    path = tmp_path / "run.npz"
    fitted(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="resume=True to go on from it"):
        fitted(checkpoint=path)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="resume='auto'"):
        fitted(checkpoint=tmp_path / "other.npz", resume=True)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_finished_training_is_not_repeated_but_can_be_prolonged(tmp_path, suffix):
    path = tmp_path / f"run.{suffix}"
    straight = network(0.5)
    expected = fitted(straight, epochs=5, seed=2)
    model = network(0.5)
    fitted(model, epochs=2, seed=2, checkpoint=path)
    short = weights(model)
    model = network(0.5)
    again = fitted(model, epochs=2, checkpoint=path, resume=True, loss=None)
    assert again.epochs == 2
    assert_weights(model, short)
    minidl.manual_seed(1234)
    model = network(0.5)
    history = fitted(model, epochs=5, checkpoint=path, resume=True)
    assert_weights(model, weights(straight))
    assert history["loss"] == expected["loss"]
    assert history.steps == expected.steps


SCHEDULES = {
    "StepLR": lambda o: sched.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: sched.MultiStepLR(o, [1, 3, 3], 0.5),
    "ExponentialLR": lambda o: sched.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: sched.CosineAnnealingLR(o, 6),
    "LinearLR": lambda o: sched.LinearLR(o, total_iters=4),
    "LambdaLR": lambda o: sched.LambdaLR(o, lambda t: 1 / (t + 1)),
    "OneCycleLR": lambda o: sched.OneCycleLR(o, 0.5, total_steps=15),
    "SequentialLR": lambda o: sched.SequentialLR(
        o, [sched.LinearLR(o, total_iters=2), sched.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "ReduceLROnPlateau": lambda o: sched.ReduceLROnPlateau(o, patience=0, threshold=0.5),
}


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_resumed(tmp_path, name, per):
    def train(epochs, **options):
        model = network(0.5)
        optimizer = sgd(model, 0.1, momentum=0.9)
        options |= {"scheduler": SCHEDULES[name](optimizer), "scheduler_per": per, "seed": 1, "batch_size": 11}
        return fitted(model, optimizer=optimizer, epochs=epochs, **options)

    straight = train(6)
    assert len(set(straight.steps["lr"])) > 1
    for epochs in (1, 3, 6):
        history = train(epochs, checkpoint=tmp_path / "run.npz", resume="auto")
    assert history.steps == straight.steps
    assert history["loss"] == straight["loss"]


def test_a_stopped_training_stays_stopped(tmp_path):
    path = tmp_path / "run.npz"
    model = Scripted([3, 2, 2.5, 2.5])
    x = np.ones((1, 1), dtype=np.float32)
    fit(model, (x, x), loss=model.loss, optimizer=sgd(model, 1.0), epochs=9, early_stop=2, checkpoint=path)
    assert model.w.item() == -2
    again = Scripted([])
    history = fit(
        again, (x, x), loss=again.loss, optimizer=sgd(again, 1.0), epochs=9, early_stop=2, checkpoint=path, resume=True
    )
    assert history["loss"] == [3, 2, 2.5, 2.5]
    assert history.stopped.startswith("loss did not improve")
    assert again.w.item() == -2


def test_checkpoint_of_another_training(tmp_path):
    path = tmp_path / "run.npz"
    fitted(checkpoint=path)
    other = nn.Sequential(nn.Linear(5, 13), nn.ReLU(), nn.Linear(13, 3))
    deeper = nn.Sequential(*network(), nn.Linear(3, 3))
    tall = network()
    cases = [
        (r"its '0.weight' is float32 \(12, 5\), the model's is float32 \(13, 5\)", dict(model=other)),
        (r"its '4.weight' is missing, the model's is float32 \(3, 3\)", dict(model=deeper)),
        ("its optimizer: 'SGD', here: 'Adam'", dict(model=tall, optimizer=optim.Adam(tall.parameters()))),
        ("its parameter groups", dict(model=tall, optimizer=optim.SGD([tall[0].weight], lr=1.0))),
        ("its history: .*, here: .*'accuracy'", dict(metrics=["accuracy"])),
        ("its stopping: .*, here: .*'EarlyStop'", dict(early_stop=3)),
    ]
    for message, options in cases:
        model = options.pop("model", None) or network()
        before = weights(model)
        with pytest.raises(CheckpointError, match=f"{path}: belongs to another training: {message}"):
            fitted(model, checkpoint=path, resume=True, **options)
        assert_weights(model, before)


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    fitted(checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="run.safetensors"):
        fitted(checkpoint=path, resume=True)
    io.save({"a": minidl.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of minidl.train.fit"):
        fitted(checkpoint=path, resume="auto")
    path.write_bytes(whole)
    state = io.load(path)
    del state["random"]
    io.save(state, path)
    with pytest.raises(CheckpointError, match="cannot be resumed from: 'random'"):
        fitted(checkpoint=path, resume=True)


def test_a_checkpoint_with_packed_weights_asks_for_the_same_ones(tmp_path):
    from minidl.storage import Int8

    def model(value):
        net = network()
        w = np.full((12, 5), value, np.int8)
        net[0].weight = nn.Parameter(Int8(w, np.ones(12, np.float32)))
        net[0].bias.requires_grad_(False)
        return net

    def train(net, **options):
        return fitted(net, optimizer=optim.SGD([net[3].weight, net[3].bias], lr=0.1), **options)

    path = tmp_path / "run.npz"
    first = model(3)
    train(first, checkpoint=path)
    second = model(3)
    train(second, checkpoint=path, resume=True)
    np.testing.assert_array_equal(second[3].weight.array, first[3].weight.array)
    with pytest.raises(CheckpointError, match="its '0.weight' is .* with checksum"):
        train(model(4), checkpoint=path, resume=True)


# -- Ctrl-C --------------------------------------------------------------------------------------------------


def test_ctrl_c_finishes_the_step_saves_and_leaves_the_history(tmp_path):
    path = tmp_path / "run.npz"
    straight = network(0.5)
    expected = fitted(straight, epochs=3, batch_size=4, seed=1, validation=problem(9, 4))

    class Press(Callback):
        def on_step(self, run):
            if run.step == 8:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model = network(0.5)
    options = dict(epochs=3, batch_size=4, seed=1, validation=problem(9, 4), checkpoint=path)
    with pytest.raises(KeyboardInterrupt) as caught:
        fitted(model, callbacks=[Press()], **options)
    assert signal.getsignal(signal.SIGINT) is before
    history = caught.value.history
    assert (history.epochs, len(history.steps["loss"])) == (1, 8)
    assert model.training
    state = io.load(path)
    assert state["step"] == 8
    model = network(0.5)

    class Press(Callback):  # the same name: the fingerprint holds it
        pass

    history = fitted(model, callbacks=[Press()], resume=True, **options)
    assert_weights(model, weights(straight))
    assert history.steps == expected.steps
    assert history["val_loss"] == expected["val_loss"]


def test_ctrl_c_twice_interrupts_at_once():
    def loss(output, target):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt) as caught:
        fitted(loss=loss)
    assert caught.value.history.epochs == 0


def test_ctrl_c_during_validation():
    calls = []

    def loss(output, target):
        calls.append(len(target))
        if len(target) == 9:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(output, target)

    with pytest.raises(KeyboardInterrupt):
        fitted(loss=loss, batch_size=22, epochs=5, validation=[problem(9, 4), problem(9, 4)])
    assert calls == [22, 9]


def test_outside_the_main_thread_signals_are_left_alone():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fitted, epochs=2).result(60).epochs == 2


# -- what it shows -------------------------------------------------------------------------------------------


class Terminal:
    """A stderr that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_progress(capsys, monkeypatch):
    fitted(epochs=2)
    fitted(epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    fitted(epochs=2, progress=True, validation=problem(9, 4), metrics=["accuracy", "recall"])
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("epoch 1/2  loss ")
    assert second.startswith("epoch 2/2  loss ")
    assert "val_accuracy" in second
    for progress, shown in ((None, True), (True, True), (False, False)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        fitted(epochs=2, progress=progress, batch_size=4)
        assert ("epoch 2/2: 100%" in sys.stderr.text) == shown
        assert ("6/6" in sys.stderr.text) == shown
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


def test_history_reads_as_a_mapping_and_a_table():
    history = History()
    assert repr(history) == "History of no epoch"
    with pytest.raises(KeyError, match="no epoch yet"):
        history["loss"]
    for i in range(40):
        history.add({"loss": 1 / (i + 1), "recall": np.array([0.25, np.nan, i / 40])}, 0.5)
    assert list(history) == ["loss", "recall"]
    assert history.last["loss"] == 1 / 40
    with pytest.raises(KeyError, match="it has loss, recall"):
        history["accuracy"]
    lines = repr(history).splitlines()
    assert len(lines) == 1 + 12 + 1 + 12
    assert lines[13] == "..."
    assert lines[-1].split() == ["40", "0.025", "0.25", "...", "0.975"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_history_is_drawn(tmp_path, suffix):
    model = network()
    history = fit(
        model, problem(), loss=F.cross_entropy, optimizer=sgd(model), epochs=3, batch_size=8, validation=problem(9, 4),
        metrics=["accuracy", "recall"],
    )  # fmt: skip
    path = tmp_path / f"curves.{suffix}"
    history.plot(path)
    start = path.read_bytes()[:5]
    assert start == (b"\x89PNG\r" if suffix == "png" else b"<?xml")


def test_drawing_needs_matplotlib_and_an_epoch(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no epoch"):
        History().plot(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'minidl\[plot\]'"):
        History().plot(tmp_path / "a.png")


def test_partial_metrics_have_readable_columns():
    model = network()
    history = fitted(model, metrics=["accuracy", functools.partial(metrics.top_k, k=2)])
    assert list(history) == ["loss", "accuracy", "top_k_2", "lr"]
