"""Ops times devices: every op of the table runs on the device and gives the CPU's numbers and gradients."""

import sys
from pathlib import Path

import numpy as np

import minidl
from minidl.tensors import Tensor, wrap

sys.path.append(str(Path(__file__).resolve().parent.parent / "ops"))
import cases_layers  # noqa: F401
import gumbel_cases  # noqa: F401
import recurrent_cases  # noqa: F401
from cases import CASES, Const

# Steps of other ops, whose cases hold arrays of the host; the ops that take them are in the table, too.
INSIDE = {
    "avg_pool2d_dx", "gather_plane", "mask_scale", "pick_along", "pick_class", "place_along", "scatter_plane",
    "spread_class",
}  # fmt: skip
# Results on the host (a bool, a copy there), garbage, or about memory.
ELSEWHERE = {"alias", "allclose", "empty_like", "equal", "is_same_size", "isreal", "transfer"}


def on(device, x):
    """Arguments of a case as tensors on a device, floats in float32."""
    if isinstance(x, (list, tuple)):
        return type(x)(on(device, v) for v in x)
    array = x.array if isinstance(x, Const) else x
    if not isinstance(array, np.ndarray):
        return x
    t = wrap(array.astype(np.float32) if array.dtype == np.float64 else array).to(device)
    return t.detach().requires_grad_() if array is x and array.dtype == np.float64 else t


def tensors(y):
    if isinstance(y, (list, tuple)):
        return [t for v in y for t in tensors(v)]
    return [y] if isinstance(y, Tensor) else []


def results(case, device):
    """What the op gives and its gradients, on the host."""
    sample = case.samples[0]
    minidl.manual_seed(0)
    args = on(device, sample.args)
    outputs = tensors(case.ours(*args, **{k: on(device, v) for k, v in sample.kwargs.items()}))
    assert all(str(t.device).startswith(device) for t in outputs)
    inputs = [t for t in tensors(args) if t.requires_grad]
    recorded = [t.sum() for t in outputs if t.requires_grad]
    if case.smooth and inputs and recorded:
        sum(recorded[1:], recorded[0]).backward()
        outputs += [t.grad for t in inputs if t.grad is not None]
    return [t.detach().cpu().numpy() for t in outputs]


def runs(case):
    """None, or what is wrong on the device."""
    want = results(case, "cpu")
    try:
        found = results(case, "cuda")
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)  # float32, sums of some hundred terms of size 1
    except Exception as error:
        return error
    return None


def test_every_op_runs_on_the_device(xp):
    if hasattr(xp, "mode"):
        xp.mode.checked = False
    skipped = INSIDE | ELSEWHERE
    assert skipped <= set(CASES)
    wrong = {name: str(error) for name, case in CASES.items() if name not in skipped and (error := runs(case))}
    assert wrong == {}, "make them run where the arrays are"
    assert len(CASES) - len(skipped) > 380
