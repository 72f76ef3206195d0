"""Reverse-mode differentiation.

contract.py   what an op is, and how applying one records it
operators.py  the short way of a + b between two Tensors
table.py      the table of all ops; how they become Tensor's methods and operators
views.py      what a view remembers of its base
walk.py       the walk back: backward() and grad()
out.py        out=: results written into the caller's tensors
modes.py      no_grad and its kin; which module runs
anomaly.py    who made the NaN?
source.py     where in the user's program an op was called
"""

from minidl.autograd.anomaly import AnomalyError
from minidl.autograd.contract import TABLE, Op, OpType, ShapeError, require
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
from minidl.tensors import HookHandle

__all__ = [
    "TABLE", "AnomalyError", "HookHandle", "Op", "OpType", "ShapeError", "attach", "backward", "caller",
    "detect_anomaly", "enable_grad", "grad", "inference_mode", "is_grad_enabled", "no_grad", "op", "require",
    "set_detect_anomaly", "set_grad_enabled", "source_line", "state",
]  # fmt: skip
