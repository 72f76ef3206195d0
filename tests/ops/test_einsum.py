"""einsum against torch over many equations, with gradients, and against its own definition by a loop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import minidl

EQUATIONS = [
    ("i->", (3,)), ("i->i", (3,)), ("ij->", (2, 3)), ("ij->j", (2, 3)), ("ij->ji", (2, 3)), ("ii->", (3, 3)),
    ("ii->i", (3, 3)), ("iij->ji", (2, 2, 3)), ("iji->j", (2, 3, 2)), ("iijj->ij", (2, 2, 3, 3)),
    ("iii->i", (3, 3, 3)), ("ij", (2, 3)), ("ji", (2, 3)), ("ii", (3, 3)), ("ba", (2, 3)), ("->", ()), ("", ()),
    ("...->...", (2, 3)), ("...ij->...ji", (2, 3, 4)), ("i...->...", (2, 3, 4)), ("...ii->...i", (2, 3, 3)),
    ("i...i->...", (3, 2, 3)), ("i...j->j...i", (2, 3, 4)), ("...", (2, 3)), ("i...", (2, 3)), ("Aa->aA", (2, 3)),
    ("i,i->", (3,), (3,)), ("i,i->i", (3,), (3,)), ("i,j->ij", (2,), (3,)), ("i,j->ji", (2,), (3,)),
    ("i,j->", (2,), (3,)), ("ij,jk", (2, 3), (3, 4)), ("ij,jk->ki", (2, 3), (3, 4)), ("ij,kj->ik", (2, 3), (4, 3)),
    ("ji,jk->ik", (3, 2), (3, 4)), ("ij,jk->", (2, 3), (3, 4)), ("ij,ij->", (2, 3), (2, 3)),
    ("ij,ji->", (2, 3), (3, 2)), ("ij,j->i", (2, 3), (3,)), ("ij,i->j", (2, 3), (2,)), ("ij,k->ijk", (2, 3), (4,)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)), ("bij,jk->bik", (2, 3, 4), (4, 2)), ("bij,bj->bi", (2, 3, 4), (2, 4)),
    ("bhtd,bhsd->bhts", (2, 2, 3, 4), (2, 2, 5, 4)), ("bthd,bshd->bhts", (2, 3, 2, 4), (2, 5, 2, 4)),
    ("ii,ij->j", (3, 3), (3, 2)), ("ii,jj->ij", (2, 2), (3, 3)), ("ijk,jil->kl", (2, 3, 4), (3, 2, 5)),
    ("ijkl,lkm->mji", (2, 3, 4, 2), (2, 4, 3)), ("i,->i", (3,), ()), (",->", (), ()),
    ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("...ij,...jk", (2, 3, 4), (2, 4, 2)), ("i...,i...->...", (2, 3), (2, 3)), ("...i,i->...", (2, 3, 4), (4,)),
    ("b...d,...dk->b...k", (2, 3, 4), (3, 4, 2)), ("...,...->...", (2, 3), (3,)), ("...i,...i->...", (2, 3), (3,)),
    ("ij,jk->ik", (2, 1), (3, 4)), ("ij,jk->ik", (2, 3), (1, 4)), ("ij,ij->ij", (1, 3), (2, 1)),
    ("bi,bi->b", (1, 3), (2, 3)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("i,i,i->", (3,), (3,), (3,)),
    ("i,j,k->kji", (2,), (3,), (4,)), ("bij,bjk,bkl->bil", (2, 3, 2), (2, 2, 4), (2, 4, 3)),
    ("ij,ij,ij->ji", (2, 3), (2, 3), (2, 3)), ("ij,j,i->", (2, 3), (3,), (2,)),
    ("bn,anm,bm->ba", (2, 3), (4, 3, 5), (2, 5)), ("...a,...b,ab->...", (2, 3), (2, 4), (3, 4)),
    ("ij,jk->ik", (0, 3), (3, 2)), ("ij,jk->ik", (2, 0), (0, 3)), ("ij->i", (2, 0)),
    (" i j , j k -> i k ", (2, 3), (3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "shapes"), [(e[0], e[1:]) for e in EQUATIONS])
def test_as_torch(equation: str, shapes: tuple) -> None:
    """Values, shapes, and both orders of gradients; exact up to the order of at most 60 additions of size 1."""
    rng = np.random.default_rng(1)
    arrays = [np.asarray(rng.standard_normal(s)) for s in shapes]
    ours = [minidl.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, t = minidl.einsum(equation, *ours), torch.einsum(equation, *theirs)
    close(y, t)
    dy = np.asarray(rng.standard_normal(tuple(t.shape)))
    dx = minidl.autograd.grad(y, ours, minidl.tensor(dy), create_graph=True)
    dt = torch.autograd.grad(t, theirs, torch.tensor(dy), create_graph=True)
    for a, b in zip(dx, dt, strict=True):
        close(a, b)
    if len(arrays) > 1:  # one operand alone is linear
        ddx = minidl.autograd.grad([(a * a).sum() for a in dx], ours, allow_unused=True)
        ddt = torch.autograd.grad([(b * b).sum() for b in dt], theirs, allow_unused=True)
        for a, b in zip(ddx, ddt, strict=True):
            close(minidl.zeros(1) if a is None else a, torch.zeros(1) if b is None else b)


def close(a: Any, b: Any) -> None:
    a, b = a.detach().numpy(), b.detach().numpy()
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max(initial=0.0)))


def by_definition(inputs: list[str], output: str, arrays: list[np.ndarray]) -> np.ndarray:
    """One term of the sum after the other."""
    size = {k: n for term, a in zip(inputs, arrays) for k, n in zip(term, a.shape)}
    y = np.zeros([size[k] for k in output])
    for values in itertools.product(*(range(n) for n in size.values())):
        at = dict(zip(size, values))
        y[tuple(at[k] for k in output)] += np.prod([a[tuple(at[k] for k in t)] for t, a in zip(inputs, arrays)])
    return y


def test_random_equations_are_their_definition() -> None:
    rng = np.random.default_rng(2)
    size = dict(zip("abcde", (2, 3, 1, 2, 4)))
    for _ in range(150):
        inputs = ["".join(rng.choice(list("abcde"), rng.integers(0, 4))) for _ in range(rng.integers(1, 4))]
        letters = sorted({k for term in inputs for k in term})
        output = "".join(rng.permutation(letters)[: rng.integers(0, len(letters) + 1)]) if letters else ""
        arrays = [np.asarray(rng.integers(-4, 5, [size[k] for k in term])).astype(float) for term in inputs]
        got = minidl.einsum(",".join(inputs) + "->" + output, *[minidl.tensor(a) for a in arrays])
        np.testing.assert_array_equal(got.numpy(), by_definition(inputs, output, arrays), str((inputs, output)))


def test_lists_of_numbers_instead_of_letters() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 3))
    for lists in (([0, 1, 2], [2, 1], [0]), ([0, 1, 2], [2, 3], [3, 0, 1]), ([0, 30, 51], [51, 30], [30])):
        got = minidl.einsum(minidl.tensor(a), lists[0], minidl.tensor(b), *lists[1:])
        close(got, torch.einsum(torch.tensor(a), lists[0], torch.tensor(b), *lists[1:]))
    got = minidl.einsum(minidl.tensor(a), [..., 2], minidl.tensor(b), [2, 3], [..., 3])
    close(got, torch.einsum(torch.tensor(a), [..., 2], torch.tensor(b), [2, 3], [..., 3]))
    got = minidl.einsum(minidl.tensor(a), [0, 1, 2], minidl.tensor(b), [2, 3])
    close(got, torch.einsum(torch.tensor(a), [0, 1, 2], torch.tensor(b), [2, 3]))
    close(minidl.einsum("ij,jk", [minidl.tensor(b), minidl.tensor(b.T)]), torch.tensor(b @ b.T))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3)]), ("ij->ij", [(2, 3), (2,)]), ("ijk->i", [(2, 3)]), ("i->i", [(2, 3)]),
        ("ij,jk->ik", [(2, 3), (4, 2)]), ("ii->i", [(2, 3)]), ("i->j", [(2,)]), ("ij->ii", [(2, 2)]),
        ("i1->i", [(2, 3)]), ("i..j->ij", [(2, 3)]), ("......->", [(2, 3)]), ("i->i->i", [(2,)]), ("", []),
    ],
)  # fmt: skip
def test_errors(equation: str, shapes: list) -> None:
    with pytest.raises((RuntimeError, ValueError)):  # ValueError where there is no operand at all
        torch.einsum(equation, *[torch.zeros(s) for s in shapes])
    with pytest.raises(RuntimeError, match="einsum"):
        minidl.einsum(equation, *[minidl.zeros(s) for s in shapes])


def test_what_needs_no_arithmetic_is_a_view() -> None:
    x = minidl.zeros(3, 3)
    minidl.einsum("ii->i", x).add_(1)
    assert x.trace().item() == 3
    minidl.einsum("ij->ji", x)[0, 2] = 5.0
    assert x[2, 0].item() == 5
