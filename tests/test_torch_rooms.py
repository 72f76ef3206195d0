"""Rooms and names for programs written for torch: Function, distributions, vmap, draws, constructors, switches."""

import math
import warnings

import numpy as np
import pytest
import torch

import minidl
import minidl.distributions
import minidl.utils.data

BOTH = (minidl, torch)


def numbers(x):
    return np.asarray(x.detach().numpy())


def same(a, b, ulps=16):
    """Equal up to a few roundings of float32, relative to the greatest value."""
    a, b = numbers(a), numbers(b)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    scale = max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
    np.testing.assert_allclose(a, b, rtol=0, atol=ulps * scale * (np.finfo(b.dtype).eps if b.dtype.kind == "f" else 0))


# -- autograd.Function ------------------------------------------------------------------------------------------------


def scaled_exp(t):
    class ScaledExp(t.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, scale):
            y = (x * w).exp() * scale
            ctx.save_for_backward(x, w, y)
            ctx.scale = scale
            return y

        @staticmethod
        def backward(ctx, dy):
            x, w, y = ctx.saved_tensors
            assert ctx.needs_input_grad == (True, True, False)
            return dy * y * w, (dy * y * x).sum(), None

    return ScaledExp.apply


def split(t):
    class Split(t.autograd.Function):
        @staticmethod
        def forward(x):
            return x[::2].clone(), x[1::2].clone(), x.argmax()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.n = inputs[0].shape[0]
            ctx.mark_non_differentiable(output[2])

        @staticmethod
        def backward(ctx, even, odd, _):
            dx = even.new_zeros(ctx.n)
            dx[::2], dx[1::2] = even, odd
            return dx

    return Split.apply


def test_functions_have_torchs_values_and_gradients_of_both_orders():
    found = []
    for t in BOTH:
        x = t.tensor([0.5, -1.0, 2.0], requires_grad=True)
        w = t.tensor(0.7, requires_grad=True)
        y = scaled_exp(t)(x * 1.0, w, 3.0)
        assert type(y.grad_fn).__name__
        assert "ScaledExpBackward" in y.grad_fn.name()
        dx, dw = t.autograd.grad(y.sum(), (x, w), create_graph=True)
        (ddx,) = t.autograd.grad((dx**2).sum() + dw, x)
        found.append([y, dx, dw, ddx])
    for a, b in zip(*found, strict=True):
        same(a, b, 64)


def test_a_function_with_several_outputs_and_a_context_apart():
    found = []
    for t in BOTH:
        x = t.tensor([1.0, 5.0, 3.0, 4.0], requires_grad=True)
        a, b, top = split(t)(x)
        assert not top.requires_grad
        assert top.item() == 1
        (a * t.tensor([2.0, 3.0])).sum().backward()  # b takes no part: its gradient is zeros
        found.append(x.grad)
        assert not split(t)(x.detach())[0].requires_grad
        with t.no_grad():
            assert not split(t)(x)[0].requires_grad
    same(*found)


def test_a_function_that_changes_its_input():
    found = []
    for t in BOTH:

        class Doubled(t.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.mark_dirty(x)
                return x.mul_(2)

            @staticmethod
            def backward(ctx, dy):
                return 2 * dy

        x = t.tensor([1.0, 2.0], requires_grad=True)
        h = x * 3
        y = Doubled.apply(h)
        assert y is h
        (y**2).sum().backward()
        found.append(x.grad)
        with pytest.raises(RuntimeError, match="leaf"):
            Doubled.apply(x)
    same(*found)


@pytest.mark.parametrize("t", BOTH)
def test_functions_refuse_what_torch_refuses(t):
    class Wrong(t.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x)
            return x * y

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return dy * x

    x, y = (t.ones(2, requires_grad=True) for _ in range(2))
    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        Wrong.apply(x, y).sum().backward()
    h = x * 1
    z = scaled_exp(t)(h, y[0], 1.0)
    h.mul_(2)
    with pytest.raises(RuntimeError, match="in-?place"):
        z.sum().backward()
    z = scaled_exp(t)(x, y[0], 1.0).sum()
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()

    class Once(t.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @t.autograd.function.once_differentiable
        def backward(ctx, dy):
            return 2 * dy * ctx.saved_tensors[0]

    x = t.ones(2, requires_grad=True)
    (dx,) = t.autograd.grad((Once.apply(x) ** 2).sum(), x, create_graph=True)
    assert dx.tolist() == [4, 4]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_save_for_backward_takes_tensors_only():
    class Kept(minidl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(3)
            return x

    with pytest.raises(TypeError, match="ctx.size = size"):
        Kept.apply(minidl.ones(1))
    assert minidl.autograd.Variable(minidl.ones(1), requires_grad=True).requires_grad
    with pytest.raises(AttributeError, match="minidl bench"):
        minidl.autograd.profiler
    assert minidl.autograd.gradcheck is minidl.gradcheck


# -- distributions ----------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
A, B = (RNG.normal(size=(3, 4)).astype(np.float32) for _ in range(2))
DISTRIBUTIONS = {
    "normal": (lambda d, a: d.Normal(a, (a * 0.3).exp()), B),
    "normal of numbers": (lambda d, a: d.Normal(0.5, 2.0), B),
    "uniform": (lambda d, a: d.Uniform(a - 9.0, a + 9.0), B),
    "exponential": (lambda d, a: d.Exponential(a.exp()), np.abs(B)),
    "laplace": (lambda d, a: d.Laplace(a, (a * 0.3).exp()), B),
    "categorical of logits": (lambda d, a: d.Categorical(logits=a), np.array([0, 3, 1])),
    "categorical of probs": (lambda d, a: d.Categorical(a.exp()), np.array([[2, 2, 0], [1, 3, 0]])),
    "bernoulli of logits": (lambda d, a: d.Bernoulli(logits=a), (B > 0).astype(np.float32)),
    "bernoulli of probs": (lambda d, a: d.Bernoulli(a.sigmoid()), (B > 0).astype(np.float32)),
    "independent": (lambda d, a: d.Independent(d.Normal(a, a.exp()), 1), B),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_have_torchs_numbers(name):
    make, value = DISTRIBUTIONS[name]
    found = []
    for t in BOTH:
        a = t.from_numpy(A.copy()).requires_grad_()
        d = make(t.distributions, a)
        assert tuple(d.sample((5,)).shape) == (5, *d.batch_shape, *d.event_shape)
        assert not d.sample().requires_grad
        log_prob, entropy = d.log_prob(t.from_numpy(value)), d.entropy()
        results = [log_prob, entropy]
        if "categorical" not in name:
            results += [d.mean, d.variance]
        if "independent" not in name:
            results += [d.perplexity()]
        if "normal" in name or name in ("uniform", "exponential", "laplace"):
            results.append(d.cdf(t.from_numpy(value)))
        if log_prob.requires_grad:
            results += t.autograd.grad(log_prob.sum() + (entropy**2).sum(), a)
        found.append(results)
    for x, y in zip(*found, strict=True):
        same(x, y, 64)


@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if n not in ("uniform", "normal of numbers")])
def test_divergences_are_torchs(name):
    make, _ = DISTRIBUTIONS[name]
    found = []
    for t in BOTH:
        a, b = (t.from_numpy(x.copy()).requires_grad_() for x in (A, B))
        kl = t.distributions.kl_divergence(make(t.distributions, a), make(t.distributions, b))
        found.append([kl, *t.autograd.grad(kl.sum(), (a, b))])
    for x, y in zip(*found, strict=True):
        same(x, y, 64)


def test_draws_follow_their_distribution():
    """Means of n draws lie within 5 standard errors, which fails by chance once in 10^6."""
    n, d = 20000, minidl.distributions
    for dist in (d.Normal(2.0, 3.0), d.Uniform(-1.0, 2.0), d.Bernoulli(0.2), d.Exponential(3.0), d.Laplace(1.0, 2.0)):
        assert abs(dist.sample((n,)).mean().item() - dist.mean.item()) < 5 * dist.stddev.item() / math.sqrt(n)
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], np.float32)
    drawn = d.Categorical(minidl.tensor(p)).sample((n,)).numpy()
    counts = np.stack([(drawn == k).mean(0) for k in range(3)], -1)
    assert (np.abs(counts - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()
    x = minidl.tensor(1.5, requires_grad=True)
    d.Normal(x, 1.0).rsample((4,)).sum().backward()
    assert x.grad.item() == 4


@pytest.mark.parametrize("t", BOTH)
def test_distributions_refuse_what_torch_refuses(t):
    d = t.distributions
    for make in (
        lambda: d.Normal(0.0, -1.0),
        lambda: d.Normal(math.nan, 1.0),
        lambda: d.Categorical(t.tensor([-0.1, 1.1])),
        lambda: d.Categorical(),
        lambda: d.Categorical(t.tensor(1.0)),
        lambda: d.Bernoulli(1.5),
        lambda: d.Bernoulli(0.5, 0.5),
        lambda: d.Bernoulli(0.5).log_prob(t.tensor(0.3)),
        lambda: d.Categorical(t.ones(3)).log_prob(t.tensor(3)),
        lambda: d.Uniform(1.0, 0.0),
        lambda: d.Exponential(0.0),
        lambda: d.Exponential(1.0).log_prob(t.tensor(-1.0)),
        lambda: d.Laplace(0.0, 0.0),
        lambda: d.Uniform(0.0, 1.0).log_prob(t.tensor(2.0)),
        lambda: d.Independent(d.Normal(0.0, 1.0), 1),
    ):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(NotImplementedError):
        d.Categorical(t.ones(3)).rsample()
    with pytest.raises(NotImplementedError):
        d.kl_divergence(d.Bernoulli(0.5), d.Categorical(t.ones(2)))


# -- vmap -------------------------------------------------------------------------------------------------------------


def test_gradients_of_each_sample_as_in_torchs_tutorial():
    x, y = RNG.normal(size=(5, 3)).astype(np.float32), RNG.integers(0, 2, 5)
    w, b = RNG.normal(size=(2, 3)).astype(np.float32), RNG.normal(size=2).astype(np.float32)
    found = []
    for t in BOTH:
        model = t.nn.Linear(3, 2)
        model.load_state_dict({"weight": t.from_numpy(w), "bias": t.from_numpy(b)})
        params = {k: v.detach() for k, v in model.named_parameters()}

        def loss(params, sample, target, t=t, model=model):
            out = t.func.functional_call(model, params, (sample.unsqueeze(0),))
            return t.nn.functional.cross_entropy(out, target.unsqueeze(0))

        grads = t.vmap(t.func.grad(loss), in_dims=(None, 0, 0))(params, t.from_numpy(x), t.from_numpy(y))
        stacked, _ = t.func.stack_module_state([model, model])
        outs = t.vmap(lambda p, x, t=t, m=model: t.func.functional_call(m, p, (x,)), (0, None))(
            stacked, t.from_numpy(x)
        )
        turned = t.vmap(lambda a, b: (a + b, a * b), in_dims=(1, 0), out_dims=(1, 0))(
            t.from_numpy(w), t.from_numpy(x[:3, :2])
        )
        found.append([grads["weight"], grads["bias"], outs, *turned])
        with pytest.raises(ValueError):
            t.vmap(lambda a, b: a + b)(t.ones(2), t.ones(3))
        with pytest.raises(ValueError):
            t.vmap(lambda a: a, in_dims=None)(t.ones(2))
    for a, b in zip(*found, strict=True):
        same(a, b)


# -- constructors, draws, limits --------------------------------------------------------------------------------------


def test_typed_constructors_and_tensors_beside_another():
    names = "FloatTensor DoubleTensor HalfTensor LongTensor IntTensor ShortTensor CharTensor ByteTensor BoolTensor"
    for kind in names.split():
        ours, theirs = (getattr(t, kind)([1, 0, 1]) for t in BOTH)
        same(ours, theirs)
        assert isinstance(ours, getattr(minidl, kind))
        assert tuple(getattr(minidl, kind)(2, 3).shape) == (2, 3)
        assert minidl.ones(2).type(getattr(minidl, kind)).dtype == ours.dtype
    assert not isinstance(minidl.ones(2), minidl.LongTensor)
    for make in (
        lambda x: x.new_zeros(2, 3),
        lambda x: x.new_ones((2, 3)),
        lambda x: x.new_full((2,), 7),
        lambda x: x.new_tensor([1, 2]),
        lambda x: x.new_empty(0, 2),
    ):
        for dtype in ("float64", "int32"):
            same(*[make(t.ones(4, dtype=getattr(t, dtype))) for t in BOTH])
    for r, c, k in ((3, 4, 0), (4, 2, -1), (2, 5, 2), (0, 3, 0)):
        same(minidl.tril_indices(r, c, k), torch.tril_indices(r, c, k))
        same(minidl.triu_indices(r, c, k), torch.triu_indices(r, c, k))
    x = minidl.ones(2)
    assert x.pin_memory() is x
    assert minidl.numel(x) == 2
    assert minidl.is_floating_point(x)
    assert not minidl.is_complex(x)
    for a in ("float32", "int64", "uint8", "bool"):
        for b in ("float16", "int32", "int8"):
            ours = minidl.promote_types(getattr(minidl, a), getattr(minidl, b))
            assert ours.name == str(torch.promote_types(getattr(torch, a), getattr(torch, b))).removeprefix("torch.")
    for name in ("float16", "float32", "float64"):
        ours, theirs = (t.finfo(getattr(t, name)) for t in BOTH)
        for field in ("bits", "eps", "max", "min", "tiny", "smallest_normal", "resolution"):
            assert getattr(ours, field) == pytest.approx(getattr(theirs, field), rel=1e-6), field
    for name in ("uint8", "int32", "int64"):
        ours, theirs = (t.iinfo(getattr(t, name)) for t in BOTH)
        assert (ours.bits, ours.max, ours.min) == (theirs.bits, theirs.max, theirs.min)
    for t in BOTH:
        with pytest.raises(TypeError):
            t.finfo(t.int64)
        with pytest.raises(TypeError):
            t.iinfo(t.float32)
        assert (t.pi, t.e, t.inf, t.newaxis) == (math.pi, math.e, math.inf, None)
        assert t.nan != t.nan


def test_draws_into_memory_and_normal():
    """Means within 5 standard errors."""
    n = 20000
    x = minidl.empty(n).exponential_(2.0)
    assert abs(x.mean().item() - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert x.min().item() >= 0
    for t in BOTH:
        x = t.empty(n).random_(3, 8)
        assert set(x.tolist()) == {3.0, 4.0, 5.0, 6.0, 7.0}
        assert set(t.empty(n, dtype=t.int64).random_(2).tolist()) == {0, 1}
        assert set(t.randint_like(x, 2, 4).tolist()) == {2.0, 3.0}
        with pytest.raises(RuntimeError, match="less than"):
            x.random_(3, 3)
        x = t.normal(3.0, 2.0, (n,))
        assert abs(x.mean().item() - 3) < 5 * 2 / math.sqrt(n)
        assert t.normal(t.zeros(3, 1), t.ones(2)).shape == (3, 2)
        assert t.normal(t.tensor([5.0]), t.zeros(1)).item() == 5
        assert t.normal(2.0, t.zeros(2)).tolist() == [2, 2]
        with pytest.raises(RuntimeError):
            t.normal(0.0, -1.0, (2,))
        assert t.tensor([0.0, 1.0]).multinomial(3, replacement=True).tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="size"):
        minidl.normal(0.0, 1.0)


# -- devices, switches, what is not here ------------------------------------------------------------------------------


def test_the_usual_first_lines_of_a_program_run():
    device = minidl.device("cuda" if minidl.cuda.is_available() else "cpu")
    assert minidl.cuda.is_available() == (minidl.cuda.device_count() > 0)
    minidl.manual_seed(3)
    first = minidl.rand(2).tolist()
    minidl.manual_seed(3)
    minidl.cuda.manual_seed_all(7)
    minidl.cuda.manual_seed(7)
    minidl.cuda.empty_cache()
    assert minidl.rand(2).tolist() == first
    minidl.backends.cudnn.benchmark = True
    minidl.backends.cudnn.deterministic = True
    minidl.backends.cuda.matmul.allow_tf32 = True
    minidl.set_float32_matmul_precision("high")
    with pytest.raises(RuntimeError):
        minidl.set_float32_matmul_precision("low")
    assert minidl.get_float32_matmul_precision() == "high"
    minidl.set_float32_matmul_precision("highest")
    minidl.use_deterministic_algorithms(True)
    assert minidl.are_deterministic_algorithms_enabled()
    assert not minidl.backends.mps.is_available()
    assert not minidl.backends.mps.is_built()
    model = minidl.nn.Linear(2, 2).to(device)
    assert minidl.compile(model, mode="max-autotune") is model
    assert minidl.compile(fullgraph=True)(model) is model
    if not minidl.cuda.is_available():
        assert minidl.cuda.memory_allocated() == minidl.cuda.memory_reserved() == 0
        for ask in (minidl.cuda.synchronize, minidl.cuda.get_device_name, minidl.cuda.current_device):
            with pytest.raises(RuntimeError, match="CuPy"):
                ask()
    assert not minidl.cuda.is_bf16_supported()


def test_mixed_precision_is_off_or_refused():
    with minidl.autocast("cpu", enabled=False), minidl.amp.autocast("cuda", dtype=minidl.float16, enabled=False):
        assert (minidl.ones(2, 2) @ minidl.ones(2, 2)).dtype == minidl.float32
    assert minidl.autocast("cpu", enabled=False)(lambda: 3)() == 3
    with pytest.raises(NotImplementedError, match="enabled=False"):
        minidl.autocast("cpu")
    x = minidl.ones(2, requires_grad=True)
    optimizer = minidl.optim.SGD([x], lr=1.0)
    scaler = minidl.amp.GradScaler(enabled=False)
    scaler.scale(x.sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert x.tolist() == [0, 0]
    assert scaler.get_scale() == 1
    assert not scaler.is_enabled()
    scaler.load_state_dict(scaler.state_dict())
    if not minidl.cuda.is_available():
        with pytest.warns(UserWarning, match="CUDA is not available"):
            minidl.amp.GradScaler()


@pytest.mark.parametrize(
    ("name", "says"),
    [("jit", "run as they are"), ("sparse", "compress"), ("fft", "complex"), ("bfloat16", "float32"), ("hub", "load")],
)
def test_what_is_not_here_says_what_to_write(name, says):
    with pytest.raises(AttributeError, match=says):
        getattr(minidl, name)


def test_no_name_is_both_here_and_absent():
    from minidl.compat import ABSENT

    assert [name for name in ABSENT if name in dir(minidl)] == []
    assert [name for name in ABSENT if not hasattr(torch, name)] == []


def test_checkpoints_take_torchs_keywords(tmp_path):
    path = tmp_path / "run.safetensors"
    minidl.save({"epoch": 3, "w": minidl.ones(2)}, path)
    found = minidl.load(path, map_location=minidl.device("cpu"), weights_only=True)
    assert found["epoch"] == 3
    assert found["w"].tolist() == [1, 1]
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    assert minidl.load(tmp_path / "w.pt", "cpu")["w"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"run\.safetensors"):
        minidl.save({}, tmp_path / "run.pt")


def test_data_under_torchs_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in minidl.utils.data.__all__:
            assert hasattr(torch.utils.data, name), name
            assert getattr(minidl.utils.data, name) is getattr(minidl.data, name)
    with pytest.raises(AttributeError, match="tensorboard"):
        minidl.utils.tensorboard


def test_what_functions_hand_out_is_of_the_public_classes(tmp_path):
    """Handles, contexts, tables: classes that nobody makes himself, but asks for with isinstance."""
    x = minidl.ones(2, requires_grad=True)
    handle = x.register_hook(lambda g: g * 2)
    assert isinstance(handle, minidl.autograd.HookHandle)
    with handle:
        x.sum().backward()
    x.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]  # 2 with the hook, 1 without

    kept = []

    class Same(minidl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            kept.append(ctx)
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy

    y = Same.apply(x)
    assert isinstance(kept[0], minidl.autograd.FunctionCtx)
    assert __file__ in minidl.autograd.source_line((x * 2).node.where)
    assert minidl.autograd.source_line(None) == "an unknown place"
    assert y.requires_grad

    layer = minidl.nn.utils.parametrizations.weight_norm(minidl.nn.Linear(2, 2))
    assert isinstance(layer.parametrizations.weight, minidl.nn.utils.parametrize.ParametrizationList)
    assert isinstance(minidl.distributions.Normal(0.0, 1.0), minidl.distributions.Distribution)

    (tmp_path / "few.csv").write_text("a,b,label\n1,2,0\n3,4,1\n")
    table = minidl.data.load_csv(tmp_path / "few.csv")
    assert isinstance(table, minidl.data.Table)
    assert table.x.shape[0] == 2

    seen = []

    class Asking(minidl.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            seen.append(minidl.data.get_worker_info())
            return i

    list(minidl.data.DataLoader(Asking(), num_workers=1))
    assert isinstance(seen[0], minidl.data.WorkerInfo)
    assert minidl.data.get_worker_info() is None
