"""minidl.onnx.export: the file gives in onnxruntime what the model gives here, for batches of other sizes, too."""

from __future__ import annotations

import builtins

import numpy as np
import onnx
import onnxruntime
import pytest

import minidl
from minidl import models, nn
from minidl.compress import quantize_
from minidl.nn import functional as F
from minidl.onnx import UnsupportedOperatorError, export


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return session.run(None, {name: x})[0]


def same(model, x, path):
    """Export on one batch; compare on it and on a larger one. Float32 on both sides: a bound for nets of some depth."""
    model.eval()
    export(model, x, str(path))
    for batch in (x, minidl.cat([x, x[:1]])):
        with minidl.no_grad():
            right = model(batch).numpy()
        found = run(path, batch.numpy())
        assert found.dtype == right.dtype
        assert found.shape == right.shape
        scale = np.abs(right).max()
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=2e-5 * scale)
    return onnx.load(str(path))


class Function(nn.Module):
    """A module of what a function computes."""

    def __init__(self, f):
        super().__init__()
        self.f, self.w = f, nn.Parameter(minidl.rand(4) + 0.5)

    def forward(self, x):
        return self.f(x, self.w)


def ids(*shape):
    return minidl.randint(0, 11, shape)


ZOO = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(8, 3), nn.Softmax(1)),
            (2, 6)),
    "mnist_cnn": (models.mnist_cnn, (2, 1, 28, 28)),
    "digits": (models.DigitsCNN, (2, 1, 8, 8)),
    "resnet18": (lambda: models.resnet18(num_classes=5), (1, 3, 40, 40)),
    "bottleneck": (lambda: models.ResNet(models.Bottleneck, [1, 1], widths=[8, 16], num_classes=5), (1, 3, 32, 32)),
    "mobilenet v1": (lambda: models.MobileNetV1(5, 0.25), (1, 3, 32, 32)),
    "mobilenet v2": (lambda: models.MobileNetV2(5, 0.35), (1, 3, 32, 32)),
    "shufflenet": (lambda: models.shufflenet_v2_x0_5(num_classes=5), (1, 3, 32, 32)),
    "efficientnet": (lambda: models.EfficientNetLite0(7), (1, 3, 40, 40)),
    "vit": (models.vit_tiny, (2, 1, 8, 8)),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), (2, 5, 16)),
    "generator": (lambda: models.Generator(10, (1, 28, 28), 4), (2, 10)),
    "discriminator": (lambda: models.Discriminator((1, 28, 28), 4), (2, 1, 28, 28)),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo_run_elsewhere(name, tmp_path):
    minidl.manual_seed(0)
    make, shape = ZOO[name]
    model = make()
    for module in model.modules():  # statistics that are not those of the start
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(minidl.randn(module.num_features) * 0.1)
            module.running_var.copy_(minidl.rand(module.num_features) + 0.5)
    same(model, minidl.randn(*shape), tmp_path / "net.onnx")


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_gpt_runs_elsewhere(positions, tmp_path):
    minidl.manual_seed(0)
    model = models.GPT(11, 16, 16, 2, 2, positions=positions)
    for p in model.parameters():
        p.data.mul_(5)  # away from 0.02, where all logits are nearly alike
    file = same(model, ids(2, 8), tmp_path / "gpt.onnx")
    names = {i.name for i in file.graph.initializer}
    assert "wte.weight" in names, "parameters keep their names"
    assert any(node.name.startswith("GPT.h.1.attn/") for node in file.graph.node), "nodes say in which module they are"
    kinds = {node.op_type for node in file.graph.node}
    assert {"LayerNormalization", "Gelu", "Gather"} <= kinds


FUNCTIONS = {
    "numbers": lambda x, w: (2 - x * 3.0) / (x.abs() + 1.5) + w.sum(),
    "alpha": lambda x, w: minidl.add(x, w, alpha=0.5) - minidl.sub(x, w, alpha=2),
    "powers": lambda x, w: (x * x + 1.0).sqrt() + (x * x + 1.0).rsqrt() + x.abs() ** 1.5,
    "curves": lambda x, w: x.exp().log() + x.sigmoid() * x.tanh() + F.silu(x) + F.gelu(x) + F.relu6(x * 4),
    "reductions": lambda x, w: x.mean((1, 2), keepdim=True) + x.sum(-1, keepdim=True) + x.amax(1, keepdim=True),
    "softmaxes": lambda x, w: x.softmax(-1) + F.log_softmax(x, 1),
    "slices": lambda x, w: minidl.cat([x[:, 1:], x[:, :1], x[:, -2:]], 1)[..., ::2] + x[:, 0, None, :2],
    "steps": lambda x, w: x[:, None, 1][:, 0] @ w + x[:, :, -1].sum(1),
    "moves": lambda x, w: x.permute(0, 2, 1).flatten(1).reshape(-1, 2, 6).transpose(1, 2),
    "stretches": lambda x, w: w.expand(3, 4).expand(len(x), 3, 4) * x,
    "products": lambda x, w: x @ x.transpose(1, 2) @ (x * w),
    "group norm": lambda x, w: F.group_norm(x[:, :2], 2) + F.layer_norm(x[:, :2], (2, 4)),
    "pools": lambda x, w: F.max_pool2d(x[:, None], (2, 3), stride=2, padding=(1, 1), ceil_mode=True),
    "means": lambda x, w: F.avg_pool2d(x[:, None], 2, stride=1, padding=1, count_include_pad=False)[:, :, :2],
    "pads": lambda x, w: F.pad(x, (1, 2, 0, 1), value=0.5),
    "dilated": lambda x, w: F.conv2d(x[:, None], w.reshape(1, 1, 2, 2), None, 1, (1, 2), (2, 1)),
    "transposed": lambda x, w: F.conv_transpose2d(x[:, None], w.reshape(1, 1, 2, 2), None, 2, 1, output_padding=1),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ops_run_elsewhere(name, tmp_path):
    minidl.manual_seed(0)
    same(Function(FUNCTIONS[name]), minidl.randn(2, 3, 4), tmp_path / "f.onnx")


MASKS = {
    "none": None,
    "bool": np.array([[True, False, True], [False, False, False], [True, True, True]]),
    "numbers": np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf], [0.5, 0.0, 0.0]], np.float32),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_with_masks_and_grouped_heads(mask, causal, tmp_path):
    def attend(x, w):
        q = x.reshape(-1, 3, 4, 2).transpose(1, 2)
        k, v = q[:, :2], q[:, 2:]
        return minidl.autograd.TABLE["attention"](q, k, v, m, causal, 0.7)

    m = None if MASKS[mask] is None else minidl.tensor(MASKS[mask])
    minidl.manual_seed(0)
    model = Function(attend)
    same(model, minidl.randn(2, 3, 8), tmp_path / "a.onnx")
    if mask != "none":
        assert (run(tmp_path / "a.onnx", np.ones((1, 3, 8), np.float32))[:, :, 1] == 0).all(), "a row that sees nothing"


def test_what_cannot_be_exported_is_said(tmp_path):
    path = tmp_path / "net.onnx"

    class Sorts(nn.Module):
        def forward(self, x):
            return x.sort(1)[0]

    with pytest.raises(UnsupportedOperatorError, match=r"op cumsum in module Function has no translation.*relu"):
        export(Function(lambda x, w: x.cumsum(1)), minidl.randn(2, 3), str(path))
    # An op that keeps places of this very example cannot even be recorded: still it is named.
    with pytest.raises(UnsupportedOperatorError, match=r"op pick_along in module Sequential\.1 has no translation"):
        export(nn.Sequential(nn.Linear(3, 3), Sorts()), minidl.randn(2, 3), str(path))
    with pytest.raises(UnsupportedOperatorError, match="getitem with the index"):
        export(Function(lambda x, w: x[:, [2, 0]]), minidl.randn(2, 3), str(path))
    packed = quantize_(nn.Sequential(nn.Linear(64, 64)))
    with pytest.raises(ValueError, match=r"0\.weight is packed.*dequantize_"):
        export(packed, minidl.randn(2, 64), str(path))
    with pytest.raises(ValueError, match="onnx"):
        export(nn.Linear(3, 3), minidl.randn(2, 3), str(tmp_path / "net.pt"))
    with pytest.raises(ValueError, match="number of its inputs"):
        export(Function(lambda x, w: x * len(x)), minidl.randn(2, 3), str(path))
    assert list(tmp_path.iterdir()) == [], "nothing is half-written"


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"minidl\[onnx\]"):
        export(nn.Linear(3, 3), minidl.randn(2, 3), str(tmp_path / "net.onnx"))


def test_the_model_stays_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    export(model, minidl.randn(4, 3), str(tmp_path / "net.onnx"))
    assert model.training
    assert model[1].training
    assert all((before[name] == t).all() for name, t in model.state_dict().items())
