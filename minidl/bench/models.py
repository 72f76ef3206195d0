"""Whole training steps and inference of networks, beside torch's eager ones: same network, weights, data, optimizer.

Each network is one function of `nn`, which is torch.nn or minidl.nn; torch's weights are loaded into ours. Before
anything is timed, the outputs must agree and the losses of the first steps too; after the timing the first weights are
put back into the very models that were timed, and their outputs must agree once more. The peak memory of a step is
measured in processes of their own (footprint.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
import minidl.nn
import minidl.optim
from minidl.bench import footprint
from minidl.bench.timing import ratio, take_turns
from minidl.bench.verify import error_of
from minidl_kernels.cpu import machine, threads

__all__ = ["MODELS", "Model", "Pair", "step", "time_model"]

STEPS = 3  # whose losses are compared
LEAST_COSINE = 0.98  # of outputs in int8 to those in float: rounding gives .99 and more, a scale that is wrong does not


@dataclass(frozen=True)
class Model:
    """build(nn) -> the network; the shape of its input, floats or, with `tokens`, whole numbers below that."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int = 10
    tokens: int = 0
    note: str = ""
    int8: bool = False  # timed as integers from end to end, too


def mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def digits_cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mnist_cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def encoder(nn: Any) -> Any:
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(64 * 64, 10))


def resnet18(nn: Any) -> Any:
    """He et al. 2015, arXiv:1512.03385, with the 3x3 stem that is usual for 32 x 32 images."""

    class Block(nn.Module):
        def __init__(self, c: int, k: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(c, k, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(),
                nn.Conv2d(k, k, 3, padding=1, bias=False), nn.BatchNorm2d(k),
            )  # fmt: skip
            self.short = nn.Identity()
            if stride != 1 or c != k:
                self.short = nn.Sequential(nn.Conv2d(c, k, 1, stride=stride, bias=False), nn.BatchNorm2d(k))
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.short(x))

    plan = (
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    )
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), *(Block(*p) for p in plan),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def mobilenet(nn: Any) -> Any:
    """Howard et al. 2017, arXiv:1704.04861, table 1."""
    unit = lambda conv, k: (conv, nn.BatchNorm2d(k), nn.ReLU())
    layers = [*unit(nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), 32)]
    plan = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    for c, k, stride in (*plan, *((512, 512, 1),) * 5, (512, 1024, 2), (1024, 1024, 1)):
        layers += unit(nn.Conv2d(c, c, 3, stride=stride, padding=1, groups=c, bias=False), c)
        layers += unit(nn.Conv2d(c, k, 1, bias=False), k)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 10))


def lstm(nn: Any) -> Any:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(64, 128, 2, batch_first=True)
            self.head = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x)[0][:, -1])

    return Last()


def gpt(nn: Any) -> Any:
    """Four layers of width 128, pre-norm, causal; predicts a class from the last token."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(256, 128)
            self.place = nn.Embedding(64, 128)
            self.layers = nn.ModuleList([Layer() for _ in range(4)])
            self.norm = nn.LayerNorm(128)
            self.head = nn.Linear(128, 256)

        def forward(self, x: Any) -> Any:
            h = self.embed(x) + self.place.weight
            for layer in self.layers:
                h = layer(h)
            return self.head(self.norm(h))[:, -1]

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(128), nn.LayerNorm(128)
            self.qkv, self.proj = nn.Linear(128, 384), nn.Linear(128, 128)
            self.mlp = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = (a.reshape(b, t, 4, 32).transpose(1, 2) for a in self.qkv(self.norm1(x)).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
            return x + self.mlp(self.norm2(x))

    return Decoder()


MODELS: dict[str, Model] = {
    "mlp": Model(mlp, (32, 64), note="64-128-10"),
    "digits_cnn": Model(digits_cnn, (64, 1, 8, 8), note="two 3x3 convolutions, two linear layers", int8=True),
    "mnist_cnn": Model(mnist_cnn, (64, 1, 28, 28), note="1,199,882 parameters", int8=True),
    "encoder": Model(encoder, (16, 64, 64), note="two transformer layers of width 64"),
    "lstm": Model(lstm, (32, 64, 64), note="two layers of 128 over 64 steps"),
    "gpt": Model(gpt, (12, 64), classes=256, tokens=256, note="four layers of width 128, 64 tokens"),
    "resnet18": Model(resnet18, (32, 3, 32, 32), note="on 32 x 32 images", int8=True),
    "mobilenet": Model(mobilenet, (16, 3, 96, 96), note="MobileNetV1 on 96 x 96 images", int8=True),
}


class Pair:
    """A network in both libraries, from the same weights; on the same data."""

    def __init__(self, model: Model, torch: Any) -> None:
        rng = np.random.default_rng(0)
        floats = rng.standard_normal(model.shape, np.float32)
        x: np.ndarray = rng.integers(0, model.tokens, model.shape) if model.tokens else floats
        t = rng.integers(0, model.classes, model.shape[0])
        torch.manual_seed(0)
        self.theirs, self.ours = model.build(torch.nn), model.build(minidl.nn)
        self.first = {k: v.clone() for k, v in self.theirs.state_dict().items()}
        self.restart()
        self.steps = {
            "minidl": self._step(minidl, self.ours, minidl.tensor(x), minidl.tensor(t)),
            "torch": self._step(torch, self.theirs, torch.from_numpy(x), torch.from_numpy(t)),
        }
        self.inference = {
            "minidl": self._inference(minidl, self.ours, minidl.tensor(x)),
            "torch": self._inference(torch, self.theirs, torch.from_numpy(x)),
        }
        self.x = x

    @staticmethod
    def _step(lib: Any, model: Any, x: Any, t: Any) -> Callable[[], Any]:
        """With cross-entropy and Adam."""
        run = step(model, lib.nn.CrossEntropyLoss(), lib.optim.Adam(model.parameters(), 1e-4), x, t)

        def training() -> Any:
            if not model.training:
                model.train()
            return run()

        return training

    @staticmethod
    def _inference(lib: Any, model: Any, x: Any) -> Callable[[], Any]:
        def run() -> Any:
            if model.training:
                model.eval()
            with lib.no_grad():
                return model(x)

        return run

    def restart(self) -> None:
        """The first weights, in both."""
        self.theirs.load_state_dict(self.first)
        self.ours.load_state_dict({k: minidl.tensor(v.numpy()) for k, v in self.first.items()})

    def outputs_differ(self) -> str | None:
        """By more than 1e-4 of the largest: the roundings of some tens of layers, each about 1e-6 (see rows.py)."""
        error = error_of(self.inference["minidl"]().array, self.inference["torch"]().numpy())
        return None if error <= 1e-4 else f"gives other outputs than torch, by {error:.1e} of the largest"

    def integers(self) -> tuple[dict[str, Callable[[], Any]], str | None]:
        """Our network in int8 from end to end, calibrated on the data it is timed on, beside our own in float; and
        what is wrong with it: outputs that point elsewhere, by a cosine below LEAST_COSINE.
        """
        from minidl.compress import quantize_static

        training, self.ours = self.ours.training, self.ours.eval()
        net = quantize_static(self.ours, self.x)
        self.ours.train(training)
        calls = {"minidl": self._inference(minidl, net, minidl.tensor(self.x)), "float": self.inference["minidl"]}
        a, b = (calls[who]().array.astype(np.float64).ravel() for who in ("minidl", "float"))
        cosine = float(a @ b / math.sqrt((a @ a) * (b @ b)))
        fault = (
            None if cosine >= LEAST_COSINE else f"gives in int8 outputs at a cosine of {cosine:.3f} to those in float"
        )
        return calls, fault

    def losses_differ(self) -> str | None:
        """By more than 0.3 % in the first steps: Adam divides by the root of a second moment, so the roundings of small
        gradients become steps of the usual size, which the loss shows after a step or two. Our own kernels for two
        kinds of CPU part by 0.08 % in the third step of the MobileNet.
        """
        for number in range(STEPS):
            ours, theirs = (self.steps[name]().item() for name in ("minidl", "torch"))
            if not math.isclose(ours, theirs, rel_tol=3e-3):
                return f"has loss {ours:.6f} in step {number + 1}, torch {theirs:.6f}"
        return None


def step(model: Any, loss: Callable, optimizer: Any, x: Any, t: Any) -> Callable[[], Any]:
    """One training step as a call: forward, loss, backward, update."""

    def run() -> Any:
        optimizer.zero_grad()
        value = loss(model(x), t)
        value.backward()
        optimizer.step()
        return value

    return run


def time_model(
    name: str, nthreads: int, pages: Mapping[str, Any], seconds: float, tier: str, rng: np.random.Generator
) -> dict[str, Any]:
    """Step and inference of one network, ours and torch's, ours in int8 beside float, and the peak memory of both
    libraries' steps, as plain values.
    """
    model = MODELS[name]
    record: dict[str, Any] = {
        "model": name, "note": model.note, "input": list(model.shape), "threads": nthreads, "tier": tier, "faults": []
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.use_tier(tier))
        stack.enter_context(threads.threads(nthreads))
        stack.enter_context(pages["torch"].start(nthreads))
        pair = Pair(model, pages["torch"].torch)
        problem = pair.outputs_differ() or pair.losses_differ()
        if problem is None:
            for what, calls in (("step", pair.steps), ("inference", pair.inference)):
                times = take_turns(calls, seconds, rng)
                record[what] = {
                    who: {"seconds": times[who].seconds, "blocks": times[who].blocks} for who in ("minidl", "torch")
                }
                record[what]["ratio"] = list(ratio(times["torch"].blocks, times["minidl"].blocks))
            pair.restart()
            problem = pair.outputs_differ()
        if problem is None and model.int8:
            calls, problem = pair.integers()
            if problem is None:
                times = take_turns(calls, seconds, rng)
                record["int8"] = {who: {"seconds": times[who].seconds, "blocks": times[who].blocks} for who in calls}
                record["int8"]["ratio"] = list(ratio(times["float"].blocks, times["minidl"].blocks))
        if problem is None:
            bytes_ = {who: footprint.peak(name, who, nthreads, tier) for who in ("minidl", "torch")}
            if all(bytes_.values()):  # what is not measured here is None
                record["memory"] = bytes_
        if problem is not None:
            record["faults"].append({"who": "minidl", "kind": "wrong", "what": problem})
    return record
