"""Reverse-mode differentiation.

contract.py   what an op is, and how applying one records it
operators.py  the short way of a + b between two Tensors
later.py      the table of all ops, and pages of it that are read when first used
table.py      how ops enter the table; how they become Tensor's methods and operators
views.py      what a view remembers of its base
walk.py       the walk back: backward() and grad()
function.py   torch.autograd.Function: ops of one's own, written on Tensors
out.py        out=: results written into the caller's tensors
modes.py      no_grad and its kin; which module runs
anomaly.py    who made the NaN?
watch.py      looking on while ops run
source.py     where in the user's program an op was called
"""

from minidl.autograd.anomaly import AnomalyError
from minidl.autograd.contract import TABLE, Op, OpType, ShapeError, require
from minidl.autograd.function import Function, FunctionCtx, once_differentiable
from minidl.autograd.modes import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_detect_anomaly,
    set_grad_enabled,
    state,
)
from minidl.autograd.source import caller, source_line
from minidl.autograd.table import attach, op
from minidl.autograd.walk import backward, grad
from minidl.autograd.watch import Watcher
from minidl.tensors import HookHandle, Tensor

__all__ = [
    "TABLE", "AnomalyError", "Function", "FunctionCtx", "HookHandle", "Op", "OpType", "ShapeError", "Variable",
    "Watcher", "attach", "backward", "caller",
    "detect_anomaly", "enable_grad", "grad", "inference_mode", "is_grad_enabled", "no_grad", "once_differentiable",
    "op", "require",
    "set_detect_anomaly", "set_grad_enabled", "source_line", "state",
]  # fmt: skip


def Variable(data: Tensor, requires_grad: bool = False) -> Tensor:
    """torch's older spelling of a Tensor that may require gradients: `data` without its history."""
    return data.detach().requires_grad_(requires_grad)


_ELSEWHERE = {
    "profiler": "minidl.profile() times ops and modules; minidl bench the kernels",
}


# Opened when first asked for: pages of floors above.
_LATER = {"functional": "derivatives", "gradcheck": "gradchecks", "gradgradcheck": "gradchecks"}


def __getattr__(name: str) -> object:
    if name in _LATER:
        from importlib import import_module

        page = import_module(f"minidl.{_LATER[name]}")
        return page if name == "functional" else getattr(page, name)
    hint = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"module 'minidl.autograd' has no attribute {name!r}{hint}")
