"""The stand-in for CuPy refuses what CuPy refuses."""

import cupy
import fakecupy
import numpy as np
import pytest


@pytest.fixture
def x():
    return fakecupy.asarray(np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: np.asarray(x), TypeError),
        (lambda x: np.ascontiguousarray(x), TypeError),
        (lambda x: x + np.ones(3), TypeError),
        (lambda x: np.ones(3) * x, TypeError),
        (lambda x: np.add(x, np.ones(3)), TypeError),
        (lambda x: np.concatenate([x, np.ones((1, 3))]), TypeError),
        (lambda x: np.add.reduce(x, axis=0), TypeError),
        (lambda x: np.maximum.accumulate(x), TypeError),
        (lambda x: np.matmul(x, x.T), TypeError),
        (lambda x: x.max(initial=0), TypeError),
        (lambda x: np.sum(x, where=True), TypeError),
        (lambda x: np.broadcast_to(x, (2, 2, 3), subok=True), TypeError),
        (lambda x: fakecupy.errstate(all="ignore"), AttributeError),
        (lambda x: fakecupy.vecdot(x, x), AttributeError),
        (lambda x: x.ctypes, AttributeError),
        (lambda x: x.__setitem__(fakecupy.asarray([0, 0]), fakecupy.ones((2, 3))), ValueError),
        (lambda x: x.flags.writeable, AttributeError),
        (lambda x: x[fakecupy.asarray([2])], IndexError),
        (lambda x: hash(x), TypeError),
        (lambda x: fakecupy.cuda.Device(1), RuntimeError),
    ],
)
def test_what_cupy_has_not_is_refused(x, call, error):
    with pytest.raises(error):
        call(x)


def test_what_cupy_has_works(x):
    y = np.exp(x).sum(axis=0, keepdims=True)
    assert type(y) is fakecupy.ndarray
    assert fakecupy.asnumpy(np.where(x > 2, x, 0)).tolist() == [[0, 0, 0], [3, 4, 5]]
    assert x.sum().shape == ()
    x += 1
    assert fakecupy.asnumpy(x[1, 1:]).tolist() == [5, 6]
    assert np.isnan(fakecupy.asnumpy(fakecupy.empty(3))).all()
    z = fakecupy.zeros((2, 3))
    assert z.base is None
    assert all(v.base is z for v in (z.T, z[0], z.reshape(3, 2), np.swapaxes(z, 0, 1), z.T[1], fakecupy.ravel(z)))


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.get(),
        lambda x: x[0, 0].item(),
        lambda x: float(x[0, 0]),
        lambda x: bool(x[0, 0]),
        lambda x: x.tolist(),
        lambda x: fakecupy.asnumpy(x),
        lambda x: x[x > 2],
        lambda x: fakecupy.nonzero(x),
    ],
)
def test_copies_to_the_host_are_counted(x, copy):
    before = fakecupy.syncs
    x + x, x.sum(), x[0]
    assert fakecupy.syncs == before
    copy(x)
    assert fakecupy.syncs > before


def test_import_gives_the_stand_in_in_its_block_only():
    with fakecupy.installed():
        import cupy as inside

        assert inside is fakecupy
    import cupy as outside

    assert outside is cupy
    assert outside is not fakecupy
