"""One run of a CUDA variant on a case, compared with the reference."""

import sys
from importlib import import_module
from pathlib import Path

import cuda_cases
import numpy as np

import minidl_kernels as mk
from minidl_kernels import registry

sys.path.append(str(Path(__file__).resolve().parent.parent / "kernels"))
from kernel_testing import assert_as_good, assert_close, sum_bound


def variants():
    """(op, variant) of every CUDA variant in the table that runs a kernel of ours."""
    return [(op.name, v.name) for op in registry.ops().values() for v in op.variants if v.device == "cuda"]


def to(convert, args):
    """Arguments with every array converted."""
    if isinstance(args, (list, tuple)):
        return type(args)(to(convert, a) for a in args)
    return (
        convert(args)
        if hasattr(args, "dtype") and getattr(args, "ndim", 0) is not None and not np.isscalar(args)
        else args
    )


def reference(op, args):
    """The operation by its definition, on the host."""
    load = next(v.load for v in registry.ops()[op].variants if v.name == "reference")
    module, _, name = load.partition(":")
    return getattr(import_module(module), name)(*args)


def widened(args):
    """Arguments in the longest floats there are."""
    return to(lambda a: a.astype(np.longdouble) if a.dtype.kind == "f" else a, args)


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def run(xp, op, variant, args):
    """What the variant gives, on the host; of operations in place, what they wrote."""
    on_device = to(xp.asarray, tuple(args))
    with mk.use(**{op: variant}):
        found = registry.call(op, on_device)
    written = on_device if found is None else as_tuple(found)
    return to(xp.asnumpy, written)


def accepted(op, variant, args):
    """Whether the variant's row says that it takes these arguments."""
    (row,) = [v for v in registry.ops()[op].variants if (v.name, v.device) == (variant, "cuda")]
    return row.accepts(*args)


def check_rounded(found, op, args, unit):
    """A product whose operands were rounded by `unit`, relative: twice that of sum |a| |b|, and float32's own sums."""
    a, b, bias = args if op == "linear" else (*args, None)
    b = b.T if op == "linear" else b
    with np.errstate(invalid="ignore"):
        magnitude = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
        exact = reference(op, widened(args)).astype(np.float64)
    bound = (2 * unit + unit**2) * magnitude + sum_bound(a.shape[-1], magnitude + np.abs(exact), np.float32)
    finite = np.isfinite(exact) & np.isfinite(magnitude)
    assert found.shape == exact.shape
    assert (np.abs(found[finite] - exact[finite]) <= bound[finite]).all()
    assert not np.isfinite(found[~np.isfinite(exact)]).any()


def check(xp, op, variant, args, kind=None):
    """AssertionError where the variant is not as good as the reference."""
    kind = kind or cuda_cases.KIND[op]
    found = run(xp, op, variant, args)
    if variant in cuda_cases.ROUNDED:
        check_rounded(found[0], op, args, cuda_cases.ROUNDED[variant])
        return
    copies = to(np.copy, tuple(args))
    plain = reference(op, copies)
    plain = copies if plain is None else as_tuple(plain)
    exact = as_tuple(reference(op, widened(args))) if kind == "float" else plain
    for i, (y, p, e) in enumerate(zip(flat(found), flat(plain), flat(exact), strict=True)):
        what = f"{op} ({variant}), result {i}"
        if kind == "bits" or p.dtype.kind != "f":
            assert_close(y, p, what=what)
        else:
            finite = np.isfinite(e)
            assert np.array_equal(y[~finite].astype(e.dtype), e[~finite], equal_nan=True), f"{what}: NaN or Inf differ"
            assert_as_good(np.where(finite, y, 0), np.where(finite, p, 0), np.where(finite, e, 0), what=what)


def flat(values):
    """The arrays in nested lists and tuples."""
    for v in values:
        if isinstance(v, (list, tuple)):
            yield from flat(v)
        elif isinstance(v, np.ndarray):
            yield v


def check_indices(xp, op):
    """An index that does not exist: NaN, or left out; no memory is touched there."""
    f32, bad = np.float32, np.array([3, -1, 1])
    if op == "cross_entropy":
        loss, _ = to(xp.asnumpy, mk.cross_entropy(xp.ones((3, 3), f32), xp.asarray(bad)))
        assert np.isnan(loss).tolist() == [True, True, False]
    elif op == "cross_entropy_backward":
        x, one = xp.ones((3, 3), f32), xp.ones(3, f32)
        dx = xp.asnumpy(mk.cross_entropy_backward(one, x, xp.asarray(bad), one))
        assert np.isnan(dx).all(1).tolist() == [True, True, False]
    elif op == "gather_plane":
        y = xp.asnumpy(mk.gather_plane(xp.ones((1, 3), f32), xp.asarray(bad[None])))
        assert np.isnan(y[0]).tolist() == [True, True, False]
    elif op == "scatter_plane":
        y = xp.asnumpy(mk.scatter_plane(xp.ones((1, 3), f32), xp.asarray(bad[None]), 3))
        assert y.tolist() == [[0, 1, 0]]
    elif op == "scatter_rows":
        y = xp.asnumpy(mk.scatter_rows(xp.ones((3, 2), f32), xp.asarray(bad), 3))
        assert y.tolist() == [[0, 0], [1, 1], [0, 0]]
    elif op == "csr_linear":
        values, starts = xp.ones(3, f32), xp.asarray(np.array([0, 1, 2, 9]))
        y = xp.asnumpy(mk.csr_linear(xp.ones((1, 3), f32), values, xp.asarray(bad.astype(np.int32)), starts))
        assert np.isnan(y[0]).tolist() == [True, True, False]
