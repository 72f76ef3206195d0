"""MaxUnpool against torch: what max pooling found goes back to its place."""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn


@pytest.mark.parametrize(("dims", "pool", "shape", "give_size"), [
    (1, (2,), (2, 3, 8), False), (1, (3, 2, 1), (3, 9), True), (1, (2,), (2, 3, 7), True),
    (2, (2,), (2, 3, 4, 6), False), (2, ((2, 3), (2, 2)), (2, 3, 5, 7), True), (2, (3, 2, 1), (3, 6, 5), True),
])  # fmt: skip
def test_pooled_and_back_is_torchs(dims, pool, shape, give_size):
    a = np.random.default_rng(0).standard_normal(shape)
    results = []
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        x = lib.tensor(a, requires_grad=True)
        layer = getattr(n, f"MaxUnpool{dims}d")(*pool)
        y, at = getattr(n, f"MaxPool{dims}d")(*pool, return_indices=True)(x)
        back = layer(y, at, output_size=shape[-dims:]) if give_size else layer(y, at)
        assert tuple(back.shape) == shape
        (back * back).sum().backward()
        results.append((back.detach().numpy(), x.grad.numpy(), repr(layer)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-14)
    assert results[0][2] == results[1][2]


def test_what_is_refused():
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        x, at = lib.ones(1, 1, 2), lib.tensor([[[0, 2]]])
        f = n.functional.max_unpool1d
        for error, bad in (
            (ValueError, lambda: f(x, at, 2, output_size=[9])), (ValueError, lambda: f(x, at, 2, output_size=[2, 2])),
            (RuntimeError, lambda: f(x, at + 5, 2)), (RuntimeError, lambda: f(x, at.to(lib.int32), 2)),
            (RuntimeError, lambda: f(x, at[..., :1], 2)),
        ):  # fmt: skip
            with pytest.raises(error):
                bad()
    with pytest.raises(RuntimeError, match="are expected"):
        nn.functional.bilinear(minidl.ones(2, 3), minidl.ones(2, 4), minidl.ones(5, 4, 3))
