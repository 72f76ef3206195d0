"""Two of four: packing there and back, the variants against the definition, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import assert_close, floats, laid_out, layouts, normal, seeds, sizes, sum_bound, unmodified

import minidl_kernels as mk


def two_of_four(seed, n, k, dtype="float32"):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n, k // 4, 4)).astype(dtype)
    w[rng.permuted(np.broadcast_to(np.arange(4) < 2, w.shape), axis=2)] = 0
    w[rng.random(w.shape) < 0.1] = 0
    return w.reshape(n, k)


@given(n=sizes(4, 20), groups=st.integers(0, 9), dtype=floats, layout=layouts, seed=seeds)
def test_packing_there_and_back(n, groups, dtype, layout, seed):
    w = laid_out(two_of_four(seed, n, 8 * groups, dtype), layout)
    values, where = mk.pack_nm(w)
    assert (values.shape, where.shape, where.dtype) == ((n, 4 * groups), (n, groups), np.uint8)
    assert np.array_equal(mk.unpack_nm(values, where), w)
    pairs = (where[:, :, None] >> np.uint8([0, 2, 4, 6]) & 3).reshape(n, 2 * groups, 2)
    assert (pairs[:, :, 0] < pairs[:, :, 1]).all()  # as sparse tensor cores want them


@given(m=sizes(4, 20), n=sizes(4, 20), groups=st.integers(0, 9), dtype=floats, layout=layouts, seed=seeds)
def test_variants_are_the_product_with_the_dense_matrix(m, n, groups, dtype, layout, seed):
    w, b = two_of_four(seed, n, 8 * groups, dtype), normal(seed + 1, n).astype(dtype)
    x, packed = laid_out(normal(seed, m, 8 * groups).astype(dtype), layout), mk.pack_nm(w)
    exact = x.astype(np.longdouble) @ w.T.astype(np.longdouble) + b
    bound = sum_bound(8 * groups + 1, np.abs(x.astype(np.longdouble)) @ np.abs(w.T) + np.abs(b), dtype)
    for variant in mk.variants("nm_linear", "cpu"):
        with unmodified(x, *packed), mk.use(nm_linear=variant):
            assert_close(mk.nm_linear(x, *packed, b), exact.astype(dtype), bound=bound)


@pytest.mark.parametrize("variant", mk.variants("nm_linear", "cpu"))
def test_what_is_not_stored_takes_no_part(variant):
    w = np.float32([[0, 1, 2, 0, 0, 0, 3, 4]])
    x = np.float32([[np.inf, 1, 1, np.nan, -np.inf, np.nan, 1, 1], [0, np.inf, 1, 0, 0, 0, 1, 1]])
    with mk.use(nm_linear=variant):
        assert mk.nm_linear(x, *mk.pack_nm(w)).tolist() == [[10], [np.inf]]


def test_what_does_not_fit_is_refused():
    w = two_of_four(0, 3, 16)
    values, where = mk.pack_nm(w)
    with pytest.raises(ValueError, match="K must be a multiple of 8"):
        mk.pack_nm(w[:, :12])
    full = w.copy()
    full[1, 4:7] = 1
    with pytest.raises(ValueError, match=r"w\[1, 4:8\] has more than two"):
        mk.pack_nm(full)
    with pytest.raises(ValueError, match="the 16 columns that values"):
        mk.nm_linear(normal(0, 2, 8).astype("f4"), values, where)
    with pytest.raises(ValueError, match="a byte for every 4 of values"):
        mk.nm_linear(normal(0, 2, 16).astype("f4"), values, where[:, :1])
    with pytest.raises(TypeError, match="where must be uint8"):
        mk.unpack_nm(values, where.astype(np.int8))
