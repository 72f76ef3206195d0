"""Sequential's single pass over batch norm and relu: the same results, and only where nobody can tell."""

import numpy as np
import pytest
import torch

import minidl
import minidl_kernels as mk
from minidl import nn
from minidl.autograd.watch import Watcher


def network(lib):
    return lib.nn.Sequential(
        lib.nn.Conv2d(3, 8, 3, padding=1), lib.nn.BatchNorm2d(8), lib.nn.ReLU6(),
        lib.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), lib.nn.BatchNorm2d(8, affine=False), lib.nn.ReLU(),
        lib.nn.BatchNorm2d(8), lib.nn.Conv2d(8, 6, 1), lib.nn.BatchNorm2d(6),
    )  # fmt: skip


@pytest.fixture
def pair():
    torch.manual_seed(0)
    theirs, x = network(torch), 3 * torch.randn(5, 3, 12, 12)
    theirs(x)  # running statistics other than 0 and 1
    ours = network(minidl)
    ours.load_state_dict({k: minidl.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    return theirs.eval(), ours.eval(), x


def kernels_run(net, x):
    with mk.listen() as heard, minidl.no_grad():
        y = net(x)
    return y, [name for name, _ in heard if not name.startswith("conv")]


def test_outputs_are_torchs_and_inputs_stay(pair):
    theirs, ours, x = pair
    mine = minidl.tensor(x.numpy().copy())
    y, heard = kernels_run(ours, mine)
    assert heard == ["channel_affine"] * 4  # the activations are in them
    with torch.no_grad():
        want = theirs(x).numpy()
    # Sums of 27, 9 and 8 terms of about 1 after each other, in float32 on both sides.
    np.testing.assert_allclose(y.array, want, atol=2e-5)
    assert np.array_equal(mine.array, x.numpy())
    with_gradient = ours(mine)
    assert with_gradient.requires_grad
    np.testing.assert_allclose(with_gradient.detach().array, want, atol=2e-5)


def test_what_a_hook_is_given_stays_as_it_was(pair):
    _, ours, x = pair
    x = minidl.tensor(x.numpy())
    kept = []
    handles = [m.register_forward_hook(lambda m, args, y: kept.append((y, y.array.copy()))) for m in ours]
    y, heard = kernels_run(ours, x)
    assert len(kept) == len(ours)
    assert all(np.array_equal(tensor.array, copy) for tensor, copy in kept)
    assert heard == ["channel_affine", "activation", *["channel_affine"] * 3]  # relu, of few elements, is NumPy's
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(kernels_run(ours, x)[0].array, y.array, atol=1e-5)


def test_a_watcher_sees_every_op(pair):
    _, ours, x = pair

    class Names(Watcher):
        seen = ()

        def ran(self, ctx, inputs, args, kwargs, out):
            self.seen = (*self.seen, ctx.name())

    with Names() as names, minidl.no_grad():
        ours(minidl.tensor(x.numpy()))
    assert [n for n in names.seen if n in ("relu", "hard_range", "rsqrt")] == [
        "rsqrt", "hard_range", "rsqrt", "relu", "rsqrt", "rsqrt",
    ]  # fmt: skip


def test_bits_are_those_of_the_ops_one_by_one(pair):
    _, ours, x = pair
    with minidl.no_grad():
        fused = ours(minidl.tensor(x.numpy())).array
        one_by_one = minidl.tensor(x.numpy())
        for module in ours:
            one_by_one = module(one_by_one)
    assert np.array_equal(fused, one_by_one.array)
    assert np.array_equal(fused, ours(minidl.tensor(x.numpy())).detach().array)  # with gradients recorded


def test_only_those_very_classes(pair):
    _, ours, x = pair
    x = minidl.tensor(x.numpy())

    class Twice(nn.ReLU):
        def forward(self, input):
            return 2 * super().forward(input)

    plain = nn.Sequential(*ours[:3])
    with minidl.no_grad():
        want = 2 * nn.functional.relu(nn.Sequential(*ours[:2])(x)).array
        np.testing.assert_allclose(nn.Sequential(*ours[:2], Twice())(x).array, want, atol=1e-6)
        plain[2].forward = lambda y: y - 1
        np.testing.assert_allclose(plain(x).array, nn.Sequential(*ours[:2])(x).array - 1, atol=1e-6)


def test_other_dtypes_and_errors_take_the_usual_way(pair):
    _, ours, x = pair
    with minidl.no_grad():
        half = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).half().eval()
        assert half(minidl.tensor(x.numpy()).half()).dtype == minidl.float16
        with pytest.raises(RuntimeError, match="channels"):
            nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).eval()(minidl.tensor(x.numpy()))
        one = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()).eval()
        y = one(minidl.tensor(x.numpy())).array  # the batch's own statistics
    assert 0.3 < y.mean() < 0.5  # E max(z, 0) is 0.4 for a normal z


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_in_evaluation_are_torchs(pair, frozen):
    theirs, ours, x = pair
    if frozen:
        for net in (theirs, ours):
            net[1].weight.requires_grad_(False)
    a, b = x.clone().requires_grad_(), minidl.tensor(x.numpy(), requires_grad=True)
    (theirs(a) ** 2).mean().backward()
    (ours(b) ** 2).mean().backward()
    np.testing.assert_allclose(b.grad.array, a.grad.numpy(), atol=1e-6)
    for (name, p), q in zip(theirs.named_parameters(), ours.parameters()):
        if p.grad is None:
            assert q.grad is None, name
        else:
            np.testing.assert_allclose(q.grad.array, p.grad.numpy(), atol=1e-4, rtol=1e-4, err_msg=name)
