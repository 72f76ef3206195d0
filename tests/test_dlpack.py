"""DLPack with torch, both ways: the same memory, the same numbers."""

import numpy as np
import pytest
import torch

import minidl

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_to_torch(dtype):
    t = minidl.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(minidl, dtype))
    for ours in (t, t.t(), t[:, 1:], t[0, 0], t[:0], minidl.tensor(1).to(getattr(minidl, dtype))):
        theirs = torch.from_dlpack(ours)
        assert theirs.dtype == getattr(torch, dtype)
        assert tuple(theirs.shape) == tuple(ours.shape)
        np.testing.assert_array_equal(theirs.numpy(), ours.numpy())
        if ours.numel():
            assert theirs.data_ptr() == ours.data_ptr()
    torch.from_dlpack(t)[0, 0] = 1
    assert t[0, 0].item() == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_torch(dtype):
    t = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, dtype))
    for theirs in (t, t.t(), t[:, 1:], t[0, 0], t[:0]):
        ours = minidl.from_dlpack(theirs)
        assert ours.dtype == getattr(minidl, dtype)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
        if ours.numel():
            assert theirs.data_ptr() == ours.data_ptr()
    shared = minidl.from_dlpack(t)
    shared[0, 0] = 1
    assert t[0, 0].item() == 1
    t[1, 1] = 1
    assert shared[1, 1].item() == 1


def test_memory_outlives_its_first_owner():
    t = minidl.from_dlpack(torch.arange(1000.0))
    u = torch.from_dlpack(minidl.arange(1000.0) + 0)
    assert t.sum().item() == u.sum().item() == 499500


def test_with_numpy_and_with_itself():
    t = minidl.ones(3)
    assert np.shares_memory(np.from_dlpack(t), t.numpy())
    assert minidl.from_dlpack(t).data_ptr() == t.data_ptr()
    assert t.__dlpack_device__() == (1, 0)


def test_what_cannot_be_shared():
    x = minidl.ones(2, requires_grad=True)
    for t in (x, x * 2):
        with pytest.raises(BufferError, match="requires grad"):
            torch.from_dlpack(t)
    assert torch.from_dlpack(x.detach()).sum() == 2
    with pytest.raises((BufferError, RuntimeError)):
        minidl.from_dlpack(torch.ones(2, requires_grad=True))
    with pytest.raises((BufferError, RuntimeError)):
        minidl.from_dlpack(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="list has no __dlpack__"):
        minidl.from_dlpack([1.0])

    class Elsewhere:
        __dlpack__ = None

        def __dlpack_device__(self):
            return (8, 0)

    with pytest.raises(ValueError, match="device type 8"):
        minidl.from_dlpack(Elsewhere())
