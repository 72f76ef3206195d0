"""SGD and Adam by one compiled call: bit for bit the passes of NumPy, masks, duplicates and odd layouts included."""

import numpy as np
import pytest

import minidl
from minidl import optim
from minidl.nn import Parameter
from minidl.optim import adam, sgd
from minidl.optim.optimizer import Optimizer

SHAPES = [(40, 30), (), (7,), (0, 3), (130, 200)]
CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"maximize": True}),
]


def trained(kind, options, by_kernel, monkeypatch, dtype="float32", spoil=lambda params: params):
    """Parameters, their state and how many kernels ran, after four steps."""
    calls = []
    for page, name in ((sgd, "sgd_step"), (adam, "adam_step")):
        run = getattr(page.kernels, name)
        monkeypatch.setattr(page, "LEAST", 0)
        monkeypatch.setattr(page.kernels, name, lambda *args, run=run: (calls.append(args), run(*args)))
    rng = np.random.default_rng(0)
    params = spoil([Parameter(np.asarray(rng.standard_normal(s), dtype)) for s in SHAPES])
    with pytest.MonkeyPatch.context() as inner:
        if not by_kernel:
            inner.setattr(getattr(optim, "SGD" if kind == "SGD" else "Adam"), "update_all", Optimizer.update_all)
        run = getattr(optim, kind)(params, lr=0.01, **options)
        for _ in range(4):
            for p in params:
                p.grad = minidl.tensor(np.asarray(rng.standard_normal(p.shape), p.array.dtype))
            run.step()
    monkeypatch.undo()
    state = [run.state[p][k].array for p in params for k in sorted(run.state[p]) if k != "step"]
    return [p.array for p in params] + [a for a in state if a is not None], len(calls)


def both(kind, options, monkeypatch, **how):
    ours, ran = trained(kind, options, True, monkeypatch, **how)
    plain, none = trained(kind, options, False, monkeypatch, **how)
    assert none == 0
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    return ran


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_kernel_is_numpys_passes_to_the_last_bit(kind, options, dtype, monkeypatch):
    # SGD's first step, which makes the buffers, is NumPy's.
    assert both(kind, options, monkeypatch, dtype=dtype) == 4 - bool(options.get("momentum"))


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_masks_odd_layouts_and_dtypes(kind, options, monkeypatch):
    """A pruned weight stays exactly 0; a transposed parameter, and one in half precision, are updated beside."""

    def spoil(params):
        params[0].mask = np.random.default_rng(1).random(params[0].shape) < 0.5
        params[0].apply_mask_()
        params[4].array = np.asfortranarray(params[4].array)
        params[2].array = params[2].array.astype(np.float16)
        return params

    assert both(kind, options, monkeypatch, spoil=spoil)
    ours, _ = trained(kind, options, True, monkeypatch, spoil=spoil)
    mask = np.random.default_rng(1).random(SHAPES[0]) < 0.5
    assert not ours[0][~mask].any()
    assert not np.signbit(ours[0][~mask]).any()
    assert ours[0][mask].all()


@pytest.mark.parametrize(("kind", "options"), CASES[2:5])
def test_a_parameter_listed_twice_is_updated_twice(kind, options, monkeypatch):
    with pytest.warns(UserWarning, match="duplicate parameters"):
        assert both(kind, options, monkeypatch, spoil=lambda params: [*params, params[0]]) == 0


def test_a_formula_of_ones_own_is_kept(monkeypatch):
    """A subclass that overrides `update` is not passed over."""
    monkeypatch.setattr(adam, "LEAST", 0)

    class Half(optim.Adam):
        def update(self, p, g, state, group):
            p.array *= 0.5

    p = Parameter(np.ones(50, np.float32))
    p.grad = minidl.tensor(np.ones(50, np.float32))
    Half([p]).step()
    assert (p.array == 0.5).all()
