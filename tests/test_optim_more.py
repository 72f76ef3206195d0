"""Lion and Muon against their formulas, Muon against torch, averages of weights against torch, the rate finder."""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn, optim
from minidl.optim.muon import orthogonalize

RNG = np.random.default_rng(0)


def gradients(shape, steps=12):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape) + np.sin(t) for t in range(steps)]


def run(optimizer, p, grads):
    seen = []
    for g in grads:
        p.grad = minidl.tensor(g.astype(p.array.dtype))
        optimizer.step()
        seen.append(p.detach().numpy().copy())
    return seen


# -- Lion -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"lr": 0.01, "betas": (0.5, 0.8)}, {"lr": 0.01, "weight_decay": 0.3}, {"lr": 0.01, "maximize": True},
])  # fmt: skip
def test_lion_is_the_papers_algorithm(options):
    """Algorithm 2 of arXiv:2302.06675, in float64: a handful of roundings a step."""
    w = RNG.standard_normal((4, 3))
    p = nn.Parameter(w.copy())
    lr, (b1, b2), decay = options.get("lr", 1e-4), options.get("betas", (0.9, 0.99)), options.get("weight_decay", 0)
    m = np.zeros_like(w)
    grads = gradients(w.shape)
    for g, ours in zip(grads, run(optim.Lion([p], **options), p, grads)):
        g = -g if options.get("maximize") else g
        w = w - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * w)
        m = b2 * m + (1 - b2) * g
        np.testing.assert_allclose(ours, w, rtol=1e-13, atol=1e-14)


def test_lions_blocks_and_masks_and_state(monkeypatch):
    from minidl.optim import optimizer as page

    ends = []
    for block in (4, 10**6):
        monkeypatch.setattr(page, "BLOCK", block)
        p = nn.Parameter(np.ones((5, 3), np.float32))
        optimizer = optim.Lion([p], 0.01, weight_decay=0.1)
        grads = gradients((5, 3))
        run(optimizer, p, grads[:6])
        other = optim.Lion([p])
        other.load_state_dict(optimizer.state_dict())
        p.mask = np.arange(15).reshape(5, 3) % 2 == 0
        run(other, p, grads[6:])
        assert not p.detach().numpy()[~p.mask].any()
        assert p.detach().numpy()[p.mask].all()
        ends.append(p.detach().numpy().copy())
    np.testing.assert_array_equal(*ends)
    with pytest.raises(ValueError, match="beta parameter at index 1"):
        optim.Lion([p], betas=(0.9, 1))


# -- Muon -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6)])
def test_orthogonalize_acts_on_the_singular_values_alone(shape):
    """U S V^T -> U f(S / |S|) V^T with f the quintic, five times over: from the SVD, in float64."""
    x = RNG.standard_normal(shape)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    s = s / np.sqrt((s * s).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    # errors of 1e-16 grow by up to 3.4445 a step, 485 in five
    np.testing.assert_allclose(orthogonalize(x), u * s @ vt, atol=1e-12)
    assert orthogonalize(x.astype(np.float32)).dtype == np.float32
    assert orthogonalize(np.zeros((2, 3))).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("options", [
    {}, {"lr": 0.02, "momentum": 0.8, "nesterov": False}, {"lr": 0.02, "weight_decay": 0.0, "ns_steps": 3},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"}, {"lr": 0.02, "adjust_lr_fn": "original", "eps": 1e-3},
    {"lr": 0.02, "ns_coefficients": (2.0, -1.5, 0.5)},
])  # fmt: skip
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_muons_path_is_torchs_up_to_bfloat16(options, shape):
    """torch iterates in bfloat16: each element of the direction, at most about 1.2, is off by up to some 2^-8 a step.

    Five iterations of slope up to 3.4445 may leave errors of a few per cent in a direction; as measured, 0.06. The step
    is lr adjust times that, and the errors of twelve steps add up.
    """
    w = RNG.standard_normal(shape).astype(np.float32)
    p, q = nn.Parameter(w.copy()), torch.nn.Parameter(torch.tensor(w))
    ours, theirs = optim.Muon([p], **options), torch.optim.Muon([q], **options)
    assert {k: v for k, v in ours.param_groups[0].items() if k != "params"} == {
        k: v for k, v in theirs.param_groups[0].items() if k != "params"
    }
    a, b = shape
    adjust = 0.2 * max(a, b) ** 0.5 if options.get("adjust_lr_fn") == "match_rms_adamw" else max(1, a / b) ** 0.5
    step = options.get("lr", 1e-3) * adjust
    start = w
    for t, (g, mine) in enumerate(zip(gradients(shape), run(ours, p, gradients(shape))), 1):
        q.grad = torch.tensor(g.astype(np.float32))
        theirs.step()
        np.testing.assert_allclose(mine, q.detach().numpy(), rtol=0, atol=0.06 * t * step)
    assert np.abs(mine - start).max() > 2 * step  # it went somewhere, farther than one tolerance
    a, b = ours.state_dict(), theirs.state_dict()
    assert set(a["state"][0]) == set(b["state"][0])
    # the momentum is kept in float32 by both: twelve averages, each rounded once or twice
    x, y = a["state"][0]["momentum_buffer"].numpy(), b["state"][0]["momentum_buffer"].numpy()
    np.testing.assert_allclose(x, y, rtol=0, atol=24 * 6e-8 * 4)


def test_muon_in_float64_is_the_formula():
    w = RNG.standard_normal((4, 3))
    p = nn.Parameter(w.copy())
    m = np.zeros_like(w)
    grads = gradients(w.shape)
    for g, ours in zip(grads, run(optim.Muon([p], 0.02), p, grads)):
        m = 0.95 * m + 0.05 * g
        u, s, vt = np.linalg.svd(0.95 * m + 0.05 * g, full_matrices=False)
        s = s / np.sqrt((s * s).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        w = (1 - 0.02 * 0.1) * w - 0.02 * np.sqrt(4 / 3) * (u * s @ vt)
        np.testing.assert_allclose(ours, w, rtol=0, atol=1e-11)


def test_muon_honours_masks_and_refuses_vectors():
    p = nn.Parameter(np.ones((4, 3), np.float32))
    p.mask = np.arange(12).reshape(4, 3) % 3 != 0
    p.apply_mask_()
    run(optim.Muon([p], 0.1), p, gradients((4, 3), 3))
    assert not p.detach().numpy()[~p.mask].any()
    for options, message in [
        ({"adjust_lr_fn": "best"}, "best is not supported"), ({"ns_steps": 100}, "less than 100"),
        ({"ns_coefficients": (1, 2)}, "exactly 3"), ({"lr": -1}, "Invalid learning rate"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            optim.Muon([p], **options)
    with pytest.raises(ValueError, match=r"only supports 2D .* size: \(3,\)"):
        optim.Muon([p, nn.Parameter(minidl.ones(3))])


# -- averages ---------------------------------------------------------------------------------------------------------


def models():
    ours, theirs = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), None
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_averages_are_torchs(decay, use_buffers):
    """Three operations an element and step, all on numbers below 5: 12 steps of float32 within 12 * 3 * 6e-8 * 5."""
    ours, theirs = models()
    pages = optim.swa_utils, torch.optim.swa_utils
    fns = [None if decay is None else page.get_ema_avg_fn(decay) for page in pages]
    a = pages[0].AveragedModel(ours, avg_fn=fns[0], use_buffers=use_buffers)
    b = pages[1].AveragedModel(theirs, avg_fn=fns[1], use_buffers=use_buffers)
    for _ in range(12):
        for p, q in zip([*ours.parameters(), *ours.buffers()], [*theirs.parameters(), *theirs.buffers()]):
            new = np.asarray(RNG.standard_normal(p.shape) * 3).astype(p.array.dtype)
            p.array[...] = new
            q.data.copy_(torch.tensor(new))
        a.update_parameters(ours)
        b.update_parameters(theirs)
        x, y = a.state_dict(), b.state_dict()
        assert list(x) == list(y)
        if use_buffers:  # torch rounds the average of whole numbers down; here they are copied
            assert x.pop("module.1.num_batches_tracked") == ours[1].num_batches_tracked
        for k in x:
            np.testing.assert_allclose(x[k].numpy(), y[k].numpy(), rtol=0, atol=1.1e-5, err_msg=k)
    assert a.n_averaged.item() == 12
    a.eval(), b.eval()
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    if use_buffers:
        return  # the random running variances of this test are negative
    for m, t in ((a.module, b.module),):
        m[1].running_var.array[...] = 1
        t[1].running_var.fill_(1)
    np.testing.assert_allclose(a(minidl.tensor(x)).detach().numpy(), b(torch.tensor(x)).detach().numpy(), atol=1e-4)


def test_averages_keep_weights_pruned_and_refuse_what_does_not_fit():
    model = nn.Linear(3, 2)
    average = optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    model.weight.mask = np.array([[1, 0, 1], [0, 1, 1]])
    model.weight.apply_mask_()
    average.update_parameters(model)
    weight = average.module.weight.detach().numpy()
    assert not weight[~model.weight.mask].any()
    assert weight[model.weight.mask].all()
    assert average.module.weight is not model.weight
    with pytest.raises(ValueError, match="are not those of the average"):
        average.update_parameters(nn.Linear(4, 2))
    for decay in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="Invalid decay value"):
            optim.swa_utils.get_ema_avg_fn(decay)
    minidl.compress.quantize_(model)
    with pytest.raises(TypeError, match="packed"):
        average.update_parameters(model)


# -- which learning rate? ---------------------------------------------------------------------------------------------


def bowl(name="SGD"):
    model = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1))
    optimizer = getattr(optim, name)([{"params": model[0].parameters(), "lr": 0.2},
                                      {"params": model[1].parameters(), "lr": 0.1}], momentum=0.9)  # fmt: skip
    x = minidl.tensor(RNG.standard_normal((16, 4)).astype(np.float32))
    t = minidl.tensor(RNG.standard_normal((16, 1)).astype(np.float32))
    rates = []

    def step():
        optimizer.zero_grad()
        loss = ((model(x) - t) ** 2).mean()
        loss.backward()
        rates.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        return loss

    return model, optimizer, step, rates


def test_find_lr_leaves_everything_as_it_was():
    model, optimizer, step, rates = bowl()
    step()
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].numpy().copy()
    found = optim.find_lr(optimizer, step, model, 1e-4, 1e3, 50)
    for k, v in model.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), before[k])
    np.testing.assert_array_equal(optimizer.state[model[0].weight]["momentum_buffer"].numpy(), momentum)
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.1]
    assert optimizer.steps_taken == 1
    assert len(found.lrs) < 50  # it diverged and stopped
    np.testing.assert_allclose(found.lrs, 1e-4 * 1e7 ** (np.arange(len(found.lrs)) / 49), rtol=1e-12)
    np.testing.assert_allclose(np.array(rates[1:])[:, 1] * 2, found.lrs, rtol=1e-12)
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert 1e-4 < found.suggestion < found.lrs[-1]


def test_find_lr_smooths_as_said_and_may_go_in_equal_steps():
    losses = iter([4.0, 3.0, 2.0, float("nan"), 1.0])
    p = nn.Parameter(minidl.ones(1))
    found = optim.find_lr(optim.SGD([p], 0.1), lambda: next(losses), None, 1, 5, 5, "linear", beta=0.5)
    assert found.lrs == [1, 2, 3, 4]
    assert found.smoothed[:3] == pytest.approx([4, (4 / 4 + 3 / 2) / 0.75, (4 / 8 + 3 / 4 + 2 / 2) / 0.875])
    assert np.isnan(found.smoothed[3])
    assert found.suggestion == pytest.approx(6**0.5)  # from 2 to 3 it falls fastest, per log
    flat = optim.find_lr(optim.SGD([p], 0.1), lambda: 1.0)
    assert flat.suggestion is None
    assert len(flat.lrs) == 100


def test_find_lr_restores_after_an_error_too():
    p = nn.Parameter(minidl.ones(1))
    optimizer = optim.SGD([p], 0.1)

    def step():
        p.array[...] = 7
        raise KeyError("batch")

    with pytest.raises(KeyError, match="batch"):
        optim.find_lr(optimizer, step)
    assert p.item() == 1
    assert optimizer.param_groups[0]["lr"] == 0.1
    for options, message in [
        ({"start_lr": 0}, "start_lr"), ({"start_lr": 20}, "start_lr"), ({"num_iter": 1}, "num_iter"),
        ({"mode": "log"}, "'log'"), ({"beta": 1}, "beta"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            optim.find_lr(optimizer, step, **options)
