"""L-BFGS against torch's, with and without line search: same path, same number of evaluations, same state."""

import math

import numpy as np
import pytest
import torch

import minidl
from minidl import nn, optim

OPTIONS = [
    {"lr": 0.1, "max_iter": 5}, {"history_size": 2, "max_iter": 6}, {"max_eval": 3},
    {"line_search_fn": "strong_wolfe"}, {"line_search_fn": "strong_wolfe", "lr": 0.02, "max_iter": 4},
    {"line_search_fn": "strong_wolfe", "lr": 30.0, "max_iter": 3}, {"line_search_fn": "strong_wolfe", "max_eval": 4},
    {"tolerance_grad": 0.1, "line_search_fn": "strong_wolfe"}, {"tolerance_change": 1e-2, "lr": 0.2},
]  # fmt: skip


def rosenbrock(a, b):
    """A curved valley, in four dimensions; the least value, 0, is at ones."""
    x = [a[0], a[1], b[0, 0], b[1, 0]]
    return sum((1 - x[i]) ** 2 + 10 * (x[i + 1] - x[i] ** 2) ** 2 for i in range(3))


def quadratic(a, b):
    return ((a - 3) ** 2).sum() + (b * b * 5 + b).sum() + a[0] * b[1, 0]


def make(lib, dtype, options):
    start = np.array([-1.2, 1.0]), np.array([[0.5], [-0.7]])
    params = [lib.tensor(a.astype(dtype), requires_grad=True) for a in start]
    return params, lib.optim.LBFGS(params, **options)


def closure_of(optimizer, params, function, losses):
    def closure():
        optimizer.zero_grad()
        loss = function(*params)
        loss.backward()
        losses.append(loss.item())
        return loss

    return closure


# Full steps without a search jump about in the curved valley, and so do differences of rounding.
CASES = [(quadratic, {}), *[(f, o) for f in (rosenbrock, quadratic) for o in OPTIONS]]


@pytest.mark.parametrize(("function", "options"), CASES)
def test_path_is_torchs(options, function):
    """Every evaluation, in float64. Differences of rounding grow along a quasi-Newton path, so the first two steps."""
    seen = []
    for lib in (minidl, torch):
        losses, results = [], []
        params, optimizer = make(lib, "float64", options)
        for _ in range(2):
            results.append(optimizer.step(closure_of(optimizer, params, function, losses)).item())
        if lib is minidl:
            finite = [x for x in losses if math.isfinite(x)]
            assert finite
        seen.append((losses, results, np.concatenate([p.detach().numpy().ravel() for p in params])))
        state = optimizer.state[params[0]]
        seen[-1] += ({k: state[k] for k in ("func_evals", "n_iter")},)
    (losses, results, w, counts), (t_losses, t_results, t_w, t_counts) = seen
    assert counts == t_counts
    assert len(losses) == len(t_losses)
    np.testing.assert_allclose(losses, t_losses, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(results, t_results, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(w, t_w, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_finds_the_minimum(dtype):
    params, optimizer = make(minidl, dtype, {"line_search_fn": "strong_wolfe", "max_iter": 100})
    losses = []
    for _ in range(3):
        optimizer.step(closure_of(optimizer, params, rosenbrock, losses))
    assert losses[0] > 1
    assert losses[-1] < 1e-6
    assert all(p.array.dtype == dtype for p in params)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped():
    ends = []
    for stop in (False, True):
        params, optimizer = make(minidl, "float64", {"max_iter": 3, "line_search_fn": "strong_wolfe"})
        for step in range(4):
            if stop and step == 2:
                values = [minidl.tensor(p.detach().numpy().copy(), requires_grad=True) for p in params]
                state = optimizer.state_dict()
                params, optimizer = values, optim.LBFGS(values)
                optimizer.load_state_dict(state)
            optimizer.step(closure_of(optimizer, params, rosenbrock, []))
        ends.append([p.detach().numpy() for p in params])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torchs_state_is_taken_over():
    options = {"max_iter": 3, "line_search_fn": "strong_wolfe"}
    t_params, theirs = make(torch, "float64", options)
    for _ in range(2):
        theirs.step(closure_of(theirs, t_params, rosenbrock, []))
    m_params = [minidl.tensor(p.detach().numpy().copy(), requires_grad=True) for p in t_params]
    ours = optim.LBFGS(m_params, **options)

    def arrays(v):
        if isinstance(v, torch.Tensor):
            return v.numpy()
        return (
            {k: arrays(u) for k, u in v.items()}
            if isinstance(v, dict)
            else [arrays(u) for u in v]
            if isinstance(v, list)
            else v
        )

    ours.load_state_dict(arrays(theirs.state_dict()))
    losses, t_losses = [], []
    ours.step(closure_of(ours, m_params, rosenbrock, losses))
    theirs.step(closure_of(theirs, t_params, rosenbrock, t_losses))
    np.testing.assert_allclose(losses, t_losses, rtol=1e-7)


def test_pruned_weights_stay_and_parameters_without_a_gradient_do_not_move():
    p, q = nn.Parameter(np.array([0.0, 2.0, 3.0])), nn.Parameter(np.ones(2))
    p.mask = np.array([0, 1, 1])
    optimizer = optim.LBFGS([p, q], line_search_fn="strong_wolfe")
    optimizer.step(closure_of(optimizer, [p], lambda p: ((p - 1) ** 2).sum(), []))
    np.testing.assert_allclose(p.detach().numpy(), [0, 1, 1], atol=1e-6)
    assert q.tolist() == [1, 1]


def test_what_is_refused():
    p = nn.Parameter(np.ones(2))
    with pytest.raises(ValueError, match="parameter groups"):
        optim.LBFGS([{"params": [p]}, {"params": [nn.Parameter(np.ones(1))]}])
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optim.LBFGS([p], lr=-1)
    with pytest.raises(TypeError, match="closure"):
        optim.LBFGS([p]).step()
    optimizer = optim.LBFGS([p], line_search_fn="armijo")
    with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
        optimizer.step(closure_of(optimizer, [p], lambda p: (p * p).sum(), []))
