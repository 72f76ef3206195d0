"""Every layer against torch's of the same name: keys, shapes, outputs, gradients, buffers and back, in both precisions.

Tolerance. Both engines run in the same precision on the same numbers; the truth is torch in float64 on those numbers.
In float32 minidl may be off by twice what torch's own float32 is off (largest error of the tensor), plus 16 eps of the
tensor's largest element, for cases where torch happens to round luckily. In float64 the truth is torch itself, and both
round: sums here have fewer than 1,000 terms of the size of the result, so 1e-12 of the largest element is above
2 * 1000 * eps = 4.4e-13, and below any mistake.
"""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn

EPS32 = np.finfo(np.float32).eps


def case(name, make, *shapes, call=None, ints=None, **kw):
    return pytest.param(make, shapes, call, ints, kw, id=name)


CASES = [
    case("Linear", lambda n: n.Linear(5, 3), (4, 5)),
    case("Linear-no-bias", lambda n: n.Linear(5, 3, bias=False), (2, 3, 5)),
    case("Linear-vector", lambda n: n.Linear(5, 3), (5,)),
    case("Bilinear", lambda n: n.Bilinear(4, 5, 3), (2, 6, 4), (2, 6, 5)),
    case("Bilinear-no-bias", lambda n: n.Bilinear(4, 5, 3, bias=False), (6, 4), (6, 5)),
    case("Identity", lambda n: n.Identity(3, any=4), (2, 3)),
    case("Flatten", lambda n: n.Flatten(), (2, 3, 4)),
    case("Flatten-dims", lambda n: n.Flatten(0, 1), (2, 3, 4)),
    case("Unflatten", lambda n: n.Unflatten(1, (2, 3)), (4, 6)),
    case("Conv1d", lambda n: n.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    case("Conv1d-circular", lambda n: n.Conv1d(3, 4, 3, padding=2, dilation=2, padding_mode="circular"), (2, 3, 9)),
    case("Conv1d-same", lambda n: n.Conv1d(3, 4, 4, padding="same"), (3, 9)),
    case("Conv2d", lambda n: n.Conv2d(3, 4, 3), (2, 3, 7, 6)),
    case("Conv2d-options", lambda n: n.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False), (2, 4, 7, 6)),
    case("Conv2d-same", lambda n: n.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (2, 3, 7, 6)),
    case("Conv2d-valid", lambda n: n.Conv2d(3, 4, 3, padding="valid"), (3, 7, 6)),
    case("Conv2d-depthwise", lambda n: n.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 5)),
    case("Conv2d-reflect", lambda n: n.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"), (2, 2, 5, 6)),
    case("Conv2d-replicate", lambda n: n.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 2, 5, 6)),
    case("Conv2d-same-reflect", lambda n: n.Conv2d(2, 3, (4, 3), padding="same", padding_mode="reflect"), (2, 2, 5, 6)),
    case("ConvTranspose2d", lambda n: n.ConvTranspose2d(3, 4, 3, 2, 1, 1), (2, 3, 4, 5)),
    case("ConvTranspose2d-options", lambda n: n.ConvTranspose2d(4, 6, (2, 3), (2, 1), 0, 0, 2, False, 2), (2, 4, 4, 5)),
    case("ConvTranspose2d-size", lambda n: n.ConvTranspose2d(3, 4, 3, 2, 1), (2, 3, 4, 5),
         call=lambda m, x: m(x, output_size=(8, 9))),
    case("Embedding", lambda n: n.Embedding(7, 4), ints=((3, 5), 7)),
    case("Embedding-padding", lambda n: n.Embedding(7, 4, padding_idx=-2), ints=((3, 5), 7)),
    case("BatchNorm1d", lambda n: n.BatchNorm1d(3), (5, 3)),
    case("BatchNorm1d-L", lambda n: n.BatchNorm1d(3, eps=1e-3, momentum=0.3), (5, 3, 4)),
    case("BatchNorm2d", lambda n: n.BatchNorm2d(3), (4, 3, 5, 2)),
    case("BatchNorm2d-mean", lambda n: n.BatchNorm2d(3, momentum=None), (4, 3, 5, 2)),
    case("BatchNorm2d-plain", lambda n: n.BatchNorm2d(3, affine=False), (4, 3, 5, 2)),
    case("BatchNorm2d-no-bias", lambda n: n.BatchNorm2d(3, bias=False), (4, 3, 5, 2)),
    case("BatchNorm2d-no-stats", lambda n: n.BatchNorm2d(3, track_running_stats=False), (4, 3, 5, 2)),
    case("LayerNorm", lambda n: n.LayerNorm(6), (4, 3, 6)),
    case("LayerNorm-2", lambda n: n.LayerNorm((3, 6), eps=1e-3), (4, 3, 6)),
    case("LayerNorm-no-bias", lambda n: n.LayerNorm(6, bias=False), (4, 6)),
    case("LayerNorm-plain", lambda n: n.LayerNorm(6, elementwise_affine=False), (4, 6)),
    case("RMSNorm", lambda n: n.RMSNorm(6), (4, 3, 6)),
    case("RMSNorm-plain", lambda n: n.RMSNorm([3, 6], eps=1e-3, elementwise_affine=False), (4, 3, 6)),
    case("GroupNorm", lambda n: n.GroupNorm(2, 6), (3, 6, 4, 2)),
    case("GroupNorm-plain", lambda n: n.GroupNorm(3, 6, affine=False), (3, 6, 4)),
    case("MaxPool1d", lambda n: n.MaxPool1d(3, 2, 1), (2, 3, 9)),
    case("MaxPool2d", lambda n: n.MaxPool2d(2), (2, 3, 6, 7)),
    case("MaxPool2d-options", lambda n: n.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True), (2, 3, 6, 7)),
    case("MaxPool2d-where", lambda n: n.MaxPool2d(2, return_indices=True), (2, 3, 6, 7)),
    case("AvgPool1d", lambda n: n.AvgPool1d(3, 2, 1, count_include_pad=False), (2, 3, 9)),
    case("AvgPool2d", lambda n: n.AvgPool2d(2), (2, 3, 6, 7)),
    case("AvgPool2d-options", lambda n: n.AvgPool2d((3, 2), 2, (1, 0), True, False), (2, 3, 6, 7)),
    case("AvgPool2d-divisor", lambda n: n.AvgPool2d(2, divisor_override=3), (3, 6, 7)),
    case("AdaptiveAvgPool1d", lambda n: n.AdaptiveAvgPool1d(4), (2, 3, 9)),
    case("AdaptiveAvgPool2d", lambda n: n.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 5)),
    case("AdaptiveAvgPool2d-1", lambda n: n.AdaptiveAvgPool2d(1), (2, 3, 7, 5)),
    case("ReLU", lambda n: n.ReLU(), (4, 5)),
    case("ReLU6", lambda n: n.ReLU6(), (40, 5), scale=5.0),
    case("LeakyReLU", lambda n: n.LeakyReLU(0.2), (4, 5)),
    case("GELU", lambda n: n.GELU(), (40, 5), scale=2.0),
    case("GELU-tanh", lambda n: n.GELU("tanh"), (40, 5), scale=2.0),
    case("SiLU", lambda n: n.SiLU(), (4, 5)),
    case("Sigmoid", lambda n: n.Sigmoid(), (4, 5), scale=5.0),
    case("Tanh", lambda n: n.Tanh(), (4, 5)),
    case("Softplus", lambda n: n.Softplus(2.0, 3.0), (40, 5), scale=3.0),
    case("Softmax", lambda n: n.Softmax(1), (4, 5, 2)),
    case("LogSoftmax", lambda n: n.LogSoftmax(dim=-1), (4, 5)),
    # no bias before batch norm: its gradient is exactly 0 and what comes out is rounding, of either engine
    case("Sequential", lambda n: n.Sequential(n.Conv2d(1, 4, 3, bias=False), n.BatchNorm2d(4), n.ReLU(), n.MaxPool2d(2),
                                              n.Flatten(), n.Linear(16, 3)), (5, 1, 6, 6)),
]  # fmt: skip


def randomise(module):
    """Parameters and buffers that are not what they start as; variances positive."""
    for name, t in [*module.named_parameters(), *module.named_buffers()]:
        if t.is_floating_point():
            with torch.no_grad():
                t.uniform_(0.5, 1.5) if "var" in name else t.normal_()


def build(make, dtype):
    """The same layer with the same numbers in torch (this precision), torch (float64) and minidl."""
    torch.manual_seed(7)
    theirs, truth, ours = make(torch.nn), make(torch.nn), make(nn)
    randomise(theirs)
    truth.load_state_dict(theirs.state_dict())
    truth.double()
    state = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    if dtype == np.float64:
        theirs.double(), ours.double()
    return theirs, truth, ours


def close(ours, theirs, truth, what):
    """minidl's array as near to the truth as the note above allows."""
    a = ours.detach().numpy()
    t, exact = theirs.detach().numpy(), truth.detach().numpy()
    assert a.shape == t.shape, what
    assert a.dtype == t.dtype, what
    if a.dtype.kind != "f":
        np.testing.assert_array_equal(a, t, err_msg=what)
        return
    if not a.size:
        return
    size = np.abs(exact).max()
    allowed = 1e-12 * size if a.dtype == np.float64 else 2 * np.abs(t - exact).max() + 16 * EPS32 * size
    error = np.abs(a - exact).max()
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"


def draw(shapes, dtype, scale=1.0, ints=None):
    rng = np.random.default_rng(11)
    if ints is not None:
        return [rng.integers(0, ints[1], ints[0])]
    return [(scale * rng.standard_normal(s)).astype(dtype) for s in shapes]


def as_tensors(arrays, make):
    return [make(a).requires_grad_(a.dtype.kind == "f") for a in arrays]


def run(module, inputs, call):
    y = call(module, *inputs) if call else module(*inputs)
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's own, about a copy it makes
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("make", "shapes", "call", "ints", "kw"), CASES)
def test_layer_equals_torch(make, shapes, call, ints, kw, dtype, training):
    theirs, truth, ours = (m.train(training) for m in build(make, dtype))
    arrays = draw(shapes, dtype, kw.get("scale", 1.0), ints)
    x64 = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    inputs = [as_tensors(arrays, torch.tensor), as_tensors(x64, torch.tensor), as_tensors(arrays, minidl.tensor)]
    for _ in range(2):  # twice, so that running statistics move on from what the first pass left
        outputs = [run(m, x, call) for m, x in zip((theirs, truth, ours), inputs)]
    for k, (t, e, o) in enumerate(zip(*outputs)):
        close(o, t, e, f"output {k}")
    y = [o[0] for o in outputs]
    dy = np.random.default_rng(3).standard_normal(tuple(y[2].shape))
    y[0].backward(torch.tensor(dy.astype(dtype)))
    y[1].backward(torch.tensor(dy.astype(dtype).astype(np.float64)))
    y[2].backward(minidl.tensor(dy.astype(dtype)))
    for k, (t, e, o) in enumerate(zip(*inputs)):
        if o.requires_grad:
            close(o.grad, t.grad, e.grad, f"gradient of input {k}")
    for (name, t), e, o in zip(theirs.named_parameters(), truth.parameters(), ours.parameters()):
        close(o.grad, t.grad, e.grad, f"gradient of {name}")
    for (name, t), e, o in zip(theirs.named_buffers(), truth.buffers(), ours.buffers()):
        close(o, t, e, f"buffer {name}")
    back = make(torch.nn).to(torch.float64 if dtype == np.float64 else torch.float32)
    back.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})


@pytest.mark.parametrize(("make", "shapes", "call", "ints", "kw"), CASES)
def test_repr_is_torchs(make, shapes, call, ints, kw):
    assert repr(make(nn)) == repr(make(torch.nn))


LOSSES = [
    ("MSELoss", {}, "same"),
    ("L1Loss", {}, "same"),
    ("SmoothL1Loss", {"beta": 0.4}, "same"),
    ("SmoothL1Loss", {"beta": 0.0}, "same"),
    ("HuberLoss", {"delta": 0.6}, "same"),
    ("CrossEntropyLoss", {}, "classes"),
    ("CrossEntropyLoss", {"weight": [0.5, 1.0, 2.0], "ignore_index": 1, "label_smoothing": 0.2}, "classes"),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}, "probabilities"),
    ("NLLLoss", {}, "log classes"),
    ("NLLLoss", {"weight": [0.5, 1.0, 2.0], "ignore_index": 2}, "log classes"),
    ("BCELoss", {}, "unit"),
    ("BCELoss", {"weight": [0.5, 1.0, 2.0]}, "unit"),
    ("BCEWithLogitsLoss", {}, "binary"),
    ("BCEWithLogitsLoss", {"weight": [0.5, 1.0, 2.0], "pos_weight": [2.0, 0.5, 1.0]}, "binary"),
    ("KLDivLoss", {}, "log probabilities"),
    ("KLDivLoss", {"log_target": True}, "log log probabilities"),
]


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # torch's own, about KLDivLoss's mean
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(LOSSES)])
def test_loss_equals_torch(name, options, kind, dtype):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 3))
    target = {"same": rng.standard_normal((6, 3)), "classes": rng.integers(0, 3, 6), "unit": rng.random((6, 3)),
              "binary": (rng.random((6, 3)) > 0.5) * 1.0}.get(kind.removeprefix("log "))  # fmt: skip
    if "probabilities" in kind:
        target = rng.random((6, 3))
        target /= target.sum(1, keepdims=True)
    if kind == "unit":
        x = rng.random((6, 3))
    if kind.startswith("log"):
        x -= np.log(np.exp(x).sum(1, keepdims=True))
    if kind.startswith("log log"):
        target = np.log(target)
    x = x.astype(dtype)
    target = target.astype(dtype) if target.dtype.kind == "f" else target
    reductions = ["none", "mean", "sum"] + (["batchmean"] if name == "KLDivLoss" else [])
    for reduction in reductions:
        results = []
        for lib, tensor, kind_of in ((torch.nn, torch.tensor, dtype), (torch.nn, torch.tensor, np.float64),
                                     (nn, minidl.tensor, dtype)):  # fmt: skip
            given = {k: tensor(np.asarray(v, kind_of)) if isinstance(v, list) else v for k, v in options.items()}
            loss = getattr(lib, name)(reduction=reduction, **given)
            inputs = tensor(x.astype(kind_of)).requires_grad_(True)
            t = tensor(target.astype(kind_of) if target.dtype.kind == "f" else target)
            y = loss(inputs, t)
            y.sum().backward()
            results.append((y, inputs.grad))
        (y, g), (y64, g64), (oy, og) = results
        close(oy, y, y64, f"{reduction}")
        close(og, g, g64, f"gradient of {reduction}")


# -- attention and the transformer ------------------------------------------------------------------------------------


def attention_pair(**options):
    torch.manual_seed(3)
    theirs = torch.nn.MultiheadAttention(**options).double()
    randomise(theirs)
    ours = nn.MultiheadAttention(**options).double()
    state = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    return theirs, ours


def masks(name, b, h, t, s):
    rng = np.random.default_rng(2)
    causal = ~np.tril(np.ones((t, s), bool))
    padding = np.zeros((b, s), bool)
    padding[1, -2:] = True
    return {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": rng.standard_normal((t, s))},
        "per head": {"attn_mask": rng.random((b * h, t, s)) > 0.8},
        "padding": {"key_padding_mask": padding},
        "both": {"key_padding_mask": padding, "attn_mask": causal},
        "mixed": {"key_padding_mask": np.where(padding, -np.inf, 0.0), "attn_mask": rng.standard_normal((t, s))},
        "causal": {"attn_mask": causal, "is_causal": True},
    }[name]


OPTIONS = [
    {},
    {"batch_first": True, "bias": False},
    {"kdim": 5, "vdim": 7},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
]


@pytest.mark.parametrize("mask", ["none", "bool", "float", "per head", "padding", "both", "mixed", "causal"])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "batch_first", "kdim", "extra"])
def test_attention_equals_torch(options, mask):
    if mask == "causal" and "add_bias_kv" in options:
        mask = "bool"  # torch with is_causal hides the extra keys, too, but only without weights; here they stay seen
    b, h, t, s = 2, 3, 5, 5 if mask in ("bool", "both", "causal") else 6
    theirs, ours = attention_pair(embed_dim=6, num_heads=h, **options)
    rng = np.random.default_rng(1)
    lead = (lambda n: (b, n)) if options.get("batch_first") else (lambda n: (n, b))
    sizes = (6, options.get("kdim", 6), options.get("vdim", 6))
    arrays = [rng.standard_normal((*lead(n), e)) for n, e in zip((t, s, s), sizes)]
    given = masks(mask, b, h, t, s)
    for weights in ({"need_weights": False}, {}, {"average_attn_weights": False}):
        results = []
        for module, tensor in ((theirs, torch.tensor), (ours, minidl.tensor)):
            module.zero_grad()
            inputs = [tensor(a).requires_grad_(True) for a in arrays]
            extra = {k: v if isinstance(v, bool) else tensor(v) for k, v in given.items()}
            y, w = module(*inputs, **extra, **weights)
            (y * y).sum().backward()
            results.append((y, w, inputs))
        (y, w, x), (oy, ow, ox) = results
        close(oy, y, y, "output")
        assert (w is None) == (ow is None)
        if w is not None:
            close(ow, w, w, "weights")
        for p, o in zip(x, ox):
            close(o.grad, p.grad, p.grad, "input gradient")
        for (name, p), o in zip(theirs.named_parameters(), ours.parameters()):
            # float64 rounding of a key bias's gradient is of the size of its terms: exactly 0 in truth
            size = max(float(p.grad.abs().max()), float(x[0].grad.abs().max()))
            assert np.abs(o.grad.numpy() - p.grad.numpy()).max() <= 1e-11 * size, name


def test_self_attention_unbatched_and_no_query_without_keys():
    theirs, ours = attention_pair(embed_dim=4, num_heads=2)
    x = np.random.default_rng(0).standard_normal((5, 4))
    y, w = theirs(*[torch.tensor(x)] * 3)
    oy, ow = ours(*[minidl.tensor(x)] * 3)
    close(oy, y, y, "output")
    close(ow, w, w, "weights")
    alone, _ = ours(*[minidl.tensor(x)] * 3, is_causal=True, need_weights=False)
    hidden, weights = ours(*[minidl.tensor(x)] * 3, attn_mask=minidl.tensor(np.triu(np.ones((5, 5), bool), 1)))
    close(alone, hidden, hidden, "is_causal is the causal mask")
    assert np.all(np.triu(weights.detach().numpy(), 1) == 0)
    # torch gives NaN to a query whose keys are all hidden; minidl gives it zeros
    blind = minidl.tensor(np.ones((5, 5), bool))
    y, w = ours(*[minidl.tensor(x)] * 3, attn_mask=blind)
    np.testing.assert_array_equal(y.detach().numpy(), np.broadcast_to(ours.out_proj.bias.detach().numpy(), (5, 4)))
    assert not w.detach().numpy().any()


def test_attention_dropout_is_for_training_only():
    attention = nn.MultiheadAttention(4, 2, dropout=0.5)
    x = minidl.randn(5, 2, 4)
    runs = [attention(x, x, x, need_weights=False)[0].detach().numpy() for _ in range(2)]
    assert (runs[0] != runs[1]).any()
    attention.eval()
    runs = [attention(x, x, x, need_weights=False)[0].detach().numpy() for _ in range(2)]
    np.testing.assert_array_equal(*runs)


def test_attention_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="divisible"):
        nn.MultiheadAttention(5, 2)
    with pytest.raises(ValueError, match="greater than 0"):
        nn.MultiheadAttention(4, 0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = minidl.randn(2, 5, 4)
    with pytest.raises(ValueError, match="embedding dimension of 4"):
        attention(minidl.randn(2, 5, 6), x, x)
    with pytest.raises(ValueError, match="3 dimensions"):
        attention(x, x[0], x)
    with pytest.raises(RuntimeError, match="attn_mask has shape"):
        attention(x, x, x, attn_mask=minidl.ones(4, 4))
    with pytest.raises(RuntimeError, match="key_padding_mask has shape"):
        attention(x, x, x, key_padding_mask=minidl.ones(5, 5))
    with pytest.raises(TypeError, match="bool and floating point"):
        attention(x, x, x, attn_mask=minidl.ones(5, 5, dtype=minidl.int64))


@pytest.mark.parametrize("options", [
    {}, {"batch_first": True, "norm_first": True}, {"activation": "gelu", "bias": False, "batch_first": True},
], ids=["plain", "norm_first", "gelu"])  # fmt: skip
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_equals_torch(options, masked):
    torch.manual_seed(1)
    build_one = lambda n: n.TransformerEncoder(
        n.TransformerEncoderLayer(8, 2, 12, dropout=0.0, **options), 2, n.LayerNorm(8), enable_nested_tensor=False
    )
    theirs, ours = build_one(torch.nn).double(), build_one(nn).double()
    randomise(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy().copy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((3, 5, 8) if options.get("batch_first") else (5, 3, 8))
    given = {}
    if masked:
        padding = np.zeros((3, 5), bool)
        padding[0, 3:] = True
        given = {"mask": ~np.tril(np.ones((5, 5), bool)), "src_key_padding_mask": padding}
    y = theirs(torch.tensor(x), **{k: torch.tensor(v) for k, v in given.items()})
    oy = ours(minidl.tensor(x), **{k: minidl.tensor(v) for k, v in given.items()})
    assert np.abs(oy.detach().numpy() - y.detach().numpy()).max() <= 1e-11 * np.abs(y.detach().numpy()).max()
    dy = np.random.default_rng(1).standard_normal(x.shape)
    y.backward(torch.tensor(dy))
    oy.backward(minidl.tensor(dy))
    for (name, p), o in zip(theirs.named_parameters(), ours.parameters()):
        # two layers of products and norms: some thousand roundings of the size of the largest gradients
        size = float(p.grad.abs().max()) + 1.0
        assert np.abs(o.grad.numpy() - p.grad.numpy()).max() <= 1e-10 * size, name
    assert ours.layers[0].self_attn.in_proj_weight is not ours.layers[1].self_attn.in_proj_weight


def test_encoder_layer_refuses_an_unknown_activation():
    with pytest.raises(RuntimeError, match="relu/gelu"):
        nn.TransformerEncoderLayer(4, 2, activation="swash")
    assert nn.TransformerEncoderLayer(4, 2, activation=nn.Tanh())(minidl.ones(3, 1, 4)).shape == (3, 1, 4)


# -- dropout, softmax without dim, arguments that make no sense -------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_channels():
    x = minidl.ones(200, 100, requires_grad=True)
    y = nn.Dropout(0.3)(x)
    kept = y.detach().numpy() != 0
    # 20,000 draws at p = 0.7: standard deviation sqrt(0.21 / 20000) = 0.0032; five of them
    assert abs(kept.mean() - 0.7) < 0.0162
    np.testing.assert_allclose(y.detach().numpy()[kept], 1 / 0.7, rtol=2e-7)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy() != 0, kept)
    channels = nn.Dropout2d(0.5)(minidl.ones(20, 10, 4, 4)).numpy().reshape(200, 16)
    assert ((channels == 0).all(1) | (channels == 2).all(1)).all()
    assert 0 < (channels[:, 0] == 0).mean() < 1
    for layer in (nn.Dropout(0.3), nn.Dropout2d(0.3)):
        assert layer.eval()(x) is x
        with pytest.raises(ValueError, match="between 0 and 1"):
            type(layer)(1.5)


def test_softmax_without_dim_guesses_as_torch_does_and_warns():
    for shape in ((3,), (3, 4), (2, 3, 4), (2, 3, 4, 5)):
        x = np.random.default_rng(0).standard_normal(shape)
        for name in ("Softmax", "LogSoftmax"):
            with pytest.warns(UserWarning, match="Implicit dimension"):
                ours = getattr(nn, name)()(minidl.tensor(x))
            with pytest.warns(UserWarning, match="Implicit dimension"):
                theirs = getattr(torch.nn, name)()(torch.tensor(x))
            close(ours, theirs, theirs, name)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "in_channels must be divisible by groups"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), "out_channels must be divisible by groups"),
    (lambda: nn.Conv2d(4, 4, 3, groups=0), "groups must be a positive integer"),
    (lambda: nn.Conv2d(4, 4, 3, stride=0), "must be positive"),
    (lambda: nn.Conv2d(4, 4, (3, 3, 3)), "kernel_size must be an int or 2 ints"),
    (lambda: nn.Conv2d(4, 4, 3, padding="full"), "Invalid padding string"),
    (lambda: nn.Conv2d(4, 4, 3, padding="same", stride=2), "not supported for strided"),
    (lambda: nn.Conv2d(4, 4, 3, padding_mode="mirror"), "padding_mode must be one of"),
    (lambda: nn.ConvTranspose2d(4, 4, 3, padding_mode="reflect"), "padding_mode must be one of"),
    (lambda: nn.ConvTranspose2d(4, 4, 3, padding="same"), "padding as numbers"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, 2)(minidl.ones(1, 3, 4, 4), output_size=(20, 9)), "can only become 9 .. 10"),
    (lambda: nn.Embedding(3, 2, padding_idx=3), "padding_idx 3 must be within"),
    (lambda: nn.Embedding.from_pretrained(minidl.ones(3)), "2-dimensional"),
    (lambda: nn.GroupNorm(4, 6), "divisible by num_groups"),
    (lambda: nn.GroupNorm(2, 6)(minidl.ones(2, 4)), "expected"),
    (lambda: nn.BatchNorm1d(3)(minidl.ones(2, 3, 4, 5)), r"expected 2D or 3D input \(got 4D input\)"),
    (lambda: nn.BatchNorm2d(3)(minidl.ones(2, 3)), r"expected 4D input \(got 2D input\)"),
    (lambda: nn.BatchNorm1d(3)(minidl.ones(1, 3)), "more than 1 value per channel"),
    (lambda: nn.Bilinear(0, 2, 3), "in1_features must be > 0"),
    (lambda: nn.MSELoss(reduction="average"), "not a valid value for reduction"),
    (lambda: nn.HuberLoss(delta=0), "non-positive"),
])  # fmt: skip
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_types_of_arguments():
    with pytest.raises(TypeError, match="unflattened dim"):
        nn.Unflatten("x", (2, 3))
    with pytest.raises(TypeError, match="tuple of ints"):
        nn.Unflatten(1, 6)
    with pytest.raises(IndexError, match="index 7 is out of range"):
        nn.Embedding(7, 2)(minidl.tensor([7]))


def test_embedding_from_pretrained_shares_its_table_and_is_frozen():
    table = minidl.randn(5, 3)
    layer = nn.Embedding.from_pretrained(table)
    assert layer.weight.array is table.array
    assert not layer.weight.requires_grad
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad


def test_batch_norm_can_forget_its_statistics():
    norm = nn.BatchNorm1d(3)
    norm(minidl.randn(8, 3) + 5)
    assert norm.num_batches_tracked.item() == 1
    assert norm.running_mean.numpy().min() > 0.1
    norm.reset_running_stats()
    assert norm.num_batches_tracked.item() == 0
    assert not norm.running_mean.numpy().any()


# -- initial values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "fan_in"), [
    (lambda n: n.Linear(50, 80), 50),
    (lambda n: n.Conv2d(8, 40, 3, groups=2), 36),
    (lambda n: n.ConvTranspose2d(40, 8, 3), 72),
    (lambda n: n.Conv1d(16, 40, 3), 48),
])  # fmt: skip
def test_layers_start_as_torchs_do(make, fan_in):
    """Uniform on +-1 / sqrt(fan_in): the greatest of n draws is within 20 / n of the bound but for one time in e^20."""
    for module in (make(nn), make(torch.nn)):
        bound = 1 / fan_in**0.5
        for p in module.parameters():
            a = p.detach().numpy()
            assert np.abs(a).max() <= bound * (1 + 1e-6)
        w = module.weight.detach().numpy().reshape(-1)
        assert np.abs(w).max() > bound * (1 - 20 / w.size)
        # mean of n uniforms: deviation bound / sqrt(3 n)
        assert abs(w.mean()) < 5 * bound / (3 * w.size) ** 0.5


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"])
@pytest.mark.parametrize("shape", [(60, 40), (30, 20, 3, 3)])
def test_init_spread_is_torchs(name, shape):
    """Standard deviations of n draws agree to sqrt(2 / n) for each, five of them (kurtosis at most normal's)."""
    torch.manual_seed(0)
    ours = getattr(nn.init, name)(minidl.empty(*shape)).numpy()
    theirs = getattr(torch.nn.init, name)(torch.empty(*shape)).numpy()
    assert abs(ours.std() / theirs.std() - 1) < 5 * (2 / ours.size) ** 0.5
    assert abs(ours.mean()) < 5 * ours.std() / ours.size**0.5
    if "uniform" in name:
        assert np.abs(ours).max() < theirs.std() * 3**0.5 * 1.1


def test_init_gains_and_fans_are_torchs():
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu"):
        assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)
    assert nn.init.calculate_gain("leaky_relu") == torch.nn.init.calculate_gain("leaky_relu")
    for shape in ((3, 4), (6, 5, 3, 2)):
        theirs = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
        assert nn.init.calculate_fan_in_and_fan_out(minidl.empty(*shape)) == theirs
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        nn.init.calculate_gain("swash")
    with pytest.raises(ValueError, match="not a valid number"):
        nn.init.calculate_gain("leaky_relu", "x")
    with pytest.raises(ValueError, match="fewer than 2"):
        nn.init.xavier_uniform_(minidl.empty(3))
    with pytest.raises(ValueError, match="Mode fan not supported"):
        nn.init.kaiming_normal_(minidl.empty(3, 3), mode="fan")
    with pytest.warns(UserWarning, match="no-op"):
        nn.init.kaiming_uniform_(minidl.empty(0, 3))


def test_init_constants():
    t = minidl.empty(3, 4)
    assert nn.init.constant_(t, 2.5) is t
    assert (t.numpy() == 2.5).all()
    assert (nn.init.ones_(t).numpy() == 1).all()
    assert (nn.init.zeros_(t).numpy() == 0).all()
    np.testing.assert_array_equal(nn.init.eye_(t).numpy(), np.eye(3, 4))
    for shape, groups in (((4, 2, 3, 3), 2), ((3, 5, 4), 1), ((2, 2, 3, 3, 3), 1)):
        theirs = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
        np.testing.assert_array_equal(nn.init.dirac_(minidl.empty(*shape), groups).numpy(), theirs)
    for call in (
        lambda: nn.init.eye_(minidl.empty(3)),
        lambda: nn.init.dirac_(t),
        lambda: nn.init.dirac_(minidl.empty(3, 2, 2), 2),
        lambda: nn.init.orthogonal_(t[0]),
        lambda: nn.init.trunc_normal_(t, a=2, b=1),
    ):
        with pytest.raises(ValueError):
            call()
    assert nn.init.orthogonal_(minidl.empty(0, 3)).shape == (0, 3)


def test_init_marks_the_change_for_saved_tensors():
    w = nn.Parameter(minidl.ones(3))
    y = (w * w).sum()
    nn.init.zeros_(w)
    with pytest.raises(RuntimeError, match="changed by an in-place"):
        y.backward()


@pytest.mark.parametrize(("shape", "gain"), [((4, 7), 1.0), ((7, 4), 2.0), ((4, 2, 3), 1.0)])
def test_orthogonal(shape, gain):
    w = nn.init.orthogonal_(minidl.empty(*shape, dtype=minidl.float64), gain).numpy().reshape(shape[0], -1)
    square = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    np.testing.assert_allclose(square, gain**2 * np.eye(len(square)), atol=1e-14 * gain**2 * len(square))


def test_truncated_normal_and_its_quantile():
    import statistics

    p = np.float64([1e-12, 1e-5, 0.01, 0.02424, 0.02426, 0.3, 0.5, 0.7, 0.97574, 0.97576, 0.999, 1 - 1e-9])
    exact = np.array([statistics.NormalDist().inv_cdf(v) for v in p])
    got = nn.init.normal_quantile(p)
    np.testing.assert_allclose(got, exact, rtol=1.2e-9, atol=1e-15)
    for low, high in ((-2.0, 2.0), (-0.5, 0.1), (3.0, 4.0), (-9.0, -6.0), (6.0, 9.0)):
        t = nn.init.trunc_normal_(minidl.empty(20000, dtype=minidl.float64), 0.0, 1.0, low, high).numpy()
        assert t.min() >= low
        assert t.max() <= high
        x = np.linspace(low, high, 100001)
        density = np.exp(-x * x / 2)
        mean = (x * density).sum() / density.sum()
        deviation = ((x - mean) ** 2 * density).sum() / density.sum()
        assert abs(t.mean() - mean) < 5 * (deviation / t.size) ** 0.5, (low, high)
        assert abs(t.var() / deviation - 1) < 0.15
    a = [nn.init.normal_(minidl.empty(5), generator=minidl.Generator(4)).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*a)
