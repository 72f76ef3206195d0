"""Number types: names, NumPy's view of them, and the rule by which they meet."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import dtypes

NAMES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_is_numpys_and_torchs(name: str) -> None:
    ours, theirs, numpys = getattr(minidl, name), getattr(torch, name), np.dtype(name)
    assert ours.itemsize == theirs.itemsize == numpys.itemsize
    assert ours.is_floating_point == theirs.is_floating_point
    assert ours.is_complex == theirs.is_complex
    assert ours.numpy == numpys
    assert ours == numpys
    assert numpys == ours
    assert ours == numpys.type
    assert ours == name
    assert hash(ours) == hash(numpys)
    assert np.zeros(2, dtype=ours).dtype == numpys
    assert minidl.zeros(2, dtype=ours).dtype is ours
    assert minidl.zeros(2, dtype=numpys).dtype is ours
    assert minidl.zeros(2, dtype=name).dtype is ours
    assert repr(ours) == f"minidl.{name}"
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert copy.deepcopy(ours) is ours


def test_other_names() -> None:
    for alias, name in (
        ("float", "float32"), ("double", "float64"), ("half", "float16"), ("int", "int32"), ("long", "int64"),
        ("short", "int16"),
    ):  # fmt: skip
        assert getattr(minidl, alias) is getattr(minidl, name)
        assert getattr(torch, alias) is getattr(torch, name)


def test_unequal() -> None:
    assert minidl.float32 != minidl.float64
    assert minidl.float32 != "nonsense"
    assert minidl.float32 is not None
    assert (minidl.float32 == None) is False  # noqa: E711
    assert minidl.int32 != 3
    assert len({minidl.float32, np.dtype("float32"), minidl.float64}) == 2


def test_pythons_types_are_torchs() -> None:
    for python, name in ((float, "float64"), (int, "int64"), (bool, "bool")):
        for L in (minidl, torch):
            assert str(L.zeros(2, dtype=python).dtype).endswith(name)


@pytest.mark.parametrize("other", ["complex64", "float128", "uint16", "uint32", "uint64", "datetime64[s]", "S3", "O"])
def test_types_that_are_not_held(other: str) -> None:
    dtype = np.dtype(other)
    with pytest.raises(TypeError, match="hold"):
        dtypes.dtype_of(dtype)
    with pytest.raises(TypeError, match="hold"):
        minidl.zeros(2).to(dtype)
    with pytest.raises(TypeError):
        minidl.from_numpy(np.zeros(2, dtype))


def test_not_a_type() -> None:
    with pytest.raises(TypeError):
        minidl.zeros(2, dtype="float31")
    with pytest.raises(TypeError):
        minidl.zeros(2).to(dtype=3.5)


def test_default_dtype() -> None:
    assert minidl.get_default_dtype() is minidl.float32
    for L in (minidl, torch):
        L.set_default_dtype(L.float64)
        try:
            kinds = [
                L.tensor(1.0).dtype, L.zeros(2).dtype, L.rand(2).dtype, L.arange(2.0).dtype, L.full((2,), 1.5).dtype,
                (L.tensor([1, 2]) / 2).dtype, L.tensor([1, 2]).exp().dtype, (L.tensor([1]) * 1.5).dtype,
                L.tensor([1]).dtype, (L.tensor([True]) + 1).dtype, (L.ones(2, dtype=L.float32) * 1.5).dtype,
                L.eye(2).dtype, L.linspace(0, 1, 3).dtype, L.tensor([1.5, 2]).dtype, L.get_default_dtype(),
            ]  # fmt: skip
        finally:
            L.set_default_dtype(L.float32)
        if L is minidl:
            ours = [str(k).partition(".")[2] for k in kinds]
    assert ours == [str(k).partition(".")[2] for k in kinds]
    with pytest.raises(TypeError, match="floating"):
        minidl.set_default_dtype(minidl.int32)
    minidl.set_default_dtype("float32")


OPERANDS = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([(), (2,), (2, 2)])),
    st.sampled_from([True, 2, 2.5]),
)


def made(L: Any, operand: Any) -> Any:
    return L.ones(operand[1], dtype=getattr(L, operand[0])) if isinstance(operand, tuple) else operand


@given(OPERANDS, OPERANDS)
def test_result_type(a: Any, b: Any) -> None:
    ours = dtypes.result_type(made(minidl, a), made(minidl, b))
    assert ours.name == str(torch.result_type(made(torch, a), made(torch, b))).partition(".")[2]
    arrays = [x.array if isinstance(x, minidl.Tensor) else x for x in (made(minidl, a), made(minidl, b))]
    assert dtypes.result_type(*arrays) == ours


def test_result_type_of_several() -> None:
    x = minidl.ones(2, dtype=minidl.int8)
    assert dtypes.result_type(x, minidl.ones((), dtype=minidl.float64), 2.5) == np.float64
    assert dtypes.result_type(x) == np.int8
    assert dtypes.result_type(np.float64(1), 2.0) == np.float64
    assert dtypes.result_type(x, np.float64(1)) == np.float32
    with pytest.raises(TypeError):
        dtypes.result_type()


def test_conversions_between_all() -> None:
    values = [0.0, 1.0, -1.5, 100.7]
    for a in NAMES:
        for b in NAMES:
            x, t = minidl.tensor(values).to(getattr(minidl, a)), torch.tensor(values).to(getattr(torch, a))
            if a == "uint8":  # a negative float into an unsigned integer is undefined in C
                x, t = x[[0, 1, 3]], t[[0, 1, 3]]
            y, u = x.to(getattr(minidl, b)), t.to(getattr(torch, b))
            assert str(y.dtype).partition(".")[2] == str(u.dtype).partition(".")[2] == b
            if b != "uint8" or a.startswith(("int", "uint", "bool")):
                np.testing.assert_array_equal(y.numpy(), u.numpy(), err_msg=f"{a} to {b}")


def test_conversion_methods() -> None:
    for L in (minidl, torch):
        x = L.tensor([0.0, 1.5, -2.5])
        found = [
            x.float(), x.double(), x.half(), x.int(), x.long(), x.short(), x.bool(), x.to(L.int8), x.type(L.float64),
            x.to(dtype=L.int64), x.to("cpu", L.float64), x.to(L.zeros(1, dtype=L.int16)), x.type_as(L.tensor([1])),
        ]  # fmt: skip
        if L is minidl:
            ours = found
    for a, b in zip(ours, found, strict=True):
        assert str(a.dtype).partition(".")[2] == str(b.dtype).partition(".")[2]
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    x = minidl.zeros(2)
    assert x.float() is x
    assert x.to(minidl.float32) is x
    assert x.to("cpu") is x
    assert x.to(minidl.float32, copy=True) is not x
    assert x.type() == "minidl.FloatTensor"
    assert x.long().type() == "minidl.LongTensor"
    for name in ("torch.DoubleTensor", "minidl.DoubleTensor", "float64"):
        assert x.type(name).dtype == minidl.float64
    assert x.byte().dtype == minidl.uint8
    assert x.char().dtype == minidl.int8
