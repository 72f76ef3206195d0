"""Every schedule of torch.optim.lr_scheduler, with settings drawn at random, over 30 steps; sequences and chains.

The rates (and momentum) of two groups are compared after each step, to 1e-12 of the first rate times 30 steps: both
multiply or add Python floats, once a step, in about the same order. Near the lowest point of a cosine that is stepped
the two differ by more, since a ratio of two numbers close to 0 is taken: 1e-9.
"""

import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl

STEPS = 30
# Of a state_dict: what only torch has, each a note to itself that its own constructor makes again; and minidl's.
NOTES = {"_get_lr_called_within_step", "default_min_lr", "mode_worse"}

rates = st.floats(1e-3, 1.0)
factors = st.floats(0.05, 1.0)
counts = st.integers(1, 12)
SETTINGS = {
    "StepLR": st.fixed_dictionaries({"step_size": counts, "gamma": factors}),
    "MultiStepLR": st.fixed_dictionaries({"milestones": st.lists(st.integers(0, 30), max_size=5).map(sorted),
                                          "gamma": factors}),
    "ExponentialLR": st.fixed_dictionaries({"gamma": factors}),
    "ConstantLR": st.fixed_dictionaries({"factor": factors, "total_iters": st.integers(0, 12)}),
    "LinearLR": st.fixed_dictionaries({"start_factor": factors, "end_factor": factors, "total_iters": counts}),
    "PolynomialLR": st.fixed_dictionaries({"total_iters": counts, "power": st.floats(0.5, 3.0)}),
    "CosineAnnealingLR": st.fixed_dictionaries({"T_max": st.integers(2, 12), "eta_min": st.floats(0, 1e-2)}),
    "CosineAnnealingWarmRestarts": st.fixed_dictionaries({"T_0": counts, "T_mult": st.integers(1, 3),
                                                          "eta_min": st.floats(0, 1e-2)}),
    "CyclicLR": st.fixed_dictionaries({
        "base_lr": rates, "max_lr": rates, "step_size_up": counts, "step_size_down": st.none() | counts,
        "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]), "gamma": factors,
        "cycle_momentum": st.booleans(), "base_momentum": st.floats(0, 0.5), "max_momentum": st.floats(0.5, 0.99)}),
    "OneCycleLR": st.fixed_dictionaries({
        "max_lr": rates, "total_steps": st.integers(STEPS + 1, 60), "pct_start": st.floats(0.1, 0.45),
        "anneal_strategy": st.sampled_from(["cos", "linear"]), "three_phase": st.booleans(),
        "cycle_momentum": st.booleans(), "div_factor": st.floats(2, 50), "final_div_factor": st.floats(2, 1e4)}),
    "LambdaLR": st.fixed_dictionaries({"lr_lambda": factors.map(lambda f: lambda t: 1 / (1 + f * t))}),
    "MultiplicativeLR": st.fixed_dictionaries({"lr_lambda": factors.map(lambda f: lambda t: 1 - f / (t + 2))}),
}  # fmt: skip
OTHERS = {"ReduceLROnPlateau", "SequentialLR", "ChainedScheduler", "LRScheduler"}  # tested below on their own
IN_A_SEQUENCE = ["StepLR", "MultiStepLR", "ExponentialLR", "LinearLR", "PolynomialLR", "ConstantLR"]


def test_every_schedule_is_here_with_torchs_arguments():
    theirs, ours = torch.optim.lr_scheduler, minidl.optim.lr_scheduler
    assert set(SETTINGS) | OTHERS == set(theirs.__all__)
    for name in theirs.__all__:
        what = lambda lib: [(p.name, p.default) for p in inspect.signature(getattr(lib, name)).parameters.values()]
        assert what(ours) == what(theirs), name


def optimizer_of(lib):
    groups = [{"params": [lib.ones(2).requires_grad_()], "lr": 0.5}, {"params": [lib.ones(3).requires_grad_()]}]
    return lib.optim.SGD(groups, lr=0.1, momentum=0.9)


def make(lib, optimizer, name, options, **more):
    return getattr(lib.optim.lr_scheduler, name)(optimizer, **options, **more)


def walk(optimizer, schedule, steps, *args):
    seen = []
    for i in range(steps):
        seen.append([(g["lr"], g["momentum"]) for g in optimizer.param_groups])
        optimizer.step()
        schedule.step(*(a[i] for a in args))
    return np.array(seen), schedule.get_last_lr(), schedule.last_epoch


def compare(ours, theirs, cosine=False):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-9 if cosine else 3e-11)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-9 if cosine else 3e-11)
    assert ours[2] == theirs[2]


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=25)
@given(data=st.data())
def test_rates_are_torchs_and_the_state_goes_over(name, data):
    options = data.draw(SETTINGS[name])
    first = data.draw(st.integers(1, STEPS - 1))
    walks = []
    for lib in (minidl, torch):
        optimizer = optimizer_of(lib)
        schedule = make(lib, optimizer, name, options)
        whole = walk(optimizer, schedule, STEPS)
        walks.append(whole)
    compare(*walks, cosine=name == "CosineAnnealingLR")
    theirs = optimizer_of(torch)
    schedule = make(torch, theirs, name, options)
    walk(theirs, schedule, first)
    ours = optimizer_of(minidl)
    resumed = make(minidl, ours, name, options)
    assert set(schedule.state_dict()) - NOTES == set(resumed.state_dict())
    ours.load_state_dict(theirs.state_dict())
    resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
    rest = walk(ours, resumed, STEPS - first)
    compare((walks[0][0][first:], *walks[0][1:]), rest, cosine=name == "CosineAnnealingLR")


@settings(max_examples=40)
@given(data=st.data())
def test_sequences_and_chains_are_torchs(data):
    names = data.draw(st.lists(st.sampled_from(IN_A_SEQUENCE), min_size=2, max_size=4))
    options = [data.draw(SETTINGS[n]) for n in names]
    at = data.draw(st.lists(st.integers(1, STEPS), min_size=len(names) - 1, max_size=len(names) - 1, unique=True))
    walks = {"SequentialLR": [], "ChainedScheduler": []}
    for lib in (minidl, torch):
        for kind in walks:
            optimizer = optimizer_of(lib)
            parts = [make(lib, optimizer, n, o) for n, o in zip(names, options, strict=True)]
            s = lib.optim.lr_scheduler
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's sequence calls its parts' deprecated step(0)
                if kind == "SequentialLR":
                    walks[kind].append(walk(optimizer, s.SequentialLR(optimizer, parts, sorted(at)), STEPS))
                else:
                    whole = s.ChainedScheduler(parts, optimizer)
                    whole.last_epoch = 0  # torch's chain has no count of its own
                    walks[kind].append(walk(optimizer, whole, STEPS))
    for pair in walks.values():
        compare(*pair)


@settings(max_examples=40)
@given(
    mode=st.sampled_from(["min", "max"]), factor=st.floats(0.1, 0.9), patience=st.integers(0, 4),
    threshold=st.floats(0, 0.3), threshold_mode=st.sampled_from(["rel", "abs"]), cooldown=st.integers(0, 3),
    min_lr=st.floats(0, 0.05), metrics=st.lists(st.floats(-2, 2), min_size=STEPS, max_size=STEPS),
)  # fmt: skip
def test_plateau_is_torchs(metrics, **options):
    walks = []
    for lib in (minidl, torch):
        optimizer = optimizer_of(lib)
        schedule = lib.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        walks.append(walk(optimizer, schedule, STEPS, metrics))
        assert set(schedule.state_dict()) - NOTES == {
            "factor", "min_lrs", "patience", "cooldown", "eps", "last_epoch", "_last_lr", "mode", "threshold",
            "threshold_mode", "best", "num_bad_epochs", "cooldown_counter"}  # fmt: skip
    compare(*walks)


@pytest.mark.parametrize(
    "name", ["StepLR", "ExponentialLR", "LinearLR", "PolynomialLR", "CosineAnnealingLR", "LambdaLR"]
)
def test_the_old_way_to_jump_warns_and_works(name):
    options = {"StepLR": {"step_size": 3}, "ExponentialLR": {"gamma": 0.9}, "CosineAnnealingLR": {"T_max": 9},
               "LambdaLR": {"lr_lambda": lambda t: 0.9**t}}.get(name, {})  # fmt: skip
    seen = []
    for lib in (minidl, torch):
        optimizer = optimizer_of(lib)
        schedule = make(lib, optimizer, name, options)
        optimizer.step()
        with pytest.warns(UserWarning, match="The epoch parameter in `scheduler.step"):
            schedule.step(7)
        seen.append((schedule.get_last_lr(), schedule.last_epoch))
    np.testing.assert_allclose(seen[0][0], seen[1][0], rtol=1e-12)
    assert seen[0][1] == seen[1][1] == 7


def test_the_order_of_steps_is_warned_of_as_by_torch():
    for lib in (minidl, torch):
        schedule = make(lib, optimizer_of(lib), "StepLR", {"step_size": 2})
        with pytest.warns(
            UserWarning, match="Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`"
        ):
            schedule.step()
        schedule.step()
