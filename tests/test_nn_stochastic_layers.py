"""Layers that draw: how often they drop, what they leave, mean and variance, gradients, evaluation, the random stream.

With N independent draws a frequency p is off by less than 5 sqrt(p (1 - p) / N), a mean by 5 sigma / sqrt(N), but for
once in 1.7 million; seeds are fixed, so a pass is a pass for ever.
"""

import numpy as np
import pytest
import torch

import minidl
import minidl.nn.functional as F
from minidl import nn

LAYERS = [
    nn.DropPath(0.3), nn.StochasticDepth(0.3, "batch"), nn.GaussianNoise(0.5), nn.AlphaDropout(0.3),
    nn.FeatureAlphaDropout(0.3), nn.Dropout1d(0.3), nn.RReLU(),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_training_draws_and_evaluation_does_not(layer, dtype):
    x = minidl.tensor(np.random.default_rng(0).standard_normal((6, 5, 4)).astype(dtype))
    before = x.numpy().copy()
    results = []
    for seed in (1, 1, 2, 3, 4, 5, 6):
        minidl.random.manual_seed(seed)
        results.append(layer.train()(x).numpy())
        assert results[-1].dtype == dtype
        assert results[-1].shape == x.shape
    np.testing.assert_array_equal(results[0], results[1])
    assert not all(np.array_equal(results[0], y) for y in results)
    np.testing.assert_array_equal(x.numpy(), before)
    state = str(minidl.random.get_state())
    y = layer.eval()(x)
    assert str(minidl.random.get_state()) == state
    if isinstance(layer, nn.RReLU):
        close = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-14}[dtype]
        np.testing.assert_allclose(
            y.numpy(), np.where(before > 0, before, before * dtype_of(dtype, 11 / 48)), rtol=close
        )
    else:
        assert y is x


def dtype_of(dtype, value):
    return np.dtype(dtype).type(value)


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_paths_drop_as_often_as_asked(p):
    minidl.random.manual_seed(0)
    n = 4000
    x = minidl.tensor(np.full((n, 3, 2), 2.0), requires_grad=True)
    y = nn.DropPath(p)(x)
    rows = y.detach().numpy().reshape(n, 6)
    dropped = (rows == 0).all(1)
    assert abs(dropped.mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)
    if p < 1:
        np.testing.assert_allclose(rows[~dropped], 2 / (1 - p), rtol=1e-15)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy() / 2)
    layer = nn.StochasticDepth(p, "batch")
    whole = np.array([layer(minidl.ones(3, 2)).numpy() for _ in range(400)])
    assert set(np.unique(whole)) <= {np.float32(0), np.float32(1 / (1 - p)) if p < 1 else 0}
    assert all(len(np.unique(w)) == 1 for w in whole)
    assert abs((whole[:, 0, 0] == 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / 400)


def test_noise_is_normal_with_the_deviation_asked_for():
    minidl.random.manual_seed(0)
    x = minidl.tensor(np.ones(40000), requires_grad=True)
    y = nn.GaussianNoise(0.5)(x)
    noise = y.detach().numpy() - 1
    assert abs(noise.mean()) <= 5 * 0.5 / 200
    assert abs(noise.std() - 0.5) <= 5 * 0.5 / np.sqrt(2 * 40000)
    assert abs((noise**4).mean() / 0.5**4 - 3) <= 5 * np.sqrt(96 / 40000)  # kurtosis 3; the variance of z^4 is 96
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 1)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_alpha_dropout_keeps_mean_and_variance_and_takes_torchs_values(p):
    minidl.random.manual_seed(0)
    n = 100_000
    x = np.random.default_rng(1).standard_normal(n)
    y = F.alpha_dropout(minidl.tensor(x), p, True).numpy()
    assert abs(y.mean() - x.mean()) <= 5 * 1.8 / np.sqrt(n)
    assert abs(y.var() - x.var()) <= 5 * 6 / np.sqrt(n)  # the fourth moment of what is drawn is at most 36
    torch.manual_seed(0)
    ours = minidl.tensor(np.ones((40, 50)), requires_grad=True)
    theirs = torch.ones(40, 50, dtype=torch.float64, requires_grad=True)
    a, b = F.alpha_dropout(ours, p, True), torch.nn.functional.alpha_dropout(theirs, p, True)
    a.sum().backward(), b.sum().backward()
    for u, v in ((a.detach(), b.detach()), (ours.grad, theirs.grad)):
        values, counts = np.unique(u.numpy(), return_counts=True)
        np.testing.assert_allclose(values, np.unique(v.numpy()), rtol=1e-12)
        assert abs(counts[0] / 2000 - p) <= 5 * np.sqrt(p * (1 - p) / 2000)
    assert not F.alpha_dropout(minidl.ones(5), 1.0, True).numpy().any()


@pytest.mark.parametrize(("f", "shape"), [
    (F.dropout1d, (50, 40, 6)), (F.dropout1d, (2000, 6)), (F.dropout3d, (50, 40, 2, 3, 2)),
    (F.dropout3d, (2000, 2, 3, 2)),
    (lambda x, p: F.feature_alpha_dropout(x, p, True), (50, 40, 3)),
])  # fmt: skip
def test_whole_channels_are_dropped(f, shape):
    minidl.random.manual_seed(0)
    x = minidl.tensor(np.ones(shape), requires_grad=True)
    y = f(x, 0.3)
    channels = y.detach().numpy().reshape(2000, -1)
    assert (channels == channels[:, :1]).all()
    values, counts = np.unique(channels[:, 0], return_counts=True)
    assert len(values) == 2
    assert abs(counts[0] / 2000 - 0.3) <= 5 * np.sqrt(0.21 / 2000)
    y.sum().backward()
    dropped = (channels == values[0]).reshape(shape)
    assert not x.grad.numpy()[dropped].any()
    assert (x.grad.numpy()[~dropped] > 0).all()


def test_random_slopes_are_uniform_and_are_the_gradient():
    minidl.random.manual_seed(0)
    x = minidl.tensor(np.repeat([-1.0, 2.0], 20000), requires_grad=True)
    y = nn.RReLU(0.1, 0.5)(x)
    y.sum().backward()
    slopes = x.grad.numpy()
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy() * slopes)
    np.testing.assert_array_equal(slopes[20000:], 1)
    assert slopes[:20000].min() >= 0.1
    assert slopes[:20000].max() < 0.5
    assert abs(slopes[:20000].mean() - 0.3) <= 5 * 0.4 / np.sqrt(12 * 20000)


def test_what_is_refused():
    x = minidl.ones(3, 2)
    for make in (
        lambda: nn.DropPath(1.5), lambda: nn.StochasticDepth(-0.1, "row"), lambda: nn.StochasticDepth(0.1, "column"),
        lambda: nn.GaussianNoise(-1), lambda: nn.AlphaDropout(2), lambda: F.stochastic_depth(x, 2, "row"),
        lambda: F.stochastic_depth(x, 0.2, "column"), lambda: F.gaussian_noise(x, -1), lambda: F.alpha_dropout(x, -1),
        lambda: F.dropout1d(x, 1.1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="has to be|negative"):
            make()
    with pytest.raises(RuntimeError, match="Expected 2D or 3D input, but received a 1D input"):
        F.dropout1d(minidl.ones(2))
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        F.feature_alpha_dropout(minidl.ones(2), 0.5, True)
    with pytest.raises(RuntimeError, match="must be even"):
        F.swiglu(minidl.ones(3))
