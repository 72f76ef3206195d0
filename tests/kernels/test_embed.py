"""Rows added up at places: the variants against the definition, in whatever layout, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import assert_close, laid_out, layouts, normal, same_bits, seeds, sizes, sum_bound, unmodified

import minidl_kernels as mk


@given(
    length=sizes(8, 60),
    d=sizes(4, 20),
    rows=st.integers(1, 9),
    dtype=st.sampled_from(["float32", "float64", "int64", "int8", "uint16", "float16"]),
    layout=layouts,
    seed=seeds,
)
def test_sums_of_one_row_after_the_other(length, d, rows, dtype, layout, seed):
    x = laid_out((8 * normal(seed, length, d)).astype(dtype), layout)
    index = np.random.default_rng(seed).integers(0, rows, length)
    with mk.use(scatter_rows="reference"):
        right = mk.scatter_rows(x, index, rows)
    with unmodified(x, index), mk.use(scatter_rows="columns"):
        found = mk.scatter_rows(x, index, rows)
    if x.dtype.kind == "f":
        absolute = np.zeros((rows, d))
        np.add.at(absolute, index, np.abs(x.astype(np.float64)))
        assert_close(found, right, bound=2 * sum_bound(length, absolute, x.dtype))
    else:
        assert same_bits(found, right)


@pytest.mark.parametrize("variant", mk.variants("scatter_rows", "cpu"))
def test_what_does_not_fit_is_refused(variant):
    x, i = np.ones((3, 2), np.float32), np.array([0, 1, 2])
    with mk.use(scatter_rows=variant):
        for bad in (-1, 3):
            with pytest.raises(IndexError, match=f"index {bad} is out of bounds: there are 3 rows"):
                mk.scatter_rows(x, np.array([0, bad, 1]), 3)
        with pytest.raises(ValueError, match="a place for each of the 3 rows"):
            mk.scatter_rows(x, i[:2], 3)
        with pytest.raises(TypeError, match="of integers, got float64"):
            mk.scatter_rows(x, i * 1.0, 3)
        with pytest.raises(TypeError, match="must hold numbers, got bool"):
            mk.scatter_rows(x > 0, i, 3)
