"""NumPy meets Tensor: every function of np gives a Tensor with its gradient, or says what to call instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import minidl
from minidl.tensors import Tensor

A = np.array([[0.31, 0.62, 0.23], [0.47, 0.13, 0.81]])
B = np.array([[0.72, 0.41, 0.93], [0.22, 0.64, 0.33]])


def leaf(a: np.ndarray = A) -> Tensor:
    return minidl.tensor(a, requires_grad=True)


UFUNCS = sorted({name for name in dir(np) if isinstance(getattr(np, name), np.ufunc)})


def is_right(y: Any, plain: Any) -> None:
    """y is a Tensor, or several, with NumPy's values."""
    for t, p in zip(
        y if isinstance(y, (tuple, list)) else [y], plain if isinstance(plain, (tuple, list)) else [plain], strict=True
    ):
        assert isinstance(t, Tensor), f"a silent {type(t).__name__}"
        # integers become float32 here, float64 there; bools float16
        rtol = 1e-3 if np.asarray(p).dtype == np.float16 else 1e-6 if t.dtype == minidl.float32 else 1e-12
        np.testing.assert_allclose(t.detach().numpy(), p, rtol=rtol, atol=1e-15)


@pytest.mark.parametrize("name", UFUNCS)
def test_every_ufunc(name: str) -> None:
    ufunc = getattr(np, name)
    worked = 0
    for kind in (np.float64, np.int64, bool):
        a, b = (
            (np.array([[3, 6, 2], [5, 1, 7]]), np.array([[2, 4, 1], [3, 6, 2]])) if kind is not np.float64 else (A, B)
        )
        a, b = a.astype(kind), b.astype(kind)
        arrays = (a, b)[: ufunc.nin] if not ufunc.signature else (a, b.T)[: ufunc.nin]
        if ufunc.signature and name in ("vecdot", "matvec", "vecmat"):
            arrays = {"vecdot": (a, b), "matvec": (a, b[0]), "vecmat": (a[:, 0], b)}[name]
        try:
            with np.errstate(all="ignore"):
                plain = ufunc(*arrays)
        except TypeError:
            continue
        for pattern in range(1, 2**ufunc.nin):  # which arguments are Tensors
            tensors = [minidl.tensor(v) if pattern >> k & 1 else v for k, v in enumerate(arrays)]
            try:
                y = ufunc(*tensors)
            except TypeError as error:
                assert f"np.{ufunc.__name__}" in str(error), error
                assert "minidl" in str(error)
                continue
            except (RuntimeError, NotImplementedError) as error:
                assert kind is not np.float64, error  # refused by the op itself, as torch does
                continue
            worked += 1
            if (name, kind) != ("reciprocal", np.int64):  # whole numbers there, floats here
                is_right(y, plain)
        if kind is not np.float64 or not np.all(np.isfinite(plain)):
            continue
        leaves = [minidl.tensor(v, requires_grad=True) for v in arrays]
        try:
            y = ufunc(*leaves)
        except TypeError:
            continue
        if isinstance(y, Tensor) and y.requires_grad and name not in ("floor_divide", "heaviside"):  # none in torch
            assert minidl.gradcheck(lambda *t: ufunc(*t), leaves)
    if name in ("add", "exp", "matmul", "multiply", "sqrt", "power", "less", "maximum", "negative", "divide", "tanh"):
        assert worked


@pytest.mark.parametrize("name", UFUNCS)
def test_no_method_of_a_ufunc_gives_an_array(name: str) -> None:
    ufunc = getattr(np, name)
    x = leaf()
    calls = {
        "reduce": lambda: ufunc.reduce(x),
        "accumulate": lambda: ufunc.accumulate(x),
        "reduceat": lambda: ufunc.reduceat(x, [0, 1]),
        "outer": lambda: ufunc.outer(x, x),
        "at": lambda: ufunc.at(x, [0], 1.0),
        "out": lambda: ufunc(*[x] * ufunc.nin, out=np.empty((2, 3))),
        "where": lambda: ufunc(*[x] * ufunc.nin, where=np.ones((2, 3), bool)),
        "dtype": lambda: ufunc(*[x] * ufunc.nin, dtype=np.float32),
    }
    for how, call in calls.items():
        if (
            how in ("reduce", "accumulate", "reduceat", "outer", "at")
            and (ufunc.nin != 2 or ufunc.signature)
            and how != "at"
        ):
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        if isinstance(caught.value, TypeError) and "np." in str(caught.value):
            assert ufunc.__name__ in str(caught.value)
        np.testing.assert_array_equal(x.detach().numpy(), A)


# Arguments for the functions that want more than one array.
ARGUMENTS: dict[str, Any] = {
    "allclose": lambda x: (x, B),
    "append": lambda x: (x, B),
    "apply_along_axis": lambda x: (np.sum, 0, x),
    "apply_over_axes": lambda x: (np.sum, x, [0]),
    "array_equal": lambda x: (x, B),
    "array_equiv": lambda x: (x, B),
    "array_split": lambda x: (x, 2),
    "average": lambda x: (x,),
    "block": lambda x: ([[x, x]],),
    "broadcast_arrays": lambda x: (x, B),
    "broadcast_to": lambda x: (x, (4, 2, 3)),
    "choose": lambda x: (np.array([0, 1, 0]), x),
    "clip": lambda x: (x, 0.2, 0.6),
    "column_stack": lambda x: ([x, x],),
    "compress": lambda x: ([True, False], x),
    "concatenate": lambda x: ([x, x],),
    "concat": lambda x: ([x, x],),
    "convolve": lambda x: (x[0], x[1]),
    "copyto": lambda x: (np.empty((2, 3)), x),
    "correlate": lambda x: (x[0], x[1]),
    "cross": lambda x: (x, B),
    "cumulative_sum": lambda x: (x[0],),
    "cumulative_prod": lambda x: (x[0],),
    "delete": lambda x: (x, 0),
    "diagonal": lambda x: (x,),
    "digitize": lambda x: (x, np.array([0.1, 0.5])),
    "dot": lambda x: (x, B.T),
    "dstack": lambda x: ([x, x],),
    "einsum": lambda x: ("ij,ij->i", x, B),
    "einsum_path": lambda x: ("ij,ij->i", x, B),
    "expand_dims": lambda x: (x, 0),
    "extract": lambda x: (A > 0.3, x),
    "fill_diagonal": lambda x: (x, 1.0),
    "flip": lambda x: (x,),
    "full_like": lambda x: (x, 2.0),
    "hsplit": lambda x: (x, 3),
    "hstack": lambda x: ([x, x],),
    "inner": lambda x: (x, B),
    "insert": lambda x: (x, 0, 1.0),
    "interp": lambda x: (x, [0, 1], [0, 2]),
    "intersect1d": lambda x: (x, B),
    "isclose": lambda x: (x, B),
    "isin": lambda x: (x, B),
    "in1d": lambda x: (x, B),
    "ix_": lambda x: (x[0],),
    "kron": lambda x: (x, B),
    "lexsort": lambda x: (x,),
    "linspace": lambda x: (x, B),
    "logspace": lambda x: (x, B),
    "geomspace": lambda x: (x, B),
    "may_share_memory": lambda x: (x, B),
    "moveaxis": lambda x: (x, 0, 1),
    "nan_to_num": lambda x: (x,),
    "nanpercentile": lambda x: (x, 50),
    "nanquantile": lambda x: (x, 0.5),
    "outer": lambda x: (x[0], x[1]),
    "pad": lambda x: (x, 1),
    "partition": lambda x: (x, 1),
    "argpartition": lambda x: (x, 1),
    "percentile": lambda x: (x, 50),
    "piecewise": lambda x: (x, [A > 0.3], [1.0, 2.0]),
    "place": lambda x: (x, A > 0.3, [1.0]),
    "poly": lambda x: (x[0],),
    "polyadd": lambda x: (x[0], x[1]),
    "polydiv": lambda x: (x[0], x[1]),
    "polyfit": lambda x: (x[0], x[1], 1),
    "polymul": lambda x: (x[0], x[1]),
    "polyder": lambda x: (x[0],),
    "polyint": lambda x: (x[0],),
    "roots": lambda x: (x[0],),
    "polysub": lambda x: (x[0], x[1]),
    "polyval": lambda x: (x[0], 2.0),
    "put": lambda x: (x, [0], [1.0]),
    "put_along_axis": lambda x: (x, np.array([[0], [1]]), 1.0, 1),
    "putmask": lambda x: (x, A > 0.3, 1.0),
    "quantile": lambda x: (x, 0.5),
    "ravel_multi_index": lambda x: (x, (3, 3)),
    "repeat": lambda x: (x, 2),
    "reshape": lambda x: (x, (3, 2)),
    "resize": lambda x: (x, (4, 4)),
    "roll": lambda x: (x, 1),
    "rollaxis": lambda x: (x, 1),
    "rot90": lambda x: (x,),
    "searchsorted": lambda x: (x[0], 0.4),
    "select": lambda x: ([A > 0.3], [x]),
    "setdiff1d": lambda x: (x, B),
    "setxor1d": lambda x: (x, B),
    "shares_memory": lambda x: (x, B),
    "split": lambda x: (x, 2),
    "stack": lambda x: ([x, x],),
    "swapaxes": lambda x: (x, 0, 1),
    "take": lambda x: (x, [0, 2]),
    "take_along_axis": lambda x: (x, np.array([[0], [1]]), 1),
    "tensordot": lambda x: (x, B),
    "tile": lambda x: (x, 2),
    "transpose": lambda x: (x,),
    "trapezoid": lambda x: (x,),
    "tril_indices_from": lambda x: (x,),
    "trim_zeros": lambda x: (x[0],),
    "union1d": lambda x: (x, B),
    "unravel_index": lambda x: (x, (2, 3)),
    "unstack": lambda x: (x,),
    "vdot": lambda x: (x, B),
    "vsplit": lambda x: (x, 2),
    "vstack": lambda x: ([x, x],),
    "where": lambda x: (A > 0.3, x, B),
    "array2string": lambda x: (x,),
    "save": None,
    "savetxt": None,
    "savez": None,
    "savez_compressed": None,
    "tofile": None,
    "apply_over": None,
    "bincount": lambda x: (x[0],),
    "histogram": lambda x: (x,),
    "histogram2d": lambda x: (x[0], x[1]),
    "histogramdd": lambda x: (x,),
    "histogram_bin_edges": lambda x: (x,),
    "vander": lambda x: (x[0],),
    "cov": lambda x: (x,),
    "corrcoef": lambda x: (x,),
    "diag": lambda x: (x,),
    "diagflat": lambda x: (x,),
    "gradient": lambda x: (x,),
    "matrix_transpose": lambda x: (x,),
    "permute_dims": lambda x: (x, (1, 0)),
    "astype": lambda x: (x, np.float32),
    "can_cast": lambda x: (x, np.float64),
    "result_type": lambda x: (x, np.float64),
    "min_scalar_type": lambda x: (x,),
    "common_type": lambda x: (x,),
    "nested_iters": None,
    "fromiter": None,
    "from_dlpack": None,
    "require": lambda x: (x,),
    "squeeze": lambda x: (x[:1],),
    "busday_count": None,
    "busday_offset": None,
    "is_busday": None,
    "datetime_as_string": None,
    "unwrap": lambda x: (x[0],),
    "sinc": lambda x: (x,),
    "i0": lambda x: (x,),
    "packbits": lambda x: (x,),
    "unpackbits": lambda x: (x,),
    "tri": None,
    "mask_indices": None,
    "fromfunction": None,
    "trace": lambda x: (x,),
    "real_if_close": lambda x: (x,),
    "isfortran": None,
    "iscomplexobj": lambda x: (x,),
    "isrealobj": lambda x: (x,),
    "isscalar": lambda x: (x,),
    "iterable": lambda x: (x,),
}

# These answer a question about the tensor, print it, or save it: no array of values comes back.
QUESTIONS = {
    "shape", "ndim", "size", "allclose", "array_equal", "array_equiv", "array_repr", "array_str", "array2string",
    "iscomplexobj", "isrealobj", "isscalar", "iterable", "may_share_memory", "shares_memory", "can_cast", "result_type",
    "common_type", "min_scalar_type", "einsum_path", "typename", "mintypecode", "printoptions",
}  # fmt: skip
# These say in their name that they make an array: np.asarray's rules hold (it raises while gradients are recorded).
CONVERSIONS = {
    "array",
    "asarray",
    "asanyarray",
    "ascontiguousarray",
    "asfortranarray",
    "asarray_chkfinite",
    "require",
    "astype",
}
FUNCTIONS = sorted(
    name
    for name in dir(np)
    if name not in ("test", "info", "show_config", "show_runtime", "set_printoptions", "setbufsize", "seterr")
    and callable(getattr(np, name))
    and not isinstance(getattr(np, name), (type, np.ufunc))
    and not name.startswith("_")
)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function(name: str, requires_grad: bool) -> None:
    """Called with a Tensor where NumPy takes an array: a Tensor of NumPy's value, or an error, never an array."""
    make = ARGUMENTS.get(name, lambda x: (x,))
    if make is None:
        return  # takes no array of numbers, or writes a file
    x = minidl.tensor(A, requires_grad=requires_grad)
    function = getattr(np, name)
    try:
        plain = function(*make(A.copy()))
    except Exception:  # not a function of arrays like these
        return
    try:
        y = function(*make(x))
    except TypeError as error:
        assert requires_grad or name == "astype" or name not in CONVERSIONS, error
        if "np." in str(error):
            assert f"np.{name}" in str(error) or function.__name__ in str(error)
            assert "minidl" in str(error)
        return
    except RuntimeError as error:
        assert "requires grad" in str(error) or isinstance(error, (minidl.ShapeError, NotImplementedError)), error
        return
    finally:
        np.testing.assert_array_equal(x.detach().numpy(), A)
    if name in QUESTIONS or y is None:
        return
    if name in CONVERSIONS:
        assert not requires_grad
        return
    parts = y if isinstance(y, (tuple, list)) else [y]
    for p in parts:
        assert isinstance(p, Tensor), f"np.{name} gave a silent {type(p).__name__}"
    values = plain if isinstance(plain, (tuple, list)) else [plain]
    for p, v in zip(parts, values, strict=True):
        assert tuple(p.shape) == np.shape(v), f"np.{name} and its namesake differ in shape"
        if name not in ("empty_like",):
            np.testing.assert_allclose(p.detach().numpy(), v, rtol=1e-12, err_msg=name)
    if (
        requires_grad
        and np.asarray(values[0]).dtype.kind == "f"
        and name not in ("zeros_like", "ones_like", "full_like", "empty_like")
    ):
        assert parts[0].requires_grad, f"np.{name} lost the gradient"
        assert minidl.gradcheck(lambda t: function(*make(t)), x)


def test_functions_that_work_with_numpys_arguments() -> None:
    x = leaf()
    for got, want in (
        (np.sum(x, axis=0), A.sum(0)),
        (np.sum(x, axis=1, keepdims=True), A.sum(1, keepdims=True)),
        (np.mean(x, 1), A.mean(1)),
        (np.mean(x, axis=(0, 1)), A.mean()),
        (np.max(x, axis=1), A.max(1)),
        (np.amin(x, axis=0), A.min(0)),
        (np.prod(x, axis=0), A.prod(0)),
        (np.cumsum(x, axis=1), A.cumsum(1)),
        (np.var(x), A.var()),
        (np.std(x, axis=0), A.std(0)),
        (np.std(x, ddof=1), A.std(ddof=1)),
        (np.concatenate([x, A], axis=1), np.concatenate([A, A], 1)),
        (np.stack([x, x], axis=-1), np.stack([A, A], -1)),
        (np.reshape(x, (3, 2)), A.reshape(3, 2)),
        (np.reshape(x, -1), A.reshape(-1)),
        (np.transpose(x), A.T),
        (np.transpose(x, (1, 0)), A.T),
        (np.expand_dims(x, 0), A[None]),
        (np.squeeze(x[:1], axis=0), A[0]),
        (np.swapaxes(x, 0, 1), A.T),
        (np.moveaxis(x, 0, 1), A.T),
        (np.where(A > 0.4, x, 0.0), np.where(A > 0.4, A, 0)),
        (np.clip(x, 0.2, 0.5), A.clip(0.2, 0.5)),
        (np.clip(x, a_min=0.2, a_max=None), A.clip(0.2)),
        (np.dot(x, B.T), A @ B.T),
        (np.dot(x, 2.0), A * 2),
        (np.matmul(x, B.T), A @ B.T),
        (np.outer(x[0], x[1]), np.outer(A[0], A[1])),
        (np.argmax(x, axis=1), A.argmax(1)),
        (np.round(x, 1), A.round(1)),
        (np.flip(x, 0), A[::-1]),
        (np.roll(x, 1, axis=1), np.roll(A, 1, 1)),
        (np.copy(x), A),
        (np.tril(x), np.tril(A)),
        (np.ravel(x), A.ravel()),
        (np.all(x > 0), True),
        (np.zeros_like(x), np.zeros((2, 3))),
    ):
        assert isinstance(got, Tensor)
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12)
    assert np.shape(x) == (2, 3)
    assert np.ndim(x) == 2
    assert np.size(x) == 6
    assert np.allclose(x, A)
    assert np.array_equal(x, A)


# -- operators --------------------------------------------------------------------------------------------------------


def test_array_and_tensor_in_either_order() -> None:
    for f in (
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: a**b,
        lambda a, b: (a.detach() if isinstance(a, Tensor) else a) // (b.detach() if isinstance(b, Tensor) else b),
        lambda a, b: a % b,
        lambda a, b: a @ b.T,
        lambda a, b: a < b,
        lambda a, b: a == b,
        lambda a, b: a != b,
    ):
        for left, right in ((leaf(), B), (A, leaf(B)), (leaf(), leaf(B))):
            y = f(left, right)
            assert isinstance(y, Tensor)
            np.testing.assert_allclose(y.detach().numpy(), f(A, B), rtol=1e-12)
            inputs = [t for t in (left, right) if isinstance(t, Tensor)]
            if y.requires_grad:
                y.sum().backward()
                assert all(t.grad is not None for t in inputs)


def test_numpy_numbers_and_tensors() -> None:
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    for number in (
        np.float32(2),
        np.float64(2),
        np.int64(2),
        np.int8(2),
        np.float16(2),
        np.asarray(2.0),
        np.bool_(True),
    ):
        for y in (number * x, x * number, number + x, x + number, x / number, number / x, x**number):
            assert isinstance(y, Tensor)
            assert y.requires_grad
            assert y.dtype == minidl.float32, f"{number!r}: {y.dtype}"
        assert (number * x).tolist() == [float(number), 2 * float(number)]
    assert (np.float64(2) > x).tolist() == [True, False]
    assert isinstance(np.float32(1) - x, Tensor)
    assert isinstance(np.int64(7) // minidl.tensor([2, 3]), Tensor)


def test_numpy_scalars_promote_as_in_torch() -> None:
    for L in (minidl, torch):
        assert str((L.tensor([1]) * np.float64(0.5)).dtype).endswith("float32")
        assert str((L.tensor([1.0]) * np.float64(0.5)).dtype).endswith("float32")
        assert str((L.tensor([1.0], dtype=L.float64) * np.float32(0.5)).dtype).endswith("float64")


def test_writing_a_tensor_into_an_array() -> None:
    a = np.zeros(2)
    with pytest.raises(TypeError, match="detach"):
        a += minidl.ones(2)
    a[:] = minidl.tensor([1.0, 2.0])
    assert a.tolist() == [1.0, 2.0]
    with pytest.raises((RuntimeError, ValueError)):
        a[:] = minidl.tensor([3.0, 4.0], requires_grad=True)
    assert a.tolist() == [1.0, 2.0]


def test_lists_and_other_things_are_not_operands() -> None:
    for other in ([1.0, 2.0], "a", None, {}, object()):
        with pytest.raises(TypeError):
            minidl.zeros(2) + other
        with pytest.raises(TypeError):
            other + minidl.zeros(2)
        assert (minidl.zeros(2) == other) is False
        assert (minidl.zeros(2) != other) is True


# -- arrays from tensors and back -------------------------------------------------------------------------------------


def test_asarray() -> None:
    x = minidl.tensor([1.0, 2.0])
    assert np.asarray(x) is x.array
    assert np.shares_memory(np.asarray(x), x.array)
    assert not np.shares_memory(np.array(x), x.array)
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.asarray(x, copy=True), x.array)
    with pytest.raises(ValueError):
        np.asarray(x, dtype=np.float64, copy=False)
    with pytest.raises(RuntimeError, match=r"detach\(\)"):
        np.asarray(x.requires_grad_())
    np.testing.assert_array_equal(x.detach(), [1.0, 2.0])


def test_numpy_method() -> None:
    for L in (minidl, torch):
        x = L.ones(2, requires_grad=True)
        with pytest.raises(RuntimeError, match="detach"):
            x.numpy()
        assert x.numpy(force=True).tolist() == [1.0, 1.0]
        d = x.detach()
        d.numpy()[0] = 5
        assert x[0].item() == 5.0
        with L.no_grad():
            assert isinstance((x * 2).numpy(), np.ndarray)


def test_from_numpy_shares_and_tensor_copies() -> None:
    for L in (minidl, torch):
        a = np.zeros(3)
        shared, also, copy = L.from_numpy(a), L.as_tensor(a), L.tensor(a)
        a[0] = 7
        assert shared[0].item() == also[0].item() == 7
        assert copy[0].item() == 0
        shared[1] = 3
        assert a[1] == 3


def test_python_functions() -> None:
    x = minidl.tensor(2.0, requires_grad=True)
    assert math.sqrt(x) == pytest.approx(2**0.5)
    assert float(x) == 2.0
    assert int(x) == 2
    assert round(float(x), 2) == 2.0
    assert abs(minidl.tensor(-2.0)).item() == 2.0
    assert [10, 20, 30][minidl.tensor(1)] == 20
    assert list(range(minidl.tensor(3))) == [0, 1, 2]
    assert sum([x, x]).requires_grad
    assert max(minidl.tensor([1.0, 3.0]).tolist()) == 3.0


def test_the_message_names_the_function_to_call() -> None:
    x = leaf()
    with pytest.raises(TypeError, match=r"np\.nanmedian .*minidl"):
        np.nanmedian(x)
    with pytest.raises(TypeError, match=r"np\.add\.reduce .*minidl\.add"):
        np.add.reduce(x)
    with pytest.raises(TypeError, match=r"np\.linalg\.|np\.det"):
        np.linalg.det(leaf(np.eye(2)))
