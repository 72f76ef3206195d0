"""docs/mission.md: every row has a command, and what the commands name exists. Row S0-3 and the names of S0-21."""

import pathlib
import pkgutil
import re
import shlex

import pytest

import minidl
from minidl import nn, optim
from minidl.cli import _parser

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = re.findall(r"^\| (S\d-\d+)(?:, \w+)? \| .* \| (.*) \| .*?\|$", (ROOT / "docs" / "mission.md").read_text(), re.M)


def test_every_row_of_both_documents_is_there():
    for document, count in (("S0", 21), ("S1", 44)):
        rows = list(dict.fromkeys(row for row, _ in ROWS if row.startswith(document)))
        assert rows == [f"{document}-{n}" for n in range(1, count + 1)]


@pytest.mark.parametrize("commands", [pytest.param(commands, id=row) for row, commands in ROWS])
def test_what_its_commands_name_exists(commands):
    named = re.findall(r"`([^`]+)`", commands)
    assert named
    for command in named:
        first, *words = shlex.split(command) if command[:3] in ("min", "pyt") and " " in command else (command,)
        if first == "minidl":
            arguments, _ = _parser().parse_known_args(words)
            if words[0] == "examples":
                assert list((ROOT / "examples").glob(f"{int(arguments.page):02}_*.py")), command
        elif first == "python":
            path = pathlib.Path(*words[1].split(".")).with_suffix(".py") if words[0] == "-m" else pathlib.Path(words[0])
            assert (ROOT / path).is_file(), command
        elif first == "pytest":
            paths = [ROOT / word for word in words if word.startswith("tests/")]
            files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*.py"))]
            assert paths
            assert all(path.exists() for path in paths), command
            wanted = words[words.index("-k") + 1] if "-k" in words else ""
            text = "".join(file.read_text() for file in files)
            assert all(word in text for word in re.findall(r"\w+", wanted) if word != "or"), command
        elif first.startswith("minidl."):
            assert pkgutil.resolve_name(first.partition("(")[0])


def test_gradient_descent_of_the_document_is_the_closed_form():
    """f = sum theta^2, rate .01: each step is a factor .98; 1000 steps in float64."""
    theta = minidl.tensor([3.0, -2.0], dtype=minidl.float64, requires_grad=True)
    start = theta.detach().clone()
    for _ in range(1000):
        (gradient,) = minidl.autograd.grad((theta**2).sum(), [theta])
        theta = (theta - 0.01 * gradient).detach().requires_grad_()
    minidl.testing.assert_close(theta.detach(), start * 0.98**1000, rtol=1e-12, atol=0)


def test_the_api_of_the_document():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1 = nn.Linear(4, 8)
            self.layer2 = nn.Linear(8, 1)
            self.scale = nn.Parameter(minidl.ones(1))

        def forward(self, x):
            return self.layer2(self.layer1(x).relu()) * self.scale

    net = Net().to("cpu").float()
    linear = [m for _, m in net.named_modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 2
    w = linear[0].weight
    assert isinstance(w, nn.Parameter)
    norm = w.norm(p=2) / w.data.shape[1]
    mask = (w.abs() >= norm).float()
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    codes = minidl.clamp(minidl.round(w.data / 0.1), -4, 3).long()
    assert codes.dtype == minidl.int64
    assert minidl.ceil(minidl.tensor(0.2)).item() == 1.0
    loss_function, optimizer = nn.MSELoss(), optim.SGD(net.parameters(), lr=0.01)
    x, y = minidl.randn(16, 4), minidl.randn(16, 1)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = loss_function(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
