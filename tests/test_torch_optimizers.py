"""Every optimizer of torch's own test database: each setting that torch tests, and each input that torch refuses.

The database is ``torch.testing._internal.common_optimizers.optim_db``. For each setting both engines walk the same 12
steps, with the same gradients; compared are the parameters after each step, param_groups and state (keys, dtypes and
shapes), their way into the other engine, and repr.

Tolerance. In float64 both compute the same formula in another order: a few roundings of 2.2e-16 of the parameter's size
a step, so 1e-12 is far above, and below any mistake. In float32 the truth is torch's float64 path: minidl may be off by
twice what torch's float32 is off, and 4 eps of the size a step. Two exceptions are in LOOSER, with the reason.
"""

import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import minidl
from minidl import nn, optim

NOT_OFFERED = {"SparseAdam": "minidl has no sparse tensors: gradients of embeddings are dense"}
INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ not in NOT_OFFERED}
STEPS = 12
SHAPES = [(3, 4), (5,), (), (0,), (2, 0), (2, 3, 2), (1,)]
SHAPES_OF = {
    "Muon": [(3, 4), (5, 2), (1, 1)],  # matrices only
    "Adafactor": [s for s in SHAPES if 0 not in s],  # torch's divides by the number of elements
}
LOOSER = {
    "Muon": (8e-2, "torch orthogonalises in bfloat16, of 8 bits, in five iterations: 20 roundings of 2^-8 of a step"),
    "LBFGS": (1e-9, "its line search and products of differences amplify roundings"),
}


def cases():
    for name, info in INFOS.items():
        for entry in info.optim_inputs_func(device="cpu"):
            few = {"max_iter": 2} if name == "LBFGS" else {}  # 24 iterations in all: by then it is at the bottom
            yield pytest.param(name, entry.kwargs | few, id=f"{name}-{entry.desc.replace(' ', '-')}")


every_setting = pytest.mark.parametrize(("name", "options"), list(cases()))
every_optimizer = pytest.mark.parametrize("name", INFOS)


def test_the_list_of_what_is_not_offered_is_true():
    assert [name for name in INFOS if not hasattr(optim, name)] == []
    assert [name for name in NOT_OFFERED if hasattr(optim, name)] == []


def options_for(lib, options):
    """The options with tensors of the library; a new one for each optimizer."""
    return {k: lib.tensor(v.numpy()) if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def start(lib, name, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(dtype) for s in SHAPES_OF.get(name, SHAPES)]
    return [lib.tensor(a).requires_grad_() for a in arrays]


def gradients(params):
    """The same numbers for both: functions of the step and the place alone."""
    rng = np.random.default_rng(1)
    return [[np.sin(t) + rng.standard_normal(tuple(p.shape)) for p in params] for t in range(STEPS)]


def step(lib, optimizer, params, grads, loss):
    """One step with given gradients, or for L-BFGS with those of a bowl around them."""
    make = lambda p, g: lib.tensor(np.asarray(g).astype(str(p.dtype).split(".")[-1]))
    if not loss:
        for p, g in zip(params, grads, strict=True):
            p.grad = make(p, g)
        optimizer.step()
        return

    def closure():
        optimizer.zero_grad()
        total = sum(((p - make(p, g)) ** 2).sum() + (p**4).sum() / 8 for p, g in zip(params, grads, strict=True))
        total.backward()
        return total

    optimizer.step(closure)


def arrays_of(params):
    return [p.detach().numpy().copy() for p in params]


def walk(lib, name, options, dtype, steps=range(STEPS)):
    params = start(lib, name, dtype)
    optimizer = getattr(lib.optim, name)(params, **options_for(lib, options))
    path = []
    for t in steps:
        step(lib, optimizer, params, gradients(params)[t if name != "LBFGS" else 0], name == "LBFGS")
        path.append(arrays_of(params))
    return path, optimizer


@every_setting
def test_path_is_torchs(name, options):
    (truth, theirs), (exact, ours) = walk(torch, name, options, "float64"), walk(minidl, name, options, "float64")
    single, coarse = walk(torch, name, options, "float32")[0], walk(minidl, name, options, "float32")[0]
    assert repr(ours) == repr(theirs)
    loose, lr = LOOSER.get(name, (0.0, ""))[0], float(ours.param_groups[0]["lr"])
    for t in range(STEPS):
        for a, b, c, d in zip(truth[t], exact[t], single[t], coarse[t], strict=True):
            assert a.shape == b.shape == d.shape
            assert (b.dtype, d.dtype) == (np.float64, np.float32)
            if not a.size:
                continue
            size = max(1.0, np.abs(a).max())
            extra = (t + 1) * loose * (lr if name == "Muon" else size)
            assert np.abs(a - b).max() <= 1e-12 * size + extra, t
            if name == "LBFGS":
                continue
            assert np.abs(d - a).max() <= 2 * np.abs(c - a).max() + 4 * (t + 1) * 1.2e-7 * size + extra, t


def layout(state):
    """What a state_dict looks like, without its numbers."""
    shape = lambda v: (str(v.dtype).split(".")[-1], tuple(v.shape)) if hasattr(v, "shape") else type(v).__name__
    inside = lambda v: [shape(x) for x in v] if isinstance(v, (list, tuple)) else shape(v)
    state = {n: {k: inside(v) for k, v in entry.items()} for n, entry in state["state"].items()}, state["param_groups"]
    return [state[0], [{k: inside(v) if hasattr(v, "shape") else v for k, v in g.items()} for g in state[1]]]


def translated(state, make):
    """A state_dict with other tensors."""
    if isinstance(state, dict):
        return {k: translated(v, make) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(translated(v, make) for v in state)
    return make(state.detach().numpy().copy()) if isinstance(state, (torch.Tensor, minidl.Tensor)) else state


@every_setting
def test_state_is_torchs_and_goes_both_ways(name, options):
    """Seven steps in one engine, five in the other, end where one engine's twelve end."""
    first, rest = range(7), range(7, STEPS)
    whole = walk(torch, name, options, "float64")[0][-1]
    states = {}
    for lib in (torch, minidl):
        path, optimizer = walk(lib, name, options, "float64", first)
        states[lib] = path[-1], optimizer.state_dict()
    if name == "LBFGS":  # numbers where torch has tensors of no dimension, and not its scratch, al
        assert set(states[torch][1]["state"][0]) - set(states[minidl][1]["state"][0]) == {"al"}
        assert set(states[minidl][1]["state"][0]) <= set(states[torch][1]["state"][0])
    else:
        assert layout(states[minidl][1]) == layout(states[torch][1])
    loose = LOOSER.get(name, (1e-12, ""))[0]
    for lib, other in ((torch, minidl), (minidl, torch)):
        middle, state = states[other]
        params = [lib.tensor(a).requires_grad_() for a in middle]
        optimizer = getattr(lib.optim, name)(params, **options_for(lib, options))
        optimizer.load_state_dict(translated(state, lib.tensor))
        for t in rest:
            step(lib, optimizer, params, gradients(params)[t if name != "LBFGS" else 0], name == "LBFGS")
        for a, b in zip(whole, arrays_of(params), strict=True):
            np.testing.assert_allclose(b, a, rtol=loose, atol=loose)


@every_optimizer
def test_groups_are_torchs(name):
    """Options of their own, names, a group that comes later, and what is in a state_dict before the first step."""
    if name == "LBFGS":
        for lib in (torch, minidl):
            with pytest.raises(ValueError, match="doesn't support per-parameter options"):
                lib.optim.LBFGS([{"params": [p]} for p in start(lib, name, "float32")])
        return
    seen = []
    for lib in (torch, minidl):
        params = start(lib, name, "float64")
        named = [(f"p{i}", p) for i, p in enumerate(params)]
        optimizer = getattr(lib.optim, name)([{"params": named[:1], "lr": 0.5}, {"params": named[1:2]}], lr=0.01)
        fresh = layout(optimizer.state_dict())
        optimizer.add_param_group(
            {"params": named[2:], "weight_decay": 0.3} if name != "Rprop" else {"params": named[2:]}
        )
        for t in range(4):
            step(lib, optimizer, params, gradients(params)[t], False)
        seen.append((fresh, layout(optimizer.state_dict()), repr(optimizer), arrays_of(params)))
    (*theirs, a), (*ours, b) = seen
    assert ours == theirs
    loose = 0.5 * LOOSER[name][0] * 4 if name in LOOSER else 1e-12
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-12, atol=loose)


@every_optimizer
def test_a_closure_is_called_with_gradients_on_and_its_loss_returned(name):
    losses = []
    for lib in (torch, minidl):
        params = start(lib, name, "float64")
        optimizer = getattr(lib.optim, name)(params)

        def closure():
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params)
            loss.backward()
            return loss

        with lib.no_grad():
            losses.append([float(optimizer.step(closure)) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-3 if name == "Muon" else 1e-12, atol=1e-12)
    assert losses[1][0] > losses[1][2]


# -- options that say how, not what -----------------------------------------------------------------------------------

HOW = ("foreach", "fused", "capturable", "differentiable")


@every_optimizer
def test_arguments_are_torchs(name):
    what = lambda lib: [
        (p.name, p.kind, p.default) for p in inspect.signature(getattr(lib.optim, name)).parameters.values()
    ]
    assert what(minidl) == what(torch)


@pytest.mark.parametrize(("name", "flag"), [
    (name, flag) for name, info in INFOS.items() for flag in HOW if flag in inspect.signature(info.optim_cls).parameters
])  # fmt: skip
def test_flags_change_nothing_or_say_that_they_are_not_offered(name, flag):
    """foreach and fused are torch's ways to compute the same; a state_dict with any flag set can be taken over."""
    if flag in ("foreach", "fused"):
        plain, flagged = walk(minidl, name, {}, "float32")[0], walk(minidl, name, {flag: True}, "float32")[0]
        for a, b in zip(plain[-1], flagged[-1], strict=True):
            np.testing.assert_array_equal(a, b)
        return
    with pytest.raises(NotImplementedError, match=f"{name}: {flag}=True is not offered"):
        getattr(optim, name)(start(minidl, name, "float32"), **{flag: True})
    params = start(torch, name, "float32")
    state = getattr(torch.optim, name)(params, **{flag: True}).state_dict()
    ours = getattr(optim, name)(start(minidl, name, "float32"))
    ours.load_state_dict(translated(state, minidl.tensor))
    assert layout(ours.state_dict())[1] == layout(state)[1]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_flags_that_contradict_each_other(name):
    for flags in ({"fused": True, "foreach": True}, {"fused": True, "differentiable": True}):
        for lib in (torch, minidl):
            with pytest.raises(RuntimeError, match="`fused` (and `foreach` cannot be|does not support)"):
                getattr(lib.optim, name)(start(lib, name, "float32"), **flags)


# -- what is refused --------------------------------------------------------------------------------------------------


def to_minidl(value):
    if isinstance(value, torch.Tensor):
        made = nn.Parameter if isinstance(value, torch.nn.Parameter) else minidl.tensor
        return made(value.detach().numpy().copy())
    if isinstance(value, (list, tuple)):
        done = {id(v): to_minidl(v) for v in value}  # one listed twice stays one
        return type(value)(done[id(v)] for v in value)
    return {k: to_minidl(v) for k, v in value.items()} if isinstance(value, dict) else value


@every_optimizer
def test_what_torchs_refuses_is_refused(name):
    """The same class of exception, and the words that torch's tests look for."""
    faults = []
    entries = INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(entries) > 5
    for case in entries:
        given = case.optimizer_error_input
        params = given.params if given.params is not None else [torch.nn.Parameter(torch.randn(1, 1))]
        if any(isinstance(p, torch.Tensor) and p.is_complex() for p in params):
            with pytest.raises(TypeError):  # a difference that stays: minidl has no complex tensors at all
                to_minidl(params)
            continue
        shared = isinstance(params, list) and [p.get("params") for p in params if isinstance(p, dict)]
        ours = to_minidl(params)
        if shared and shared[0] is shared[-1]:
            ours = [{"params": ours[0]["params"]}] * 2
        error = None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                optimizer = getattr(optim, name)(ours, **to_minidl(given.kwargs))
                if case.error_on is OptimizerErrorEnum.STEP_ERROR:
                    optimizer.step()
            except Exception as raised:
                error = raised
        if type(error) is not case.error_type:
            faults.append(f"{given.desc}: {error!r}, torch's {case.error_type.__name__}: {case.error_regex}")
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                raise error
    assert not faults, "\n".join(faults)


def test_a_parameter_listed_twice_is_stepped_twice():
    seen = []
    for lib in (torch, minidl):
        p = lib.ones(2).requires_grad_()
        with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
            optimizer = lib.optim.SGD([p, p], 0.1)
        for _ in range(3):
            p.grad = lib.ones(2)
            optimizer.step()
        seen.append((arrays_of([p])[0], copy.deepcopy(layout(optimizer.state_dict()))))
    np.testing.assert_allclose(seen[0][0], seen[1][0], rtol=1e-6)
    assert seen[0][1] == seen[1][1]
