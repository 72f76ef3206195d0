"""Tensors from Python numbers: which precision they pass through."""

import numpy as np
import pytest

import minidl


@pytest.mark.parametrize("data", [0.1, [0.1], ((0.1, 2**53 + 0.0),)])
def test_python_floats_reach_a_float64_tensor_without_rounding_on_the_way(data):
    t = minidl.tensor(data, dtype=minidl.float64)
    np.testing.assert_array_equal(t.numpy(), np.array(data))
    assert minidl.tensor(data).dtype == minidl.float32
