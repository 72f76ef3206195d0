"""What a Sequential does in one pass where nobody can tell: batch norm in evaluation, and the relu behind it.

Without gradients nothing but the next layer sees what a layer gives. So a BatchNorm in evaluation and a ReLU or ReLU6
behind it run as one kernel, and where a convolution comes before them the result is written over its output: one
reading and one writing of memory in place of two of each, and no new pages. That holds for those very classes without
hooks, while nobody watches the ops run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.nn.activations import ReLU, ReLU6
from minidl.nn.conv import Conv1d, Conv2d
from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm1d, BatchNorm2d
from minidl.ops.common import compiled
from minidl.ops.norm import EVALUATED, evaluated
from minidl.tensors import Tensor, wrap

_FUNCTIONS: dict[type, str] = {ReLU: "relu", ReLU6: "relu6"}


def in_a_row(modules: Sequence[Module], x: Any) -> Any:
    """Each module's output is the next one's input; to be called where no gradient is recorded and nobody watches."""
    after = (*modules[1:], None)
    skip = own = False  # own: x is a convolution's output, which nobody else holds
    for module, follower in zip(modules, after):
        if skip:
            skip = False
            continue
        if type(module) in (BatchNorm1d, BatchNorm2d) and _plain(module) and _fits(module, x):
            f = _FUNCTIONS.get(type(follower), "") if follower is not None and _plain(follower) else ""
            skip = f != ""
            x = _normalised(module, x, f, own)
            own = False
        else:
            x = module(x)
            own = type(module) in (Conv1d, Conv2d) and _plain(module)
    return x


def _plain(module: Module) -> bool:
    """Whether calling it does no more than its class says."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooks and "forward" not in module.__dict__


def _fits(norm: Any, x: Any) -> bool:
    """Whether batch_norm would take the kernel, too, and not refuse."""
    if norm.training or norm.eps <= 0 or type(x) is not Tensor or norm.running_mean is None or x.ndim not in norm.ranks:
        return False
    arrays = _arrays(norm)
    c = x.shape[1]
    return compiled(x.array, *arrays, least=EVALUATED) and all(a is None or a.shape == (c,) for a in arrays)


def _arrays(norm: Any) -> list[Any]:
    parts = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return [None if t is None else t.array for t in parts]


def _normalised(norm: Any, x: Any, f: str, own: bool) -> Any:
    a = x.array
    return wrap(evaluated(a, _arrays(norm), norm.eps, f, a if own and a.flags.c_contiguous else None))
