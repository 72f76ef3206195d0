"""scaled_dot_product_attention(enable_gqa=True) against torch: grouped heads, masks, gradients, errors.

Tolerance: in float64 sums of at most 50 terms of size 1, 1e-12; in float32 the same count of eps 1.2e-7, 2e-5.
"""

import numpy as np
import pytest
import torch

import minidl

SHAPES = [
    ((2, 6, 5, 4), (2, 2, 7, 4), 3), ((1, 4, 3, 4), (1, 1, 3, 4), 4), ((2, 3, 2, 4), (2, 3, 6, 4), 2),
    ((4, 3, 4), (2, 5, 4), 4), ((2, 2, 4, 3, 4), (2, 2, 2, 5, 4), 4),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ["plain", "causal", "bool", "float", "trained", "scale"])
@pytest.mark.parametrize(("q_shape", "k_shape", "width"), SHAPES)
def test_grouped_heads_are_torchs(q_shape, k_shape, width, how, dtype):
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(s).astype(dtype) for s in (q_shape, k_shape, (*k_shape[:-1], width))]
    scores = (*q_shape[:-1], k_shape[-2])
    mask = rng.random(scores) < 0.7 if how == "bool" else rng.standard_normal(scores).astype(dtype)
    mask = mask | (np.arange(scores[-1]) == 0) if how == "bool" else mask  # every row sees something
    results = []
    for lib in (minidl, torch):
        f = (minidl.nn.functional if lib is minidl else torch.nn.functional).scaled_dot_product_attention
        q, k, v = (lib.tensor(a, requires_grad=True) for a in arrays)
        options = {"plain": {}, "causal": {"is_causal": True}, "scale": {"scale": 0.7}}.get(how, {})
        leaves = [q, k, v]
        if how in ("bool", "float", "trained"):
            options = {"attn_mask": lib.tensor(mask, requires_grad=how == "trained")}
            leaves += [options["attn_mask"]] if how == "trained" else []
        y = f(q, k, v, **options, enable_gqa=True)
        (y * y).sum().backward()
        results.append([y, *(t.grad for t in leaves)])
    for a, t in zip(*results, strict=True):
        a, t = a.detach().numpy(), t.detach().numpy()
        assert (a.shape, a.dtype) == (t.shape, t.dtype)
        bound = {"float32": 2e-5, "float64": 1e-12}[dtype]
        np.testing.assert_allclose(a, t, rtol=0, atol=bound * max(1, np.abs(t).max()))


@pytest.mark.parametrize("dtype", ["float64"])
def test_heads_that_do_not_divide_are_refused(dtype):
    for lib in (minidl, torch):
        f = (minidl.nn.functional if lib is minidl else torch.nn.functional).scaled_dot_product_attention
        q, k = lib.ones(1, 5, 2, 4), lib.ones(1, 2, 3, 4)
        with pytest.raises(RuntimeError):
            f(q, k, k, enable_gqa=True)
        with pytest.raises(RuntimeError):
            f(q, k, k)
