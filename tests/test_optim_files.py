"""The state of every optimizer, written to a file and read again: the next step is the same, bit for bit."""

import pytest

import minidl
from minidl import io, nn, optim

OPTIONS = [
    ("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("NAdam", {}), ("RMSprop", {"centered": True}),
    ("Adamax", {}), ("Adafactor", {}), ("ASGD", {"t0": 1}), ("Rprop", {}), ("LAMB", {}), ("Lion", {}),
    ("LBFGS", {"max_iter": 3}), ("LBFGS", {"max_iter": 3, "line_search_fn": "strong_wolfe", "history_size": 2}),
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_written_state_goes_on(name, options, suffix, tmp_path):
    minidl.random.manual_seed(0)
    x = minidl.randn(4, 3)

    def step(model, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = ((model(x) - 1) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    model = nn.Linear(3, 2)
    optimizer = getattr(optim, name)(model.parameters(), **options)
    for _ in range(2):
        step(model, optimizer)
    io.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / f"run.{suffix}")
    saved = io.load(tmp_path / f"run.{suffix}")
    other = nn.Linear(3, 2)
    other.load_state_dict(saved["model"])
    again = getattr(optim, name)(other.parameters())
    again.load_state_dict(saved["optimizer"])
    step(model, optimizer), step(other, again)
    assert (model.weight == other.weight).all()
    assert (model.bias == other.bias).all()
    assert (model.weight != saved["model"]["weight"]).any()
