"""Trace.blame: a fault planted in each op of the table in turn is found and named, and no right op is accused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, Sample, flat_outputs, run_minidl

import minidl
import minidl.nn.functional
from minidl.autograd import TABLE, Op, OpType
from minidl.inside.verdicts import APART, BENT, UNKNOWN

# scatter_multiply has no backward (as in torch); straight_through's is not meant to be the derivative; nextafter moves
# by one rounding, which finite differences do not see.
OPS = {
    name: f
    for name, f in TABLE.items()
    if isinstance(f, OpType)
    and f.differentiable
    and f.backward is not Op.backward
    and not f.stands_in
    and name != "nextafter"
}


def loss_of(case: Case, sample: Sample) -> Any:
    """The case as a function that computes a scalar: its outputs against fixed numbers."""

    def loss() -> Any:
        y, _ = run_minidl(case, sample, "float64", grad=True)
        ys = [t for t in flat_outputs(y) if t.requires_grad]
        return sum((t * minidl.tensor(np.cos(1 + np.arange(t.numel())).reshape(t.shape))).sum() for t in ys)

    return loss


def samples(case: Case) -> list[Sample]:
    """Those with a gradient to be wrong about."""
    found = []
    for sample in case.samples:
        if sample.check:
            y, leaves = run_minidl(case, sample, "float64", grad=True)
            if any(t.requires_grad and t.numel() for t in flat_outputs(y)) and any(leaf.numel() for leaf in leaves):
                found.append(sample)
    return found


def faulty(backward: Any) -> Any:
    """A backward whose first gradient is half as large again, and 1 where it is 0."""

    def wrong(ctx: Any, *dy: Any) -> Any:
        found = backward(ctx, *dy)
        several = isinstance(found, (tuple, list))
        grads = list(found) if several else [found]
        for i, g in enumerate(grads):
            if g is not None:
                grads[i] = g * 1.5 if np.any(g) else g + 1
                break
        return tuple(grads) if several else grads[0]

    return wrong


def test_which_ops_are_not_tried() -> None:
    rest = {name for name, f in TABLE.items() if isinstance(f, OpType) and f.differentiable} - set(OPS)
    assert rest == {"scatter_multiply", "straight_through", "nextafter", "floor_divide", "heaviside"}


@pytest.mark.parametrize("name", OPS)
def test_a_fault_is_found_and_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS[name]
    for case in [CASES[name], *(c for c in CASES.values() if c.name != name)]:
        if case.smooth and case.theirs is not None:
            for sample in samples(case)[:4]:
                loss = loss_of(case, sample)
                nodes = [n for n in minidl.trace(loss).nodes if type(n) is op]
                if nodes:
                    with monkeypatch.context() as m:
                        m.setattr(op, "backward", faulty(op.backward))
                        found = minidl.trace(loss).blame()
                    assert found, f"the fault was not seen on {sample}"
                    assert {v.op for v in found.wrong} == {op.__name__}, str(found)
                    assert found.first.source
                    return
    pytest.fail("no sample runs this op")


def innocents(case: Case, count: int | None) -> None:
    for sample in samples(case)[:count]:
        found = minidl.trace(loss_of(case, sample)).blame()
        assert not found, f"{sample.args} {sample.kwargs}: {found}"
        for v in found.verdicts:
            assert v.verdict not in (BENT, UNKNOWN), f"{sample.args} {sample.kwargs}: {v}"
            assert v.verdict != APART or v.node.stands_in


# corrcoef's diagonal is 1, where the clamp behind it bends: blame says so, rightly.
SMOOTH = [case for case in CASES.values() if case.smooth and case.theirs is not None and case.name != "corrcoef"]


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_the_innocent_are_not_accused(case: Case) -> None:
    innocents(case, 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_the_innocent_are_not_accused_on_any_sample(case: Case) -> None:
    innocents(case, None)
