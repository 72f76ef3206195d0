"""Soft attention against formulas in torch; hard attention: one-hot weights, the right distribution, right gradients.

Statistics. A mean of n independent terms of variance v lies within 5 sqrt(v / n) of its expectation but for a
probability of 6e-7 (normal limit); v is computed exactly, by going through all outcomes. Seeds are fixed.
"""

import math

import numpy as np
import pytest
import torch

import minidl
from minidl import nn
from minidl.nn import functional as F

RNG = np.random.default_rng(12)


def close(ours, theirs, atol=1e-12):
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=0, atol=atol)


def pair(*shape):
    a = RNG.standard_normal(shape)
    return torch.tensor(a, requires_grad=True), minidl.tensor(a, requires_grad=True)


def additive(q, k, state):
    w, u, b, v = (torch.tensor(state[n].numpy(), requires_grad=True) for n in (
        "query_proj.weight", "key_proj.weight", "key_proj.bias", "score_proj.weight"))  # fmt: skip
    return (torch.tanh((q @ w.T)[..., :, None, :] + (k @ u.T + b)[..., None, :, :]) * v[0]).sum(-1), (w, u, b, v)


SOFT = ["DotProductAttention", "ScaledDotProductAttention", "AdditiveAttention"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_value", [False, True])
@pytest.mark.parametrize("name", SOFT)
def test_soft_attention_is_its_formula(name, with_value, masked):
    (tq, q), (tk, k), (tv, v) = pair(2, 4, 6), pair(2, 5, 6), pair(2, 5, 3)
    layer = getattr(nn, name)(*((6, 6, 7) if name == "AdditiveAttention" else ())).to(minidl.float64)
    theirs = ()
    if name == "AdditiveAttention":
        scores, theirs = additive(tq, tk, layer.state_dict())
    else:
        scores = tq @ tk.mT / (math.sqrt(6) if name.startswith("Scaled") else 1)
    mask = None
    if masked:
        mask = np.ones((2, 1, 5), bool)
        mask[1, :, 2:] = False
        scores = scores.masked_fill(~torch.tensor(mask), -math.inf)
    weights = scores.softmax(-1)
    exact = weights @ (tv if with_value else tk)
    y, w = layer(q, k, v if with_value else None, None if mask is None else minidl.tensor(mask))
    close(y, exact), close(w, weights)
    seed = RNG.standard_normal(tuple(exact.shape))
    exact.backward(torch.tensor(seed)), y.backward(minidl.tensor(seed))
    close(q.grad, tq.grad), close(k.grad, tk.grad)
    if with_value:
        close(v.grad, tv.grad)
    for ours, t in zip(layer.parameters(), theirs):
        close(ours.grad, t.grad)


LAYERS = {
    "dot": lambda: nn.DotProductAttention(),
    "stochastic": lambda: nn.StochasticAttention(nn.ScaledDotProductAttention()),
    "gumbel": lambda: nn.GumbelAttention(nn.ScaledDotProductAttention()),
    "argmax": lambda: nn.ArgmaxAttention(nn.ScaledDotProductAttention()),
    "argmax-through": lambda: nn.ArgmaxAttention(nn.ScaledDotProductAttention(), straight_through=True),
    "top-2": lambda: nn.TopKAttention(nn.ScaledDotProductAttention(), 2),
    "top-9": lambda: nn.TopKAttention(nn.ScaledDotProductAttention(), 9),
}
ONE_HOT = ["stochastic", "gumbel", "argmax", "argmax-through"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_masks_and_rows_that_see_nothing(name, training):
    layer = LAYERS[name]().train(training)
    q, k = (minidl.tensor(RNG.standard_normal((2, n, 3)), requires_grad=True) for n in (4, 5))
    mask = np.ones((2, 4, 5), bool)
    mask[0, :, 1:4] = False
    mask[1, 2] = False
    y, w = layer(q, k, mask=mask)
    a = w.detach().numpy()
    assert (a[~mask] == 0).all()
    np.testing.assert_array_equal(y.detach().numpy()[1, 2], np.zeros(3))
    np.testing.assert_allclose(np.delete(a.reshape(8, 5), 6, 0).sum(-1), 1, rtol=1e-14)
    loss = (y**2).sum((1, 2))
    total = loss.sum() + (layer.reinforce(loss, 0.1) if name == "stochastic" and training else 0)
    total.backward()
    assert np.isfinite(q.grad.numpy() if q.grad is not None else 0).all()
    assert np.isfinite(k.grad.numpy()).all()


@pytest.mark.parametrize("dtype", [minidl.float32, minidl.float64])
@pytest.mark.parametrize("name", ONE_HOT)
@pytest.mark.parametrize("training", [True, False])
def test_hard_weights_are_one_hot(name, training, dtype):
    """Exactly 0 and 1, and y is exactly the value at that place; in evaluation the place of the largest score."""
    layer = LAYERS[name]().train(training)
    q, k, v = (minidl.tensor(RNG.standard_normal(s), dtype=dtype) for s in ((3, 40, 6), (3, 7, 6), (3, 7, 2)))
    y, w = layer(q, k, v)
    a = w.numpy()
    assert a.dtype == dtype
    assert ((a == 0) | (a == 1)).all()
    np.testing.assert_array_equal(a.sum(-1), np.ones((3, 40)))
    np.testing.assert_array_equal(y.numpy(), np.take_along_axis(v.numpy(), a.argmax(-1)[..., None], 1))
    if not training or name.startswith("argmax"):
        np.testing.assert_array_equal(a.argmax(-1), (q @ k.mT).numpy().argmax(-1))
    else:
        assert (a.argmax(-1) != (q @ k.mT).numpy().argmax(-1)).any()


@pytest.mark.parametrize("kind", [nn.StochasticAttention, nn.GumbelAttention])
def test_places_are_drawn_from_the_softmax(kind):
    scores = np.array([1.0, -0.5, 0.2, -30.0])
    n = 40000
    layer = kind(lambda q, k: minidl.tensor(np.broadcast_to(scores, (n, 4)).copy()))
    _, w = layer(minidl.zeros(n, 1), minidl.zeros(4, 1).double())
    p = np.exp(scores) / np.exp(scores).sum()
    assert (np.abs(w.numpy().mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


@pytest.mark.parametrize("baseline", [0.0, 2.5])
def test_reinforce_is_unbiased(baseline):
    """Against the exact gradient of E[L] in every parameter of an additive score and in the values.

    With L_s the loss at place s and b the baseline, a draw contributes dL_s + (L_s - b) d log p_s: its mean and its
    variance over s are exact sums over three places.
    """
    scorer = nn.AdditiveAttention(2, 2, 3, dtype=minidl.float64)
    q, k = (minidl.tensor(RNG.standard_normal(s)) for s in ((1, 2), (3, 2)))
    v = minidl.tensor(RNG.standard_normal((3, 2)), requires_grad=True)
    leaves = [*scorer.parameters(), v]
    log_p = F.log_softmax(scorer.score(q, k)[0], -1)
    losses = ((v - 1) ** 2).sum(-1)
    exact = minidl.autograd.grad((log_p.exp() * losses).sum(), leaves, retain_graph=True)
    outcomes = []
    for s in range(3):
        one = losses[s] + (losses[s].detach() - baseline) * log_p[s]
        outcomes.append([g.numpy() for g in minidl.autograd.grad(one, leaves, retain_graph=True)])
    p = log_p.exp().detach().numpy()

    n = 20000
    layer = nn.StochasticAttention(scorer)
    layer.baseline.fill_(baseline)
    y, _ = layer(q.expand(n, 1, 2), k, v)
    loss = ((y - 1) ** 2).sum((1, 2))
    (loss.mean() + layer.reinforce(loss)).backward()
    for i, (leaf, e) in enumerate(zip(leaves, exact)):
        mean = sum(p[s] * outcomes[s][i] for s in range(3))
        np.testing.assert_allclose(mean, e.numpy(), rtol=0, atol=1e-12)  # the estimator is unbiased on paper
        variance = sum(p[s] * (outcomes[s][i] - mean) ** 2 for s in range(3))
        bound = 5 * np.sqrt(variance / n) + 1e-12
        assert (np.abs(leaf.grad.numpy() - e.numpy()) <= bound).all()
        assert (bound < np.abs(e.numpy()).max()).all()  # tight enough to tell the gradient from nothing


def test_the_baseline_follows_the_loss_and_entropy_is_added():
    layer = nn.StochasticAttention(nn.DotProductAttention(), decay=0.75)
    q = minidl.tensor(RNG.standard_normal((5, 3, 2)), requires_grad=True)
    k = minidl.tensor(RNG.standard_normal((5, 4, 2)))
    for expected in (0.5, 0.875):
        layer(q, k)
        log_p = F.log_softmax(q @ k.mT, -1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        close(layer.entropy, entropy)
        chosen, before = layer.log_prob, layer.baseline.item()
        value = layer.reinforce(minidl.full((5, 3), 2.0, dtype=minidl.float64), entropy_weight=0.5)
        assert layer.baseline.item() == expected
        close(value, (2.0 - before) * chosen.mean() - 0.5 * entropy.mean())
    assert list(layer.state_dict()) == ["baseline"]


def test_gumbel_softmax_is_its_formula():
    """The same noise put into torch; hard values are torch's but for torch's last bit, gradients are torch's."""
    t, m = pair(6, 5)
    for tau, hard, dim in ((1.0, False, -1), (0.5, True, -1), (2.0, True, 0)):
        state = minidl.random.get_state()
        y = F.gumbel_softmax(m, tau, hard, dim=dim)
        minidl.random.set_state(state)
        noise = torch.tensor(-np.log(minidl.random.exponential((6, 5), dtype=np.float64)))
        soft = ((t + noise) / tau).softmax(dim)
        exact = soft
        if hard:
            index = soft.argmax(dim, keepdim=True)
            exact = torch.zeros_like(soft).scatter_(dim, index, 1.0) - soft.detach() + soft
        close(y, exact, 1e-13)
        if hard:
            assert ((y.detach().numpy() == 0) | (y.detach().numpy() == 1)).all()
        seed = RNG.standard_normal((6, 5))
        m.grad = t.grad = None
        y.backward(minidl.tensor(seed)), exact.backward(torch.tensor(seed))
        close(m.grad, t.grad, 1e-13)
    assert F.gumbel_softmax(minidl.zeros(3).half()).dtype == minidl.float16
    with pytest.raises(ValueError, match="tau must be greater than 0"):
        F.gumbel_softmax(m, tau=0)


def test_gumbel_attention_has_the_gradient_of_the_soft_choice():
    q, k = (minidl.tensor(RNG.standard_normal((n, 3)), requires_grad=True) for n in (4, 5))
    layer = nn.GumbelAttention(nn.DotProductAttention(), tau=0.7)
    state = minidl.random.get_state()
    y, w = layer(q, k)
    minidl.random.set_state(state)
    soft = F.gumbel_softmax(q @ k.mT, 0.7)
    seed = minidl.tensor(RNG.standard_normal((4, 3)))
    ours = minidl.autograd.grad(y, [q, k], seed)
    # y = w k: the part through k is w's, the part through the weights is the soft ones'.
    dw = seed @ k.detach().mT
    through = minidl.autograd.grad(soft, [q, k], dw)
    close(ours[0], through[0])
    close(ours[1], through[1] + w.detach().mT @ seed)


def test_top_k_is_the_softmax_of_the_best():
    t, m = pair(3, 6)
    layer = nn.TopKAttention(lambda q, k: q, k=2)
    y, w = layer(m, minidl.eye(6, dtype=minidl.float64))
    kept = torch.zeros(3, 6, dtype=torch.bool).scatter_(1, t.topk(2, 1).indices, True)
    exact = t.masked_fill(~kept, -math.inf).softmax(-1)
    close(y, exact), close(w, exact)
    seed = RNG.standard_normal((3, 6))
    y.backward(minidl.tensor(seed)), exact.backward(torch.tensor(seed))
    close(m.grad, t.grad)
    m.grad = t.grad = None
    y, w = nn.TopKAttention(lambda q, k: q, 2, straight_through=True)(m, minidl.eye(6, dtype=minidl.float64))
    close(w, exact)
    y.backward(minidl.tensor(seed)), t.softmax(-1).backward(torch.tensor(seed))
    close(m.grad, t.grad)


@pytest.mark.parametrize("kind", ["stochastic", "gumbel"])
def test_hard_attention_learns_where_to_look(kind):
    """The value asked for lies at the place whose key is the query: chance is one in four."""
    scorer = nn.AdditiveAttention(4, 4, 32)
    layer = nn.StochasticAttention(scorer) if kind == "stochastic" else nn.GumbelAttention(scorer)
    optimizer = minidl.optim.Adam(layer.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    keys = minidl.eye(4)
    for _ in range(300):
        place = rng.integers(0, 4, 128)
        values = rng.choice([-1.0, 1.0], (128, 4, 1)).astype(np.float32)
        q = minidl.tensor(np.eye(4, dtype=np.float32)[place][:, None])
        y, _ = layer(q, keys.expand(128, 4, 4), minidl.tensor(values))
        loss = ((y - minidl.tensor(values[np.arange(128), place])[:, None]) ** 2).sum((1, 2))
        total = loss.mean() + (layer.reinforce(loss) if kind == "stochastic" else 0.0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    _, w = layer.eval()(keys.unsqueeze(1), keys.expand(4, 4, 4))
    np.testing.assert_array_equal(w.numpy()[:, 0], np.eye(4))


def test_errors_and_reprs():
    dot = nn.DotProductAttention()
    q, k = minidl.zeros(2, 4, 3), minidl.zeros(2, 5, 3)
    stochastic = nn.StochasticAttention(dot)
    stochastic(q, k)
    for error, match, call in [
        (RuntimeError, r"query \(2, 4, 3\) and key \(2, 5, 4\)", lambda: dot(q, minidl.zeros(2, 5, 4))),
        (RuntimeError, "as many places", lambda: dot(q, k, minidl.zeros(2, 4, 3))),
        (TypeError, "must be bool", lambda: dot(q, k, mask=minidl.ones(4, 5))),
        (ValueError, "decay", lambda: nn.StochasticAttention(dot, decay=2)),
        (ValueError, "tau", lambda: nn.GumbelAttention(dot, tau=0)),
        (ValueError, "at least 1", lambda: nn.TopKAttention(dot, 0)),
        (RuntimeError, r"shape \(3,\), expected \(2,\) or \(2, 4\)", lambda: stochastic.reinforce(minidl.zeros(3))),
        (RuntimeError, "in training first", lambda: nn.StochasticAttention(dot).reinforce(minidl.zeros(2))),
    ]:
        with pytest.raises(error, match=match):
            call()
    assert nn.BahdanauAttention is nn.AdditiveAttention
    assert "tau=0.5" in repr(nn.GumbelAttention(dot, tau=0.5))
    assert "k=2, straight_through=True" in repr(nn.TopKAttention(dot, 2, straight_through=True))
