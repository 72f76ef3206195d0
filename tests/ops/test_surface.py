"""What the table of cases cannot say: kinks, ties, NaN, errors, dtypes, in-place forms, sizes of every kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import minidl
import minidl.nn.functional as MF

DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


def both(array: Any, grad: bool = False) -> tuple[Any, Any]:
    array = np.asarray(array)
    return minidl.tensor(array, requires_grad=grad), torch.tensor(array, requires_grad=grad)


def same(a: Any, b: Any, ulps: float = 0) -> None:
    """Equal shapes, dtypes and values, NaN in the same places; floats within `ulps` of the greatest element."""
    assert str(a.dtype).partition(".")[2] == str(b.dtype).partition(".")[2]
    a, b = a.detach().numpy(), b.detach().numpy()
    assert a.shape == b.shape
    if not ulps:
        np.testing.assert_array_equal(a, b)
    else:
        finite = np.abs(b[np.isfinite(b)].astype(np.float64))
        np.testing.assert_allclose(a, b, rtol=0, atol=ulps * np.finfo(b.dtype).eps * max(1.0, finite.max(initial=0)))


# -- kinks ------------------------------------------------------------------------------------------------------------

KINKS = {
    "elu": lambda F, x: F.elu(x, 0.7),
    "celu": lambda F, x: F.celu(x, 0.5),
    "selu": lambda F, x: F.selu(x),
    "hardtanh": lambda F, x: F.hardtanh(x, -3.0, 3.0),
    "relu6": lambda F, x: F.relu6(x),
    "hardswish": lambda F, x: F.hardswish(x),
    "hardshrink": lambda F, x: F.hardshrink(x, 3.0),
    "softshrink": lambda F, x: F.softshrink(x, 3.0),
    "threshold": lambda F, x: F.threshold(x, 3.0, 1.0),
    "softsign": lambda F, x: F.softsign(x),
    "mish": lambda F, x: F.mish(x),
    "logsigmoid": lambda F, x: F.logsigmoid(x),
}


@pytest.mark.parametrize("name", KINKS)
def test_values_and_slopes_where_the_formula_changes(name: str) -> None:
    """At 0, at both corners, next to them, far away and at NaN."""
    corners = [-3.0, 0.0, 3.0, 6.0]
    points = [np.nextafter(c, d) for c in corners for d in (-9, 9)] + corners + [-50.0, 50.0, -900.0, 900.0, math.nan]
    for dtype in ("float32", "float64"):
        x, t = both(np.array(points, dtype), grad=True)
        y, u = KINKS[name](MF, x), KINKS[name](TF, t)
        same(y, u, 8)
        y.backward(minidl.ones_like(y))
        u.backward(torch.ones_like(u))
        if name == "hardswish":  # NaN has no slope; torch's is 1, of a product with a constant
            x.grad[-1] = t.grad[-1].item()
        same(x.grad, t.grad, 8)


def test_hardsigmoid_at_its_corners() -> None:
    x, t = both(np.array([-3.0, 3.0, 0.0, -4.0, 4.0], np.float32), grad=True)
    MF.hardsigmoid(x).sum().backward()
    TF.hardsigmoid(t).sum().backward()
    same(x.grad, t.grad, 2)


@pytest.mark.parametrize("ord", [0, 0.5, 1, 1.5, 2, 3, math.inf, -math.inf, "nuc"])
def test_norms_have_torchs_slope_at_zero_and_where_elements_tie(ord: Any) -> None:
    for a in (np.zeros((2, 3)), np.array([[1.0, -1.0, 1.0], [0.0, 2.0, -2.0]])):
        x, t = both(a, grad=True)
        if ord == "nuc":
            y, u = minidl.norm(x, "nuc"), torch.norm(t, "nuc")
        else:
            y, u = minidl.linalg.vector_norm(x, ord, 1), torch.linalg.vector_norm(t, ord, 1)
        same(y, u, 8)
        if ord == "nuc" and not a.any():
            continue  # any orthogonal matrix is a slope there, and LAPACK's choice decides
        y.sum().backward()
        u.sum().backward()
        same(x.grad, torch.zeros_like(t) if t.grad is None else t.grad, 8)


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sort_is_stable_in_every_dtype(dtype: str, descending: bool) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, (5, 40)).astype(dtype)
    if a.dtype.kind == "f":
        a[:, ::7] = np.nan
        a[0, 3], a[1, 5] = np.inf, -np.inf
    x, t = both(a)
    for dim in (0, 1, -1):
        ours, theirs = minidl.sort(x, dim, descending), torch.sort(t, dim=dim, descending=descending, stable=True)
        same(ours.values, theirs.values)
        same(ours.indices, theirs.indices)
        same(minidl.argsort(x, dim, descending), theirs.indices)
        same(x.sort(dim, descending, stable=True)[0], theirs[0])


@pytest.mark.parametrize("largest", [False, True])
def test_topk_is_the_head_of_the_sort(largest: bool) -> None:
    """In long lines, where the k are searched for rather than sorted, with ties and NaN."""
    rng = np.random.default_rng(1)
    for n in (10, 255, 256, 1000):
        a = rng.integers(0, n // 3, (3, n)).astype(np.float32)
        a[0, 5] = np.nan
        x = minidl.tensor(a)
        for k in (1, 2, n // 4, n // 3):
            values, indices = minidl.topk(x, k, largest=largest)
            np.testing.assert_array_equal(values.numpy(), minidl.sort(x, descending=largest).values.numpy()[:, :k])
            np.testing.assert_array_equal(values.numpy(), np.take_along_axis(a, indices.numpy(), 1))
            assert all(len(set(line)) == k for line in indices.tolist())


def test_median_and_kthvalue_of_long_lines() -> None:
    """Where they are searched for rather than sorted, with ties and NaN."""
    a = np.random.default_rng(3).integers(0, 99, (3, 1001)).astype(np.float64)
    for nan in (False, True):
        if nan:
            a[1, [7, 900]] = np.nan
        x, t = both(a)
        for dim in (1, -1):
            for ours, theirs in ((x.median(dim), t.median(dim)), (x.kthvalue(10, dim), t.kthvalue(10, dim))):
                same(ours.values, theirs.values)
                np.testing.assert_array_equal(
                    np.take_along_axis(a, ours.indices.numpy()[:, None], 1)[:, 0], ours.values.numpy()
                )


def test_median_of_ties_and_nan() -> None:
    for a in ([3.0, 1.0, 3.0, 3.0, 9.0], [2.0, 2.0], [1.0, math.nan, 2.0, math.nan]):
        x, t = both(a, grad=True)
        y, u = x.median(), t.median()
        same(y, u)
        y.backward()
        u.backward()
        same(x.grad, t.grad)
    x, t = both([[1.0, math.nan, 2.0], [4.0, 3.0, 5.0]])
    same(x.median(1).values, t.median(1).values)
    same(x.median(1).indices, t.median(1).indices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unique_of_every_dtype(dtype: str) -> None:
    a = np.random.default_rng(2).integers(0, 5, (4, 6)).astype(dtype)
    for how in ({}, {"return_inverse": True, "return_counts": True}, {"dim": 1, "return_counts": True}):
        x, t = both(a)
        ours, theirs = minidl.unique(x, **how), torch.unique(t, **how)
        for y, u in zip(*((v if isinstance(v, tuple) else (v,)) for v in (ours, theirs)), strict=True):
            same(y, u)


# -- dtypes -----------------------------------------------------------------------------------------------------------

TWO = "atan2 fmod logaddexp logical_and logical_or logical_xor isclose"
ONE = """acos asin atan tan sinh cosh asinh acosh atanh expm1 exp2 log2 log10 nan_to_num count_nonzero trace diag median
ravel sort"""


def kind_of(f: Any, *args: Any) -> str:
    """The dtype of the result, or "error"."""
    try:
        y = f(*args)
    except (RuntimeError, TypeError, NotImplementedError):
        return "error"
    return str((y[0] if isinstance(y, tuple) else y).dtype).partition(".")[2]


@pytest.mark.parametrize("name", ONE.split())
def test_result_dtype(name: str) -> None:
    for dtype in DTYPES:
        x, t = both(np.ones((2, 2), dtype))
        assert kind_of(getattr(minidl, name), x) == kind_of(getattr(torch, name), t), dtype


@pytest.mark.parametrize("name", TWO.split())
def test_result_dtype_of_two(name: str) -> None:
    wrong = []
    for a in DTYPES:
        for b in DTYPES:
            for shape in ((2,), ()):
                (x, t), (y, u) = both(np.ones(2, a)), both(np.ones(shape, b))
                ours, theirs = kind_of(getattr(minidl, name), x, y), kind_of(getattr(torch, name), t, u)
                if ours != theirs:
                    wrong.append(f"{a} {name} {b}{shape}: {ours}, torch {theirs}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["addcmul", "addcdiv", "lerp"])
def test_result_dtype_of_three(name: str) -> None:
    some = ("float32", "float64", "int32", "int64", "bool")
    wrong = []
    for a in some:
        for b in some:
            for c in some:
                ours, theirs = zip(*(both(np.ones(2, d)) for d in (a, b, c)), strict=True)
                found = kind_of(getattr(minidl, name), *ours), kind_of(getattr(torch, name), *theirs)
                if found[0] != found[1]:
                    wrong.append(f"{name} {a} {b} {c}: {found[0]}, torch {found[1]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_to_num_uses_the_extremes_of_the_dtype(dtype: str) -> None:
    x, t = both(np.array([np.nan, np.inf, -np.inf, 1.5], dtype))
    same(x.nan_to_num(), t.nan_to_num())
    same(x.nan_to_num(1.0, neginf=-2.0), t.nan_to_num(1.0, neginf=-2.0))


# -- in place ---------------------------------------------------------------------------------------------------------

PLAIN = "acos asin atan tan sinh cosh asinh atanh expm1 exp2 log2 log10 nan_to_num arcsin arctan"
IN_PLACE = {
    **dict.fromkeys(PLAIN.split(), ()),
    "atan2": (0.5,), "fmod": (0.3,), "lerp": (1.0, 0.25), "addcmul": (2.0, 3.0), "addcdiv": (2.0, 3.0),
    "logical_and": (0.0,), "logical_or": (0.0,), "logical_xor": (1.0,), "cumprod": (0,), "clip": (0.2, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_methods(name: str) -> None:
    x, t = both(np.array([0.1, 0.4, 0.9]))
    keep = x
    numbers = name in ("cumprod", "clip")
    ours = [v if numbers or (name, i) == ("lerp", 1) else minidl.full((3,), v, dtype=minidl.float64)
            for i, v in enumerate(IN_PLACE[name])]  # fmt: skip
    theirs = [torch.tensor(v.numpy()) if isinstance(v, minidl.Tensor) else v for v in ours]
    assert getattr(x, name + "_")(*ours) is keep
    getattr(t, name + "_")(*theirs)
    same(x, t, 4)


def test_in_place_methods_with_an_index() -> None:
    index, source = np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0]])
    for name, args in (
        ("index_add_", (0, index, source)),
        ("scatter_", (0, index[:, None], source)),
        ("scatter_", (1, index[None, :1] * 0, 7.0)),
        ("addmm_", (np.ones((3, 2)), source)),
    ):
        x, t = both(np.arange(6.0).reshape(3, 2))
        ours, theirs = zip(*(both(a) if isinstance(a, np.ndarray) else (a, a) for a in args), strict=True)
        getattr(x, name)(*ours)
        getattr(t, name)(*theirs)
        same(x, t)


@pytest.mark.parametrize("name", ["elu", "celu", "selu", "hardtanh", "relu6", "hardsigmoid", "hardswish", "mish"])
def test_activations_in_place(name: str) -> None:
    leaf, t_leaf = both(np.array([-1.5, 0.5, 2.0]), grad=True)
    x, t = leaf * 2, t_leaf * 2
    assert getattr(MF, name)(x, inplace=True) is x
    getattr(TF, name)(t, inplace=True)
    same(x, t, 8)
    x.sum().backward()
    t.sum().backward()
    # hardsigmoid: torch multiplies by a sixth in float32
    ulps = 8 if name != "hardsigmoid" else 8 * np.finfo(np.float32).eps / np.finfo(np.float64).eps
    same(leaf.grad, t_leaf.grad, ulps)


# -- windows are views, images of every size --------------------------------------------------------------------------


def test_writing_through_diagonals_windows_and_selections() -> None:
    for write in (
        lambda x: x.diagonal(1).fill_(7),
        lambda x: x.select(1, 2).fill_(7),
        lambda x: x.diagonal(0, 1, 0).mul_(2),
        lambda x: x.unfold(1, 2, 2)[:, 1].fill_(7),
        lambda x: x.ravel()[3:5].fill_(7),
    ):
        x, t = both(np.arange(20.0).reshape(4, 5))
        write(x)
        write(t)
        same(x, t)


def test_gradients_flow_through_written_diagonals() -> None:
    v, u = both(np.array([1.0, 2.0, 3.0]), grad=True)
    x, t = minidl.zeros(3, 3, dtype=minidl.float64), torch.zeros(3, 3, dtype=torch.float64)
    for z, w in ((x, v), (t, u)):
        z.diagonal().copy_(w) if z is t else z.diagonal().add_(w)
        (z * z).sum().backward()
    same(v.grad, u.grad)


MODES = [
    ("nearest", 1), ("nearest", 2), ("nearest", 3), ("nearest-exact", 1), ("nearest-exact", 2), ("linear", 1),
    ("bilinear", 2), ("bicubic", 2), ("trilinear", 3), ("area", 1), ("area", 2), ("area", 3),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "dims"), MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_interpolate_at_every_size_and_scale(mode: str, dims: int, dtype: str) -> None:
    rng = np.random.default_rng(4)
    corners = [None] if mode.startswith("nearest") or mode == "area" else [None, False, True]
    ways: list[dict] = [{"size": int(n)} for n in (1, 2, 3, 7, 12)]
    ways += [{"scale_factor": s} for s in (0.3, 0.5, 1, 1.1, 1.7, 2, 2.3, 3.9)]
    ways += [{"scale_factor": s, "recompute_scale_factor": True} for s in (0.4, 1.3, 2.6)]
    ways += [{"size": tuple(int(n) for n in rng.integers(1, 9, dims))}]
    ways += [{"scale_factor": tuple(rng.uniform(0.4, 2.5, dims).tolist())}]
    for how in ways:
        for align_corners in corners:
            x, t = both(rng.standard_normal((2, 2, *rng.integers(4, 8, dims))).astype(dtype), grad=True)
            y = MF.interpolate(x, **how, mode=mode, align_corners=align_corners)
            u = TF.interpolate(t, **how, mode=mode, align_corners=align_corners)
            # positions are of size 12 at most, computed in the dtype: their error times a slope of at most 10
            same(y, u, 500)
            if "scale_factor" in how and y.shape == x.shape:
                continue  # torch's gradient takes this for a copy, though its values are not
            (y * y).sum().backward()
            (u * u).sum().backward()
            same(x.grad, t.grad, 500)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_images_of_bytes_are_resized_to_the_same_bytes(mode: str, antialias: bool) -> None:
    rng = np.random.default_rng(6)
    sizes: list[dict] = [{"size": s} for s in ((3, 3), (5, 17), (1, 2), (40, 62), (20, 31))]
    sizes += [{"scale_factor": s} for s in (1.7, (0.6, 2.3), (2.0, 0.5))]
    for channels in (1, 3, 5):
        pixels = rng.integers(0, 256, (2, channels, 20, 31)).astype(np.uint8)
        for a in (pixels, np.where(pixels > 127, 255, 0).astype(np.uint8)):
            for align_corners in (False, True):
                for how in sizes:
                    how = {**how, "mode": mode, "align_corners": align_corners, "antialias": antialias}
                    x, t = both(a, grad=False)
                    np.testing.assert_array_equal(MF.interpolate(x, **how).numpy(), TF.interpolate(t, **how).numpy())


def test_unfold_and_fold_of_many_geometries() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        k, d, p, s = (tuple(int(n) for n in rng.integers(a, b, 2)) for a, b in ((1, 4), (1, 3), (0, 3), (1, 4)))
        size = tuple(int(n) for n in rng.integers(5, 10, 2))
        x, t = both(rng.standard_normal((2, 3, *size)))
        y, u = MF.unfold(x, k, d, p, s), TF.unfold(t, k, d, p, s)
        same(y, u)
        same(MF.fold(y, size, k, d, p, s), TF.fold(u, size, k, d, p, s), 32)  # at most 9 added up, in some order


def test_adaptive_max_pool_of_every_size() -> None:
    rng = np.random.default_rng(6)
    for h in range(1, 8):
        for p in range(1, 8):
            x, t = both(rng.integers(0, 4, (1, 2, h, 5)).astype(np.float64), grad=True)
            y, i = MF.adaptive_max_pool2d(x, (p, 3), return_indices=True)
            u, j = TF.adaptive_max_pool2d(t, (p, 3), return_indices=True)
            same(y, u)
            same(i, j)  # the first of equals
            (y * y).sum().backward()
            (u * u).sum().backward()
            same(x.grad, t.grad)


# -- errors -----------------------------------------------------------------------------------------------------------


def z(library: Any, *shape: int, dtype: str = "float32") -> Any:
    return library.zeros(shape, dtype=getattr(library, dtype))


ERRORS = {
    "sort: dim": lambda m, F: m.sort(z(m, 2, 3), 2),
    "argsort: dim": lambda m, F: m.argsort(z(m, 2, 3), -3),
    "topk: k": lambda m, F: m.topk(z(m, 3), 4),
    "topk: negative k": lambda m, F: m.topk(z(m, 3), -1),
    "kthvalue: k": lambda m, F: m.kthvalue(z(m, 3), 0),
    "median: empty dim": lambda m, F: m.median(z(m, 2, 0), 1),
    "cumprod: dim": lambda m, F: m.cumprod(z(m, 2), 1),
    "diagonal: same dims": lambda m, F: m.diagonal(z(m, 2, 2), 0, 1, -1),
    "diagonal: vector": lambda m, F: m.diagonal(z(m, 2)),
    "diag: stack": lambda m, F: m.diag(z(m, 2, 2, 2)),
    "trace: vector": lambda m, F: m.trace(z(m, 2)),
    "select: scalar": lambda m, F: m.select(z(m), 0, 0),
    "select: index": lambda m, F: m.select(z(m, 2), 0, 2),
    "masked_select: dtype": lambda m, F: m.masked_select(z(m, 2), z(m, 2)),
    "masked_select: shapes": lambda m, F: m.masked_select(z(m, 2), z(m, 3, dtype="bool")),
    "index_add: dtype": lambda m, F: m.index_add(z(m, 2), 0, z(m, 1, dtype="int64"), z(m, 1, dtype="float64")),
    "index_add: shapes": lambda m, F: m.index_add(z(m, 2, 3), 0, z(m, 1, dtype="int64"), z(m, 2, 3)),
    "index_add: float index": lambda m, F: m.index_add(z(m, 2), 0, z(m, 1), z(m, 1)),
    "scatter: src dtype": lambda m, F: m.scatter(z(m, 2), 0, z(m, 1, dtype="int64"), z(m, 1, dtype="float64")),
    "scatter: float index": lambda m, F: m.scatter(z(m, 2), 0, z(m, 1), z(m, 1)),
    "scatter: index too long": lambda m, F: m.scatter(z(m, 2), 0, z(m, 3, dtype="int64"), z(m, 2)),
    "scatter: reduce": lambda m, F: m.scatter(z(m, 2), 0, z(m, 1, dtype="int64"), 1.0, reduce="no"),
    "repeat_interleave: negative": lambda m, F: m.repeat_interleave(z(m, 2), -1),
    "repeat_interleave: length": lambda m, F: m.repeat_interleave(z(m, 3), m.tensor([1, 2]), 0),
    "meshgrid: matrix": lambda m, F: m.meshgrid(z(m, 2, 2), z(m, 2), indexing="ij"),
    "meshgrid: dtypes": lambda m, F: m.meshgrid(z(m, 2), z(m, 2, dtype="int64"), indexing="ij"),
    "meshgrid: indexing": lambda m, F: m.meshgrid(z(m, 2), z(m, 2), indexing="yx"),
    "lerp: dtype": lambda m, F: m.lerp(z(m, 2), z(m, 2, dtype="float64"), 0.5),
    "lerp: integers": lambda m, F: m.lerp(z(m, 2, dtype="int64"), z(m, 2, dtype="int64"), 0.5),
    "addcdiv: integers": lambda m, F: m.addcdiv(z(m, 2), z(m, 2, dtype="int64"), z(m, 2, dtype="int64")),
    "addcmul: bools": lambda m, F: m.addcmul(*[z(m, 2, dtype="bool")] * 3),
    "fmod: zero": lambda m, F: m.fmod(z(m, 2, dtype="int64"), 0),
    "rsub: bool": lambda m, F: m.rsub(z(m, 2, dtype="bool"), z(m, 2, dtype="bool")),
    "isclose: dtypes": lambda m, F: m.isclose(z(m, 2), z(m, 2, dtype="float64")),
    "isclose: rtol": lambda m, F: m.isclose(z(m, 2), z(m, 2), -1.0),
    "logical_and: number": lambda m, F: m.logical_and(z(m, 2), 1.0),
    "atan2: number": lambda m, F: m.atan2(z(m, 2), 1.0),
    "mv: shapes": lambda m, F: m.mv(z(m, 2, 3), z(m, 2)),
    "mv: stack": lambda m, F: m.mv(z(m, 2, 2, 3), z(m, 3)),
    "addmm: shapes": lambda m, F: m.addmm(z(m, 3), z(m, 2, 3), z(m, 3, 4)),
    "addmm: dtypes": lambda m, F: m.addmm(z(m, 4, dtype="float64"), z(m, 2, 3), z(m, 3, 4)),
    "tensordot: sizes": lambda m, F: m.tensordot(z(m, 2, 3), z(m, 2, 3), 1),
    "tensordot: lists": lambda m, F: m.tensordot(z(m, 2, 3), z(m, 3, 2), ([0, 1], [0])),
    "norm: integers": lambda m, F: m.linalg.norm(z(m, 2, dtype="int64")),
    "norm: ord of a stack": lambda m, F: m.linalg.norm(z(m, 2, 2, 2), 2),
    "norm: name": lambda m, F: m.linalg.matrix_norm(z(m, 2, 2), "no"),
    "matrix_norm: dims": lambda m, F: m.linalg.matrix_norm(z(m, 2, 2), "fro", (0, 0)),
    "vector_norm: inf of nothing": lambda m, F: m.linalg.vector_norm(z(m, 0), math.inf),
    "cosine_similarity: integers": lambda m, F: m.cosine_similarity(
        z(m, 2, 2, dtype="int64"), z(m, 2, 2, dtype="int64")
    ),
    "elu: integers": lambda m, F: F.elu(z(m, 2, dtype="int64")),
    "celu: alpha": lambda m, F: F.celu(z(m, 2), 0.0),
    "hardtanh: bounds": lambda m, F: F.hardtanh(z(m, 2), 1.0, -1.0),
    "softshrink: lambda": lambda m, F: F.softshrink(z(m, 2), -1.0),
    "glu: odd": lambda m, F: F.glu(z(m, 3)),
    "glu: scalar": lambda m, F: F.glu(z(m)),
    "prelu: weights": lambda m, F: F.prelu(z(m, 2, 3), z(m, 2)),
    "prelu: dtype": lambda m, F: F.prelu(z(m, 2), z(m, 1, dtype="float64")),
    "pixel_shuffle: channels": lambda m, F: F.pixel_shuffle(z(m, 1, 6, 2, 2), 2),
    "pixel_unshuffle: height": lambda m, F: F.pixel_unshuffle(z(m, 1, 1, 3, 4), 2),
    "channel_shuffle: groups": lambda m, F: F.channel_shuffle(z(m, 1, 4, 2), 3),
    "interpolate: size and scale": lambda m, F: F.interpolate(z(m, 1, 1, 4), 2, 2.0),
    "interpolate: neither": lambda m, F: F.interpolate(z(m, 1, 1, 4)),
    "interpolate: mode and shape": lambda m, F: F.interpolate(z(m, 1, 1, 4), 2, mode="bilinear"),
    "interpolate: corners of nearest": lambda m, F: F.interpolate(z(m, 1, 1, 4), 2, align_corners=True),
    "interpolate: lengths": lambda m, F: F.interpolate(z(m, 1, 1, 4, 4), (2, 2, 2)),
    "interpolate: to nothing": lambda m, F: F.interpolate(z(m, 1, 1, 4), 0),
    "unfold: too small": lambda m, F: F.unfold(z(m, 1, 1, 2, 2), 3),
    "unfold: volume": lambda m, F: F.unfold(z(m, 1, 1, 2, 4, 4), 2),
    "fold: columns": lambda m, F: F.fold(z(m, 1, 4, 5), (3, 3), 2),
    "fold: rows": lambda m, F: F.fold(z(m, 1, 5, 4), (3, 3), 2),
    "Tensor.unfold: size": lambda m, F: z(m, 3).unfold(0, 4, 1),
    "Tensor.unfold: step": lambda m, F: z(m, 3).unfold(0, 2, 0),
    "adaptive_max_pool2d: shape": lambda m, F: F.adaptive_max_pool2d(z(m, 3, 3), 2),
    "group_norm: groups": lambda m, F: F.group_norm(z(m, 2, 4, 2), 3),
    "instance_norm: one element": lambda m, F: F.instance_norm(z(m, 2, 3, 1)),
    "conv_transpose1d: channels": lambda m, F: F.conv_transpose1d(z(m, 1, 2, 3), z(m, 3, 1, 2)),
    "margin_ranking: dims": lambda m, F: F.margin_ranking_loss(z(m, 2), z(m, 2), z(m, 2, 1)),
    "cosine_embedding: shapes": lambda m, F: F.cosine_embedding_loss(z(m, 2, 3), z(m, 2, 3), z(m, 2, 3)),
    "triplet: margin": lambda m, F: F.triplet_margin_loss(z(m, 2, 3), z(m, 2, 3), z(m, 2, 3), -1.0),
    "gaussian_nll: variance": lambda m, F: F.gaussian_nll_loss(z(m, 2), z(m, 2), z(m, 2) - 1),
    "gaussian_nll: shape": lambda m, F: F.gaussian_nll_loss(z(m, 2, 3), z(m, 2, 3), z(m, 3)),
    "loss: reduction": lambda m, F: F.soft_margin_loss(z(m, 2), z(m, 2), reduction="no"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_torch_refuses_is_refused_by_the_same_kind_of_error(name: str) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)) as theirs:
        ERRORS[name](torch, TF)
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)) as ours:
        ERRORS[name](minidl, MF)
    kinds = [k for k in (ValueError, TypeError, IndexError, RuntimeError) if issubclass(theirs.type, k)]
    assert issubclass(ours.type, kinds[0]), f"{ours.type.__name__}: {ours.value}; torch {theirs.type.__name__}"
    assert len(str(ours.value)) > 15
