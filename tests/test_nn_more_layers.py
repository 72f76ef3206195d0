"""Activations, resampling, instance normalisation and margin losses as layers, against torch's of the same name.

Tolerance: single operations and sums of at most 20 terms of size 1, in float64: 1e-12. torch rounds two constants to
float32 even there (1/6 in the gradient of Hardsigmoid, 1/alpha in CELU): those two are compared with their formulas.
"""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn


def case(name, *args, shape=(2, 4, 6), **kwargs):
    return pytest.param(name, args, kwargs, shape, id=f"{name}{args or ''}{kwargs or ''}")


CASES = [
    case("ELU", 0.7), case("CELU", 0.7), case("SELU"), case("Mish"), case("Hardswish"),
    case("Hardsigmoid"), case("Hardtanh", -0.5, 0.7), case("Hardshrink"), case("Softshrink", 0.3),
    case("Threshold", 0.2, -1.0), case("PReLU"), case("PReLU", 4, 0.1), case("LogSigmoid"), case("Softsign"),
    case("Tanhshrink"), case("Softmin", 1), case("GLU"), case("GLU", 1),
    case("Upsample", scale_factor=2), case("Upsample", size=5, mode="linear", align_corners=True),
    case("Upsample", scale_factor=(2, 1.5), mode="bilinear", shape=(2, 3, 4, 5)),
    case("PixelShuffle", 2, shape=(2, 8, 3, 2)), case("PixelUnshuffle", 2, shape=(2, 3, 4, 6)),
    case("ChannelShuffle", 2, shape=(2, 4, 3, 3)), case("AdaptiveMaxPool1d", 3), case("AdaptiveMaxPool1d", 4, True),
    case("AdaptiveMaxPool2d", (2, None), shape=(2, 3, 5, 4)),
    case("ConvTranspose1d", 4, 3, 3, 2, 1, 1), case("ConvTranspose1d", 4, 6, 2, groups=2, bias=False, dilation=2),
    case("InstanceNorm1d", 4), case("InstanceNorm1d", 4, affine=True, shape=(4, 6)),
    case("InstanceNorm2d", 3, 1e-3, 0.3, True, True, shape=(2, 3, 4, 5)), case("InstanceNorm2d", 3, shape=(3, 4, 5)),
]  # fmt: skip


FORMULAS = {
    "Hardsigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "CELU": lambda x: torch.where(x > 0, x, 0.7 * torch.expm1(x / 0.7)),
}


def close(ours, theirs):
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert a.dtype == t.dtype
    np.testing.assert_allclose(a, t, rtol=0, atol=1e-12 * max(1, np.abs(t).max()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), CASES)
def test_layer_equals_torch(name, args, kwargs, shape, training):
    torch.manual_seed(2)
    theirs, ours = (getattr(n, name)(*args, **kwargs) for n in (torch.nn, nn))
    assert repr(ours) == repr(theirs)
    theirs.double().train(training), ours.double().train(training)
    if name == "PReLU":
        close(ours.weight, theirs.weight.detach().float().double())
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    a = np.random.default_rng(1).standard_normal(shape)
    t, m = torch.tensor(a.copy(), requires_grad=True), minidl.tensor(a, requires_grad=True)
    for _ in range(2):
        # torch may not write into a leaf; minidl never writes into its input
        t_y, m_y = FORMULAS.get(name, theirs)(t * 1), ours(m)
    if isinstance(t_y, tuple):
        assert m_y[1].tolist() == t_y[1].tolist()
        t_y, m_y = t_y[0], m_y[0]
    close(m_y, t_y)
    dy = np.random.default_rng(2).standard_normal(tuple(t_y.shape))
    t_y.backward(torch.tensor(dy)), m_y.backward(minidl.tensor(dy))
    close(m.grad, t.grad)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        close(p.grad, q.grad)
    for p, q in zip(ours.buffers(), theirs.buffers()):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-12)


LOSSES = [
    ("HingeEmbeddingLoss", {}, 1), ("HingeEmbeddingLoss", {"margin": 0.3}, 1), ("SoftMarginLoss", {}, 1),
    ("MarginRankingLoss", {}, 2), ("MarginRankingLoss", {"margin": 0.4}, 2),
    ("CosineEmbeddingLoss", {"margin": 0.2}, 2),
    ("TripletMarginLoss", {}, 3), ("TripletMarginLoss", {"margin": 2.0, "p": 1.0, "swap": True}, 3),
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "kwargs", "inputs"), LOSSES)
def test_loss_equals_torch(name, kwargs, inputs, reduction):
    rng = np.random.default_rng(4)
    shape = (6,) if name == "MarginRankingLoss" else (6, 3)
    arrays = [rng.standard_normal(shape) for _ in range(inputs)]
    sign = rng.choice([-1.0, 1.0], shape if name in ("HingeEmbeddingLoss", "SoftMarginLoss") else (6,))
    grads, values = [], []
    for n, tensor in ((torch.nn, torch.tensor), (nn, minidl.tensor)):
        xs = [tensor(a).requires_grad_() for a in arrays]
        y = getattr(n, name)(**kwargs, reduction=reduction)(*xs, *([] if inputs == 3 else [tensor(sign)]))
        y.sum().backward()
        values.append(y), grads.append([x.grad for x in xs])
    close(values[1], values[0])
    for ours, theirs in zip(grads[1], grads[0]):
        close(ours, theirs)


def test_sizes_and_errors():
    layer = nn.ConvTranspose1d(2, 3, 3, stride=2)
    assert tuple(layer(minidl.zeros(1, 2, 5), output_size=12).shape) == (1, 3, 12)
    assert tuple(layer(minidl.zeros(1, 2, 5), output_size=(1, 3, 11)).shape) == (1, 3, 11)
    prelu = nn.PReLU(2)
    prelu.weight.data.fill_(3.0)
    prelu.reset_parameters()
    assert prelu.weight.tolist() == [0.25, 0.25]
    for error, match, call in [
        (ValueError, "can only become 11 .. 12", lambda: layer(minidl.zeros(1, 2, 5), output_size=13)),
        (ValueError, "padding as numbers", lambda: nn.ConvTranspose1d(2, 3, 3, padding="same")),
        (ValueError, "max_val", lambda: nn.Hardtanh(1.0, 0.0)),
        (ValueError, "expected 2D or 3D", lambda: nn.InstanceNorm1d(3)(minidl.zeros(3))),
        (ValueError, "num_features", lambda: nn.InstanceNorm2d(3, affine=True)(minidl.zeros(2, 4, 3, 3))),
        (ValueError, "margin", lambda: nn.TripletMarginLoss(margin=0.0)),
        (ValueError, "reduction", lambda: nn.HingeEmbeddingLoss(reduction="median")),
    ]:
        with pytest.raises(error, match=match):
            call()
