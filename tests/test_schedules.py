"""Learning rate schedules against torch's: every rate, momentum, the state, resuming, errors."""

import copy
import math

import numpy as np
import pytest
import torch

import minidl
from minidl import nn, optim


def optimizer_of(lib, name="SGD", **options):
    make = torch.nn.Parameter if lib is torch else nn.Parameter
    params = [make((torch if lib is torch else minidl).ones(1)) for _ in range(2)]
    options = {"momentum": 0.9, **options} if name == "SGD" else options
    return getattr(lib.optim, name)([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], lr=0.5, **options)


def sequence(s, o):
    return s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.ExponentialLR(o, 0.8), s.StepLR(o, 3)], [4, 9])


SCHEDULES = {
    "StepLR": lambda s, o: s.StepLR(o, 4, 0.3),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [3, 7, 7, 11], 0.4),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 7, 0.01),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.2, 0.9, 6),
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda t: 1 / (t + 1)),
    "LambdaLR-list": lambda s, o: s.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 - t / 50]),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 1.0, total_steps=26),
    "OneCycleLR-linear": lambda s, o: s.OneCycleLR(o, [1.0, 0.1], epochs=5, steps_per_epoch=6, anneal_strategy="linear",
                                                   pct_start=0.4, div_factor=10, final_div_factor=50),
    "OneCycleLR-three": lambda s, o: s.OneCycleLR(o, 1.0, total_steps=30, three_phase=True, base_momentum=[0.7, 0.8]),
    "OneCycleLR-steady": lambda s, o: s.OneCycleLR(o, 1.0, total_steps=30, cycle_momentum=False),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.3, 6),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 18, 1.7),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda t: 1 - 0.3 / t),
    "MultiplicativeLR-list": lambda s, o: s.MultiplicativeLR(o, [lambda t: 0.9, lambda t: 1 + 0.1 / t]),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, eta_min=0.001),
    "CosineAnnealingWarmRestarts-longer": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.1, 0.9, 4),
    "CyclicLR-half": lambda s, o: s.CyclicLR(o, [0.1, 0.2], [0.9, 0.3], 3, 5, mode="triangular2", base_momentum=0.5),
    "CyclicLR-exp": lambda s, o: s.CyclicLR(o, 0.1, 0.9, 4, mode="exp_range", gamma=0.9, cycle_momentum=False),
    "CyclicLR-own": lambda s, o: s.CyclicLR(o, 0.1, 0.9, 4, scale_fn=lambda t: 1 / t, scale_mode="cycle"),
    "SequentialLR": sequence,
    "SequentialLR-restarts": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 3), s.CosineAnnealingWarmRestarts(o, 4)], [5]),
    "SequentialLR-cosine": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=5), s.CosineAnnealingLR(o, 10)], [5]),
}  # fmt: skip


def look(optimizer):
    return [[g["lr"], g.get("momentum", g.get("betas", (0,)))] for g in optimizer.param_groups]


def close(ours, theirs):
    """The same formulas in float64, at most 25 multiplications in a row, each off by 1.1e-16: 1e-14 is enough."""
    flat = lambda rows: np.concatenate([np.ravel(np.concatenate([np.ravel(v) for v in row])) for row in rows])
    np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-14, atol=1e-18)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_rates_are_torchs(name, optimizer):
    ours, theirs = optimizer_of(minidl, optimizer), optimizer_of(torch, optimizer)
    a = SCHEDULES[name](optim.lr_scheduler, ours)
    b = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    for _ in range(25):
        close(look(ours), look(theirs))
        np.testing.assert_allclose(a.get_last_lr(), b.get_last_lr(), rtol=1e-14)
        assert a.last_epoch == b.last_epoch
        ours.step(), theirs.step()
        a.step(), b.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_state_goes_both_ways_and_through_a_file(name, tmp_path):
    def run(lib, steps, optimizer=None, schedule=None):
        seen = []
        for _ in range(steps):
            optimizer.step()
            schedule.step()
            seen.append(look(optimizer))
        return seen

    def fresh(lib):
        optimizer = optimizer_of(lib)
        return optimizer, SCHEDULES[name](lib.optim.lr_scheduler, optimizer)

    ours, theirs = fresh(minidl), fresh(torch)
    run(minidl, 8, *ours), run(torch, 8, *theirs)
    assert set(ours[1].state_dict()) - {"_is_initial"} <= set(theirs[1].state_dict())
    minidl.save({"o": ours[0].state_dict(), "s": ours[1].state_dict()}, tmp_path / "state.safetensors")
    saved = minidl.load(tmp_path / "state.safetensors")
    again, from_torch, into_torch = fresh(minidl), fresh(minidl), fresh(torch)
    again[0].load_state_dict(saved["o"]), again[1].load_state_dict(saved["s"])
    from_torch[0].load_state_dict(theirs[0].state_dict())
    from_torch[1].load_state_dict(copy.deepcopy(theirs[1].state_dict()))
    into_torch[0].load_state_dict(copy.deepcopy(ours[0].state_dict()))
    into_torch[1].load_state_dict(copy.deepcopy(ours[1].state_dict()))
    end = run(torch, 8, *theirs)
    assert run(minidl, 8, *ours) == run(minidl, 8, *again)
    for lib, pair in ((minidl, from_torch), (torch, into_torch)):
        for x, y in zip(run(lib, 8, *pair), end, strict=True):
            close(x, y)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if not n.startswith("Sequential")])
def test_closed_form_is_the_same_curve(name):
    """What a schedule jumps to at t is what it steps to, up to the roundings of the steps."""
    stepped, jumped = optimizer_of(minidl), optimizer_of(minidl)
    a, b = (SCHEDULES[name](optim.lr_scheduler, o) for o in (stepped, jumped))
    for t in range(1, 25):
        stepped.step()
        a.step()
        b.jump(t)
        # near the minimum of the cosine the ratio 0 / 0 is approached: 1e-9 of the first rate is far below its steps
        np.testing.assert_allclose(np.array(a.get_last_lr()), b.get_last_lr(), rtol=1e-12, atol=1e-9 * 0.5)


@pytest.mark.parametrize("options", [
    {}, {"mode": "max", "threshold_mode": "abs", "threshold": 0.05}, {"mode": "max", "patience": 1},
    {"patience": 1, "cooldown": 2, "factor": 0.5, "min_lr": [0.1, 0.0]}, {"patience": 0, "min_lr": 0.3, "eps": 0.1},
    {"threshold_mode": "abs", "threshold": 0.3, "patience": 2},
])  # fmt: skip
def test_plateau_is_torchs(options):
    options = {"patience": 3, **options}
    ours, theirs = optimizer_of(minidl), optimizer_of(torch)
    a = optim.lr_scheduler.ReduceLROnPlateau(ours, **options)
    b = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    rng = np.random.default_rng(0)
    reduced = 0
    for t in range(40):
        metric = 1 / (1 + min(t, 12)) + 0.05 * rng.random()
        metric = float("nan") if t == 20 else metric
        a.step(minidl.tensor(metric, dtype=minidl.float64))
        b.step(torch.tensor(metric, dtype=torch.float64))
        close(look(ours), look(theirs))
        assert (a.num_bad_epochs, a.cooldown_counter, a.best) == (b.num_bad_epochs, b.cooldown_counter, b.best)
        assert a.get_last_lr() == pytest.approx(b.get_last_lr(), rel=1e-14)
        reduced += 0.5 not in a.get_last_lr()
        if t == 25:
            other = optim.lr_scheduler.ReduceLROnPlateau(ours, **options)
            other.load_state_dict(copy.deepcopy(a.state_dict()))
            a = other
    assert reduced


def test_two_schedules_multiply():
    ours, theirs = optimizer_of(minidl), optimizer_of(torch)
    pairs = [(o, [s.ExponentialLR(o, 0.9), s.StepLR(o, 3, 0.5), s.CosineAnnealingLR(o, 30), s.LinearLR(o, 0.5)])
             for o, s in ((ours, optim.lr_scheduler), (theirs, torch.optim.lr_scheduler))]  # fmt: skip
    for _ in range(10):
        for optimizer, schedules in pairs:
            optimizer.step()
            for schedule in schedules:
                schedule.step()
        close(look(ours), look(theirs))


@pytest.mark.parametrize("name", [n for n in SCHEDULES if not n.startswith(("Sequential", "OneCycle"))])
def test_resuming_by_last_epoch_is_torchs(name):
    results = []
    for lib in (minidl, torch):
        optimizer = optimizer_of(lib)
        for group in optimizer.param_groups:
            group["initial_lr"] = 2 * group["lr"]
        kind, options = name.split("-")[0], {
            "StepLR": (4, 0.3), "MultiStepLR": ([3, 7, 11], 0.4), "ExponentialLR": (0.9,),
            "CosineAnnealingLR": (7, 0.01), "LinearLR": (0.2, 0.9, 6), "LambdaLR": (lambda t: 1 / (t + 1),),
            "ConstantLR": (0.3, 8), "PolynomialLR": (9, 1.7), "MultiplicativeLR": (lambda t: 1 - 0.3 / t,),
            "CosineAnnealingWarmRestarts": (4,), "CyclicLR": (0.1, 0.9, 4),
        }  # fmt: skip
        schedule = getattr(lib.optim.lr_scheduler, kind)(optimizer, *options[kind], last_epoch=5)
        seen = [look(optimizer)]
        for _ in range(6):
            optimizer.step()
            schedule.step()
            seen.append(look(optimizer))
        results.append(seen)
    if name == "CosineAnnealingLR":  # torch 2.13 takes the closed form at the first step after resuming
        assert results[0][0] == results[1][0]
        return
    for x, y in zip(*results, strict=True):
        close(x, y)


def test_stepping_before_the_optimizer_warns():
    schedule = optim.lr_scheduler.StepLR(optimizer_of(minidl), 1)
    with pytest.warns(UserWarning, match="before `optimizer.step\\(\\)`"):
        schedule.step()
    schedule.step()


def test_lambda_objects_are_part_of_the_state():
    class Decay:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, t):
            return self.rate**t

    optimizer = optimizer_of(minidl)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, [Decay(0.5), abs])
    state = schedule.state_dict()
    assert state["lr_lambdas"] == [{"rate": 0.5}, None]
    other = optim.lr_scheduler.LambdaLR(optimizer_of(minidl), [Decay(0.9), abs])
    other.load_state_dict(state)
    assert other.lr_lambdas[0].rate == 0.5


SGD_WITHOUT = lambda: optimizer_of(minidl, "Adagrad")
S = optim.lr_scheduler


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda o: S.StepLR(o.param_groups, 3), TypeError, "list is not an Optimizer"),
    (lambda o: S.OneCycleLR(3, 1.0, 10), TypeError, "int is not an Optimizer"),
    (lambda o: S.ReduceLROnPlateau(3), TypeError, "int is not an Optimizer"),
    (lambda o: S.StepLR(o, 3, last_epoch=4), KeyError, "initial_lr"),
    (lambda o: S.LinearLR(o, 0), ValueError, "greater than 0"),
    (lambda o: S.LinearLR(o, 1, 1.5), ValueError, "between 0 and 1"),
    (lambda o: S.LambdaLR(o, [math.sqrt]), ValueError, "same length"),
    (lambda o: S.OneCycleLR(o, 1.0), ValueError, "either total_steps OR"),
    (lambda o: S.OneCycleLR(o, 1.0, 0), ValueError, "positive integer total_steps"),
    (lambda o: S.OneCycleLR(o, 1.0, epochs=2, steps_per_epoch=0.5), ValueError, "positive integer steps_per_epoch"),
    (lambda o: S.OneCycleLR(o, 1.0, 10, pct_start=2), ValueError, "pct_start"),
    (lambda o: S.OneCycleLR(o, 1.0, 10, anneal_strategy="exp"), ValueError, "anneal_strategy"),
    (lambda o: S.OneCycleLR(o, [1.0], 10), ValueError, "max_lr must have the same length"),
    (lambda o: S.OneCycleLR(SGD_WITHOUT(), 1.0, 10), ValueError, "momentum or beta1"),
    (lambda o: S.ConstantLR(o, 1.5), ValueError, "between 0 and 1"),
    (lambda o: S.MultiplicativeLR(o, [math.sqrt]), ValueError, "same length"),
    (lambda o: S.CosineAnnealingWarmRestarts(o, 0), ValueError, "positive integer T_0, but got 0"),
    (lambda o: S.CosineAnnealingWarmRestarts(o, 2, 0.5), ValueError, "T_mult >= 1, but got 0.5"),
    (lambda o: S.CosineAnnealingWarmRestarts(o, 2).step(-1), ValueError, "non-negative epoch"),
    (lambda o: S.CyclicLR(3, 0.1, 1.0), TypeError, "int is not an Optimizer"),
    (lambda o: S.CyclicLR(o, 0.1, 1.0, mode="square"), ValueError, "mode is invalid"),
    (lambda o: S.CyclicLR(o, [0.1], 1.0), ValueError, "base_lr must have the same length"),
    (lambda o: S.CyclicLR(SGD_WITHOUT(), 0.1, 1.0), ValueError, "momentum or beta1"),
    (lambda o: S.ChainedScheduler([]), ValueError, "at least one"),
    (lambda o: S.ChainedScheduler([S.StepLR(o, 1), S.StepLR(SGD_WITHOUT(), 1)]), ValueError, "same optimizer"),
    (lambda o: S.ChainedScheduler([S.ReduceLROnPlateau(o)]), ValueError, "takes a metric"),
    (lambda o: S.SequentialLR(o, [S.ChainedScheduler([S.StepLR(o, 1)])], []), ValueError, "no start"),
    (lambda o: S.SequentialLR(o, [], []), ValueError, "at least one"),
    (lambda o: S.SequentialLR(o, [S.StepLR(o, 1)], [3]), ValueError, "one more"),
    (lambda o: S.SequentialLR(o, [S.StepLR(SGD_WITHOUT(), 1)], []), ValueError, "same optimizer"),
    (lambda o: S.SequentialLR(o, [S.ReduceLROnPlateau(o)], []), ValueError, "takes a metric"),
    (lambda o: S.SequentialLR(o, [S.StepLR(o, 1)], []).jump(2), ValueError, "only start again"),
    (lambda o: S.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor should be"),
    (lambda o: S.ReduceLROnPlateau(o, "best"), ValueError, "mode best"),
    (lambda o: S.ReduceLROnPlateau(o, threshold_mode="x"), ValueError, "threshold mode x"),
    (lambda o: S.ReduceLROnPlateau(o, min_lr=[0.0]), ValueError, "min_lr must have the same length"),
])  # fmt: skip
def test_what_schedules_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make(optimizer_of(minidl))


def test_a_sequence_in_a_sequence_is_one_long_sequence():
    """torch's inner one runs a step ahead of its milestones; minidl's keeps them."""
    nested, flat = optimizer_of(minidl), optimizer_of(minidl)
    last = lambda o: S.LambdaLR(o, lambda t: 0.5**t)
    parts = lambda o: [S.LinearLR(o, 0.1, total_iters=4), S.ExponentialLR(o, 0.8), S.StepLR(o, 3)]
    a = S.SequentialLR(nested, [S.SequentialLR(nested, parts(nested), [4, 9]), last(nested)], [13])
    b = S.SequentialLR(flat, [*parts(flat), last(flat)], [4, 9, 13])
    c = optimizer_of(minidl)
    twice = S.SequentialLR(c, [S.StepLR(c, 2), S.SequentialLR(c, parts(c), [4, 9])], [3])
    seen = []
    for t in range(25):
        assert look(nested) == look(flat), t
        assert a.get_last_lr() == b.get_last_lr()
        seen.append(look(c))
        for o, s in ((nested, a), (flat, b), (c, twice)):
            o.step()
            s.step()
    assert np.allclose(seen[3][0][0], 0.05)
    single = optimizer_of(minidl)
    alone = S.SequentialLR(single, parts(single), [4, 9])
    for row in seen[3:]:
        close(row, look(single))
        single.step()
        alone.step()


def test_one_cycle_ends():
    optimizer = optimizer_of(minidl)
    schedule = S.OneCycleLR(optimizer, 1.0, total_steps=4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    with pytest.raises(ValueError, match="Tried to step 5 times"):
        schedule.step()


def test_one_cycle_whose_first_phase_is_one_step_starts_at_the_top():
    """torch 2.13 divides by zero here."""
    for total, three_phase in ((10, False), (10, True), (1, False)):
        theirs = optimizer_of(torch)
        with pytest.raises(ZeroDivisionError):
            torch.optim.lr_scheduler.OneCycleLR(theirs, 1.0, total, pct_start=1 / total, three_phase=three_phase)
        optimizer = optimizer_of(minidl)
        schedule = S.OneCycleLR(optimizer, 1.0, total, pct_start=1 / total, three_phase=three_phase)
        rates = [schedule.get_last_lr()[0]]
        for _ in range(total - 1):
            optimizer.step()
            schedule.step()
            rates.append(schedule.get_last_lr()[0])
        assert rates[0] == 1
        assert rates == sorted(rates, reverse=True)
        if total > 1:
            assert rates[-1] == pytest.approx(1 / 25 / 1e4, rel=1e-9)


def test_chained_schedules_are_torchs():
    def make(lib):
        o = optimizer_of(lib)
        s = lib.optim.lr_scheduler
        return o, s.ChainedScheduler([s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9), s.StepLR(o, 4)], optimizer=o)

    (ours, a), (theirs, b) = make(minidl), make(torch)
    for t in range(12):
        close(look(ours), look(theirs))
        close([a.get_last_lr()], [b.get_last_lr()])
        for o, s in ((ours, a), (theirs, b)):
            o.step()
            s.step()
        if t == 5:
            assert set(a.state_dict()) == set(b.state_dict())
            state, weights = copy.deepcopy(a.state_dict()), ours.state_dict()
            ours, a = make(minidl)
            ours.step()
            ours.load_state_dict(weights)
            a.load_state_dict(state)


def test_restarts_at_fractions_of_an_epoch():
    for T_mult in (1, 2):
        ours, theirs = optimizer_of(minidl), optimizer_of(torch)
        a = S.CosineAnnealingWarmRestarts(ours, 3, T_mult)
        b = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 3, T_mult)
        for epoch in (0.5, 2.75, 3, 3.5, 9.25, 20.1, 1.5):
            a.step(epoch), b.step(epoch)
            np.testing.assert_allclose(look(ours)[0][0], look(theirs)[0][0], rtol=1e-12)
            assert (a.last_epoch, a.T_i) == (b.last_epoch, b.T_i)


def test_a_constant_factor_of_zero_comes_back():
    """torch 2.13 divides by zero at total_iters."""
    optimizer = optimizer_of(minidl)
    schedule = S.ConstantLR(optimizer, 0.0, 2)
    rates = []
    for _ in range(4):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0, 0, 0.5, 0.5]


def test_a_scale_object_is_part_of_the_state():
    class Fade:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, t):
            return self.rate**t

    make = lambda rate: S.CyclicLR(optimizer_of(minidl), 0.1, 1.0, 4, scale_fn=Fade(rate))
    other = make(0.9)
    other.load_state_dict(make(0.5).state_dict())
    assert other._scale_fn_custom.rate == 0.5
