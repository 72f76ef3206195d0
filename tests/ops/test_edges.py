"""What is at the edge of an op's domain, in torch and here: zeros and NaN in losses, factors of 0, dtypes that do not
meet, numbers that do not fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import minidl
import minidl.nn.functional as MF

INF, NAN = math.inf, math.nan


def outcome(f: Callable, library: Any, functional: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return f(library, functional)
        except Exception as error:
            return error


def slopes(L: Any, f: Callable, *values: Any) -> list:
    """The result, its dtype, and the gradient of its sum for each input of float64."""
    xs = [L.tensor(v, dtype=L.float64, requires_grad=True) for v in values]
    y = f(*xs)
    y.sum().backward()
    return [y.detach().numpy(), *(x.grad.numpy() for x in xs)]


SCORES, SHARES, COUNTS = [0.1, 0.2, 0.3, 0.4, 0.5], [0.0, -0.5, 0.3, NAN, INF], [0.0, -0.5, 0.3, 1.0, 2.0]
M, A, B = [[INF, NAN]], [[INF, 1.0]], [[1.0, 2.0], [INF, 4.0]]
EDGES: dict[str, Callable] = {
    "kl_div": lambda L, F: slopes(L, lambda x, t: F.kl_div(x, t, reduction="none"), SCORES, SHARES),
    "kl_div_of_no_chance": lambda L, F: slopes(
        L, lambda x, t: F.kl_div(x, t, reduction="none"), [-INF, -1.0], [0.0, 0.0]
    ),
    "kl_div_log": lambda L, F: slopes(L, lambda x, t: F.kl_div(x, t, log_target=True, reduction="sum"), SCORES, SHARES),
    "poisson_full": lambda L, F: slopes(L, lambda x, t: F.poisson_nll_loss(x, t, full=True), SCORES, COUNTS),
    "poisson_rates": lambda L, F: slopes(L, lambda x, t: F.poisson_nll_loss(x, t, log_input=False), SCORES, COUNTS),
    "cdist_0": lambda L, F: slopes(
        L, lambda a, b: L.cdist(a, b, p=0), [[1.0, NAN], [2.0, 3.0]], [[1.0, 4.0], [INF, 3.0]]
    ),
    "pdist_0": lambda L, F: slopes(L, lambda a: F.pdist(a, p=0), [[1.0, NAN], [2.0, 3.0], [INF, 3.0]]),
    "addmm_beta_0": lambda L, F: slopes(L, lambda m, a, b: L.addmm(m, a, b, beta=0), M, A, B),
    "addmv_beta_0": lambda L, F: slopes(L, lambda m, b, a: L.addmv(m, b, a, beta=0), M[0], B, A[0]),
    "addr_beta_0": lambda L, F: slopes(L, lambda m, a, b: L.addr(m, a, b, beta=0), B, A[0], A[0]),
    "baddbmm_beta_0": lambda L, F: slopes(L, lambda m, a, b: L.baddbmm(m, a, b, beta=0), [B], [B], [B]),
    "addmm_alpha_0": lambda L, F: L.addmm(L.tensor(M), L.tensor(A), L.tensor(B), alpha=0).numpy(),
    "addmv_alpha_0": lambda L, F: L.addmv(L.tensor([INF, 2.0]), L.tensor(B), L.tensor(A[0]), alpha=0).numpy(),
    "addr_alpha_0": lambda L, F: L.addr(L.tensor(B), L.tensor(A[0]), L.tensor(A[0]), alpha=0).numpy(),
    "unique_hangs_on_its_input": lambda L, F: L.unique(L.tensor([1.0, 2.0, 1.0], requires_grad=True)).requires_grad,
    "tensor_wraps": lambda L, F: L.tensor([-1, -255], dtype=L.uint8).numpy(),
    "tensor_of_an_array": lambda L, F: L.tensor(np.array([300, -1]), dtype=L.uint8).numpy(),
    "version": lambda L, F: [L.ones(2)._version, L.ones(2).add_(1)._version, L.ones(2).add_(1).view(2, 1)._version],
    "max_of_bools": lambda L, F: L.max(L.tensor([[True, False]]), 1)[1].numpy(),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    ours, theirs = (outcome(EDGES[name], *library) for library in ((minidl, MF), (torch, TF)))
    for a, t in zip(ours, theirs, strict=True) if isinstance(theirs, list) else [(ours, theirs)]:
        np.testing.assert_allclose(a, t, rtol=1e-14)


REFUSED: dict[str, Callable] = {
    "unique": lambda L, F: L.unique(L.tensor([1.0, 2.0], requires_grad=True)).sum().backward(),
    "unique_consecutive": lambda L, F: L.unique_consecutive(L.tensor([1.0], requires_grad=True)).sum().backward(),
    "argmax_of_bools": lambda L, F: L.argmax(L.tensor([True, False])),
    "argmin_of_bools": lambda L, F: L.argmin(L.tensor([True, False]), 0),
    "topk_of_bools": lambda L, F: L.topk(L.tensor([True, False]), 1),
    "kthvalue_of_bools": lambda L, F: L.kthvalue(L.tensor([True, False]), 1),
    "tensor_inf": lambda L, F: L.tensor([INF], dtype=L.uint8),
    "tensor_nan": lambda L, F: L.tensor([NAN], dtype=L.int64),
    "tensor_300": lambda L, F: L.tensor([300], dtype=L.uint8),
    "tensor_-256": lambda L, F: L.tensor([-256], dtype=L.uint8),
    "tensor_-128.5": lambda L, F: L.tensor([-1.5], dtype=L.uint8),
    "tensor_2^63": lambda L, F: L.tensor([2**63]),
    "huber_loss": lambda L, F: F.huber_loss(L.ones(2, requires_grad=True), L.ones(2).double()).backward(),
    "binary_cross_entropy": lambda L, F: F.binary_cross_entropy(L.ones(2), L.ones(2).double()),
    "bce_of_labels": lambda L, F: F.binary_cross_entropy(L.ones(2), L.ones(2).long()),
    "logits_of_labels": lambda L, F: F.binary_cross_entropy_with_logits(L.ones(2), L.ones(2).long()),
    "kl_div_of_labels": lambda L, F: F.kl_div(L.ones(2), L.ones(2).long()),
    "a_number_of_another_dtype": lambda L, F: L.zeros(3).__setitem__([0, 1], L.tensor(1.0, dtype=L.float64)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    ours, theirs = (outcome(REFUSED[name], *library) for library in ((minidl, MF), (torch, TF)))
    assert isinstance(theirs, Exception)
    assert isinstance(ours, type(theirs)), ours


@pytest.mark.parametrize("name", ["mse_loss", "smooth_l1_loss", "soft_margin_loss", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_losses_of_two_dtypes(name: str, reduction: str) -> None:
    """The result's dtype, and that each gradient has its input's."""
    for one, two in (("float32", "float64"), ("float64", "float32"), ("float16", "float32"), ("float32", "float16")):
        found = []
        for L, F in ((minidl, MF), (torch, TF)):
            x = L.tensor([0.2, 0.9], dtype=getattr(L, one), requires_grad=True)
            y = getattr(F, name)(x, L.ones(2, dtype=getattr(L, two)), reduction=reduction)
            y.sum().backward()
            found.append([str(t.dtype).partition(".")[2] for t in (y, x.grad)])
        assert found[0] == found[1], (one, two)
