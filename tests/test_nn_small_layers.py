"""Paddings, windows, distances, density losses, small layers: against torch's of the same name, or a formula.

Tolerance: single operations and sums of at most 20 terms of size 1, in float64: 1e-12.
"""

import numpy as np
import pytest
import torch

import minidl
import minidl.nn.functional as F
from minidl import nn


def case(name, *args, inputs=((2, 3, 5),), **kwargs):
    return pytest.param(name, args, kwargs, inputs, id=f"{name}{args or ''}{kwargs or ''}")


CASES = [
    *[case(f"{kind}Pad{d}d", pad, inputs=(shape,))
      for kind in ("Zero", "Reflection", "Replication", "Circular")
      for d, pad, shape in ((1, (2, 1), (2, 3, 5)), (1, 1, (3, 5)), (2, (1, 2, 0, 1), (2, 3, 4, 5)), (2, 2, (3, 4, 5)),
                            (3, (1, 0, 2, 1, 1, 2), (2, 1, 3, 4, 3)), (3, 1, (1, 2, 3, 2)))],
    case("ConstantPad1d", (2, -1), 3.5), case("ConstantPad2d", 2, 0.5, inputs=((2, 3, 4),)),
    case("ConstantPad3d", (1, 2, 3, 0, 1, 1), -1.0, inputs=((2, 1, 2, 2, 3),)), case("ZeroPad1d", 1, inputs=((4,),)),
    case("Unfold", 2, 1, 1, 2, inputs=((2, 3, 5, 4),)), case("Unfold", (2, 3), inputs=((2, 3, 5, 4),)),
    case("Fold", (4, 5), (2, 2), inputs=((2, 8, 12),)), case("Fold", 4, 2, padding=1, stride=2, inputs=((2, 8, 9),)),
    case("PairwiseDistance", inputs=((4, 3), (4, 3))), case("PairwiseDistance", 1, 0.1, True, inputs=((4, 3), (4, 3))),
    case("CosineSimilarity", inputs=((4, 3, 2), (4, 3, 2))), case("CosineSimilarity", -1, 0.5, inputs=((4, 3), (3,))),
    case("Softmax2d", inputs=((2, 3, 4, 2),)), case("Softmax2d", inputs=((3, 4, 2),)),
    case("UpsamplingNearest2d", scale_factor=2, inputs=((2, 3, 2, 3),)),
    case("UpsamplingBilinear2d", (5, 4), inputs=((2, 3, 2, 3),)),
    case("LPPool1d", 2, 3), case("LPPool1d", 2, 3, 2, True), case("LPPool2d", 4, (2, 1), inputs=((2, 3, 4, 2),)),
    case("LocalResponseNorm", 2), case("LocalResponseNorm", 3, 0.5, 0.6, 2.0, inputs=((2, 4, 3, 2),)),
    case("Dropout1d", 0.0), case("Dropout3d", 0.0, inputs=((2, 3, 1, 2, 2),)), case("AlphaDropout", 0.0),
    case("FeatureAlphaDropout", 0.0), case("RReLU", 0.2, 0.2), case("RReLU", 0.25, 0.25),
]  # fmt: skip


def close(ours, theirs):
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert (a.dtype, a.shape) == (t.dtype, t.shape)
    np.testing.assert_allclose(a, t, rtol=0, atol=1e-12 * max(1, np.abs(t).max(initial=0)))


@pytest.mark.parametrize(("name", "args", "kwargs", "inputs"), CASES)
def test_layer_is_torchs(name, args, kwargs, inputs):
    theirs, ours = (getattr(n, name)(*args, **kwargs) for n in (torch.nn, nn))
    assert repr(ours) == repr(theirs)
    arrays = [np.random.default_rng(i).standard_normal(s) for i, s in enumerate(inputs)]
    t, m = [torch.tensor(a, requires_grad=True) for a in arrays], [minidl.tensor(a, requires_grad=True) for a in arrays]
    t_y, m_y = theirs(*[x * 1 for x in t]), ours(*m)
    close(m_y, t_y)
    dy = np.random.default_rng(9).standard_normal(tuple(t_y.shape))
    t_y.backward(torch.tensor(dy)), m_y.backward(minidl.tensor(dy))
    for a, b in zip(m, t):
        close(a.grad, b.grad)


LOSSES = [
    ("GaussianNLLLoss", {}, 2, 1), ("GaussianNLLLoss", {"full": True, "eps": 0.5}, 2, 1),
    ("PoissonNLLLoss", {}, 1, 1), ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 1e-3}, 1, 1),
    ("TripletMarginWithDistanceLoss", {}, 3, 0), ("TripletMarginWithDistanceLoss", {"margin": 3.0, "swap": True}, 3, 0),
    ("TripletMarginWithDistanceLoss", {"distance_function": lambda a, b: ((a - b) ** 2).sum(-1)}, 3, 0),
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "options", "signed", "positive"), LOSSES)
def test_loss_is_torchs(name, options, signed, positive, reduction):
    theirs, ours = (getattr(n, name)(**options, reduction=reduction) for n in (torch.nn, nn))
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((4, 3)) for _ in range(signed)] + [
        rng.uniform(0.2, 3, (4, 3)) for _ in range(positive)
    ]
    if options.get("log_input") is False:
        arrays[0] = np.abs(arrays[0]) + 0.1
    t, m = [torch.tensor(a, requires_grad=True) for a in arrays], [minidl.tensor(a, requires_grad=True) for a in arrays]
    if name == "PoissonNLLLoss":
        t[1], m[1] = t[1].detach(), m[1].detach()
    t_y, m_y = theirs(*t), ours(*m)
    close(m_y, t_y)
    t_y.sum().backward(), m_y.sum().backward()
    for a, b in zip(m, t):
        if b.grad is not None:
            close(a.grad, b.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_hinges_over_classes_are_torchs(reduction):
    rng = np.random.default_rng(3)
    a, weight = rng.standard_normal((4, 3)), rng.uniform(0.5, 2, 3)
    classes, lists = np.array([0, 2, 1, 1]), np.array([[0, 2, -1], [1, -1, 0], [-1, 0, 0], [2, 1, 0]])
    for name, options, target in (
        ("MultiMarginLoss", {}, classes), ("MultiMarginLoss", {"p": 2, "margin": 0.7, "weight": weight}, classes),
        ("MultiLabelMarginLoss", {}, lists), ("MultiLabelSoftMarginLoss", {}, (lists > 0).astype(float)),
        ("MultiLabelSoftMarginLoss", {"weight": weight}, (lists > 0).astype(float)),
    ):  # fmt: skip
        results = []
        for n, lib in ((nn, minidl), (torch.nn, torch)):
            given = {k: lib.tensor(v) if k == "weight" else v for k, v in options.items()}
            layer, x = getattr(n, name)(**given, reduction=reduction), lib.tensor(a, requires_grad=True)
            y = layer(x, lib.tensor(target))
            y.sum().backward()
            results.append((y, x.grad, list(layer.state_dict()), repr(layer)))
        close(results[0][0], results[1][0])
        close(results[0][1], results[1][1])
        assert results[0][2:] == results[1][2:]
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        f, x = n.functional, lib.ones(2, 3)
        for error, bad in (
            (ValueError, lambda: n.MultiMarginLoss(p=3)),
            (ValueError, lambda: f.multi_margin_loss(x, lib.tensor([0, 1]), 3)),
            (ValueError, lambda: n.MultiMarginLoss(weight=lib.ones(1, 3))),
            (RuntimeError, lambda: f.multi_margin_loss(x, lib.tensor([0]))),
            (RuntimeError, lambda: f.multi_margin_loss(x, lib.tensor([0, 3]))),
            (RuntimeError, lambda: f.multi_margin_loss(x, lib.tensor([0, 1]), weight=lib.ones(2))),
            (RuntimeError, lambda: f.multilabel_margin_loss(x, lib.tensor([[0, 1]]))),
            (RuntimeError, lambda: f.multilabel_margin_loss(x, lib.tensor([[0, 1, 2], [3, 0, 0]]))),
            (ValueError, lambda: f.local_response_norm(x, 2)),
        ):  # fmt: skip
            with pytest.raises(error):
                bad()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_focal_and_dice_are_their_functions(reduction):
    """Which tests/ops compare with the formulas."""
    rng = np.random.default_rng(0)
    x, y = minidl.tensor(rng.standard_normal((4, 3))), minidl.tensor((rng.random((4, 3)) < 0.5).astype(float))
    p = x.sigmoid()
    close(nn.FocalLoss(0.6, 1.5, reduction=reduction)(x, y), F.sigmoid_focal_loss(x, y, 0.6, 1.5, reduction))
    close(nn.FocalLoss(reduction=reduction)(x, y), F.sigmoid_focal_loss(x, y, reduction=reduction))
    close(nn.DiceLoss(0.1, reduction=reduction)(p, y), F.dice_loss(p, y, 0.1, reduction))
    assert nn.FocalLoss()(x, y).shape == nn.DiceLoss()(p, y).shape == ()
    assert "alpha=0.25" in repr(nn.FocalLoss())
    with pytest.raises(ValueError, match="not a valid value for reduction"):
        nn.DiceLoss(reduction="average")


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("options", [
    {}, {"stride": 2, "padding": 1, "bias": False}, {"depth_multiplier": 2, "padding": "same"},
    {"dilation": 2, "padding": 1, "padding_mode": "reflect"},
])  # fmt: skip
def test_separable_convolution_is_two_of_torchs(dims, options):
    conv = getattr(torch.nn, f"Conv{dims}d")
    ours = getattr(nn, f"SeparableConv{dims}d")(3, 4, 3, **options, dtype=minidl.float64)
    options = dict(options)
    inner, bias = 3 * options.pop("depth_multiplier", 1), options.pop("bias", True)
    theirs = torch.nn.Sequential(
        conv(3, inner, 3, groups=3, bias=False, **options), conv(inner, 4, 1, bias=bias)
    ).double()
    names = {"depthwise": "0", "pointwise": "1"}
    state = {k: theirs.state_dict()[names[k.partition(".")[0]] + "." + k.partition(".")[2]] for k in ours.state_dict()}
    assert len(state) == len(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in state.items()})
    a = np.random.default_rng(0).standard_normal((2, 3, *(7, 6)[:dims]))
    m, t = minidl.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    y, u = ours(m), theirs(t)
    close(y, u)
    (y * y).sum().backward(), (u * u).sum().backward()
    close(m.grad, t.grad)
    close(ours.depthwise.weight.grad, theirs[0].weight.grad)


def test_global_pools_reshape_and_swiglu():
    a = np.random.default_rng(0).standard_normal((2, 6, 3, 5))
    x = minidl.tensor(a, requires_grad=True)
    for layer, f in ((nn.GlobalAvgPool, np.mean), (nn.GlobalMaxPool, np.max)):
        np.testing.assert_allclose(layer()(x).detach().numpy(), f(a, (2, 3)), rtol=1e-14)
        np.testing.assert_allclose(layer(True)(x).detach().numpy(), f(a, (2, 3), keepdims=True), rtol=1e-14)
        with pytest.raises(RuntimeError, match=r"takes \(N, C, ...\)"):
            layer()(minidl.ones(2, 3))
    assert repr(nn.GlobalAvgPool(True)) == "GlobalAvgPool(keepdim=True)"
    np.testing.assert_array_equal(nn.Reshape(3, -1)(x).detach().numpy(), a.reshape(2, 3, 30))
    np.testing.assert_array_equal(nn.Reshape((90,))(x).detach().numpy(), a.reshape(2, 90))
    assert repr(nn.Reshape(3, -1)) == "Reshape(3, -1)"
    u, v = a[:, :3], a[:, 3:]
    np.testing.assert_allclose(nn.SwiGLU(1)(x).detach().numpy(), u / (1 + np.exp(-u)) * v, rtol=1e-12, atol=1e-15)
    assert repr(nn.SwiGLU()) == "SwiGLU(dim=-1)"


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12])
def test_alibi_is_the_authors_bias(heads):
    def slopes(n):  # get_slopes of their fairseq/models/transformer.py
        if np.log2(n).is_integer():
            start = 2 ** (-(2 ** -(np.log2(n) - 3)))
            return [start * start**i for i in range(n)]
        closest = 2 ** int(np.floor(np.log2(n)))
        return slopes(closest) + slopes(2 * closest)[0::2][: n - closest]

    for causal in (False, True):
        bias = nn.ALiBi(heads, causal)(3, 5, np.float64).numpy()
        assert bias.shape == (heads, 3, 5)
        for h, m in enumerate(slopes(heads)):
            for i in range(3):
                for j in range(5):
                    gap = j - (i + 2)
                    want = -np.inf if causal and gap > 0 else -m * abs(gap)
                    assert bias[h, i, j] == pytest.approx(want, rel=1e-14)
    q = minidl.randn(2, heads, 5, 4)
    near = F.scaled_dot_product_attention(q, q, q, nn.ALiBi(heads, True)(5))
    first = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    np.testing.assert_allclose(near[:, :, 0].numpy(), first[:, :, 0].numpy(), atol=1e-6)  # it sees itself alone
    assert np.abs((near - first).numpy()).max() > 1e-3
    with pytest.raises(ValueError, match="at least one head"):
        nn.ALiBi(0)


def test_parameter_dict_is_torchs():
    made = []
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        d = n.ParameterDict({"b": lib.ones(2), "a": n.Parameter(lib.zeros(3))})
        d["c"] = n.Parameter(lib.ones(1))
        d.update([("d", lib.ones(1, 2)), ["a", n.Parameter(lib.ones(4))]])
        e = d | n.ParameterDict({"z": lib.ones(1)})
        e |= n.ParameterDict({"b": lib.zeros(5)})
        f = n.ParameterDict({"q": lib.ones(1)}) | d
        log = [list(d), len(d), "a" in d, "q" in d, list(reversed(d)), [k for k, _ in d.items()]]
        log += [[tuple(v.shape) for v in d.values()], d.get("q"), tuple(d.get("a").shape), list(e), list(f)]
        log += [tuple(e["b"].shape), list(d.copy()), list(d.keys()), list(d.state_dict())]
        log += [[k for k, _ in d.named_parameters()]]
        assert d.copy()["a"] is d["a"]
        log += [tuple(d.pop("b").shape), tuple(d.setdefault("w", lib.ones(7)).shape), tuple(d.setdefault("a").shape)]
        del d["c"]
        log += [d.popitem()[0], list(d), list(d.fromkeys(["i", "j"], lib.ones(2)))]
        d.clear()
        log += [len(d)]
        for error, bad in ((TypeError, 3), (TypeError, [3]), (ValueError, [("a", 1, 2)])):
            with pytest.raises(error):
                d.update(bad)
        with pytest.raises(TypeError):
            d[3] = lib.ones(1)
        with pytest.raises(AttributeError):
            d["missing"]
        made.append(log)
    assert made[0] == made[1]
    with pytest.raises(KeyError):
        nn.ParameterDict()["missing"]
    with pytest.raises(RuntimeError, match="should not be called"):
        nn.ParameterDict()(1)
    assert "(a): Parameter of" in repr(nn.ParameterDict({"a": minidl.ones(2)}))
    with pytest.raises(TypeError, match="holds Tensors"):
        nn.ParameterDict({"a": 3})


def test_what_is_refused():
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        for make in (
            lambda: n.ReflectionPad2d(1)(lib.ones(2, 3)), lambda: n.Softmax2d()(lib.ones(2, 3)),
            lambda: n.ReplicationPad1d(1)(lib.ones(1, 2, 3, 4)), lambda: n.TripletMarginWithDistanceLoss(margin=0),
            lambda: n.ReflectionPad1d(3)(lib.ones(1, 2, 3)),
        ):  # fmt: skip
            with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
                make()


def test_a_sequential_times_a_number_repeats_its_modules():
    """The very same ones, as torch: weights are shared."""
    for t in (minidl, torch):
        model = t.nn.Sequential(t.nn.Linear(2, 2), t.nn.ReLU())
        assert len(model * 2) == len(2 * model) == 4
        assert (model * 2)[2] is model[0]
        assert len(list((model * 3).parameters())) == 2
        first = model[0]
        model *= 2
        assert len(model) == 4
        assert model[2] is first
        with pytest.raises(ValueError):
            model * 0
        with pytest.raises(TypeError):
            model * 1.5
