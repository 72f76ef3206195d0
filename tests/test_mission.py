"""What the source documents name exists under that name (rows S0-3, S0-21 of docs/mission.md)."""

import minidl
from minidl import nn, optim


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
