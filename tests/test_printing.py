"""repr of a Tensor is torch's, letter for letter, up to the library's name and that of grad_fn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl


def shown(L: Any, a: np.ndarray) -> str:
    return repr(L.tensor(a))


def same(a: np.ndarray) -> None:
    ours, theirs = shown(minidl, a), shown(torch, a)
    # "minidl" is a letter longer than "torch": where that breaks the line before dtype=, the break is not compared
    join = lambda text: re.sub(r",\s+dtype=", ", dtype=", text)
    assert join(ours).replace("minidl.", "torch.") == join(theirs)


SOME = [
    np.float32(3.5),
    np.float32(3),
    np.float32(-0.0),
    np.float32(1e-5),
    np.float32(123456.789),
    np.float32(1e10),
    np.float32("nan"),
    np.float32("-inf"),
    np.float64(0.1),
    np.int64(3),
    np.bool_(True),
    np.uint8(200),
    np.zeros(0, np.float32),
    np.zeros((0, 3), np.float32),
    np.zeros(0, np.int64),
    np.zeros((2, 0), np.float64),
    np.zeros(3, np.float32),
    np.array([1.0, 2.5], np.float32),
    np.array([1.0, 20.0], np.float32),
    np.array([1.0, 10000.0], np.float32),
    np.array([1e8, 2e8], np.float32),
    np.array([1e9, 1.0], np.float32),
    np.array([0.001, 0.5], np.float32),
    np.array([0.00001, 0.5], np.float32),
    np.array([1234.5, 0.5], np.float32),
    np.array([-1.5, np.inf], np.float32),
    np.array([np.nan, 1.0], np.float32),
    np.array([np.nan, np.inf, -np.inf], np.float32),
    np.array([0.0, np.inf], np.float32),
    np.array([1e-30, np.nan], np.float32),
    np.array([0.5, -0.25], np.float16),
    np.array([1 / 3, 2 / 3], np.float64),
    np.arange(30, dtype=np.float32).reshape(5, 6) / 7,
    np.arange(24).reshape(2, 3, 4),
    np.arange(24, dtype=np.float64).reshape(2, 3, 4) - 11,
    np.arange(16, dtype=np.int8).reshape(2, 2, 2, 2),
    np.array([[True, False], [False, False]]),
    np.array([True, False, True]),
    np.arange(40),
    np.arange(40, dtype=np.int32) * 1000,
    np.arange(200, dtype=np.float32) / 3,
    np.arange(1000, dtype=np.float32),
    np.arange(1001, dtype=np.float32),
    np.arange(2000, dtype=np.float32) / 3,
    np.arange(2000, dtype=np.int64),
    np.arange(10000, dtype=np.float32).reshape(100, 100),
    np.arange(10000, dtype=np.float32).reshape(10, 10, 100) / 7,
    np.arange(1200, dtype=np.float64).reshape(4, 300),
    np.arange(1200, dtype=np.int16).reshape(300, 4),
    np.arange(3000).reshape(10, 5, 60) % 2 == 0,
    np.ones((1, 1, 1, 3), np.float32),
    np.cos(np.arange(20, dtype=np.float64)),
    np.where(np.arange(2000) == 1000, 1e9, 1.0).astype(np.float32),  # the great one is not shown, and does not count
]


@pytest.mark.parametrize("a", SOME, ids=lambda a: f"{a.dtype}{a.shape}")
def test_as_torch(a: np.ndarray) -> None:
    same(np.asarray(a))


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    )
)
def test_any_array_as_torch(a: np.ndarray) -> None:
    same(a)


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_any_floats_as_torch(values: list[float]) -> None:
    same(np.array(values, np.float32))


def test_history() -> None:
    for make in (
        lambda L: L.tensor([1.0, 2.0], requires_grad=True),
        lambda L: L.tensor(3.5, requires_grad=True),
        lambda L: L.arange(12.0).requires_grad_(),
        lambda L: L.zeros(2, 2, dtype=L.float64, requires_grad=True),
        lambda L: L.arange(60.0).requires_grad_(),
    ):
        assert repr(make(minidl)).replace("minidl.", "torch.") == repr(make(torch))
    y = minidl.tensor([1.0, 2.0], requires_grad=True) * 2
    assert repr(y) == "tensor([2., 4.], grad_fn=<mul>)"
    assert repr(y.detach()) == "tensor([2., 4.])"
    assert str(y) == repr(y)


def test_default_dtype_is_not_shown() -> None:
    for L in (minidl, torch):
        L.set_default_dtype(L.float64)
        try:
            texts = [repr(L.zeros(2)), repr(L.zeros(2, dtype=L.float32)), repr(L.zeros(0, dtype=L.int64))]
        finally:
            L.set_default_dtype(L.float32)
        if L is minidl:
            ours = [t.replace("minidl.", "torch.") for t in texts]
    assert ours == texts


def test_strides_and_huge_tensors() -> None:
    a = np.arange(24.0).reshape(4, 6)
    assert repr(minidl.from_numpy(a.T)) == repr(minidl.tensor(np.ascontiguousarray(a.T)))
    big = minidl.zeros(1).expand(10**9)  # shown without being laid out
    assert repr(big) == "tensor([0., 0., 0.,  ..., 0., 0., 0.])"


def test_format() -> None:
    for L in (minidl, torch):
        x = L.tensor(3.14159)
        assert f"{x:.2f}" == "3.14"
        assert f"{L.tensor(2.5)}" == "2.5"
        assert f"{L.tensor(7):03d}" == "007"
        assert f"{L.tensor([1.0])}" == "tensor([1.])"
        with pytest.raises(TypeError):
            f"{L.tensor([1.0, 2.0]):.2f}"


def test_sizes_and_dtypes() -> None:
    assert repr(minidl.zeros(2, 3).shape) == "minidl.Size([2, 3])"
    assert repr(minidl.float32) == "minidl.float32"
    assert str(minidl.zeros(2).shape).replace("minidl", "torch") == str(torch.zeros(2).shape)


@pytest.mark.parametrize(
    "chosen",
    [
        {"precision": 2}, {"precision": 0}, {"sci_mode": True}, {"sci_mode": False}, {"linewidth": 40},
        {"threshold": 5}, {"threshold": 5, "edgeitems": 1}, {"profile": "short"}, {"profile": "full"},
        {"profile": "short", "precision": 7, "sci_mode": True},
    ],
)  # fmt: skip
def test_print_options_are_torchs(chosen: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays = [*SOME, rng.standard_normal((7, 9)), rng.standard_normal(1200).astype(np.float32), np.arange(2000)]
    try:
        for L in (minidl, torch):
            L.set_printoptions(**chosen)
        for a in arrays:
            same(a)
    finally:
        for L in (minidl, torch):
            L.set_printoptions(profile="default")
    same(np.array([1 / 3]))


def test_an_unknown_print_profile_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="tiny.*default"):
        minidl.set_printoptions(precision=2, profile="tiny")
    same(np.array([1 / 3]))
