"""Windows, draws, changes of shape in place, second spellings: what the table of cases has no place for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import minidl
import minidl.nn.functional as MF
import minidl.special
from minidl.compat import IN_PLACE

BOTH = (minidl, torch)
RNG = np.random.default_rng(11)


def same(a: Any, b: Any, ulps: float = 16) -> None:
    """Dtypes, shapes and values; floats up to `ulps` roundings of the greatest element."""
    assert str(a.dtype).partition(".")[2] == str(b.dtype).partition(".")[2]
    a, b = a.detach().numpy(), b.detach().numpy()
    assert a.shape == b.shape
    if a.dtype.kind != "f":
        np.testing.assert_array_equal(a, b)
        return
    finite = np.abs(b[np.isfinite(b)].astype(np.float64)).max(initial=1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=ulps * np.finfo(b.dtype).eps * finite)


@pytest.mark.parametrize("name", ["hann_window", "hamming_window", "blackman_window", "bartlett_window"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_windows(name: str, dtype: str) -> None:
    for length in (0, 1, 2, 7, 8):
        for periodic in (True, False):
            same(*[getattr(t, name)(length, periodic, dtype=getattr(t, dtype)) for t in BOTH])
    for t in BOTH:
        with pytest.raises(RuntimeError):
            getattr(t, name)(-1)
        with pytest.raises(RuntimeError):
            getattr(t, name)(3, dtype=t.int64)
    same(minidl.hamming_window(6, True, 0.5, 0.4), torch.hamming_window(6, True, 0.5, 0.4))


def test_poisson_has_its_mean_and_variance() -> None:
    """Within 5 standard errors: of the mean sqrt(r / n), of the variance about sqrt((r + 3 r^2 - r^2) / n)."""
    n = 20000
    for rate in (0.0, 0.3, 4.0, 25.0):
        x = minidl.poisson(minidl.full((n,), rate))
        assert x.dtype == minidl.float32
        assert abs(x.mean().item() - rate) <= 5 * (rate / n) ** 0.5
        assert abs(x.var().item() - rate) <= 5 * ((rate + 2 * rate * rate) / n) ** 0.5
    with pytest.raises(RuntimeError, match="non-negative"):
        minidl.poisson(minidl.tensor([-1.0]))


def test_range_and_scalars() -> None:
    with pytest.warns(UserWarning, match="arange"):
        same(minidl.range(0, 3), torch.range(0, 3))
    with pytest.warns(UserWarning, match="arange"):
        same(minidl.range(1, 0, -0.5, dtype=minidl.float64), torch.range(1, 0, -0.5, dtype=torch.float64))
    same(minidl.scalar_tensor(3), torch.scalar_tensor(3))
    a = np.ones(3, np.float32)
    assert np.shares_memory(minidl.asarray(a).array, a)
    assert not np.shares_memory(minidl.asarray(a, copy=True).array, a)
    with pytest.raises(ValueError):
        minidl.asarray([1, 2], copy=False)
    assert minidl.broadcast_shapes((2, 1), 3) == (2, 3)
    with pytest.raises(RuntimeError):
        minidl.broadcast_shapes((2,), (3,))


SHAPES = {
    "t_": lambda x: x.t_(),
    "transpose_": lambda x: x.transpose_(0, 1),
    "swapaxes_": lambda x: x.swapaxes_(0, 1),
    "swapdims_": lambda x: x.swapdims_(1, 0),
    "unsqueeze_": lambda x: x.unsqueeze_(1),
    "squeeze_": lambda x: x.unsqueeze_(0).squeeze_(0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_in_place(name: str) -> None:
    """The same tensor, the same memory, gradients that know of it; a leaf that wants gradients is refused."""
    a = RNG.normal(size=(2, 3))
    found = []
    for t in BOTH:
        leaf = t.tensor(a, requires_grad=True)
        x = leaf * 2
        y = SHAPES[name](x)
        assert y is x
        (y * t.arange(6.0, dtype=t.float64).reshape(y.shape)).sum().backward()
        plain = t.tensor(a)
        row = plain[0]
        SHAPES[name](plain)
        row[1] = 99.0
        found.append((y, leaf.grad, plain))
        with pytest.raises(RuntimeError):
            SHAPES[name](leaf)
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)


def test_fill_diagonal() -> None:
    for shape, wrap in (((3, 3), False), ((5, 2), False), ((7, 2), True), ((2, 4), True), ((2, 2, 2), False)):
        same(*[t.zeros(shape).fill_diagonal_(3, wrap) for t in BOTH])
    for t in BOTH:
        with pytest.raises(RuntimeError):
            t.zeros(3).fill_diagonal_(1)
        with pytest.raises(RuntimeError):
            t.zeros(2, 3, 4).fill_diagonal_(1)


@pytest.mark.parametrize("name", IN_PLACE)
def test_functions_that_write_into_their_argument(name: str) -> None:
    """torch.relu_(x) and its like, where they are the methods."""
    more = {
        "clamp_": (0.2, 0.5), "clip_": (0.2, 0.5), "clamp_min_": (0.3,), "clamp_max_": (0.3,), "fill_": (2.0,),
        "addmv_": ([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0]), "gcd_": ([4, 6],), "lcm_": ([4, 6],), "ldexp_": ([2.0, 3.0],),
        "xlogy_": ([2.0, 3.0],),
    }  # fmt: skip
    values = [4, 9] if name in ("gcd_", "lcm_") else [1.5, 2.5] if "cosh" in name else [0.25, 0.75]
    found = []
    for t in BOTH:
        x = t.tensor(values, dtype=t.int64 if name in ("gcd_", "lcm_") else t.float64)
        args = [t.tensor(v, dtype=x.dtype) if isinstance(v, list) else v for v in more.get(name, ())]
        if name == "index_put_":
            args = [(t.tensor([1]),), t.tensor([9.0], dtype=t.float64)]
        y = getattr(t, name)(x, *args)
        assert y is x
        found.append(y)
    same(*found)


@pytest.mark.parametrize(
    "name", ["relu_", "leaky_relu_", "elu_", "celu_", "selu_", "hardtanh_", "threshold_", "rrelu_"]
)
def test_activations_written_into_their_argument(name: str) -> None:
    args = (0.5, 7.0) if name == "threshold_" else (0.25, 0.25) if name == "rrelu_" else ()
    ours, theirs = minidl.tensor([-2.0, 0.25, 3.0]), torch.tensor([-2.0, 0.25, 3.0])
    assert getattr(MF, name)(ours, *args) is ours
    getattr(TF, name)(theirs, *args)
    same(ours, theirs)


WITH_INPLACE = [
    name for name in MF.__all__ if inspect.isfunction(f := getattr(TF, name, None))
    and "inplace" in inspect.signature(f).parameters
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_INPLACE)
def test_inplace_is_heeded(name: str) -> None:
    """In training too: the tensor that went in holds what came out, and gradients pass as they do out of place."""
    more = {"threshold": (0.5, 7.0)}.get(name, ())
    how = {"training": True} if "training" in inspect.signature(getattr(TF, name)).parameters else {}
    shape = {"dropout1d": (2, 3, 4), "dropout2d": (2, 3, 4, 2), "dropout3d": (2, 3, 2, 2, 2)}.get(name, (5, 6))
    a = RNG.normal(size=shape)
    found = []
    for inplace in (False, True):
        leaf = minidl.tensor(a, requires_grad=True)
        x = leaf * 1.0
        minidl.manual_seed(4)
        y = getattr(MF, name)(x, *more, **how, inplace=inplace)
        assert (y is x) == inplace
        y.sum().backward()
        found.append((y, leaf.grad))
        module = next(
            (
                m
                for m in vars(minidl.nn).values()
                if isinstance(m, type) and m.__name__.lower() == name.replace("_", "")
            ),
            None,
        )
        if module is not None:
            x = leaf * 1.0
            assert (module(*more, inplace=inplace)(x) is x) == inplace
    for out, into in zip(*found, strict=True):
        same(into, torch.tensor(out.detach().numpy()))


@pytest.mark.parametrize("name", ["ndtr", "ndtri", "entr"])
def test_special_functions(name: str) -> None:
    """Values within some roundings, slopes too; ndtr of -8 and below is a tail that must not cancel."""
    points = [0.01, 0.3, 0.5, 0.999] if name == "ndtri" else [-9.0, -1.5, 0.0, 0.3, 2.5]
    points = [0.0, 0.3, 2.5] if name == "entr" else points
    for dtype in ("float32", "float64"):
        ours, theirs = (t.tensor(points, dtype=getattr(t, dtype), requires_grad=True) for t in BOTH)
        a, b = getattr(minidl.special, name)(ours), getattr(torch.special, name)(theirs)
        same(a, b)
        if name == "entr":
            continue  # its slope is infinite at 0
        a.sum().backward()
        b.sum().backward()
        same(ours.grad, theirs.grad, 64)
    assert minidl.special.ndtr(minidl.tensor(-9.0, dtype=minidl.float64)).item() == pytest.approx(
        1.1285884e-19, rel=1e-7
    )


def test_special_s_second_names_are_the_functions() -> None:
    for name in minidl.special.__all__:
        assert hasattr(torch.special, name), name
        assert getattr(minidl.special, name).__doc__, name
    assert minidl.special.expit is minidl.sigmoid
    assert minidl.special.gammaln is minidl.lgamma
    assert minidl.special.psi is minidl.digamma
    assert minidl.special.multigammaln is minidl.mvlgamma


def test_erfinv_undoes_erf_to_the_last_digits() -> None:
    """erf's own slope tells how many of them there can be: eps / (2 / sqrt pi e^(-x^2)), 4 roundings."""
    x = np.linspace(-4.5, 4.5, 901)
    y = minidl.erfinv(minidl.erf(minidl.tensor(x))).numpy()
    slope = 2 / np.sqrt(np.pi) * np.exp(-x * x)
    assert (np.abs(y - x) <= 4 * np.finfo(np.float64).eps * (np.abs(x) + 1 / slope)).all()


def test_small_questions_about_a_tensor() -> None:
    for t in BOTH:
        x = t.arange(6).reshape(2, 3)
        assert (x.itemsize, x.ndimension(), x.is_complex(), x.is_signed(), x.is_shared(), x.get_device()) == (
            8, 2, False, True, False, -1,
        )  # fmt: skip
        assert not t.ones(1, dtype=t.uint8).is_signed()
        assert t.ones(1).is_nonzero()
        assert x[1:, 1:].storage_offset() == 4
        assert x.reshape_as(t.ones(3, 2)).shape == (3, 2)
        with pytest.raises(RuntimeError):
            t.ones(2).is_nonzero()


def test_hooks_after_a_gradient_is_there() -> None:
    """A step taken in backward itself, as in torch's tutorial; nothing happens in grad()."""
    for t in BOTH:
        w = t.tensor([1.0, 2.0], requires_grad=True)
        seen = []

        def step(p: Any, t: Any = t, seen: list = seen) -> None:
            seen.append(p.grad.tolist())
            with t.no_grad():
                p -= 0.5 * p.grad
            p.grad = None

        handle = w.register_post_accumulate_grad_hook(step)
        (w * w).sum().backward()
        assert seen == [[2.0, 4.0]]
        assert w.tolist() == [0.0, 0.0]
        assert w.grad is None
        t.autograd.grad((w * 3).sum(), w)
        handle.remove()
        (w + 1).sum().backward()
        assert len(seen) == 1
        with pytest.raises(RuntimeError):
            (w * 2).register_post_accumulate_grad_hook(step)
        with pytest.raises(RuntimeError):
            t.ones(1).register_post_accumulate_grad_hook(step)


F1 = {
    "one to one": (lambda x: x**3, 1),
    "two to one": (lambda x, y: x * y.sum(), 2),
    "one to two": (lambda x: (x * 2, (x * x).sum()), 1),
    "two to two": (lambda x, y: (x * y, x.exp()), 2),
}


@pytest.mark.parametrize("name", F1)
def test_derivatives_under_torch_s_older_names(name: str) -> None:
    f, n = F1[name]
    arrays = [RNG.normal(size=3) for _ in range(n)]
    found = []
    for t in BOTH:
        A = t.autograd.functional
        inputs = tuple(t.tensor(a) for a in arrays)
        given = inputs if n > 1 else inputs[0]
        ys = f(*inputs)
        v = tuple(t.ones_like(y) * 2 for y in ys) if isinstance(ys, tuple) else t.ones_like(ys) * 2
        found.append(flat([A.jacobian(f, given), A.vjp(f, given, v), A.jvp(f, given, given)]))
        with pytest.raises(RuntimeError):
            A.vjp(f, given)
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs, 64)


def test_hessians_under_torch_s_older_names() -> None:
    f = lambda x, y: (x**3).sum() * y.sin().sum()
    arrays = [RNG.normal(size=3) for _ in range(2)]
    found = []
    for t in BOTH:
        A = t.autograd.functional
        given = tuple(t.tensor(a) for a in arrays)
        parts = flat([A.hessian(f, given), A.vhp(f, given, given), A.hvp(f, given, given)])
        x = given[0].requires_grad_()
        parts.append(A.jacobian(lambda z: z**3, x, create_graph=True).sum())
        parts += t.autograd.grad(parts[-1], x)
        found.append(parts)
        with pytest.raises(RuntimeError):
            A.jacobian(lambda z: t.ones(2), x, strict=True)
        with pytest.raises(RuntimeError):
            A.hessian(lambda z: z, given[1])
        with pytest.raises(TypeError):
            A.jacobian(lambda z: z, 3.0)
        assert not A.jacobian(lambda z: z**2, x).requires_grad
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs, 64)


def flat(v: Any) -> list:
    return [t for u in v for t in flat(u)] if isinstance(v, (tuple, list)) else [v]


ABSENT = [
    ("layer_norm", minidl, r"nn\.functional\.layer_norm"),
    ("masked_fill_", minidl, "method"),
    ("svdvals", minidl, r"linalg\.svdvals"),
    ("conv3d", MF, "images"),
    ("Conv3d", minidl.nn, "images"),
    ("LazyLinear", minidl.nn, "when a layer is made"),
    ("CTCLoss", minidl.nn, "speech"),
    ("DataParallel", minidl.nn, "one process"),
]


@pytest.mark.parametrize(("name", "room", "says"), ABSENT)
def test_what_is_elsewhere_or_absent_says_what_to_write(name: str, room: Any, says: str) -> None:
    with pytest.raises(AttributeError, match=says):
        getattr(room, name)


def test_rows_that_repeat_have_their_mode_s_last_place() -> None:
    for t in BOTH:
        assert [v.tolist() for v in t.tensor([1, 2, 2, 3, 3]).mode()] == [2, 2]


def test_grid_sample_refuses() -> None:
    for F, t in ((MF, minidl), (TF, torch)):
        x, grid = t.ones(1, 1, 2, 2), t.zeros(1, 2, 2, 2)
        for how in ({"mode": "x"}, {"padding_mode": "x"}):
            with pytest.raises(ValueError):
                F.grid_sample(x, grid, align_corners=False, **how)
        with pytest.raises(RuntimeError):
            F.grid_sample(x, t.zeros(2, 2, 2, 2), align_corners=False)
        with pytest.raises(ValueError):
            F.affine_grid(t.ones(1, 2, 2), (1, 1, 2, 2), align_corners=False)


def test_gradients_for_a_stack_of_incoming_ones() -> None:
    a = RNG.normal(size=3)
    found = []
    for t in BOTH:
        x = t.tensor(a, requires_grad=True)
        y = x**3
        found.append(t.autograd.grad(y, x, t.eye(3, dtype=t.float64), is_grads_batched=True)[0])
    same(*found)


def test_which_dtype_holds_which() -> None:
    kinds = ("float16", "float64", "uint8", "int8", "int64", "bool")
    for a in kinds:
        for b in kinds:
            assert minidl.can_cast(getattr(minidl, a), getattr(minidl, b)) == torch.can_cast(
                getattr(torch, a), getattr(torch, b)
            ), (a, b)
    assert minidl.result_type(minidl.ones(2, dtype=minidl.int32), 1.5) is minidl.float32
    assert minidl.is_nonzero(minidl.tensor(2))
    room = subprocess.run([sys.executable, "-c", "import minidl; print(minidl.special.expit is minidl.sigmoid)"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert room.stdout.strip() == "True"


# -- LU, memory by number, names of one line ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 3), (2, 3), (0, 0), (2, 2, 1, 3)])
def test_lu_is_torchs(shape: tuple) -> None:
    a = np.random.default_rng(3).standard_normal(shape)
    x, t = minidl.tensor(a), torch.tensor(a)
    for ours, theirs in (
        (minidl.linalg.lu(x), torch.linalg.lu(t)),
        (minidl.linalg.lu_factor_ex(x), torch.linalg.lu_factor_ex(t)),
    ):
        for y, u in zip(ours, theirs, strict=True):
            assert str(y.dtype).partition(".")[2] == str(u.dtype).partition(".")[2]
            np.testing.assert_allclose(y.numpy(), u.numpy(), rtol=0, atol=1e-13)
    p, l, u = minidl.linalg.lu(x)
    np.testing.assert_allclose((p @ l @ u).numpy(), a, atol=1e-14)
    p, l, u = minidl.linalg.lu(minidl.tensor([[2.0, 1.0], [1.0, 3.0]]), pivot=False)
    assert p.numel() == 0
    assert l.tolist() == [[1.0, 0.0], [0.5, 1.0]]
    assert u.tolist() == [[2.0, 1.0], [0.0, 2.5]]


def test_lu_has_gradients_and_solves() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 3, 3)) + 2 * np.eye(3), rng.standard_normal((2, 3, 2))
    x, y = minidl.tensor(a, requires_grad=True), minidl.tensor(b, requires_grad=True)
    for left, adjoint, rhs in ((True, False, y), (True, True, y), (False, False, y.mT), (False, True, y.mT)):
        f = lambda m, r: minidl.linalg.lu_solve(*minidl.linalg.lu_factor(m), r, left=left, adjoint=adjoint)
        want = torch.linalg.lu_solve(
            *torch.linalg.lu_factor(torch.tensor(a)), torch.tensor(rhs.detach().numpy()), left=left, adjoint=adjoint
        )
        np.testing.assert_allclose(f(x, rhs).detach().numpy(), want.numpy(), atol=1e-13)
    assert minidl.gradcheck(f, [x, y.mT.detach().clone().requires_grad_()])
    for shape in ((3, 3), (4, 2), (2, 4)):
        m = minidl.tensor(rng.standard_normal(shape), requires_grad=True)
        assert minidl.gradcheck(lambda m: minidl.linalg.lu(m)[1:], [m])
    with pytest.raises(RuntimeError, match=r"U\[2,2\] is zero"):
        minidl.linalg.lu_factor(minidl.tensor([[1.0, 2.0], [2.0, 4.0]]))


def test_what_went_wrong_is_reported_instead_of_raised() -> None:
    good, bad = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, 2.0], [2.0, 4.0]])
    both, right = np.stack([good, bad]), np.ones((2, 2, 1))
    found = minidl.linalg.inv_ex(minidl.tensor(both)), torch.linalg.inv_ex(torch.tensor(both))
    assert found[0].info.tolist() == found[1].info.tolist() == [0, 2]
    np.testing.assert_allclose(found[0].inverse[0].numpy(), np.linalg.inv(good))
    assert np.isnan(found[0].inverse[1].numpy()).all()
    found = (
        minidl.linalg.cholesky_ex(minidl.tensor(both), upper=True),
        torch.linalg.cholesky_ex(torch.tensor(both), upper=True),
    )
    assert found[0].info.tolist() == found[1].info.tolist() == [0, 2]
    np.testing.assert_allclose(found[0].L[0].numpy(), found[1].L[0].numpy())
    found = minidl.linalg.solve_ex(minidl.tensor(both), minidl.tensor(right))
    assert found.info.tolist() == [0, 2]
    np.testing.assert_allclose(found.result[0].numpy(), np.linalg.solve(good, right[0]))
    with pytest.raises(minidl.linalg.LinAlgError):
        minidl.linalg.inv_ex(minidl.tensor(both), check_errors=True)
    assert minidl.linalg.inv_ex(minidl.tensor(good)).info.item() == 0


@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 5)])
def test_svd_with_square_factors(shape: tuple) -> None:
    a = np.random.default_rng(5).standard_normal(shape)
    u, s, vt = minidl.linalg.svd(minidl.tensor(a))
    m, n = shape[-2:]
    assert u.shape[-2:] == (m, m)
    assert vt.shape[-2:] == (n, n)
    for q in (u, vt):
        np.testing.assert_allclose((q.mT @ q).numpy(), np.broadcast_to(np.eye(q.shape[-1]), q.shape), atol=1e-14)
    k = min(m, n)
    np.testing.assert_allclose((u[..., :k] * s.unsqueeze(-2) @ vt[..., :k, :]).numpy(), a, atol=1e-14)
    f = lambda x: minidl.linalg.svd(x)[1].sum() + (minidl.linalg.svd(x)[0][..., :k] ** 2 * 1.5).sum()
    assert minidl.gradcheck(f, [minidl.tensor(a, requires_grad=True)])


def test_resize_and_memory_by_number() -> None:
    x, t = minidl.arange(6.0), torch.arange(6.0)
    assert x.resize_(2, 2) is x
    assert x.tolist() == t.resize_(2, 2).tolist()
    assert x.resize_(8)[:4].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert x.resize_as_(minidl.zeros(2, 1)).shape == (2, 1)
    with pytest.raises(RuntimeError, match="require grad"):
        minidl.zeros(2, requires_grad=True).resize_(3)
    base = minidl.arange(12.0).reshape(3, 4)
    part = base[1:].as_strided((2, 2), (4, 1), 5)  # counted from the beginning of base's memory
    assert part.tolist() == torch.arange(12.0).reshape(3, 4)[1:].as_strided((2, 2), (4, 1), 5).tolist()
    part.fill_(-1.0)
    assert base[1].tolist() == [4.0, -1.0, -1.0, 7.0]
    for size, stride, at in (((4, 4), (4, 1), 0), ((2,), (-1,), 0), ((2,), (1, 1), 0)):
        with pytest.raises(RuntimeError):
            base.as_strided(size, stride, at)
    with pytest.raises(RuntimeError, match="in rows"):
        base.t().as_strided((2,), (1,))


def test_gradient_at_uneven_places() -> None:
    at, y = np.array([0.0, 0.5, 2.0, 3.0]), np.array([1.0, 4.0, 9.0, 2.0])
    for order in (1, 2):
        ours = minidl.gradient(minidl.tensor(y), spacing=(minidl.tensor(at),), edge_order=order)[0]
        theirs = torch.gradient(torch.tensor(y), spacing=(torch.tensor(at),), edge_order=order)[0]
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-14)


def test_logarithms_of_small_chances() -> None:
    x = np.array([-30.0, -6.5, -5.5, 0.0, 3.0])
    np.testing.assert_allclose(
        minidl.special.log_ndtr(minidl.tensor(x)).numpy(), torch.special.log_ndtr(torch.tensor(x)).numpy(), rtol=1e-6
    )
    a, b = np.array([0.0, 0.0, 2.0, 1.5]), np.array([-1.0, np.nan, 0.5, 0.0])
    np.testing.assert_array_equal(
        minidl.special.xlog1py(minidl.tensor(a), minidl.tensor(b)).numpy(),
        torch.special.xlog1py(torch.tensor(a), torch.tensor(b)).numpy(),
    )
    assert minidl.special.gammainc is minidl.igamma
    assert minidl.special.gammaincc is minidl.igammac
